"""The processes of one training: what each of them takes of the work, and sums over all.

`torchrun` starts the same command several times, on one machine or on several, and tells each process its rank.
They talk over gloo where they compute on processors, and over NCCL where on GPUs. Each collective function here
has to be called by all of them, in the same order. Without `torchrun` there is one process: each function gives
back what it was given, and nothing of `torch.distributed` is opened.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fullyconv.errors import TrainingError, UsageError

__all__ = [
    "add_gradients",
    "count",
    "gathered",
    "is_first",
    "joined",
    "joint",
    "of_first",
    "on_this_machine",
    "one_after_another",
    "own_device",
    "owns",
    "rank",
    "refuse_several",
    "several",
    "share",
    "text_of_first",
    "total",
    "wait",
]

T = TypeVar("T")

LONGEST = timedelta(hours=12)
"""So long a process waits for another, which may have more features to compute. One that has died is noticed at
once."""

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""By these in its environment a process knows that `torchrun` has started it."""

_groups: list[Any] = []
"""The group of the training that runs; empty without one."""

_stores: list[Any] = []
"""Where processes find each other: that of all, then one for each training so far."""


def _started() -> bool:
    return all(name in os.environ for name in _VARIABLES)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Connect the processes that `torchrun` has started, for as long as a training takes; nothing without it.

    Within it another one does nothing. A group that the caller has opened (`torch.distributed`) is left as it is.

    Args:
        device: What they compute on.

    Raises:
        UsageError: Devices that are no processors and no GPUs, or fewer GPUs than processes on this machine.
    """
    if _groups or not (_started() or (dist.is_available() and dist.is_initialized())):
        yield
        return
    _refuse_devices(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    theirs = dist.is_initialized()
    with _stopped_at_once():
        if theirs:
            _groups.append(dist.new_group(backend=backend, timeout=LONGEST))
        else:
            _collective(_open, backend)
            _groups.append(dist.group.WORLD)
    clean = False
    try:
        yield
        wait()
        clean = True
    finally:
        group = _groups.pop()
        # Where a process has died, closing NCCL would wait for it: this one is about to end, too.
        if clean or device.type != "cuda":
            dist.destroy_process_group(group if theirs else None)


def _open(backend: str) -> None:
    if not _stores:
        _stores.append(next(rendezvous("env://", timeout=LONGEST))[0])
    # Each training finds the others under names of its own: those of the one before are of closed connections.
    _stores.append(dist.PrefixStore(f"training {len(_stores)}", _stores[0]))  # type: ignore[attr-defined]
    own, of = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_stores[-1], timeout=LONGEST, rank=own, world_size=of)


@contextlib.contextmanager
def _stopped_at_once() -> Iterator[None]:
    """Let signals end the process while it waits for others, where no Python code could answer them."""
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # Only the main thread may.
            before[number] = signal.signal(number, signal.SIG_DFL) or signal.SIG_DFL
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_devices(device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"several processes need processors or GPUs, got {device}", hint="add --device cpu")
    here, gpus = on_this_machine(), torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (here > gpus or (device.index is not None and here > 1)):
        raise UsageError(
            f"{here} processes on this machine need a GPU each, got {device} of {gpus}",
            hint="start as many as there are GPUs and say --device cuda, or add --device cpu",
        )


def refuse_several(what: str, hint: str = "start it without torchrun") -> None:
    """Refuse to be one of several processes.

    Args:
        what: What works in one process alone.
        hint: The way out.

    Raises:
        UsageError: `torchrun` has started several.
    """
    if _started() and int(os.environ["WORLD_SIZE"]) > 1:
        raise UsageError(
            f"{what} works in one process, torchrun has started {os.environ['WORLD_SIZE']}",
            hint=hint,
        )


def several() -> bool:
    """Whether this process is one of those that are joined."""
    return bool(_groups)


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank(_groups[0]) if _groups else 0


def count() -> int:
    """How many processes there are, on all machines."""
    return dist.get_world_size(_groups[0]) if _groups else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def on_this_machine() -> int:
    """How many processes `torchrun` has started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if _started() else 1


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: of several on a machine with GPUs each has one."""
    if not _groups or device.type != "cuda":
        return device
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(own)
    return own


def share(items: Sequence[T]) -> Sequence[T]:
    """Return the items that are this process's (`owns`)."""
    return items[rank() :: count()]


def owns(place: int) -> bool:
    """Whether what stands at a place is this process's: every n-th of n processes, from its rank on."""
    return place % count() == rank()


def total(values: Tensor) -> Tensor:
    """Sum over the processes, element by element; the same bits on all of them.

    Args:
        values: Integers or floats, of the same shape on each.

    Raises:
        TrainingError: Another process has ended.
    """
    if not _groups:
        return values
    whole = values.detach().clone(memory_format=torch.contiguous_format)
    _collective(dist.all_reduce, whole, group=_groups[0])
    return whole


def joint(values: Tensor) -> Tensor:
    """Sum over the processes as `total` does, differentiable.

    The gradient is that of the sum of what all processes compute from it: each takes its share of the loss.
    """
    return cast(Tensor, _Joint.apply(values)) if _groups else values  # type: ignore[no-untyped-call]


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Put the sum over the processes in place of each gradient."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not _groups or not gradients:
        return
    whole = total(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(whole, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def gathered(values: Tensor) -> Tensor:
    """Join the values of all processes, by rank.

    Args:
        values: One dimension, of any length on each.
    """
    if not _groups:
        return values
    lengths = torch.zeros(count(), dtype=torch.long)
    lengths[rank()] = len(values)
    ends = total(lengths).cumsum(0).tolist()
    whole = values.new_zeros(ends[-1])
    whole[ends[rank()] - len(values) : ends[rank()]] = values
    return total(whole)  # To add 0 changes no bit.


def of_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the first process; the others give such of the same names, shapes and dtypes."""
    if not _groups:
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        _collective(dist.broadcast, found[name], src=0, group=_groups[0])
    return found


def text_of_first(text: str) -> str:
    """Return the text that the first process gives."""
    if not _groups:
        return text
    data = torch.frombuffer(bytearray(text.encode() if is_first() else b"") + b"\n", dtype=torch.uint8)
    length = total(torch.tensor(len(data) if is_first() else 0))
    data = data if is_first() else torch.zeros(int(length), dtype=torch.uint8)
    return bytes(of_first({"": data})[""].tolist()).decode()[:-1]


def wait() -> None:
    """Wait until all processes are here."""
    total(torch.zeros(1))


@contextlib.contextmanager
def one_after_another() -> Iterator[None]:
    """Let one process of each machine do first what leaves files there that the others only read."""
    later = _started() and os.environ["LOCAL_RANK"] != "0"
    if later:
        wait()
    yield
    if not later:
        wait()


def _collective(run: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Run what needs all processes, and say so where one of them is not there any more."""
    try:
        run(*arguments, **options)
    except RuntimeError as error:
        raise TrainingError(
            "another process of this training has ended, or cannot be reached", hint="its own message says why"
        ) from error
