"""The decoder of the chapter on FCNs in "Dive into Deep Learning": a score layer and one transposed convolution.

Zhang, Lipton, Li and Smola, d2l.ai, "Fully Convolutional Networks", where it stands on ResNet-18. There are no
skips: one step goes all the way from the coarsest features to pixels. The modules carry the chapter's names.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fullyconv.convolve import Conv2d
from fullyconv.decoder import Decoder, layer_stage, positions_of_strides
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec
from fullyconv.upsample import bilinear_upsampling

__all__ = ["D2LDecoder"]


class D2LDecoder(Decoder):
    """A 1x1 convolution to classes and a transposed convolution that begins bilinear and is trained.

    At stride s the transposed convolution has kernel 2s, stride s and padding s/2 (64, 32 and 16 in the chapter):
    the output of a padded image has its size, and is cropped to that of the image. Both layers have a bias; all
    but the bilinear kernel begins as torch's layers do.

    Args:
        specs: The features of the encoder, at scale 1; the deepest of the coarsest stride are read.
        num_classes: Channels of the logits.

    Raises:
        UsageError: No features, or another scale.
    """

    name = "d2l"
    output_stride = 1

    def __init__(self, specs: Sequence[FeatureSpec], num_classes: int) -> None:
        super().__init__()
        stride = max((spec.tap.stride for spec in specs), default=32)
        (self.position,) = positions_of_strides(self.name, specs, (stride,))
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.final_conv = Conv2d(specs[self.position].channels, num_classes, 1)
        self.transpose_conv = bilinear_upsampling(num_classes, stride, bias=True)

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size` at every pixel; see `Decoder.forward`."""
        logits: Tensor = self.transpose_conv(self.final_conv(features[self.position]))
        return logits[..., : size[0], : size[1]]

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes; see `Decoder.stages`."""
        spec = self.specs[self.position]
        return (
            layer_stage("final_conv", self.final_conv, spec.label, spec.stride, kind="score"),
            layer_stage("transpose_conv", self.transpose_conv, "final_conv", spec.stride),
        )

    def config(self) -> dict[str, Any]:
        """Nothing: the features decide all beside num_classes."""
        return {}
