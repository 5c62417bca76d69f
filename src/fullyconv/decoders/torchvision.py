"""torchvision's decoder: the head of its FCN-ResNet, and the auxiliary head that it trains beside it.

On the dilated ResNets this is torchvision's network: a 3x3 convolution to a quarter of the channels, batch norm,
ReLU, dropout, and a 1x1 convolution to classes; the rest of the way up is interpolated. The modules carry
torchvision's names, `classifier` and `aux_classifier`.
"""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from fullyconv.convolve import Conv2d
from fullyconv.decoder import BatchNorm, Decoder, layer_stage, output_cells, positions_of_strides, resample
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec

__all__ = ["TorchvisionDecoder"]

REDUCTION = 4
DROPOUT = 0.1


class TorchvisionDecoder(Decoder):
    """torchvision's `FCNHead` on the deepest features and, for the loss, another on those in front of them.

    There the auxiliary head improves the encoder that both heads share. Here the encoder is fixed: it changes
    nothing of what the other head learns, and is for whoever wants all of torchvision's network.

    Args:
        specs: The features of the encoder, at scale 1; the deepest of the coarsest stride are read.
        num_classes: Channels of the logits.
        auxiliary: Whether there is an auxiliary head, on the features before those.

    Raises:
        UsageError: No features, none for the auxiliary head, or another scale.
    """

    name = "torchvision"
    # The 3x3 convolution sees a cell on each side, the interpolation one more.
    halo_cells = 2

    def __init__(self, specs: Sequence[FeatureSpec], num_classes: int, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.output_stride = max((spec.tap.stride for spec in specs), default=32)
        (self.position,) = positions_of_strides(self.name, specs, (self.output_stride,))
        if auxiliary and self.position == 0:
            raise UsageError(
                f"the auxiliary head of decoder {self.name} needs features before those at stride "
                f"{self.output_stride}, the encoder gives none",
                hint="let the encoder give those of one more tap, or leave the auxiliary head out",
            )
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.classifier = _head(specs[self.position].channels, num_classes)
        self.aux_classifier = _head(specs[self.position - 1].channels, num_classes) if auxiliary else None

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`; see `Decoder.forward`."""
        logits: Tensor = self.classifier(features[self.position])
        return logits

    def auxiliary_logits(self, features: Features, size: Size) -> Tensor | None:
        """Compute the logits of the auxiliary head, on the grid of the others."""
        if self.aux_classifier is None:
            return None
        logits = self.aux_classifier(features[self.position - 1])
        cells = output_cells(self.specs, self.output_stride, size)
        return resample(logits, self.specs[self.position - 1].stride, self.output_stride, cells)

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes, and the auxiliary head before it; see `Decoder.stages`."""
        auxiliary = (
            _head_stages("aux_classifier", self.aux_classifier, self.specs[self.position - 1], "in training only")
            if self.aux_classifier is not None
            else ()
        )
        return (*auxiliary, *_head_stages("classifier", self.classifier, self.specs[self.position]))

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {"auxiliary": self.aux_classifier is not None}


def _head(channels: int, num_classes: int) -> nn.Sequential:
    """The layers of torchvision's `FCNHead`, in the same places."""
    width = max(1, channels // REDUCTION)
    return nn.Sequential(
        Conv2d(channels, width, 3, padding=1, bias=False),
        BatchNorm(width),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        Conv2d(width, num_classes, 1),
    )


def _head_stages(name: str, head: nn.Sequential, spec: FeatureSpec, note: str = "") -> tuple[Stage, ...]:
    """Describe a head on the features of a spec."""
    conv, score = cast(nn.Conv2d, head[0]), cast(nn.Conv2d, head[4])
    norm_stage = Stage(
        f"{name}.1",
        "norm",
        (f"{name}.0",),
        conv.out_channels,
        spec.stride,
        parameters=sum(parameter.numel() for parameter in head[1].parameters()),
        module=f"{name}.1",
        activation="ReLU",
        note=f"dropout {DROPOUT:g}",
    )
    return (
        layer_stage(f"{name}.0", conv, spec.label, spec.stride, note=note),
        norm_stage,
        layer_stage(f"{name}.4", score, norm_stage.name, spec.stride, kind="score"),
    )
