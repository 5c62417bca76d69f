"""The fixed encoder: features at declared strides and channels.

A *network* (one of `fullyconv.encoders`) turns normalised images into feature maps at a few strides. The
`Encoder` makes it the fixed part of an FCN: it normalises, enlarges and pads images, keeps the network in eval
mode and out of autograd, and says what comes out.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Images, Size

__all__ = [
    "Encoder",
    "EncoderNetwork",
    "FeatureSpec",
    "InputConvention",
    "ReceptiveField",
    "Tap",
    "tensors_digest",
]


@dataclass(frozen=True)
class InputConvention:
    """How a network wants its input: `(x - mean) / std` of 0..255 values, in a channel order.

    Attributes:
        mean: Per channel, in units of 0..255, in the network's channel order.
        std: Per channel, in units of 0..255.
        channel_order: "RGB" or "BGR".
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channel_order: str = "RGB"


@dataclass(frozen=True)
class ReceptiveField:
    """The square of input pixels that one cell sees, composed layer by layer.

    Attributes:
        size: Side of the square in pixels.
        stride: Pixels between the squares of neighbouring cells.
    """

    size: int = 1
    stride: int = 1

    def through(self, kernel: int, stride: int = 1) -> "ReceptiveField":
        """The field after one more convolution or pooling."""
        return ReceptiveField(self.size + (kernel - 1) * self.stride, self.stride * stride)


@dataclass(frozen=True)
class Tap:
    """A place in a network where features are read.

    Attributes:
        name: The layer's name in its paper, such as "maxp3".
        stride: Input pixels between neighbouring cells.
        channels: Channels of the feature map.
        receptive_field: Side of the square of input pixels that one cell sees.
    """

    name: str
    stride: int
    channels: int
    receptive_field: int


@dataclass(frozen=True)
class FeatureSpec:
    """One feature map that an encoder gives: a tap, seen at a scale of the image.

    Attributes:
        tap: Where it is read.
        scale: The factor by which the image is enlarged before the network.
    """

    tap: Tap
    scale: float = 1.0

    @property
    def stride(self) -> float:
        """Pixels of the *original* image between neighbouring cells."""
        return self.tap.stride / self.scale

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.tap.channels


class EncoderNetwork(nn.Module):
    """What a network in `fullyconv.encoders` declares and does.

    Attributes:
        name: The name under which `build_encoder` finds it.
        taps: All taps, finest first. Their strides divide the last one.
        input_convention: What `forward` expects.
        weights_licence: SPDX name of the licence of its usual pretrained weights.
        weights_source: Where these weights came from: "random", or a package or file with its digest; no folders.
    """

    name: str
    taps: tuple[Tap, ...]
    input_convention: InputConvention
    weights_licence: str
    weights_source: str = "random"

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first, and nothing beyond the last.

        Args:
            images: N x 3 x H x W float, normalised by `input_convention`; H and W multiples of the largest
                declared stride.
            strides: Ascending, each the stride of a tap.
        """
        raise NotImplementedError(f"{type(self).__name__} is abstract")


class Encoder(nn.Module):
    """A fixed network: features of images of any size, never trained, the same bits every time.

    Args:
        network: The pretrained network.
        strides: Which taps to read; all by default.
        scales: Factors by which the image is enlarged before the network. Each gives its own features.

    Raises:
        UsageError: The network has no tap at one of the strides, or a scale is not in [0.25, 4].
    """

    def __init__(
        self,
        network: EncoderNetwork,
        strides: Sequence[int] | None = None,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        taps = {tap.stride: tap for tap in network.taps}
        strides = tuple(sorted(strides or taps))
        for stride in strides:
            if stride not in taps:
                raise UsageError(
                    f"encoder {network.name} has features at strides {', '.join(map(str, taps))}, not at {stride}",
                    hint="choose a decoder stride among them",
                )
        for scale in scales:
            if not 0.25 <= scale <= 4:
                raise UsageError(f"a scale has to lie in 0.25..4, got {scale:g}")
        self.network = network
        self.strides = strides
        self.scales = tuple(float(scale) for scale in scales)
        self.specs = tuple(FeatureSpec(taps[stride], scale) for scale in self.scales for stride in strides)
        convention = network.input_convention
        self.register_buffer("mean", torch.tensor(convention.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(convention.std).view(1, 3, 1, 1), persistent=False)
        self.precision = torch.float32
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Stay in eval mode, whatever `mode` says: batch statistics and dropout are fixed too."""
        return super().train(False)

    @property
    def stride_grid(self) -> int:
        """The stride of the deepest tap of the network: inputs are padded to its multiples."""
        return self.strides[-1]

    @property
    def crop_grid(self) -> int:
        """Pixels of the original image between positions where every feature map has a cell edge."""
        grids = [self.stride_grid]
        for scale in self.scales:
            # The smallest multiple m of the stride such that m * scale is a multiple of it, too.
            multiple = next((n for n in range(1, 65) if (n * scale).is_integer()), None)
            if multiple is None:
                raise UsageError(f"scale {scale:g} has no crop grid", hint="use a scale such as 0.75, 1.25 or 1.5")
            grids.append(self.stride_grid * multiple)
        return math.lcm(*grids)

    @torch.no_grad()
    def forward(self, images: Images) -> Features:
        """Compute the features of images.

        Args:
            images: N x 3 x H x W, uint8 or float, RGB, 0..255, any H and W from 1 up.

        Returns:
            For each of `specs`, in order, N x K x h x w in the encoder's precision.
        """
        features: Features = []
        for scale in self.scales:
            scaled = resize_by(images.to(self.mean.dtype), scale)
            padded = pad_to_multiple(self.normalise(scaled), self.stride_grid)
            padded = padded.to(self.precision).contiguous(memory_format=torch.channels_last)
            features += self.network(padded, self.strides)
        return features

    def normalise(self, images: Tensor) -> Tensor:
        """Apply the input convention to RGB values in 0..255."""
        if self.network.input_convention.channel_order == "BGR":
            images = images.flip(1)
        return (images - self.mean) / self.std

    def set_precision(self, precision: torch.dtype) -> "Encoder":
        """Compute in `precision` (float32 or bfloat16) from now on. Normalisation stays in float32."""
        self.precision = precision
        self.network.to(precision)
        return self

    def config(self) -> dict[str, Any]:
        """Everything but the weights that decides the features, as JSON values."""
        return {
            "name": self.network.name,
            "strides": list(self.strides),
            "scales": list(self.scales),
            "input_convention": asdict(self.network.input_convention),
        }

    def digest(self) -> str:
        """SHA-256 over the configuration and all weights of the network: equal digests, equal features."""
        return tensors_digest(self.network.state_dict(), json.dumps(self.config(), sort_keys=True))


def resize_by(images: Tensor, scale: float) -> Tensor:
    """Enlarge (or reduce) images by exactly `scale`: bilinear, pixel centres at `(i + 0.5) / scale - 0.5`."""
    if scale == 1:
        return images
    height, width = (max(1, math.floor(side * scale)) for side in images.shape[-2:])
    if min(images.shape[-2:]) * scale < 1:
        return functional.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
    return functional.interpolate(
        images, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad zeros to the bottom and right until both sides are multiples of `multiple`."""
    height, width = padded_size((images.shape[-2], images.shape[-1]), multiple)
    return functional.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))


def padded_size(size: Size, multiple: int) -> Size:
    """Round a (height, width) up to multiples of `multiple`."""
    height, width = size
    return math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple


def tensors_digest(tensors: dict[str, Tensor], header: str = "") -> str:
    """SHA-256 over a header and named tensors (name, dtype, shape, bytes), independent of their order."""
    sha = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
