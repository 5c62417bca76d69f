"""The lecture's decoder: conv6, fcn4, fcn3, fcn2 + maxp4, fcn1 + maxp3, output.

"Fully Convolutional Network (FCN)", Prof. Seungchul Lee, Industrial AI Lab. What tells it apart from the
paper's: the skips are the encoder's features themselves, added to a map that was upsampled to as many
channels; there are no score layers on them, the last transposed convolution is the classifier. All upsampling
is learned from a random start, with biases, and there is no dropout.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Conv2d
from fullyconv.decoder import Decoder, layer_stage, positions_of_strides, sum_stage
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec

__all__ = ["LectureDecoder"]


class LectureDecoder(Decoder):
    """The trained half of the lecture's network, on any encoder with features at strides 8, 16 and 32.

    On VGG16 and two classes it has 121,799,428 trained parameters. Each padding keeps a stage exactly at, or
    at twice or eight times, the size before (what TensorFlow calls SAME).

    Args:
        specs: The features of the encoder, at scale 1; those of strides 8 (maxp3), 16 (maxp4) and 32 are
            read.
        num_classes: Channels of fcn3 and of the logits.
        width: Channels of conv6 and fcn4; 4096 in the lecture.

    Raises:
        UsageError: An encoder without these strides, or another scale.
    """

    name = "lecture"
    output_stride = 1
    # conv6 sees 3 cells on each side, the transposed convolutions together one more.
    halo_cells = 4

    def __init__(self, specs: Sequence[FeatureSpec], num_classes: int, *, width: int = 4096) -> None:
        super().__init__()
        if width < 1:
            raise UsageError(f"the width of conv6 and fcn4 has to be 1 or more, got {width}")
        self.positions = positions_of_strides(self.name, specs, (8, 16, 32))
        maxp3, maxp4, maxp5 = (specs[position].channels for position in self.positions)
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.width = width
        self.conv6 = Conv2d(maxp5, width, 7, padding=3)
        self.fcn4 = Conv2d(width, width, 1)
        self.fcn3 = Conv2d(width, num_classes, 1)
        self.fcn2 = nn.ConvTranspose2d(num_classes, maxp4, 4, stride=2, padding=1)
        self.fcn1 = nn.ConvTranspose2d(maxp4, maxp3, 4, stride=2, padding=1)
        self.output = nn.ConvTranspose2d(maxp3, num_classes, 16, stride=8, padding=4)
        for layer in (self.conv6, self.fcn4, self.fcn3, self.fcn2, self.fcn1, self.output):
            # The lecture's framework: Glorot-uniform weights, zero biases.
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size` at every pixel; see `Decoder.forward`."""
        maxp3, maxp4, maxp5 = (features[position] for position in self.positions)
        conv6 = functional.relu(self.conv6(maxp5))
        fcn4 = functional.relu(self.fcn4(conv6))
        fcn3 = self.fcn3(fcn4)
        fcn2 = self.fcn2(fcn3) + maxp4
        fcn1 = self.fcn1(fcn2) + maxp3
        output: Tensor = self.output(fcn1)
        return output[..., : size[0], : size[1]]

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {"width": self.width}

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes; see `Decoder.stages`."""
        maxp3, maxp4, maxp5 = (self.specs[position].label for position in self.positions)
        fcn2 = layer_stage("fcn2", self.fcn2, "fcn3", 32)
        sum2 = sum_stage(f"fcn2 + {maxp4}", fcn2, maxp4)
        fcn1 = layer_stage("fcn1", self.fcn1, sum2.name, 16)
        sum1 = sum_stage(f"fcn1 + {maxp3}", fcn1, maxp3)
        return (
            layer_stage("conv6", self.conv6, maxp5, 32, activation="ReLU"),
            layer_stage("fcn4", self.fcn4, "conv6", 32, activation="ReLU"),
            layer_stage("fcn3", self.fcn3, "fcn4", 32),
            fcn2,
            sum2,
            fcn1,
            sum1,
            layer_stage("output", self.output, sum1.name, 8),
        )
