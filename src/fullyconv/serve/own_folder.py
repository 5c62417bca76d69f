"""The folder for files of requests, and what is left of services that were killed."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fullyconv.download import locked

__all__ = ["own_folder"]

_PREFIX = "fullyconv-serve-"
_LOCK = "lock"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder that nobody else can read, gone after the block, and remove those of killed services."""
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name,
        (Path(name) / _LOCK).open("xb") as held,  # by this process, until it ends or is killed
    ):
        folder = Path(name)
        locked(held.fileno())
        _remove_left(folder)
        yield folder


def _remove_left(ours: Path) -> None:
    for lock in ours.parent.glob(f"{_PREFIX}*/{_LOCK}"):
        if lock.parent == ours or lock.parent.lstat().st_uid != ours.lstat().st_uid:
            continue
        with contextlib.suppress(OSError), lock.open("r+b") as file:
            if locked(file.fileno()):
                shutil.rmtree(lock.parent, ignore_errors=True)
