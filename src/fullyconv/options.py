"""Command-line options made from settings: one for each field of a frozen dataclass, with its default and text."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

__all__ = ["parsed", "with_options"]

Command = Callable[..., None]


def with_options(config: type[Any], names: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command that takes `**options` one option for each field of its settings.

    Args:
        config: A pydantic dataclass whose fields are annotated with a description.
        names: The fields; all of them by default.

    Returns:
        A decorator. The command gets the texts that were given, None for the others; see `parsed`.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        hints = typing.get_type_hints(config, include_extras=True)
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=_option(field.name, hints[field.name], field.default),
            )
            for field in fields(config)
            if not names or field.name in names
        ]
        plain = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        command.__signature__ = signature.replace(parameters=[*plain, *options])  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in (*plain, *options)}
        return command

    return decorate


def parsed(config: type[Any], options: Mapping[str, str | bool | None]) -> dict[str, Any]:
    """Turn the options that were given into what the settings take; pydantic checks their range."""
    return {name: _parse(config, name, value) for name, value in options.items() if value is not None}


def _option(name: str, hint: Any, default: Any) -> Any:
    kind, info = typing.get_args(hint)[:2]
    flag = "--" + name.replace("_", "-")
    shown = _shown(None if default is MISSING else default)
    if kind is bool:
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=info.description, show_default=shown)
        return Annotated[bool | None, option]
    option = typer.Option(flag, help=info.description, metavar=_metavar(kind), show_default=shown)
    return Annotated[str | None, option]


def _shown(default: object) -> str | bool:
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default) or False
    if isinstance(default, bool):
        return "on" if default else "off"
    return False if default is None else str(default)


def _metavar(kind: Any) -> str:
    parts = [inner for part in typing.get_args(kind) for inner in (part, *typing.get_args(part))]
    choices = [choice for choice in parts if isinstance(choice, str | int)]
    if choices:
        return "|".join(map(str, choices))
    if typing.get_origin(kind) is tuple:
        return "N,N,..."
    names = {int: "N", float: "X"}
    members = [member for member in (typing.get_args(kind) or (kind,)) if member in names]
    return names[members[0]] if members else "TEXT"


def _parse(config: type[Any], name: str, value: str | bool) -> Any:
    kind = typing.get_args(typing.get_type_hints(config, include_extras=True)[name])[0]
    if isinstance(value, bool):
        return value
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    choices = typing.get_args(kind)
    return int(value) if any(isinstance(choice, int) for choice in choices) and value.isdigit() else value
