"""Settings from anywhere, checked, with messages that name setting, value and file; TOML in and out."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from fullyconv.errors import UsageError

__all__ = ["read_config", "refuse_unknown", "validated", "write_config"]

Settings = TypeVar("Settings")


def refuse_unknown(kind: type[Any], values: Mapping[str, Any], source: str = "") -> None:
    """Refuse values that are no setting of a class of settings.

    Args:
        kind: The class, a dataclass.
        values: By name.
        source: The file that they come from, for messages.

    Raises:
        UsageError: The first one.
    """
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            where = f" in {source}" if source else ""
            raise UsageError(f"unknown setting {name!r}{where}", hint=f"known: {', '.join(known)}")


def validated(kind: type[Settings], values: Mapping[str, Any], source: str = "") -> Settings:
    """Make settings of values, which may be text.

    Args:
        kind: The class of the settings, a dataclass of pydantic's.
        values: By name; the others are the class's defaults.
        source: The file that they come from, for messages.

    Raises:
        UsageError: The first value that is wrong, or a contradiction.
    """
    try:
        config: Settings = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        rule = message[0].lower() + message[1:]
        where = f" in {source}" if source else ""
        raise UsageError(f"setting {name}{where}: {rule}, got {first['input']!r}") from None
    except UsageError as error:
        if not source:
            raise
        raise UsageError(f"{error.message}, with the settings of {source}", hint=error.hint) from None
    return config


def write_config(config: Any, path: Path) -> None:
    """Write settings as TOML; settings that are None are left out."""
    values = {name: value for name, value in asdict(config).items() if value is not None}
    path.write_text(tomli_w.dumps(values), encoding="utf-8")


def read_config(path: Path) -> dict[str, Any]:
    """Read settings from a TOML file, checked only for being TOML.

    Raises:
        UsageError: No such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} has to be a readable TOML file: {error}") from None
