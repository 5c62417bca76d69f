"""JSON documents of annotation tools: read whole, and whatever is wrong in them said with the file's name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fullyconv.errors import DataError, show_path

__all__ = ["read_json", "understood", "write_json"]


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file, UTF-8.
        expected: What it is, for messages: "COCO annotations".

    Raises:
        DataError: It cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{show_path(path)}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise DataError(
            f"{show_path(path)}: expected {expected}, got a file that is no JSON ({error})",
            hint="it may have been cut short: export it again",
        ) from error


@contextmanager
def understood(where: str, expected: str) -> Iterator[None]:
    """Say what a part of a document is about when something in it is missing or of the wrong kind.

    Args:
        where: File and place.
        expected: What is read there.

    Raises:
        DataError: Reading failed.
    """
    try:
        yield
    except KeyError as error:
        raise DataError(
            f"{where}: expected {expected}, got no {error}", hint="export the annotations again"
        ) from None
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{where}: expected {expected}, got something else ({error})", hint="export the annotations again"
        ) from None


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, names as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False), encoding="utf-8")
