"""Image files that lie inside Arrow tables, as Hugging Face `datasets` keeps them.

Such a file has a path as if the table were a folder: `data-00000-of-00001.arrow/17/image` is what column `image`
holds in row 17, counted from 0. So samples have paths whatever they lie in; who opens files asks here. Needs
pyarrow, which the extra `datasets` brings.
"""

import io
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from fullyconv.errors import DataError, UsageError, show_path

__all__ = ["ARROW_SUFFIX", "is_embedded", "open_binary", "open_table"]

ARROW_SUFFIX = ".arrow"


def is_embedded(path: Path) -> bool:
    """Whether a path is that of a file inside a table."""
    return path.parent.name.isdecimal() and path.parent.parent.suffix.lower() == ARROW_SUFFIX


def open_binary(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file for reading, wherever it lies.

    Raises:
        OSError: There is none that can be read.
        DataError: It lies in a table that cannot be read.
    """
    if not is_embedded(path):
        return path.open("rb")
    place, row, column = path.parent.parent, int(path.parent.name), path.name
    table = open_table(place)
    if column not in table.column_names or row >= table.num_rows:
        raise DataError(f"{show_path(path)}: expected a row and a column of the table, got neither")
    try:
        value = table.column(column)[row].as_py()
    except ValueError:  # text that is none
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("bytes"), bytes):
        raise DataError(f"{show_path(path)}: expected the bytes of an image, got none")
    return io.BytesIO(value["bytes"])


def open_table(path: Path) -> Any:
    """Map a table into memory: a `pyarrow.Table`, of which nothing is read before it is asked for.

    Raises:
        DataError: It is damaged or no table.
        UsageError: pyarrow is not installed.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{show_path(path)}: cannot be read: {error.strerror or error}") from None
    return _table(path, state.st_mtime_ns, state.st_size)  # one that was exchanged is another


@lru_cache(maxsize=32)
def _table(path: Path, changed: int, size: int) -> Any:
    try:
        pyarrow, stream = import_module("pyarrow"), import_module("pyarrow.ipc")
    except ImportError:
        raise UsageError(
            f"{show_path(path)} needs pyarrow", hint='install it with: pip install "fullyconv[datasets]"'
        ) from None
    try:
        table = stream.open_stream(pyarrow.memory_map(str(path))).read_all()
        table.validate(full=True)  # offsets that lie would end the process
        str(table.column_names)  # bytes that are no text are found here
        return table
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{show_path(path)}: cannot read the table: {show_path(reason)}") from None
