"""Files that are there whole or not at all, whatever kills the process that writes them.

A file is written under a temporary name in its own folder, flushed to the disk and renamed; the folder is
flushed, too, so that the new name survives a power cut. Temporaries that a killed process left are recognised
by its process id, which is part of their name.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from fullyconv.errors import UsageError

__all__ = ["atomic_folder", "atomic_path", "process_start", "remove_stale_temporaries"]

_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]{16}\.tmp")
"""Without the final name in it, which may be as long as the file system allows already."""

_NO_FOLDER_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM}
"""What file systems answer that cannot flush a folder."""


@contextlib.contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary path to write to: it becomes `path` if the block ends well and vanishes if it fails.

        with atomic_path("mask.png") as temporary:
            temporary.write_bytes(data)

    Args:
        path: Where the file is to be, in an existing folder.
        overwrite: Whether a file that is there already is replaced.

    Yields:
        A path in the same folder, unique to this process and call; nothing is there yet.

    Raises:
        UsageError: There is a file already and `overwrite` is False.
        OSError: The folder or disk does not take the file. An older file is still there then, whole.
    """
    path = Path(path)
    if not overwrite:
        _refuse_existing(path)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if not overwrite:
            _refuse_existing(path)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # What went wrong before is what has to be said.
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill: it becomes `path` if the block ends well and vanishes if it fails.

    Args:
        path: Where the folder is to be, in an existing one.

    Raises:
        UsageError: There is something already.
        OSError: The disk does not take the folder.
    """
    path = Path(path)
    _refuse_existing(path)
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        _refuse_existing(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _flush_folder(path.parent)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(f"{path} exists already", hint="choose another name, or allow overwriting")


def _flush_folder(folder: Path) -> None:
    """Make a rename durable. Windows does that by itself and has no such call."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise


def remove_stale_temporaries(folder: str | Path) -> int:
    """Remove what `atomic_path` and `atomic_folder` left in a folder when its process was killed.

    Temporaries of processes that live are left alone. Call it only where no other machine writes.

    Returns:
        How many were removed.
    """
    removed = 0
    for path in Path(folder).glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and process_start(int(found[1])) is None:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            removed += 1
    return removed


def process_start(pid: int) -> str | None:
    """Tell whether a process of this machine lives, and since when.

    Args:
        pid: Its number.

    Returns:
        None where there is none. Else what tells it from a later process with the same number: on Linux its
        start time in clock ticks, and "" where the system does not tell.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "" if _lives(pid) else None
    # "pid (name) state ... start ...": the name may hold anything, so fields are counted from its last ")".
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return _lives_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # It is somebody else's.
    return True


if sys.platform == "win32":
    import ctypes

    def _lives_on_windows(pid: int) -> bool:
        # os.kill(pid, 0) would end the process there.
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        query_limited_information, still_active, access_denied = 0x1000, 259, 5
        handle = kernel.OpenProcess(query_limited_information, False, pid)
        if not handle:
            return ctypes.get_last_error() == access_denied
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == still_active
