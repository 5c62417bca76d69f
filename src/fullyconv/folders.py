"""Folders of outputs on this machine or at a URL: files are there whole or not at all, and nobody's is replaced.

A URL is whatever fsspec opens, such as `s3://bucket/masks`; its libraries come with the extra `ray` (those of a
store, such as s3fs, by themselves). `file:///masks` is the folder `/masks`.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from fullyconv.atomic import atomic_path
from fullyconv.errors import DataError, UsageError, show_path

__all__ = [
    "HIDDEN",
    "WORK",
    "Folder",
    "LocalFolder",
    "UrlFolder",
    "file_stamp",
    "file_system",
    "is_url",
    "local_file",
    "open_folder",
]

HIDDEN = ".fullyconv"
"""Within a folder of outputs: what a job needs while it goes on."""

WORK = f"{HIDDEN}/work"
"""Within a folder on a disk: where files are written before they are published. Killed workers leave them here."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(text: str | Path) -> bool:
    """Whether a text is a URL and no path (one letter before a colon is a drive)."""
    return _URL.match(str(text)) is not None


def file_system(url: str) -> tuple[Any, str]:
    """Open what holds a URL.

    Args:
        url: Of one store; not of a file inside another one (`zip://...::s3://...`).

    Returns:
        The fsspec file system, and the path in it.

    Raises:
        UsageError: fsspec, or what it needs for such URLs, is not installed; or no such URL is known.
    """
    if "::" in url:
        raise UsageError(f"expected a URL of one store, got {url}", hint="unpack it first")
    try:
        system, path = import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url} cannot be opened: {error}", hint='pip install "fullyconv[ray]"') from None
    except ValueError as error:
        raise UsageError(f"{url} cannot be opened: {error}") from None
    return system, path


class Folder(Protocol):
    """Where outputs go. Names are paths within it, with slashes.

    Attributes:
        place: What `open_folder` opens it by, wherever the process works.
    """

    place: str

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in the place of an older one: whole or not at all."""

    def publish(self, file: Path, name: str) -> None:
        """Give a finished file its name, unless one of the same content has it.

        Args:
            file: Written in a folder of `scratch`; it may be gone afterwards.
            name: What it is to be called.

        Raises:
            UsageError: Another file has that name.
        """

    def names(self, within: str = "") -> list[str]:
        """Return the names of all files in the folder `within`, in order; none where it is not there."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """Give an empty folder of this machine, for files to be published."""

    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Give a path on this machine at which a file can be read."""


def open_folder(where: str | Path) -> Folder:
    """Open a folder, which need not be there yet.

    Args:
        where: A path, or a URL.
    """
    text = str(where)
    if is_url(text) and urlsplit(text).scheme == "file":
        return LocalFolder(Path(unquote(urlsplit(text).path)))
    return UrlFolder(text) if is_url(text) else LocalFolder(Path(where))


class LocalFolder:
    """A folder of this machine, or one that several machines share; see `Folder`.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.place = str(self.path)

    def __str__(self) -> str:
        return show_path(self.path)

    def read(self, name: str) -> bytes | None:
        """See `Folder`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    def publish(self, file: Path, name: str) -> None:
        """See `Folder`. Several processes may do so at a time: one of them gives the name, the others find it."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, path)  # Unlike a rename it replaces nothing.
        except FileExistsError:
            _refuse_other(file, path.read_bytes(), path)
        except OSError:  # A disk without links.
            if path.exists():
                _refuse_other(file, path.read_bytes(), path)
            else:
                file.rename(path)

    def names(self, within: str = "") -> list[str]:
        """See `Folder`."""
        files = (self.path / within).rglob("*")
        return sorted(file.relative_to(self.path).as_posix() for file in files if not file.is_dir())

    def exists(self, name: str) -> bool:
        """See `Folder`."""
        return os.path.lexists(self.path / name)

    def remove(self, name: str) -> None:
        """See `Folder`."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Folder`: a folder on the same disk, under `WORK`."""
        place = self.path / WORK
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as name:
            yield Path(name)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Folder`."""
        yield self.path / name


class UrlFolder:
    """A folder at a URL; see `Folder`.

    Args:
        url: Of the folder.

    Raises:
        UsageError: It cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = self.place = url.rstrip("/")
        self._system, self._root = file_system(self.url)

    def __str__(self) -> str:
        return self.url

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def read(self, name: str) -> bytes | None:
        """See `Folder`."""
        try:
            return bytes(self._system.cat_file(self._at(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        with self._moved(name) as temporary:
            self._system.pipe_file(temporary, data)

    def publish(self, file: Path, name: str) -> None:
        """See `Folder`. Of two processes that do so at the same moment the later one counts: their bytes agree."""
        if (there := self.read(name)) is not None:
            _refuse_other(file, there, f"{self}/{name}")
            return
        with self._moved(name) as temporary:
            self._system.put_file(str(file), temporary)

    @contextlib.contextmanager
    def _moved(self, name: str) -> Iterator[str]:
        """Give a name beside the final one, and move what was written there."""
        path = PurePosixPath(self._at(name))
        self._system.makedirs(str(path.parent), exist_ok=True)
        temporary = str(path.with_name(f".{secrets.token_hex(8)}.tmp"))
        try:
            yield temporary
            self._system.mv(temporary, str(path))
        except BaseException:
            with contextlib.suppress(Exception):  # What went wrong before is what has to be said.
                self._system.rm_file(temporary)
            raise

    def names(self, within: str = "") -> list[str]:
        """See `Folder`."""
        if not self._system.isdir(self._at(within)):
            return []
        inside = len(self._system._strip_protocol(self._root).rstrip("/")) + 1
        return sorted(path[inside:] for path in self._system.find(self._at(within)))

    def exists(self, name: str) -> bool:
        """See `Folder`."""
        return bool(self._system.exists(self._at(name)))

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with contextlib.suppress(FileNotFoundError):
            self._system.rm(self._at(name), recursive=True)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """See `Folder`: among the temporary files of the machine."""
        with tempfile.TemporaryDirectory(prefix="fullyconv-", ignore_cleanup_errors=True) as name:
            yield Path(name)

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """See `Folder`."""
        with local_file(f"{self.url}/{name}") as path:
            yield path


def _refuse_other(file: Path, there: bytes, where: str | Path) -> None:
    if file.read_bytes() != there:
        raise UsageError(
            f"{show_path(where)} is there already and is another file", hint="move it away and run again"
        )


@contextlib.contextmanager
def local_file(place: str | Path) -> Iterator[Path]:
    """Give a path on this machine at which an image can be read.

    Args:
        place: A path, which is given back, or a URL, which is downloaded for as long as the block takes.

    Raises:
        DataError: The URL cannot be read; or as the block, with the URL in place of the path.
    """
    if not is_url(place):
        yield Path(place)
        return
    system, path = file_system(str(place))
    with tempfile.TemporaryDirectory(prefix="fullyconv-") as folder:
        file = Path(folder, "image").with_suffix(PurePosixPath(path).suffix)
        try:
            system.get_file(path, str(file))
        except Exception as error:  # Each store has errors of its own.
            raise DataError(f"{place} cannot be read: {type(error).__name__}: {error}") from None
        try:
            yield file
        except DataError as error:  # Nobody knows the file by the name that it has here.
            raise DataError(error.message.replace(show_path(file), str(place)), hint=error.hint) from None


def file_stamp(place: str | Path) -> str:
    """Return what tells a file from a later one under its name: size and time, or what its store says of it.

    Args:
        place: A path, that of an item of an array, or a URL.

    Raises:
        DataError: It is not there.
    """
    if not is_url(place):
        path = Path(place)
        try:
            found = (path if path.exists() else path.parent).stat()  # of an item: its array
        except OSError as error:
            raise DataError(f"{show_path(path)} cannot be read: {error.strerror or error}") from None
        return f"{found.st_size} {found.st_mtime_ns}"
    system, path_in_store = file_system(str(place))
    try:
        facts = system.info(path_in_store)
    except Exception as error:
        raise DataError(f"{place} cannot be read: {type(error).__name__}: {error}") from None
    told = [facts.get(name) for name in ("size", "ETag", "etag", "mtime", "LastModified", "updated", "created")]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
