"""VGG16 (Simonyan and Zisserman 2014, configuration D): the encoder of the FCN paper and of the lecture."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import convolve
from fullyconv.encoder import IMAGENET_INPUT, EncoderNetwork, InputConvention, Part
from fullyconv.taps import ReceptiveField, Tap
from fullyconv.weights import DownloadableWeights, Weights, choose_tensors, load_weights

__all__ = ["CAFFE_INPUT", "PADDING", "VGG16", "VGG16Pad100", "vgg16_fc_layers"]

CAFFE_INPUT = InputConvention((104.00698793, 116.66876762, 122.67891434), (1.0, 1.0, 1.0), channel_order="BGR")
"""What Caffe's networks were trained on: BGR in 0..255, less the mean of ImageNet's pixels."""

PADDING = 100
"""Of the released FCNs, in pixels on each side: their conv1_1, or conv1, says pad 100."""

# Output channels of each 3 x 3 convolution; a max pooling follows each group.
CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

# The two fully connected layers that FCNs keep as convolutions (Long et al. 2015, section 3.1): name here,
# name in torchvision, shape there, shape here.
FC_LAYERS = (
    ("fc6", "classifier.0", (4096, 25088), (4096, 512, 7, 7)),
    ("fc7", "classifier.3", (4096, 4096), (4096, 4096, 1, 1)),
)


class VGG16(EncoderNetwork):
    """The 13 convolutions of VGG16: 14,714,688 weights, features after the poolings at strides 4 to 32.

    Its keys are torchvision's, `features.N.weight` and `features.N.bias`; taps are named as in the lecture.
    """

    name = "vgg16"
    input_convention = IMAGENET_INPUT
    weights_licence = "BSD-3-Clause"
    downloadable = DownloadableWeights("vgg16-397923af.pth")
    usual_file = "torchvision's vgg16-397923af.pth"
    ignored_weights = ("classifier.",)
    # torchvision's vgg16_features-amdegroot-88682ab5.pth, converted from Caffe.
    misfits = (("88682ab5", "it was trained on another input convention (mean 123, 117, 104, not divided)"),)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        taps: list[Tap] = []
        field, channels = ReceptiveField(), 3
        for number, widths in enumerate(CONVOLUTIONS, start=1):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                field, channels = field.through(3, padding=1), width
            layers.append(nn.MaxPool2d(2, 2))
            field = field.through(2, 2, padding=0)
            taps.append(Tap.seeing(f"maxp{number}", field, channels))
        self.features = nn.Sequential(*layers)
        self.taps = tuple(taps[1:])

    def parts(self) -> Sequence[Part]:
        """Convolutions up to and with each pooling."""
        parts: list[Part] = []
        layers: list[nn.Module] = []
        for layer in self.features:
            layers.append(layer)
            if isinstance(layer, nn.MaxPool2d):
                tap = self.taps[len(parts) - 1] if parts else None
                parts.append(Part(partial(_convolve_and_pool, layers), tuple(layers), tap))
                layers = []
        return parts


class VGG16Pad100(EncoderNetwork):
    """The trunk of the FCNs that Long, Shelhamer and Darrell released: 13 convolutions, maps rounded up.

    The image is padded by 100 pixels on each side, so that fc6 without padding still gives a map whose upsampling
    covers any image. Each pooling rounds up, as Caffe's do. Modules have the authors' names, `conv1_1` to
    `conv5_3`; so have the taps. Along an axis of n pixels pool3, pool4 and pool5 have
    `ceil((n + 198) / stride)` cells.
    """

    name = "vgg16_pad_100"
    input_convention = CAFFE_INPUT
    size_policy = "pad-100"
    weights_licence = "LicenseRef-unrestricted-use"  # README.md of shelhamer/fcn.berkeleyvision.org
    usual_file = "a released FCN, by fullyconv import"

    def __init__(self) -> None:
        super().__init__()
        taps: list[Tap] = []
        field, channels = ReceptiveField(start=1 - PADDING), 3
        for number, widths in enumerate(CONVOLUTIONS, start=1):
            for place, width in enumerate(widths, start=1):
                self.add_module(f"conv{number}_{place}", nn.Conv2d(channels, width, 3, padding=1))
                field, channels = field.through(3, padding=1), width
            field = field.through(2, 2, padding=0)
            taps.append(Tap.seeing(f"pool{number}", field, channels))
        self.taps = tuple(taps[2:])

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first, of images of any size; see `EncoderNetwork.forward`."""
        features: list[Tensor] = []
        maps = functional.pad(images, [PADDING - 1] * 4)  # the last pixel is conv1_1's own
        for number, widths in enumerate(CONVOLUTIONS, start=1):
            for place in range(1, len(widths) + 1):
                maps = convolve(maps, self.get_submodule(f"conv{number}_{place}"), "relu")  # type: ignore[arg-type]
            maps = functional.max_pool2d(maps, 2, 2, ceil_mode=True)
            if 2**number in strides:
                features.append(maps)
            if len(features) == len(strides):
                break
        return features


def _convolve_and_pool(layers: Sequence[nn.Module], maps: Tensor) -> Tensor:
    """Compute layers, each ReLU together with the convolution in front of it."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            maps = convolve(maps, layer, "relu")
        elif isinstance(layer, nn.MaxPool2d):
            maps = layer(maps)
    return maps


def vgg16_fc_layers(weights: str | Path | Weights) -> dict[str, Tensor]:
    """Read VGG16's fully connected layers as convolutions, for the paper's decoders to start from.

    Args:
        weights: A whole VGG16 in torchvision's key layout, or the path of its file.

    Returns:
        Float32: `fc6.weight` 4096 x 512 x 7 x 7, `fc6.bias` 4096, `fc7.weight` 4096 x 4096 x 1 x 1,
        `fc7.bias` 4096.

    Raises:
        WeightsError: The file is missing, damaged, or has no such layers.
    """
    expected: dict[str, tuple[int, ...]] = {}
    for _, theirs, shape, _ in FC_LAYERS:
        expected |= {f"{theirs}.weight": shape, f"{theirs}.bias": shape[:1]}
    given = weights if isinstance(weights, Weights) else load_weights(weights)
    found = choose_tensors(given, expected, ignored=("features.", "classifier.6."))
    layers = {}
    for name, theirs, _, convolution in FC_LAYERS:
        layers[f"{name}.weight"] = found[f"{theirs}.weight"].reshape(convolution)
        layers[f"{name}.bias"] = found[f"{theirs}.bias"]
    return layers
