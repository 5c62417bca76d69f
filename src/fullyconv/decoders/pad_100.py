"""The decoders of the released FCNs, to the pixel: FCN-32s, 16s, 8s, 8s at once, and FCN-AlexNet.

Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 (and PAMI
2017), as their prototxts say it: fc6 and every transposed convolution without padding, so that maps neither lie
on each other nor on the image until they are cropped. `fullyconv.decoders.fcn` has the same layers on images that
are padded to multiples of the stride.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Conv2d
from fullyconv.decoder import Decoder, layer_stage, positions_of_strides, sum_stage
from fullyconv.decoders.fcn import (
    AT_ONCE_SCALES,
    DOUBLING_NAMES,
    FUSE_NAMES,
    LAST_NAMES,
    SCALE_NAMES,
    SCORE_NAMES,
)
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec
from fullyconv.tiles import Halo
from fullyconv.upsample import bilinear_kernel

__all__ = ["Pad100Decoder"]

STRIDES = (32, 16, 8)


class Pad100Decoder(Decoder):
    """fc6, fc7 and score layers, transposed convolutions, and crops: logits at every pixel.

    How far each crop begins follows from where the cells of the encoder's features lie, as `coord_map.py` of Caffe
    derives it: score_pool4 at 5, score_pool3 at 9, the result at 19, 27 or 31 on VGG16, at 18 on CaffeNet.

    Args:
        specs: The features of an encoder that pads by 100 pixels; strides 32 down to `stride` are read.
        num_classes: Channels of the logits.
        stride: The finest skip: 32, 16 or 8; by default the finest of `specs`.
        at_once: Multiply pool4 by 0.01 and pool3 by 0.0001 in front of their score layers.
        width: Channels of fc6 and fc7.
        fc_kernel: Side of fc6: 7 on VGG16, 6 on CaffeNet.
        last_kernel: Side of the last transposed convolution: twice `stride` by default, 63 on CaffeNet.

    Raises:
        UsageError: Another stride, or features whose cells do not come to lie on each other.
    """

    name = "fcn_pad_100"
    output_stride = 1
    size_policy = "pad-100"

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        num_classes: int,
        *,
        stride: int | None = None,
        at_once: bool = False,
        width: int = 4096,
        fc_kernel: int = 7,
        last_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.stride = stride or min((spec.tap.stride for spec in specs), default=32)
        if self.stride not in STRIDES:
            raise UsageError(f"decoder {self.name} has stride 32, 16 or 8, not {self.stride}")
        self.strides = tuple(step for step in STRIDES if step >= self.stride)
        self.positions = positions_of_strides(self.name, specs, self.strides)
        self.at_once, self.width, self.fc_kernel = at_once, width, fc_kernel
        self.last_kernel = last_kernel or 2 * self.stride
        self.scales = {step: AT_ONCE_SCALES.get(step, 1.0) if at_once else 1.0 for step in self.strides}
        coarsest, *skips = (specs[position].channels for position in self.positions)
        self.fc6 = Conv2d(coarsest, width, fc_kernel)
        self.fc7 = Conv2d(width, width, 1)
        self.dropout = nn.Dropout(0.5)
        for step, channels in zip(self.strides, (width, *skips), strict=True):
            score = Conv2d(channels, num_classes, 1)
            for parameter in score.parameters():
                nn.init.zeros_(parameter)  # Caffe's default: the score layers of the prototxts name no filler.
            self.add_module(SCORE_NAMES[step], score)
        for step in self.strides[1:]:
            self.add_module(DOUBLING_NAMES[step], _upscore(num_classes, 4, 2))
        self.add_module(LAST_NAMES[self.stride], _upscore(num_classes, self.last_kernel, self.stride))
        self.crops = self._crops()

    def _crops(self) -> dict[int, int]:
        """At which cell each map is cut: the scores by stride, the result by 1."""
        places = [
            spec.tap.field_start + (spec.tap.receptive_field - 1) / 2  # the pixel in the middle of cell 0
            for spec in (self.specs[position] for position in self.positions)
        ]
        way_up = places[0] + (self.fc_kernel - 1) / 2 * 32
        crops: dict[int, float] = {}
        for step, place in zip(self.strides[1:], places[1:], strict=True):
            way_up -= 3 / 2 * step  # kernel 4: cell 0 of the result lies before that of the map
            crops[step] = (way_up - place) / step
        crops[1] = (self.last_kernel - 1) / 2 - way_up
        if any(crop != int(crop) or crop < 0 for crop in crops.values()):
            found = ", ".join(f"{crop:g}" for crop in crops.values())
            raise UsageError(
                f"decoder {self.name} crops whole cells of features of a network that pads by 100, got {found}",
                hint="the encoders are vgg16_pad_100 and caffenet_pad_100",
            )
        return {step: int(crop) for step, crop in crops.items()}

    def halo(self, reach: Halo) -> Halo:
        """How far a pixel's logits reach: followed down through each layer, closer than cells of stride 32."""
        # A cell of a map is meant by stride times its number; each transposed convolution reads cells before it.
        first = self.crops[1] - (self.last_kernel - 1)
        last = self.crops[1]
        ends: list[tuple[int, int]] = []
        for step, position in zip(self.strides[:0:-1], self.positions[:0:-1], strict=True):
            tap, crop = self.specs[position].tap, self.crops[step] * step + self.specs[position].tap.field_start
            ends.append((first + crop, last + crop + tap.receptive_field - 1))
            first -= 3 * step
        tap = self.specs[self.positions[0]].tap
        last += (self.fc_kernel - 1) * 32 + tap.field_start + tap.receptive_field - 1
        ends.append((first + tap.field_start, last))
        return Halo(max(0, -min(end[0] for end in ends)), max(0, *(end[1] for end in ends)))

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size` at every pixel; see `Decoder.forward`."""
        maps = features[self.positions[0]]
        maps = self.dropout(functional.relu(self.fc6(maps)))
        maps = self.dropout(functional.relu(self.fc7(maps)))
        logits: Tensor = self.get_submodule(SCORE_NAMES[32])(maps)
        for step, position in zip(self.strides[1:], self.positions[1:], strict=True):
            scores = self.get_submodule(SCORE_NAMES[step])(features[position] * self.scales[step])
            logits = self.get_submodule(DOUBLING_NAMES[step])(logits)
            logits = logits + _cropped(scores, self.crops[step], (logits.shape[-2], logits.shape[-1]))
        return _cropped(self.get_submodule(LAST_NAMES[self.stride])(logits), self.crops[1], size)

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {
            "stride": self.stride,
            "at_once": self.at_once,
            "width": self.width,
            "fc_kernel": self.fc_kernel,
            "last_kernel": self.last_kernel,
        }

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes, in the names of the authors' code; see `Decoder.stages`."""
        reads = [self.specs[position].label for position in self.positions]
        fc6 = layer_stage("fc6", self.fc6, reads[0], 32, activation="ReLU", note="no padding, dropout 0.5")
        stages = [fc6, layer_stage("fc7", self.fc7, "fc6", 32, activation="ReLU", note="dropout 0.5")]
        stages.append(layer_stage(SCORE_NAMES[32], self._layer(SCORE_NAMES[32]), "fc7", 32, kind="score"))
        for step, label in zip(self.strides[1:], reads[1:], strict=True):
            before, score = stages[-1], self._layer(SCORE_NAMES[step])
            name, cut = DOUBLING_NAMES[step], f"cropped from cell {self.crops[step]} on"
            stages.append(way_up := layer_stage(name, self._layer(name), before.name, before.stride))
            if (factor := self.scales[step]) != 1:
                stages.append(Stage(SCALE_NAMES[step], "scale", (label,), score.in_channels, step, factor=factor))
                label = SCALE_NAMES[step]
            stages.append(layer_stage(SCORE_NAMES[step], score, label, step, kind="score", note=cut))
            stages.append(sum_stage(FUSE_NAMES[step], way_up, stages[-1].name))
        name, cut = LAST_NAMES[self.stride], f"cropped from pixel {self.crops[1]} on"
        stages.append(layer_stage(name, self._layer(name), stages[-1].name, stages[-1].stride, note=cut))
        return tuple(stages)

    def _layer(self, name: str) -> nn.Conv2d | nn.ConvTranspose2d:
        return cast("nn.Conv2d | nn.ConvTranspose2d", self.get_submodule(name))


def _upscore(channels: int, kernel: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution without padding and bias, bilinear at first (`surgery.interp` of the authors)."""
    layer = nn.ConvTranspose2d(channels, channels, kernel, factor, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels)[:, :, None, None] * bilinear_kernel(kernel))
    return layer


def _cropped(maps: Tensor, offset: int, size: Size) -> Tensor:
    """Cut N x K x h x w maps to a size, from a row and column on."""
    return maps[..., offset : offset + size[0], offset : offset + size[1]]
