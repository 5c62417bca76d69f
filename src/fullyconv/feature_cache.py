"""Encoder features of a data set, computed once, kept on disk.

The encoder is fixed, so its features of an image do not change during training: that is what makes an epoch cost
only the decoder. The cache is content-addressed: an entry's name is a digest of everything that decides its
content, so it can be missing but not out of date. Each entry carries a digest of its own content, checked when a run
first reads it, and appears under its name whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fullyconv.atomic import atomic_path
from fullyconv.encoder import tensors_digest

__all__ = ["CacheInfo", "FeatureCache", "cache_folder"]

DEFAULT_LIMIT = 20 * 10**9
"""Bytes that the cache may take, unless half of the free disk is less."""


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


class FeatureCache:
    """Named tensors on disk, least recently used first to go.

    Args:
        folder: Where entries live; the user's cache folder by default.
        limit: Bytes that they may take; 20 GB or half of the free disk by default, whichever is less.
    """

    def __init__(self, folder: Path | None = None, limit: int | None = None) -> None:
        self.folder = (folder or cache_folder()) / "features"
        self._limit = limit
        self._bytes: int | None = None
        self._used: set[str] = set()
        self.damaged = 0
        self.failure: str | None = None

    @property
    def limit(self) -> int:
        """Bytes that the entries may take."""
        if self._limit is None:
            there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            self._limit = min(DEFAULT_LIMIT, (shutil.disk_usage(there).free + self.info_bytes()) // 2)
        return self._limit

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return the entry of a key, or None where there is none or it is damaged (it is removed then)."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                digest = (file.metadata() or {}).get("digest")
            if key not in self._used and digest != tensors_digest(tensors, key):
                raise ValueError("digest differs")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, TypeError):
            self.damaged += 1
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        self._used.add(key)
        return tensors

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. A disk that does not take it switches the cache off for this run (see `failure`)."""
        if self.failure is not None:
            return
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        data = save(content, {"digest": tensors_digest(content, key)})
        if not self._make_room(len(data)):
            self.failure = f"the features of this run alone would pass its limit of {self.limit / 1e9:.1f} GB"
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            self.failure = f"{self.folder} cannot be written: {error.strerror or error}"
            return
        self._bytes = self.info_bytes() + len(data)
        self._used.add(key)

    def info(self) -> CacheInfo:
        """Count what is there."""
        sizes = [entry.stat().st_size for entry in self._entries()]
        return CacheInfo(self.folder, len(sizes), sum(sizes), self.limit)

    def info_bytes(self) -> int:
        """Bytes of all entries, counted once."""
        if self._bytes is None:
            self._bytes = sum(entry.stat().st_size for entry in self._entries())
        return self._bytes

    def clear(self) -> CacheInfo:
        """Remove all entries and say what there was."""
        info = self.info()
        for entry in self._entries():
            entry.unlink(missing_ok=True)
        self._bytes = 0
        return info

    def _make_room(self, size: int) -> bool:
        """Remove least recently used entries of other runs until `size` bytes fit; False where they do not."""
        if self.info_bytes() + size <= self.limit:
            return True
        others = [entry for entry in self._entries() if entry.stem not in self._used]
        for entry in sorted(others, key=lambda path: path.stat().st_mtime_ns):
            self._bytes = self.info_bytes() - entry.stat().st_size
            entry.unlink(missing_ok=True)
            if self.info_bytes() + size <= self.limit:
                return True
        return False

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _entries(self) -> list[Path]:
        return list(self.folder.glob("??/*.safetensors"))


def entry_key(parts: Mapping[str, object]) -> str:
    """Return the SHA-256 of named parts (JSON values) as the key of an entry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def to_half(maps: Tensor) -> Tensor:
    """Round to half precision, or to float32 where a value would not be finite in half precision."""
    half = maps.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else maps.float()
