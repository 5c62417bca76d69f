"""Device, precision, threads and seeds: what decides speed and bits beside the code."""

import os
import random

import torch

from fullyconv import processes
from fullyconv.errors import UsageError

__all__ = [
    "choose_device",
    "choose_precision",
    "generator_of",
    "instruction_set",
    "move",
    "seed_everything",
    "set_threads",
]


def choose_device(name: str = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda" or "mps" into a device.

    Raises:
        UsageError: The device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device has to be auto, cpu, cuda or mps, got {name!r}") from None
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= count.get(device.type, 0):
        raise UsageError(f"device {name!r} is not available to torch {torch.__version__}", hint="use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Turn "auto", "float32" or "bfloat16" into the dtype in which the encoder computes.

    "auto" is bfloat16 where the processor multiplies it natively (AVX-512 BF16, AMX, CUDA from 8.0 up): there it
    is about three times as fast as float32. Elsewhere it is emulated and slower, so "auto" is float32.

    Raises:
        UsageError: Another name.
    """
    if name == "float32":
        return torch.float32
    if name == "bfloat16":
        return torch.bfloat16
    if name != "auto":
        raise UsageError(f"precision has to be auto, float32 or bfloat16, got {name!r}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _native_bfloat16() else torch.float32


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device, if it is not there; to a CUDA device while the processor goes on.

    That needs memory that the system does not move (pinned memory), so the tensor is copied there first.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _native_bfloat16() -> bool:
    return _has_instructions("avx512_bf16") or _has_instructions("amx_tile")


def _has_instructions(extension: str) -> bool:
    # torch has no public question for this; a name that a later release drops counts as "no".
    ask = getattr(torch.cpu, f"_is_{extension}_supported", None)
    return ask is not None and bool(ask())


def instruction_set(device: torch.device | None = None) -> str:
    """Name what computes: float results depend on it.

    Args:
        device: The processor by default.

    Returns:
        The vector instructions that torch uses on the processor, such as "AVX512+vnni+avx512_bf16"; of a CUDA
        device its model.
    """
    if device is not None and device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    names = [str(torch.backends.cpu.get_cpu_capability())]
    names += [name for name in ("vnni", "avx512_bf16", "amx_tile", "amx_fp16") if _has_instructions(name)]
    # Kernels are chosen by oneDNN, which can be told to leave instructions unused.
    limits = [os.environ[name] for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA") if name in os.environ]
    return "+".join([*names, *limits])


def set_threads(threads: int | None) -> int:
    """Fix the number of threads of torch's operations; results in float32 depend on it.

    Args:
        threads: At least 1; None takes every core that this process may use, and leaves the choice to torch where
            OMP_NUM_THREADS is set or the system does not say how many these are. Several processes on a machine
            take an equal part each: the 1 that `torchrun` sets there is nobody's choice.

    Returns:
        The number in force.

    Raises:
        UsageError: Fewer than 1.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"threads has to be at least 1, got {threads}")
        torch.set_num_threads(threads)
    elif hasattr(os, "sched_getaffinity"):
        here = processes.on_this_machine()
        if "OMP_NUM_THREADS" not in os.environ or (here > 1 and os.environ["OMP_NUM_THREADS"] == "1"):
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // here))
    return torch.get_num_threads()


def seed_everything(*parts: int) -> None:
    """Seed torch's global generator from a few numbers, such as (seed, epoch).

    Training seeds anew before each epoch, so what an epoch draws does not depend on how the run got there and a
    resumed run needs no saved generator state.
    """
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % (2**63)
    torch.manual_seed(seed)


def generator_of(*parts: int | str) -> torch.Generator:
    """Make a generator that a few numbers and words decide: the same wherever a run goes on."""
    return torch.Generator().manual_seed(random.Random(" ".join(map(str, parts))).getrandbits(62))
