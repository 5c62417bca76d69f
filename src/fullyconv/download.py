"""One file from a web server to its place on disk: resumed, checked, there whole or not at all.

What comes is kept beside the place it is for, as `.NAME.part`, with the server's mark of the version that it
belongs to in `.NAME.mark`. Ctrl-C, a killed process or a closed connection leave both, and the next try asks for
the missing bytes alone, if the server still has that version. Only a file with the promised digest gets its name.
"""

import contextlib
import hashlib
import io
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from fullyconv import __version__
from fullyconv.errors import DownloadError
from fullyconv.locks import locked
from fullyconv.progress import Progress

__all__ = ["digest_of", "download", "megabytes"]

TIMEOUT = 20.0
"""Seconds until a server has to accept the connection, and each time until it has to send something."""

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try, where a server broke off or said that it had a problem."""

PASSING = {408, 429, 500, 502, 503, 504}
"""What servers answer whose problem may pass."""

LARGEST = 2 * 10**9
"""Bytes: no published classifier comes near."""

DISK_HINT = "make room, or let TORCH_HOME name a folder that can be written"

ALGORITHMS = {"sha256": "SHA-256", "md5": "MD5"}
"""What a digest may be of, and its name in words. MD5 tells damage, which is all that some publishers offer."""

CHUNK = 2**20
MEGABYTE = 10**6


def download(
    url: str,
    path: Path,
    digest: str,
    *,
    hint: str,
    progress: Progress,
    timeout: float = TIMEOUT,
    largest: int = LARGEST,
    disk_hint: str = DISK_HINT,
) -> None:
    """Bring a file from a server to `path`, if nothing is there.

    Any number of processes may ask for the same file: one downloads, the others wait for it. Proxies are those
    of the environment (`https_proxy`, `no_proxy`).

    Args:
        url: The http or https address.
        path: Where the file is to be; its folder is made where it is not there.
        digest: How the SHA-256 of the file has to begin, in hex digits; or "md5:" and how its MD5 has to.
        hint: How to do without the network, for the errors.
        progress: Where to report.
        timeout: Seconds until the server has to accept the connection, and each time until it has to send
            something.
        largest: Bytes: larger files are refused before they come.
        disk_hint: What to do where the disk does not take the file, for the errors.

    Raises:
        DownloadError: The server cannot be reached, has no such file, or breaks off again and again; what it sent
            is not the promised file; the disk does not take it. Nothing is at `path` then.
    """
    partial = _Partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(
            path.with_name(f".{path.name}.lock"),
            lambda: progress.say(f"waiting for another process that downloads {path.name}"),
        ):
            if not path.exists():
                _Download(url, partial, hint, progress, timeout, largest, disk_hint).run(digest)
            if not path.exists():  # Another program may have put it there meanwhile.
                partial.path.rename(path)
            partial.discard()
    except OSError as error:
        # What fails on the network has become a DownloadError before it comes here: this is the disk.
        raise DownloadError(f"cannot write {path}: {_reason(error)}", disk_hint) from None


class _Partial:
    """What has come of a file so far, and which version of the file it belongs to."""

    def __init__(self, final: Path) -> None:
        self.name = final.name
        self.folder = final.parent
        self.path = final.with_name(f".{final.name}.part")
        self.mark_path = final.with_name(f".{final.name}.mark")

    @property
    def mark(self) -> str:
        """The server's mark of the version; "" where there is none."""
        try:
            mark = self.mark_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return mark if _is_mark(mark) else ""

    @property
    def size(self) -> int:
        """Bytes to go on from: none where it is not known what they belong to."""
        return self.path.stat().st_size if self.path.exists() and self.mark else 0

    def begin(self, mark: str) -> None:
        """Begin anew with a version."""
        self.discard()
        self.mark_path.write_text(mark, encoding="utf-8")
        self.path.touch()

    def discard(self) -> None:
        """Remove what came."""
        self.path.unlink(missing_ok=True)
        self.mark_path.unlink(missing_ok=True)


class _PassingError(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class _Download:
    """One download: what its steps need to know, and say when they fail."""

    def __init__(
        self,
        url: str,
        partial: _Partial,
        hint: str,
        progress: Progress,
        timeout: float,
        largest: int,
        disk_hint: str,
    ) -> None:
        self.url, self.partial, self.hint, self.progress, self.timeout = url, partial, hint, progress, timeout
        self.largest, self.disk_hint = largest, disk_hint

    def run(self, digest: str) -> None:
        """Complete the partial file in a few tries, each going on where the last one ended, and check it."""
        for number, wait in enumerate((*WAITS, None)):
            try:
                self._try_once()
                break
            except _PassingError as error:
                # Without a network, waiting is in vain; with one that was there a moment ago, it is not.
                if wait is None or (number == 0 and not error.reached):
                    size = self.partial.size
                    kept = f"; {megabytes(size)} are kept for the next try" if size else ""
                    raise self._error(f"{error}{kept}") from None
                self.progress.say(f"{self.partial.name}: {error}; trying again in {wait:g} s")
                time.sleep(wait)
        self._check(digest)

    def _error(self, reason: str) -> DownloadError:
        return DownloadError(f"cannot download {self.url}: {reason}", self.hint)

    def _try_once(self) -> None:
        """Ask once, for what is missing, and keep whatever comes."""
        done = self.partial.size
        response = self._request(done)
        if response is None:
            return
        with response:
            total = self._length(response, done)
            if response.status != 206 or not done:
                self.partial.begin(_mark_of(response))
                done = 0
            _check_room(self.partial.folder, total - done, self.disk_hint)
            rest = f", the last {megabytes(total - done)}" if done else ""
            self.progress.say(f"downloading {self.url} ({megabytes(total)}{rest}) to {self.partial.folder}")
            self._receive(response, done, total)

    def _request(self, done: int) -> HTTPResponse | None:
        """Ask for all bytes after the first `done`; None where there are no others."""
        headers = {"User-Agent": f"fullyconv/{__version__}"}
        if done:
            # The rest of the same version, or all of another one.
            headers |= {"Range": f"bytes={done}-", "If-Range": self.partial.mark}
        try:
            response: HTTPResponse = urlopen(Request(self.url, headers=headers), timeout=self.timeout)
        except HTTPError as error:
            with error:
                if error.code != 416 or not done:
                    answer = f"the server answers {error.code} {error.reason}"
                    raise (_PassingError if error.code in PASSING else self._error)(answer) from None
                if error.headers.get("Content-Range") == f"bytes */{done}":
                    return None
                self.partial.discard()
                raise _PassingError("the server has another file now") from None
        except URLError as error:
            # The name, the connection, the certificate: what comes before the server has heard of us.
            reason = error.reason if isinstance(error.reason, str) else _reason(error.reason)
            raise _PassingError(f"the server cannot be reached: {reason}", reached=False) from None
        except (InvalidURL, ValueError) as error:
            raise self._error(_reason(error)) from None
        except (OSError, HTTPException) as error:
            raise _PassingError(f"the connection broke: {_reason(error)}") from None
        if urlsplit(response.url).scheme not in ("https", urlsplit(self.url).scheme):
            response.close()
            raise self._error(f"it leads to {response.url}, which is not https")
        return response

    def _length(self, response: HTTPResponse, done: int) -> int:
        """Bytes of the whole file, of which the answer has those after `done`, or all."""
        if response.status == 206:
            part = re.fullmatch(r"bytes (\d+)-\d+/(\d{1,18})", response.headers.get("Content-Range", ""))
            if not part or int(part[1]) != done:
                self.partial.discard()
                raise _PassingError("the server sent another part than was asked for")
            total = int(part[2])
        else:
            announced = response.headers.get("Content-Length", "")
            if response.status != 200 or not re.fullmatch(r"\d{1,18}", announced):
                answer = f"{response.status} {response.reason}"
                raise self._error(f"the server answers {answer}, Content-Length {announced or 'missing'}")
            total = int(announced)
        if total > self.largest:
            raise self._error(f"it has {megabytes(total)}, more than {megabytes(self.largest)}")
        return total

    def _receive(self, response: HTTPResponse, done: int, total: int) -> None:
        """Append what comes to the partial file, which has `done` of `total` bytes."""
        label = f"downloading {self.partial.name}, MB"
        with (
            self.progress.track(label, math.ceil((total - done) / MEGABYTE)) as step,
            self.partial.path.open("ab") as file,
        ):
            stepped = done
            while done <= total and (data := _read(response)):
                file.write(data)
                done += len(data)
                while stepped < done:
                    step()
                    stepped += MEGABYTE
        if done > total:
            self.partial.discard()
            raise self._error(f"the server sends more than the {total} bytes that it announced")
        if done < total:
            raise _PassingError(f"the connection ended after {done} of {total} bytes")

    def _check(self, digest: str) -> None:
        """Hold the partial file to its digest, read back from the disk; remove it if it is another file."""
        algorithm, promised = _parts(digest)
        with self.partial.path.open("r+b") as file:
            found = _digest(file, algorithm)
            os.fsync(file.fileno())
        if not found.startswith(promised):
            self.partial.discard()
            raise self._error(
                f"the {ALGORITHMS[algorithm]} has to start with {promised[:8]}, it starts with {found[:8]}; "
                "what came was removed"
            )


def digest_of(path: Path, digest: str) -> str:
    """The digest of a file, in the form and of the length of one that is promised.

    Args:
        path: The file.
        digest: What is promised, as `download` takes it.

    Raises:
        OSError: The file cannot be read.
    """
    algorithm, promised = _parts(digest)
    with path.open("rb") as file:
        found = _digest(file, algorithm)[: len(promised)]
    return f"{algorithm}:{found}" if ":" in digest else found


def _parts(digest: str) -> tuple[str, str]:
    """What a digest is of, and how it begins."""
    algorithm, _, promised = digest.rpartition(":")
    return algorithm or "sha256", promised


def _digest(file: io.BufferedIOBase, algorithm: str) -> str:
    return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _read(response: HTTPResponse) -> bytes:
    """The next bytes, as soon as there are some; none at the end."""
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _PassingError(f"the connection broke: {_reason(error)}") from None


def _check_room(folder: Path, needed: int, hint: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(f"{folder} has {megabytes(free)} free, the download needs {megabytes(needed)}", hint)


def _mark_of(response: HTTPResponse) -> str:
    """What tells a version of a file from others: its strong ETag, else its date."""
    etag = response.headers.get("ETag", "")
    mark = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    return mark if _is_mark(mark) else ""


def _is_mark(text: str) -> bool:
    """Whether a text can be sent back in a header."""
    return text.isascii() and text.isprintable()


def megabytes(count: int) -> str:
    """Say a number of bytes in millions: "3.3 MB"."""
    return f"{count / MEGABYTE:.1f} MB"


def _reason(error: BaseException) -> str:
    """What happened, in one line."""
    return " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())


@contextlib.contextmanager
def _alone(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Let one process at a time in. The system frees the lock of a process that is killed."""
    said = False
    while True:
        with lock.open("ab") as file:
            while not locked(file.fileno()):
                if not said:
                    waiting()
                said = True
                time.sleep(0.1)
            if not _is_at(lock, file.fileno()):
                continue  # Its holder removed it while we waited: the lock is a new file now.
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows keeps files that are open.
                    lock.unlink()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
