"""How much memory a computation needs at its peak, and amounts of memory in words."""

import contextlib
import ctypes
import re
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullyconv.errors import UsageError

__all__ = ["available_bytes", "give_back_freed", "parsed_bytes", "peak_bytes", "shown_bytes"]

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def available_bytes() -> int:
    """Memory that programs can still have: what Linux says, within the limit of a container; else 4 GB."""
    found = [4 * 10**9]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = [1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        limit, used = (int(Path("/sys/fs/cgroup", f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(limit - used, 0))
    return min(found)


def give_back_freed() -> None:
    """Let the C library give memory back to the system that was freed and kept: after something large has gone."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def parsed_bytes(text: str) -> int:
    """Read an amount of memory such as "500MB", "1.5 GiB" or "800000000".

    Raises:
        UsageError: It is none.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmg]i?b)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"expected an amount of memory such as 500MB or 2GB, got {text!r}")
    return int(float(match[1]) * UNITS[(match[2] or "").upper()])


def shown_bytes(count: int) -> str:
    """An amount of memory for people: three digits and a decimal unit."""
    for unit in ("GB", "MB", "kB"):
        if count >= (size := UNITS[unit.upper()]):
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def peak_bytes(compute: Callable[[], object]) -> int:
    """Run a computation and return the most bytes that tensors made in it held at one time.

    Tensors that were there before do not count, nor does what a single operation allocates within itself.
    """
    watch = _Watch()
    with watch:
        compute()
    return watch.peak


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the storages of all tensors that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self.holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A view of a tensor that was there before, or the tensor itself, is nothing new.
        given = {_place(value) for value in tree_leaves((args, kwargs)) if _has_storage(value)}
        for value in tree_leaves(result):
            if _has_storage(value) and (self.holders[_place(value)] or _place(value) not in given):
                self._hold(value)
        return result

    def _hold(self, tensor: Tensor) -> None:
        place, size = _place(tensor), tensor.untyped_storage().nbytes()
        if not self.holders[place]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self.holders[place] += 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self.holders[place] -= 1
        if not self.holders[place]:
            self.now -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _has_storage(value: object) -> bool:
    """Whether it is a tensor; weights in an order of oneDNN's own tell nothing of their bytes."""
    return isinstance(value, Tensor) and value.layout is torch.strided
