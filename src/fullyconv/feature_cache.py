"""Encoder features of a data set, computed once, kept on disk.

The encoder is fixed, so its features of an image do not change during training: that is what makes an epoch cost
only the decoder. The cache is content-addressed: an entry's name is a digest of everything that decides its
content, so it can be missing but not out of date. Each entry carries a digest of its own content, checked when a
run first reads it, and appears under its name whole or not at all. Any number of processes may share a cache.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fullyconv.atomic import atomic_path

__all__ = ["CacheInfo", "FeatureCache", "cache_folder", "entry_key", "to_half"]

DEFAULT_LIMIT = 20 * 10**9
"""Bytes that the cache may take, unless half of the free disk is less."""

DIGEST_BYTES = 32
"""An entry is a SHA-256 over its key and what follows, then a safetensors file."""

STALE_SECONDS = 3600
"""A temporary file this old was left by a process that was killed: writing one takes seconds. (Its process id
would say nothing where several machines share the folder.)"""


def cache_folder() -> Path:
    """Return the user's cache folder: `$FULLYCONV_CACHE`, else `fullyconv` where the system keeps caches."""
    if named := os.environ.get("FULLYCONV_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "fullyconv" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/fullyconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fullyconv"


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds.

    Attributes:
        folder: Where it is.
        entries: Number of entries.
        bytes: Their size.
        limit: The size at which the least recently used go.
    """

    folder: Path
    entries: int
    bytes: int
    limit: int


@dataclass(frozen=True, order=True)
class _Entry:
    """A file of the cache; the least recently used sorts first."""

    used: int
    path: Path
    bytes: int


class FeatureCache:
    """Named tensors on disk, least recently used first to go.

    An object of this class stands for one run. It may be used by several threads.

    Args:
        folder: Where entries live; the user's cache folder by default.
        limit: Bytes that they may take; 20 GB or half of the free disk (what the cache takes already counted as
            free) by default, whichever is less.

    Attributes:
        folder: Where entries live.
        damaged: How many entries were found damaged and removed.
        failure: Why nothing is stored any more, for people; None as long as all is well. What is there is still
            read.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = (folder or cache_folder()) / "features"
        self.damaged = 0
        self.failure: str | None = None
        self._limit = limit
        self._lock = threading.RLock()
        self._bytes: int | None = None
        self._uncounted = 0
        self._writing: dict[str, int] = {}
        self._used: set[str] = set()
        self._verified: set[str] = set()

    @property
    def limit(self) -> int:
        """Bytes that the entries may take."""
        with self._lock:
            if self._limit is None:
                self._limit = min(DEFAULT_LIMIT, (_free_bytes(self.folder) + self.info_bytes()) // 2)
            return self._limit

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return the entry of a key, or None where there is none or it is damaged (it is removed then)."""
        path = self._path(key)
        try:
            # Read, not mapped: a tensor on a mapped file would change when the file does after its digest was
            # checked, a disk error would kill the process, and a process may map a limited number of files.
            data = path.read_bytes()
        except OSError:
            with self._lock:
                self._verified.discard(key)
            return None
        tensors = self._unpack(key, data)
        with self._lock:
            if tensors is None:
                self.damaged += 1
                self._verified.discard(key)
                self._remove(path, len(data))
            else:
                self._verified.add(key)
                self._used.add(key)
                with contextlib.suppress(OSError):  # Somebody else's entry may be read, but not marked as used.
                    os.utime(path)
        return tensors

    def _unpack(self, key: str, data: bytes) -> dict[str, Tensor] | None:
        digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        if key not in self._verified and digest != _digest(key, content):
            return None
        try:
            return load(content)
        except (SafetensorError, LookupError, RuntimeError, TypeError, ValueError):
            return None

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. A disk that does not take it switches the cache off for this run (see `failure`)."""
        if self.failure is not None:
            return
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        data = _digest(key, content) + content
        with self._lock:
            if not self._make_room(len(data)):
                self.failure = f"the features of this run alone would pass its limit of {self.limit / 1e9:.1f} GB"
                return
            # Before it is there, so that no other thread removes it or takes its room.
            self._used.add(key)
            self._writing[key] = len(data)
            self._bytes = self.info_bytes() + len(data)
            self._uncounted += len(data)
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            self.failure = f"{self.folder} cannot be written: {error.strerror or error}"
        finally:
            with self._lock:
                self._writing.pop(key, None)

    def info(self) -> CacheInfo:
        """Count what is there."""
        entries = self._entries()
        return CacheInfo(self.folder, len(entries), sum(entry.bytes for entry in entries), self.limit)

    def info_bytes(self) -> int:
        """Bytes of all entries: counted once, then kept up to date with what this run does."""
        with self._lock:
            if self._bytes is None:
                self._remove_stale_temporaries()
                self._bytes = sum(entry.bytes for entry in self._entries())
            return self._bytes

    def clear(self) -> CacheInfo:
        """Remove all entries and say what there was."""
        with self._lock:
            info = self.info()
            for entry in self._entries():
                self._remove(entry.path, entry.bytes)
            self._bytes = None
            self._used.clear()
            self._verified.clear()
            return info

    def _make_room(self, size: int) -> bool:
        """Remove least recently used entries of other runs until `size` bytes fit; False where they cannot."""
        # What other processes have stored meanwhile is seen only by counting anew, now and then.
        if self.info_bytes() + size <= self.limit and self._uncounted <= self.limit // 64:
            return True
        entries = [entry for entry in self._entries() if entry.path.name not in self._writing]
        writing = sum(self._writing.values())
        self._bytes, self._uncounted = writing + sum(entry.bytes for entry in entries), 0
        if self._bytes + size <= self.limit:
            return True
        own = writing + sum(entry.bytes for entry in entries if entry.path.name in self._used)
        if own + size > self.limit:
            return False
        # A little more than is needed, or each entry would have all others listed again.
        enough = max(own + size, self.limit - self.limit // 32)
        for entry in sorted(entry for entry in entries if entry.path.name not in self._used):
            self._remove(entry.path, entry.bytes)
            if self._bytes + size <= enough:
                break
        return self._bytes + size <= self.limit

    def _remove(self, path: Path, size: int) -> None:
        with contextlib.suppress(OSError):  # Gone already, not ours, or open in another process on Windows.
            path.unlink()
            if self._bytes is not None:
                self._bytes -= size

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def _entries(self) -> list[_Entry]:
        entries = []
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(OSError):  # Another process has removed it.
                stat = path.stat()
                if not path.name.startswith("."):
                    entries.append(_Entry(stat.st_mtime_ns, path, stat.st_size))
        return entries

    def _remove_stale_temporaries(self) -> None:
        for path in self.folder.glob("[0-9a-f][0-9a-f]/.*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _digest(key: str, content: bytes) -> bytes:
    sha = hashlib.sha256(key.encode())
    sha.update(content)
    return sha.digest()


def _free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is or would be; as many as can be used where the system does not say."""
    for there in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(there).free
    return 2 * DEFAULT_LIMIT


def entry_key(parts: Mapping[str, object]) -> str:
    """Return the SHA-256 of named parts (JSON values) as the key of an entry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def to_half(maps: Tensor) -> Tensor:
    """Round to half precision, or to float32 where a value would not be finite in half precision."""
    half = maps.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else maps.float()
