"""Command-line options made from settings: one for each field of a frozen dataclass, with its default and text."""

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from fullyconv.errors import UsageError
from fullyconv.settings import read_config

__all__ = ["parsed", "parsed_size", "run_settings", "with_options"]

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


def run_settings(
    config: type[Any], options: dict[str, Any], file: Path | None, run: Path, resume: bool, **elsewhere: bool
) -> tuple[dict[str, Any], str]:
    """Put the options that were given over a file of settings; a run that goes on has its own and no others.

    Returns:
        The values, not yet validated, and the file that they come from, for messages.
    """
    given = parsed(config, options)
    if resume:
        refused = [
            *given,
            *(name for name, is_given in elsewhere.items() if is_given),
            *(["config"] if file else []),
        ]
        if refused:
            option = refused[0].replace("_", "-")
            raise UsageError(f"--resume goes on with the settings of {run}, got --{option}", hint="leave it out")
        file = run / "config.toml" if (run / "config.toml").exists() else None
    return {**(read_config(file) if file else {}), **given}, str(file or "")


def parsed_size(text: str) -> tuple[int, int]:
    """Read a (height, width) in pixels of the form HEIGHTxWIDTH."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and side.isascii() for side in sides):
        raise UsageError(f"--size has to be HEIGHTxWIDTH in pixels, got {text!r}", hint="such as 160x576")
    return int(sides[0]), int(sides[1])


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
