"""Networks of other libraries as encoders: what they have in common, wherever they come from.

Nothing of them is written a second time here. Which maps they give is seen by running them on tensors without
values, and what a cell of a map sees is found by `fullyconv.encoders.fields`, or nobody knows.
"""

import copy
import importlib
import importlib.util
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fullyconv.convolve import Conv2d
from fullyconv.encoder import EncoderNetwork, InputConvention
from fullyconv.encoders.efficientnet_lite import conv_same
from fullyconv.encoders.fields import find_fields
from fullyconv.errors import DownloadError, FullyConvError, UsageError, WeightsError
from fullyconv.taps import Tap
from fullyconv.weights import INITIALISATION_SEED

__all__ = [
    "AdaptedNetwork",
    "SameConv2d",
    "convention_of",
    "find_taps",
    "from_hub",
    "import_library",
    "one_line",
    "seeded",
]

PROBED_SIZE = (448, 896)
"""Of the image without values: multiples of the strides that networks have (2 to 64, 7, 14 and 28)."""

TORCHVISION_OPERATIONS = ("nms", "qnms")

COUNTER = "num_batches_tracked"
"""Of batch normalisation in training, which there is none of."""

T = TypeVar("T")

Read = Callable[[nn.Module, Tensor], list[Tensor]]
"""Gives a network's maps of images, N x K x h x w, by depth."""

_declared: list[torch.library.Library] = []  # what is declared in it is there as long as it


class AdaptedNetwork(EncoderNetwork):
    """A network of another library, as it stands there.

    It computes all its maps whatever is asked for, and its padding may count on sides that are multiples of its
    last stride. So that one has to be among those that are read.

    Args:
        name: Of the encoder in a model file.
        network: In its own library's form.
        read: What gives its maps.
        taps: Of these maps, in order.
        sees_all: Whether a cell may see the whole image.
        convention: What images it wants.
        architecture: What it takes to build it again, as JSON values.
        library: The name and version of its library.
        licence: SPDX name of the licence of its usual weights.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        read: Read,
        taps: tuple[Tap, ...],
        sees_all: bool,
        convention: InputConvention,
        architecture: Mapping[str, Any],
        library: str,
        licence: str = "NOASSERTION",
    ) -> None:
        super().__init__()
        self.name, self.taps, self.sees_all = name, taps, sees_all
        self.network, self.read = network, read
        self.input_convention, self.architecture = convention, architecture
        self.library, self.weights_licence = f"{library} {version(library)}", licence
        self.usual_file = f"a weights file of {library}"
        self.publishers_names: Mapping[str, str] = {}
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "AdaptedNetwork":
        """Stay in eval mode: batch statistics, dropout and stochastic depth are fixed."""
        return super().train(False)

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first; see `EncoderNetwork.forward`."""
        wanted = [self.taps.index(tap) for tap in self.taps_at(strides)]
        maps = self.read(self.network, images)
        return [maps[place] for place in wanted]

    def taps_at(self, strides: Sequence[int]) -> tuple[Tap, ...]:
        """Find the taps that strides stand for; see `EncoderNetwork.taps_at`.

        Raises:
            UsageError: As there; or the last stride is not among them.
        """
        found = super().taps_at(strides)
        if found[-1].stride != self.taps[-1].stride:
            raise UsageError(
                f"encoder {self.name} computes all its features: stride {self.taps[-1].stride} has to be among "
                f"those that are read, got {', '.join(map(str, strides))}",
                hint="choose the decoder practical, or its coarsest stride",
            )
        return found

    def published_keys(self) -> Mapping[str, str]:
        """For each key of `state_dict` but counters the name that its library gives it."""
        own = [key for key in self.state_dict() if not key.endswith(COUNTER)]
        theirs = (key.removeprefix("network.") for key in own)
        return {key: self.publishers_names.get(name, name) for key, name in zip(own, theirs, strict=True)}

    def folded(self) -> "AdaptedNetwork":
        """Copy for inference: the same features within rounding, convolutions done by `fullyconv.convolve`."""
        working = copy.deepcopy(self)
        for module in working.modules():
            if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros":
                if type(module) is nn.Conv2d and not isinstance(module.padding, str):
                    module.__class__ = Conv2d
                elif type(module).__name__ == "Conv2dSame":  # timm's, of TensorFlow's padding
                    module.__class__ = SameConv2d
        return working


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, computed with `convolve`."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve N x K x h x w maps to ceil(h / stride) rows."""
        return conv_same(maps, self)


def find_taps(
    name: str, names: Sequence[str], read: Callable[[Tensor], list[Tensor]]
) -> tuple[tuple[Tap, ...], bool]:
    """Find out which maps a network gives and what their cells see.

    Args:
        name: Of the encoder, for messages.
        names: Of its maps.
        read: Gives its maps of 1 x 3 x H x W on the meta device.

    Returns:
        The taps; their receptive field is 0 where a cell may see the whole image. And whether that is so.

    Raises:
        UsageError: It cannot be run on images of any size, or its maps lie on no grid of strides.
    """
    try:
        fields, shapes = find_fields(read, torch.empty(1, 3, *PROBED_SIZE, device="meta"))
    except FullyConvError:
        raise
    except Exception as error:  # whatever a library raises
        raise UsageError(
            f"encoder {name} does not take images of every size: {one_line(error)}",
            hint="choose a convolutional network, or another transformer",
        ) from error
    strides = [PROBED_SIZE[0] // max(shape[-2], 1) for shape in shapes]
    on_grid = all(
        len(shape) == 4 and (shape[2] * stride, shape[3] * stride) == PROBED_SIZE
        for shape, stride in zip(shapes, strides, strict=True)
    )
    if not on_grid or strides != sorted(strides) or any(strides[-1] % stride for stride in strides):
        sizes = ", ".join(" x ".join(map(str, shape[2:])) for shape in shapes)
        raise UsageError(
            f"encoder {name} gives maps of {sizes} cells for {' x '.join(map(str, PROBED_SIZE))} px: they lie on "
            "no grid of strides",
            hint="choose a network whose convolutions are padded",
        )
    if fields is not None and [field.stride for field in fields] != strides:
        fields = None
    taps = (
        Tap.seeing(label, fields[place], shape[1]) if fields else Tap(label, stride, shape[1], 0)
        for place, (label, stride, shape) in enumerate(zip(names, strides, shapes, strict=True))
    )
    return tuple(taps), fields is None


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with its library's random weights, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIALISATION_SEED)
        return build().float()


def import_library(name: str, extra: str) -> Any:
    """Import what an extra brings.

    Raises:
        UsageError: It is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"{name} is not installed", hint=f'install it with: pip install "fullyconv[{extra}]"')
    _let_torchvision_load()
    return importlib.import_module(name)


def _let_torchvision_load() -> None:
    """Declare the operations that torchvision's import asks for, only where that fails otherwise.

    Both libraries import torchvision, for nothing that an encoder needs. Its compiled part does not load beside a
    torch of another build, and then its Python part fails on the operations that it expects there.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))  # type: ignore[no-untyped-call]
        for name in TORCHVISION_OPERATIONS:
            if not hasattr(torch.ops.torchvision, name):
                form = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                _declared[-1].define(form)  # type: ignore[no-untyped-call]


def from_hub(fetch: Callable[[bool], T], what: str, hint: str, *, offline: bool) -> T:
    """Take something of the Hugging Face Hub from this machine, else download it.

    Args:
        fetch: Gives it; from this machine alone where its argument is True.
        what: It is, in plural, for messages.
        hint: What to do without it.
        offline: Download nothing; nor is anything downloaded where `FULLYCONV_OFFLINE` is set.

    Raises:
        WeightsError: It is not there and must not be downloaded.
        DownloadError: It could not be downloaded.
    """
    try:
        return fetch(True)
    except Exception as error:  # the libraries raise many kinds
        if offline or os.environ.get("FULLYCONV_OFFLINE", "0") not in ("", "0"):
            message = f"{what} are not on this machine, and offline nothing is downloaded"
            raise WeightsError(message, hint) from error
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # a line for every try
    try:
        return fetch(False)
    except Exception as error:
        raise DownloadError(f"{what} cannot be downloaded: {one_line(error)}", hint) from error
    finally:
        log.setLevel(level)


def one_line(error: BaseException) -> str:
    """What a library's exception says, shortened to a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def convention_of(mean: Sequence[float], std: Sequence[float]) -> InputConvention:
    """The input convention of means and deviations of values in 0..1.

    Raises:
        UsageError: They are not three finite numbers each.
    """
    numbers = [*mean, *std]
    fits = len(mean) == len(std) == 3 and all(type(value) in (int, float) for value in numbers)
    if not fits or not all(map(math.isfinite, numbers)) or min(std) <= 0:
        raise UsageError(f"expected means and deviations of three channels, got {mean} and {std}")
    means, deviations = (tuple(round(value * 255, 6) for value in values) for values in (mean, std))
    return InputConvention(means, deviations)
