"""Temporary folders that are known as ours: what processes leave that were killed is removed by later ones."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fullyconv.locks import locked

__all__ = ["own_folder"]

_LOCK = "lock-of-fullyconv"


@contextlib.contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """Make a folder that nobody else can read, gone after the block; remove those of processes that were killed.

    Args:
        prefix: How the names of such folders begin. Others with such names are left alone.

    Yields:
        The folder; it holds nothing but a file that says whose it is.
    """
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name,
        (Path(name) / _LOCK).open("xb") as held,  # by this process, until it ends or is killed
    ):
        folder = Path(name)
        locked(held.fileno())
        _remove_left(folder, prefix)
        yield folder


def _remove_left(ours: Path, prefix: str) -> None:
    for lock in ours.parent.glob(f"{prefix}*/{_LOCK}"):
        if lock.parent == ours or lock.parent.lstat().st_uid != ours.lstat().st_uid:
            continue
        with contextlib.suppress(OSError), lock.open("r+b") as file:
            if locked(file.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)
