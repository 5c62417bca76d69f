"""The fixed encoder: features at declared strides and channels.

A *network* (one of `fullyconv.encoders`) turns normalised images into feature maps at a few strides. The
`Encoder` makes it the fixed part of an FCN: it normalises, enlarges and pads images, keeps the network in
eval mode and out of autograd, and says what comes out.
"""

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fullyconv.convolve import pack
from fullyconv.errors import UsageError
from fullyconv.image_form import RGB, ImageForm
from fullyconv.shapes import Features, Images
from fullyconv.sizes import as_fraction, pad_to_multiple, resize_by
from fullyconv.taps import FeatureSpec, Tap
from fullyconv.tiles import Halo
from fullyconv.weights import DownloadableWeights, PackagedWeights

__all__ = [
    "FINE_TUNED",
    "IMAGENET_INPUT",
    "PAD_TO_STRIDE",
    "RGB_0_TO_1",
    "Encoder",
    "EncoderNetwork",
    "InputConvention",
    "Part",
    "tensors_digest",
    "to_grey",
]

PAD_TO_STRIDE = "pad-to-stride"
"""The usual size policy: images are padded to multiples of the deepest stride, and what comes of it is cropped."""

SMALLEST_SCALE, LARGEST_SCALE = 0.25, 4.0
LARGEST_DENOMINATOR = 64  # of a scale as a fraction: keeps the crop grid at a size that images have


FINE_TUNED = ", fine-tuned"
"""How the source of weights ends that were trained further (`fullyconv train --train-encoder`)."""


@dataclass(frozen=True)
class InputConvention:
    """How a network wants its input: `(x - mean) / std` of 0..255 values, in a channel order.

    Attributes:
        mean: Per channel, in units of 0..255, in the network's channel order.
        std: Per channel, in units of 0..255.
        channel_order: "RGB", "BGR", "stored" (as they come) or, for one channel, "grey" (`to_grey`).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: str = "RGB"


IMAGENET_INPUT = InputConvention(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""torchvision's mean (.485, .456, .406) and deviation (.229, .224, .225), in units of 0..255."""

RGB_0_TO_1 = InputConvention(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
"""RGB divided by 255 and nothing else, whatever a network was trained on: what the lecture feeds VGG16."""


@dataclass(frozen=True)
class Part:
    """One step on a network's way down, from the result of the step before to its own.

    Attributes:
        run: Computes it: N x K x h x w maps to others.
        modules: What holds its weights.
        tap: Where its result is read, if anywhere.
    """

    run: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    tap: Tap | None = None


class EncoderNetwork(nn.Module):
    """What a network in `fullyconv.encoders` declares and does.

    Attributes:
        name: The name under which `fullyconv.encoders.build_network` finds it.
        taps: All taps by depth, so finest first; in a dilated network several have one stride. Their strides
            divide the last one.
        input_convention: What `forward` expects.
        sees_all: Whether a cell may depend on the whole image, by a global mean or attention, or on nobody knows
            how much: the fields that the taps declare mean nothing then (they may be 0).
        weights_licence: SPDX name of the licence of its usual pretrained weights.
        weights_source: Where these weights came from: "random", or a package or file (its name, no folder).
        library: The name and version of the library that computes it, where that is another one.
        architecture: What it takes beside the name to build it, as JSON values, where one name has many forms.
        packaged: The package that brings its pretrained weights, if there is one.
        downloadable: Where there is none, the published file to download.
        usual_file: Where there is neither, the file to ask for.
        ignored_weights: Prefixes of published weights that features do not need (the classifier).
        misfits: Published files with the right keys that give wrong features: the start of the SHA-256, why.
    """

    name: str
    taps: tuple[Tap, ...]
    input_convention: InputConvention
    sees_all: bool = False
    size_policy: str = PAD_TO_STRIDE
    weights_licence: str
    weights_source: str = "random"
    library: str = ""
    architecture: Mapping[str, Any] | None = None
    packaged: PackagedWeights | None = None
    downloadable: DownloadableWeights | None = None
    usual_file: str = "a weights file"
    ignored_weights: tuple[str, ...] = ()
    misfits: tuple[tuple[str, str], ...] = ()

    @property
    def state(self) -> Literal["fixed", "tuned"]:
        """Whether its weights are those that were published, or were trained further with a decoder."""
        return "tuned" if self.weights_source.endswith(FINE_TUNED) else "fixed"

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first, and nothing beyond the last.

        Args:
            images: N x 3 (or what channels it reads) x H x W float, normalised by `input_convention`; H and W
                multiples of the last of `strides`, but where `size_policy` is another.
            strides: Ascending; which taps they stand for says `taps_at`.

        Returns:
            For each stride N x channels x H / stride x W / stride, or what `size_policy` says.
        """
        return self.features_behind(None, images, self.taps_at(strides))

    def parts(self) -> Sequence[Part]:
        """The way down, step by step; empty where a network does not say: it can only be trained as a whole."""
        return ()

    def features_behind(self, start: Tap | None, maps: Tensor, taps: Sequence[Tap]) -> list[Tensor]:
        """Go on from a tap, and read others behind it.

        Args:
            start: The tap; None for the image.
            maps: What is read there, N x K x h x w.
            taps: Some behind it, by depth.

        Returns:
            For each of `taps` its features; nothing is computed beyond the last.
        """
        features: list[Tensor] = []
        for part in self.parts_behind(start):
            if len(features) == len(taps):
                break
            maps = part.run(maps)
            if part.tap in taps:
                features.append(maps)
        return features

    def parts_behind(self, start: Tap | None) -> Sequence[Part]:
        """The parts behind a tap; all where it is None."""
        parts = self.parts()
        if start is None:
            return parts
        return parts[[part.tap for part in parts].index(start) + 1 :]

    def taps_at(self, strides: Sequence[int]) -> tuple[Tap, ...]:
        """Find the taps that strides stand for, by depth.

        Args:
            strides: A stride that comes m times stands for the m deepest taps of that stride.

        Raises:
            UsageError: A stride without a tap, or that comes more often than it has taps.
        """
        found: list[Tap] = []
        for stride, wanted in sorted(Counter(strides).items()):
            taps = [tap for tap in self.taps if tap.stride == stride]
            if not taps:
                known = ", ".join(map(str, dict.fromkeys(tap.stride for tap in self.taps)))
                raise UsageError(
                    f"encoder {self.name} has features at strides {known}, not at {stride}",
                    hint="choose a decoder stride among them, or an encoder that has it",
                )
            if wanted > len(taps):
                raise UsageError(
                    f"encoder {self.name} has {len(taps)} features at stride {stride}, not {wanted}",
                    hint="name a stride once for each of its features",
                )
            found += taps[-wanted:]
        return tuple(found)

    def published_keys(self) -> Mapping[str, str]:
        """For each key of `state_dict` the name that the publisher of the pretrained weights gave it."""
        return {key: key for key in self.state_dict()}

    def folded(self) -> "EncoderNetwork":
        """Copy for inference: the same features within rounding, normalisation folded into convolutions."""
        return copy.deepcopy(self)


class Encoder(nn.Module):
    """A fixed network: features of images of any size, never trained, the same bits every time.

    The network itself stays in float32, as it was loaded: it is what the digest covers and what a model file
    holds. Features are computed by a copy of it, folded and in the wanted precision, which is remade when the
    network's weights were replaced or moved.

    Args:
        network: The pretrained network.
        strides: Which taps to read, as in `EncoderNetwork.taps_at`; all by default.
        scales: Factors by which the image is enlarged before the network. Each gives its own features.
        input_convention: What the network is fed, if not what it declares: such as `RGB_0_TO_1`.
        image_form: How images come: as RGB, or as so many channels, which the network reads.
        stride_grid: Scaled images are padded to its multiples; by default the deepest stride that is read.

    Raises:
        UsageError: The network reads other channels, or has too few taps at one of the strides; a scale is not in
            [0.25, 4], comes twice, is no fraction with a denominator of at most 64, or is not 1 where the network
            has a size policy of its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: EncoderNetwork,
        strides: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
        input_convention: InputConvention | None = None,
        image_form: ImageForm = RGB,
        stride_grid: int | None = None,
    ) -> None:
        super().__init__()
        _check_scales(scales)
        if network.size_policy != PAD_TO_STRIDE and tuple(scales) != (1.0,):
            raise UsageError(f"encoder {network.name} pads images by itself: it sees them at scale 1 only")
        self.image_form = image_form
        self.network = network
        self.strides = tuple(sorted(strides or (tap.stride for tap in network.taps)))
        self.taps = network.taps_at(self.strides)
        self.stride_grid = stride_grid or self.strides[-1]
        self.scales = tuple(float(scale) for scale in scales)
        self.specs = tuple(FeatureSpec(tap, scale) for scale in self.scales for tap in self.taps)
        self.input_convention = convention = input_convention or network.input_convention
        _check_channels(network, convention, image_form)
        self.register_buffer("mean", torch.tensor(convention.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(convention.std).view(1, -1, 1, 1), persistent=False)
        self.precision = torch.float32
        # In a tuple, so that it is no submodule: it is neither saved nor counted.
        self._working: tuple[EncoderNetwork, ...] = ()
        self._working_of: list[tuple[Tensor, tuple[Any, ...]]] = []
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode, whatever `mode` says: batch statistics and dropout are fixed too."""
        return super().train(False)

    @property
    def crop_grid(self) -> int:
        """Pixels of the original image between positions where every feature map has a cell edge."""
        # A crop of n * denominator pixels is n * numerator pixels at that scale.
        return self.stride_grid * math.lcm(*(as_fraction(scale).denominator for scale in self.scales))

    @property
    def reach(self) -> Halo:
        """How far any of the features reaches beyond the pixels of its own cell."""
        before, after = [0], [0]
        for spec in self.specs:
            tap, resized = spec.tap, spec.scale != 1  # a resized pixel is read from two
            before.append(math.ceil(-tap.field_start / as_fraction(spec.scale)) + resized)
            beyond = tap.field_start + tap.receptive_field - tap.stride
            after.append(math.ceil(beyond / as_fraction(spec.scale)) + resized)
        return Halo(max(before), max(after))

    @torch.no_grad()
    def forward(self, images: Images) -> Features:
        """Compute the features of images.

        Args:
            images: N x 3 x H x W RGB, or of the channels of `image_form`; uint8 or float, 0..255, any H and W
                from 1 up.

        Returns:
            For each of `specs`, in order, N x K x h x w in the encoder's precision, where h is
            `ceil(H * scale / stride_grid) * stride_grid / tap.stride`, w likewise; or what the network's size
            policy says.
        """
        network = self.working_network()
        return [maps for padded in self.inputs(images) for maps in network(padded, self.strides)]

    def inputs(self, images: Images) -> Iterator[Tensor]:
        """Yield what the network is fed at each scale: normalised, enlarged, padded, in its precision."""
        # Channel by channel: three values side by side are too few for a processor's registers.
        normalised = self.normalise(images.contiguous().to(self.mean.dtype))
        for scale in self.scales:
            padded = resize_by(normalised, scale).to(self.precision)
            if self.network.size_policy == PAD_TO_STRIDE:
                padded = pad_to_multiple(padded, self.stride_grid)
            yield padded.contiguous(memory_format=torch.channels_last)

    def working_network(self) -> EncoderNetwork:
        """The copy of the network that computes: folded, in the encoder's precision, on its device."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        states = [(t.device, t.dtype, 0 if t.is_inference() else t._version) for t in tensors]
        fresh = len(tensors) == len(self._working_of) and all(
            tensor is known and state == known_state
            for tensor, state, (known, known_state) in zip(tensors, states, self._working_of, strict=True)
        )
        if not self._working or not fresh:
            with torch.no_grad():
                working = self.network.folded().to(self.precision)
            working = working.to(memory_format=torch.channels_last).requires_grad_(False).eval()  # type: ignore[call-overload]
            pack(working)
            self._working = (working,)
            self._working_of = list(zip(tensors, states, strict=True))
        return self._working[0]

    def normalise(self, images: Tensor) -> Tensor:
        """Apply the input convention to RGB values in 0..255."""
        order = self.input_convention.channel_order
        if order == "BGR":
            images = images.flip(1)
        elif order == "grey" and self.image_form.is_usual:
            images = to_grey(images)
        return (images - self.mean) / self.std

    def set_precision(self, precision: torch.dtype) -> "Encoder":
        """Compute in `precision` (float32 or bfloat16) from now on.

        Resizing and normalisation of the image stay in float32, and so do the network's own weights.
        """
        if precision != self.precision:
            self.precision, self._working = precision, ()
        return self

    def config(self) -> dict[str, Any]:
        """What decides the features beside weights and precision, as JSON values."""
        return {
            "name": self.network.name,
            "strides": list(self.strides),
            "scales": list(self.scales),
            **({} if self.stride_grid == self.strides[-1] else {"stride_grid": self.stride_grid}),
            "input_convention": asdict(self.input_convention),
            **({"architecture": dict(self.network.architecture)} if self.network.architecture else {}),
            **({} if self.image_form.is_usual else {"image_form": self.image_form.to_json()}),
        }

    def digest(self) -> str:
        """SHA-256 over the configuration and all weights of the network; the precision does not enter."""
        return tensors_digest(self.network.state_dict(), json.dumps(self.config(), sort_keys=True))


def to_grey(images: Tensor) -> Tensor:
    """Turn N x 3 x H x W RGB into N x 1 x H x W luma (ITU-R BT.601, as Pillow does); grey stays what it is."""
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    # Written so that equal channels give exactly their value.
    return green + 0.299 * (red - green) + 0.114 * (blue - green)


def _check_channels(network: EncoderNetwork, convention: InputConvention, form: ImageForm) -> None:
    wanted = len(convention.mean)
    if form.channels != wanted and not (form.is_usual and convention.channel_order == "grey"):
        raise UsageError(
            f"encoder {network.name} reads images of {wanted} channels, got {form.channels}",
            hint=f"use --channels {wanted}, or another encoder",
        )


def _check_scales(scales: Sequence[float]) -> None:
    for scale in scales:
        if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
            raise UsageError(f"a scale has to lie in {SMALLEST_SCALE:g}..{LARGEST_SCALE:g}, got {scale:g}")
        if as_fraction(scale).denominator > LARGEST_DENOMINATOR:
            raise UsageError(
                f"a scale has to be a fraction with a denominator up to {LARGEST_DENOMINATOR}, got {scale}",
                hint="use one such as 0.75, 1.25 or 1.5",
            )
    if not scales or len(set(scales)) < len(scales):
        raise UsageError(f"scales have to be at least one and differ, got {', '.join(map(str, scales))}")


def tensors_digest(tensors: dict[str, Tensor], header: str = "") -> str:
    """SHA-256 over a header and named tensors (name, dtype, shape, bytes), independent of their order."""
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
