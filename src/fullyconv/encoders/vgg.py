"""VGG16 (Simonyan and Zisserman 2014, configuration D): the encoder of the FCN paper and of the lecture."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from fullyconv.encoder import EncoderNetwork, InputConvention, ReceptiveField, Tap

__all__ = ["VGG16"]

# Output channels of each 3 x 3 convolution, one tuple for each max pooling.
CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(EncoderNetwork):
    """The 13 convolutions of VGG16, 14,714,688 weights, features after the poolings at strides 4, 8, 16 and 32.

    The keys are torchvision's: `features.N.weight` and `features.N.bias`.
    """

    name = "vgg16"
    # ImageNet mean and deviation (.485, .456, .406; .229, .224, .225) of torchvision's weights, in units of 0..255.
    input_convention = InputConvention(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    weights_licence = "BSD-3-Clause"
    packaged = None
    ignored_weights = ("classifier.",)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        taps: list[Tap] = []
        field, channels = ReceptiveField(), 3
        for number, widths in enumerate(CONVOLUTIONS, start=1):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                field, channels = field.through(3), width
            layers.append(nn.MaxPool2d(2, 2))
            field = field.through(2, 2)
            taps.append(Tap(f"maxp{number}", field.stride, channels, field.size))
        self.features = nn.Sequential(*layers)
        self.taps = tuple(taps[1:])

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first; see `EncoderNetwork.forward`."""
        features: list[Tensor] = []
        maps, stride = images, 1
        for layer in self.features:
            maps = layer(maps)
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
                if stride in strides:
                    features.append(maps)
            if len(features) == len(strides):
                break
        return features

    def published_keys(self) -> Mapping[str, str]:
        """Name each key of `state_dict` as torchvision does: they are the same."""
        return {key: key for key in self.state_dict()}
