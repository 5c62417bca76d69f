"""The paper's decoders: FCN-32s, FCN-16s, FCN-8s and FCN-8s at once.

Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 (and PAMI
2017). A 1x1 score layer on each feature map, and, from the coarsest up: upsample by 2, add the next finer
scores. The modules carry the names of the authors' code: score_fr, upscore2, score_pool4, upscore_pool4,
score_pool3, upscore8.

What differs from the released networks: images are padded to multiples of the stride instead of by 100
pixels, convolutions keep sizes and nothing is cropped. What those networks compute on sizes is in
`berkeley_sizes`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Conv2d
from fullyconv.decoder import Decoder, layer_stage, positions_of_strides, resample, sum_stage
from fullyconv.errors import UsageError, WeightsError
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec
from fullyconv.upsample import bilinear_upsampling

__all__ = ["BerkeleySizes", "FCNDecoder", "berkeley_sizes"]

# The names of the authors' layers, by stride. Stride 4 is beyond what they published.
SCORE_NAMES = {32: "score_fr", 16: "score_pool4", 8: "score_pool3", 4: "score_pool2"}
DOUBLING_NAMES = {16: "upscore2", 8: "upscore_pool4", 4: "upscore_pool3"}
LAST_NAMES = {32: "upscore", 16: "upscore16", 8: "upscore8", 4: "upscore4"}
SCALE_NAMES = {16: "scale_pool4", 8: "scale_pool3"}
FUSE_NAMES = {16: "fuse_pool4", 8: "fuse_pool3", 4: "fuse_pool2"}

# Factors on the features in front of the score layers in the authors' voc-fcn8s-atonce.
AT_ONCE_SCALES = {16: 0.01, 8: 0.0001}


class FCNDecoder(Decoder):
    """Score layers on the coarsest features and on the skips, summed on the way up.

    Args:
        specs: The features of the encoder, at scale 1, strides 32 down to `stride` among them.
        num_classes: Channels of the logits.
        stride: The finest skip: 32, 16 or 8 as in the paper, or 4; by default the finest of `specs`.
        upsampling: "fixed": bilinear between the skips, output stride = `stride` (the rest of the way up is
            `fullyconv.upsample`); exact at the image border, too. "learned": transposed convolutions of
            kernel 2s and stride s without bias, bilinear at first and then trained, all the way to output
            stride 1; at the border they see zeros.
        fc: Whether fc6 (7x7) and fc7 (1x1) come before score_fr, as trained layers with ReLU and dropout 0.5.
            By default they do on VGG16's maxp5, the classifier that they are taken from (`load_fc`).
        width: Channels of fc6 and fc7; 4096 in the paper.
        at_once: Multiply the features of stride 16 by 0.01 and those of stride 8 by 0.0001 in front of their
            score layers, so that all skips can be trained from the start.

    Raises:
        UsageError: A stride that the encoder does not give or that is not in the family, or another scale.
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        num_classes: int,
        *,
        stride: int | None = None,
        upsampling: Literal["fixed", "learned"] = "fixed",
        fc: bool | None = None,
        width: int = 4096,
        at_once: bool = False,
    ) -> None:
        super().__init__()
        self.name = "fcn_at_once" if at_once else "fcn"
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.stride = stride or min((spec.tap.stride for spec in specs), default=32)
        if self.stride not in SCORE_NAMES or (at_once and self.stride == 4):
            allowed = "32, 16 or 8" if at_once else "32, 16, 8 or 4"
            raise UsageError(f"decoder {self.name} has stride {allowed}, not {self.stride}")
        if upsampling not in ("fixed", "learned"):
            raise UsageError(f'upsampling has to be "fixed" or "learned", got {upsampling!r}')
        self.strides = tuple(step for step in SCORE_NAMES if step >= self.stride)  # 32 first
        self.positions = positions_of_strides(self.name, specs, self.strides)
        self.upsampling = upsampling
        self.output_stride = self.stride if upsampling == "fixed" else 1
        self.width = width
        self.scales = {step: AT_ONCE_SCALES.get(step, 1.0) if at_once else 1.0 for step in self.strides}
        coarsest = specs[self.positions[0]].tap
        self.fc = (coarsest.name, coarsest.channels) == ("maxp5", 512) if fc is None else fc
        self.halo_cells = 4 if self.fc else 1
        self._add_layers()

    def _add_layers(self) -> None:
        channels = [self.specs[position].channels for position in self.positions]
        if self.fc:
            self.fc6 = _he_normal(Conv2d(channels[0], self.width, 7, padding=3))
            self.fc7 = _he_normal(Conv2d(self.width, self.width, 1))
            self.dropout = nn.Dropout(0.5)
            channels[0] = self.width
        for step, width in zip(self.strides, channels, strict=True):
            score = Conv2d(width, self.num_classes, 1)
            for parameter in score.parameters():
                nn.init.zeros_(parameter)  # The paper's section 4.3; Caffe's default in the released networks.
            self.add_module(SCORE_NAMES[step], score)
        for step in self.strides[1:]:
            self.add_module(DOUBLING_NAMES[step], self._upscore(2))
        if self.upsampling == "learned":
            self.add_module(LAST_NAMES[self.stride], self._upscore(self.stride))

    def _upscore(self, factor: int) -> nn.Module:
        if self.upsampling == "fixed":
            return _Bilinear(factor)
        return bilinear_upsampling(self.num_classes, factor, bias=False)

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`; see `Decoder.forward`."""
        maps = features[self.positions[0]]
        if self.fc:
            maps = self.dropout(functional.relu(self.fc6(maps)))
            maps = self.dropout(functional.relu(self.fc7(maps)))
        logits: Tensor = self.get_submodule(SCORE_NAMES[32])(maps)
        for step, position in zip(self.strides[1:], self.positions[1:], strict=True):
            scores = self.get_submodule(SCORE_NAMES[step])(features[position] * self.scales[step])
            logits = self.get_submodule(DOUBLING_NAMES[step])(logits) + scores
        if self.upsampling == "learned":
            logits = self.get_submodule(LAST_NAMES[self.stride])(logits)
            return logits[..., : size[0], : size[1]]
        return logits

    def load_fc(self, fc6_weight: Tensor, fc6_bias: Tensor, fc7_weight: Tensor, fc7_bias: Tensor) -> None:
        """Copy the fully connected layers of a VGG16 classifier into fc6 and fc7.

        A linear layer on a flattened C x 7 x 7 map is a 7x7 convolution: the weights are only reshaped
        (`surgery.transplant` of the authors' code).

        Args:
            fc6_weight: width x (C * 49), or already width x C x 7 x 7 (torchvision: `classifier.0.weight`).
            fc6_bias: width.
            fc7_weight: width x width, or width x width x 1 x 1 (torchvision: `classifier.3.weight`).
            fc7_bias: width.

        Raises:
            UsageError: The decoder has no fc6 and fc7.
            WeightsError: Weights of another size.
        """
        if not self.fc:
            raise UsageError(f"this decoder {self.name} has no fc6 and fc7", hint="build it with fc=True")
        given = {
            "fc6.weight": fc6_weight,
            "fc6.bias": fc6_bias,
            "fc7.weight": fc7_weight,
            "fc7.bias": fc7_bias,
        }
        own = {name: self.get_parameter(name) for name in given}
        for name, tensor in given.items():
            if tensor.numel() != own[name].numel() or len(tensor) != len(own[name]):
                raise WeightsError(f"{name} has shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in given.items():
                own[name].copy_(tensor.reshape(own[name].shape))

    def config(self) -> dict[str, Any]:
        """The arguments beside specs, num_classes and at_once (which is in the name)."""
        return {"stride": self.stride, "upsampling": self.upsampling, "fc": self.fc, "width": self.width}

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes, in the names of the authors' code; see `Decoder.stages`."""
        stages: list[Stage] = []
        reads = [self.specs[position].label for position in self.positions]
        if self.fc:
            for name, before in (("fc6", reads[0]), ("fc7", "fc6")):
                stages.append(
                    layer_stage(name, getattr(self, name), before, 32, activation="ReLU", note="dropout 0.5")
                )
            reads[0] = "fc7"
        stages.append(self._score_stage(32, reads[0]))
        for step, label in zip(self.strides[1:], reads[1:], strict=True):
            stages.append(way_up := self._upscore_stage(DOUBLING_NAMES[step], stages[-1], 2))
            if self.scales[step] != 1:
                channels = getattr(self, SCORE_NAMES[step]).in_channels
                stages.append(
                    Stage(SCALE_NAMES[step], "scale", (label,), channels, step, factor=self.scales[step])
                )
                label = SCALE_NAMES[step]
            stages.append(self._score_stage(step, label))
            stages.append(sum_stage(FUSE_NAMES[step], way_up, stages[-1].name))
        if self.upsampling == "learned":
            stages.append(self._upscore_stage(LAST_NAMES[self.stride], stages[-1], self.stride))
        return tuple(stages)

    def _score_stage(self, step: int, reads: str) -> Stage:
        return layer_stage(SCORE_NAMES[step], getattr(self, SCORE_NAMES[step]), reads, step, kind="score")

    def _upscore_stage(self, name: str, before: Stage, factor: int) -> Stage:
        layer = self.get_submodule(name)
        if isinstance(layer, nn.ConvTranspose2d):
            return layer_stage(name, layer, before.name, before.stride)
        reads, stride = (before.name,), before.stride / factor
        return Stage(name, "upsample", reads, self.num_classes, stride, factor=factor, module=name)


class _Bilinear(nn.Module):
    """Bilinear upsampling by a factor."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, maps: Tensor) -> Tensor:
        """N x C x h x w to N x C x h * factor x w * factor."""
        return resample(maps, self.factor, 1, (maps.shape[-2] * self.factor, maps.shape[-1] * self.factor))


def _he_normal(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise a layer that a ReLU follows, for training without a classifier's weights."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@dataclass(frozen=True)
class BerkeleySizes:
    """One image axis through the released networks, in cells.

    Attributes:
        pools: After pool1 to pool5.
        fc6: After fc6 (7x7, no padding).
        upscore2: After the doubling of FCN-16s and 8s.
        raw: Before the last crop, by stride of the network.
        crops: Offset of each crop: of score_pool4 and score_pool3, and of the result by stride of the
            network.
    """

    pools: tuple[int, ...]
    fc6: int
    upscore2: int
    raw: dict[int, int]
    crops: dict[int | str, int]


@dataclass(frozen=True)
class _Axis:
    """One axis of a map: its length, and that image position x lies at `x * scale + shift` on it."""

    length: int
    scale: float = 1.0
    shift: float = 0.0

    def convolved(self, kernel: int, stride: int = 1, pad: int = 0) -> "_Axis":
        """After a convolution or pooling; Caffe rounds the length of a pooling up."""
        length = -((kernel - self.length - 2 * pad) // stride) + 1
        return _Axis(length, self.scale / stride, (self.shift + pad - (kernel - 1) / 2) / stride)

    def upsampled(self, kernel: int, stride: int) -> "_Axis":
        """After a transposed convolution without padding."""
        length = (self.length - 1) * stride + kernel
        return _Axis(length, self.scale * stride, self.shift * stride + (kernel - 1) / 2)

    def crop_to(self, other: "_Axis") -> int:
        """The offset at which this map, cropped, lies on another of the same scale."""
        return int(self.shift - other.shift)


def berkeley_sizes(length: int) -> BerkeleySizes:
    """Follow one axis of an image through the released FCN-32s, 16s and 8s: pad 100, ceil pooling, crops.

    The crop offsets come from composing each layer's map of positions, as `coord_map.py` of Caffe does.

    Args:
        length: Height or width of the image in pixels, from 1 up.
    """
    image = _Axis(length)
    axis = image.convolved(3, pad=100)  # conv1_1; every other 3x3 convolution changes neither length nor place
    pools = []
    for _ in range(5):
        axis = axis.convolved(2, stride=2)
        pools.append(axis)
    fc6 = axis.convolved(7)
    upscore2 = fc6.upsampled(4, 2)
    upscore_pool4 = upscore2.upsampled(4, 2)
    raw = {32: fc6.upsampled(64, 32), 16: upscore2.upsampled(32, 16), 8: upscore_pool4.upsampled(16, 8)}
    crops: dict[int | str, int] = {stride: last.crop_to(image) for stride, last in raw.items()}
    crops |= {"score_pool4": pools[3].crop_to(upscore2), "score_pool3": pools[2].crop_to(upscore_pool4)}
    return BerkeleySizes(
        pools=tuple(pool.length for pool in pools),
        fc6=fc6.length,
        upscore2=upscore2.length,
        raw={stride: last.length for stride, last in raw.items()},
        crops=crops,
    )
