"""An archive unpacked into a folder: nothing leaves the folder, and nothing is larger than it may be.

tar, plain or compressed, and zip. Files alone are written, with contents and names: links, devices, owners and
rights are left out, since an archive from elsewhere is not trusted even where its digest is right.
"""

import contextlib
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple

from fullyconv.download import megabytes
from fullyconv.errors import DataError, show_path
from fullyconv.progress import Progress

__all__ = ["unpack"]

LARGEST = 20 * 10**9
"""Bytes of all files together: ten times what the largest published set here takes."""

MOST = 500_000
"""Files of an archive."""

CHUNK = 2**20
MEGABYTE = 10**6

_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError)
"""What the readers of archives raise where the bytes are not what they should be."""


_REMOVE = "nothing of it was kept; it is not the archive that it should be: remove it"


class _Member(NamedTuple):
    """One entry of an archive; its kind is "file", "folder" or "other"."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, folder: Path, *, progress: Progress, largest: int = LARGEST) -> None:
    """Unpack an archive into a folder. Of a name that is there twice the last one counts, as in tar.

    Args:
        archive: A tar file, compressed by gzip, bzip2, xz or not at all, or a zip file; its name does not matter.
        folder: A folder. What is in it after an error is incomplete, and the caller's to remove.
        progress: Where to report.
        largest: Bytes that all files together may have.

    Raises:
        DataError: The archive is damaged, has a name that leads out of the folder, or holds more than `largest`
            bytes.
        OSError: The disk does not take a file.
    """
    total = done = left_out = 0
    steps = -(-archive.stat().st_size // MEGABYTE)
    with (
        _damage(archive),
        archive.open("rb") as file,
        _opened(file) as members,
        progress.track(f"unpacking {archive.name}, MB", steps) as step,
    ):
        for number, member in enumerate(members, start=1):
            target = _target(archive, folder, member)
            total += member.size
            if total > largest or number > MOST:
                raise DataError(
                    f"{show_path(archive)}: unpacked it has more than {megabytes(largest)} or {MOST} files",
                    hint=_REMOVE,
                )
            if member.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
            elif member.kind == "file":
                _write(member, target)
            else:
                left_out += 1
            while done < min(file.tell() // MEGABYTE, steps):
                step()
                done += 1
    if left_out:
        progress.say(f"{archive.name}: {left_out} links or devices are left out")


@contextlib.contextmanager
def _damage(archive: Path) -> Iterator[None]:
    """Say in one line what is wrong with the bytes of an archive."""
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The disk's; readers of gzip raise an OSError without a number.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{show_path(archive)}: expected a whole tar or zip archive, got one that cannot be read: {reason}",
            hint="remove it, and it is downloaded again",
        ) from None


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as zipped:
            yield _of_zip(zipped)
    else:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:*") as tar:
            yield _of_tar(tar)


def _of_zip(file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        unix = info.external_attr >> 16
        kind = "folder" if info.is_dir() else "other" if unix & 0o170000 == 0o120000 else "file"
        yield _Member(info.filename, kind, info.file_size, lambda info=info: file.open(info))  # type: ignore[misc]


def _of_tar(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "other"
        yield _Member(info.name, kind, info.size, lambda info=info: tar.extractfile(info))  # type: ignore[misc]


def _target(archive: Path, folder: Path, member: _Member) -> Path:
    """Where a member belongs, if its name stays within the folder, on any system."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or re.search(r"\\|\0|^[A-Za-z]:", member.name):
        raise DataError(
            f"{show_path(archive)}: expected names within it, got one that leads out: {show_path(member.name)}",
            hint=_REMOVE,
        )
    return folder / name


def _write(member: _Member, target: Path) -> None:
    """Write a file of as many bytes as were announced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise EOFError(f"{member.name} has no content")
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        if file.tell() != member.size:
            raise EOFError(f"{member.name} has {file.tell()} of {member.size} bytes")
