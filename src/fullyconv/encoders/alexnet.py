"""CaffeNet, the AlexNet (Krizhevsky, Sutskever, Hinton 2012) that Caffe published: the encoder of FCN-AlexNet.

torchvision's AlexNet is another network: it has no groups and no normalisation across channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import convolve, mix
from fullyconv.encoder import EncoderNetwork
from fullyconv.encoders.vgg import CAFFE_INPUT, PADDING
from fullyconv.taps import ReceptiveField, Tap

__all__ = ["CaffeNetPad100", "normalise_across"]

WIDTHS = (96, 256, 384, 384, 256)
"""Channels of conv1 to conv5."""

GROUPS = (1, 2, 1, 2, 2)
"""Parts into which their channels fall: what was on one of two cards."""

NEIGHBOURS, ALPHA, BETA = 5, 1e-4, 0.75
"""Of the normalisation across channels (section 3.3); Caffe takes ALPHA over the number of neighbours."""


class CaffeNetPad100(EncoderNetwork):
    """The trunk of the FCN-AlexNet that Long, Shelhamer and Darrell released: five convolutions, pad 100.

    conv1 has kernel 11 and stride 4, the poolings kernel 3 and stride 2 and round up, as Caffe's do; normalisation
    across channels follows pool1 and pool2. Modules and taps have the authors' names.
    """

    name = "caffenet_pad_100"
    input_convention = CAFFE_INPUT
    size_policy = "pad-100"
    weights_licence = "LicenseRef-unrestricted-use"  # README.md of shelhamer/fcn.berkeleyvision.org
    usual_file = "fcn-alexnet-pascal.caffemodel, by fullyconv import"

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth, fifth = WIDTHS
        self.conv1 = nn.Conv2d(3, first, 11, stride=4)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2, groups=GROUPS[1])
        self.conv3 = nn.Conv2d(second, third, 3, padding=1, groups=GROUPS[2])
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1, groups=GROUPS[3])
        self.conv5 = nn.Conv2d(fourth, fifth, 3, padding=1, groups=GROUPS[4])
        pool1 = ReceptiveField(start=-PADDING).through(11, 4, padding=0).through(3, 2, padding=0)
        pool2 = pool1.through(5, padding=2).through(3, 2, padding=0)
        pool5 = pool2.through(3, padding=1).through(3, padding=1).through(3, padding=1).through(3, 2, padding=0)
        fields = {"pool1": (pool1, first), "pool2": (pool2, second), "pool5": (pool5, fifth)}
        self.taps = tuple(Tap.seeing(name, field, channels) for name, (field, channels) in fields.items())

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first, of images of any size; see `EncoderNetwork.forward`."""
        pool1 = _pooled(convolve(functional.pad(images, [PADDING] * 4), self.conv1, "relu"))
        found = {8: pool1}
        if max(strides) > 8:
            found[16] = _pooled(convolve(normalise_across(pool1), self.conv2, "relu"))
        if max(strides) > 16:
            maps = normalise_across(found[16])
            for conv in (self.conv3, self.conv4, self.conv5):
                maps = convolve(maps, conv, "relu")
            found[32] = _pooled(maps)
        return [found[stride] for stride in strides]


def _pooled(maps: Tensor) -> Tensor:
    """Max pooling of 3 x 3 cells, every second one, the last of them cut off by the border (Caffe's rounding)."""
    return functional.max_pool2d(maps, 3, 2, ceil_mode=True)


def normalise_across(maps: Tensor) -> Tensor:
    """Divide each value by (1 + alpha / 5 * sum of squares over 5 neighbouring channels) to the power of 3/4.

    Caffe's layer LRN across channels. The sum is a 1x1 convolution, and the power is made of square roots: so a
    cell gets the same bits wherever it lies in a map.

    Args:
        maps: N x K x h x w, float.
    """
    values = maps.float()
    channels = maps.shape[1]
    reach = NEIGHBOURS // 2
    near = torch.ones(channels, channels, device=maps.device).tril(reach).triu(-reach)
    root = (1 + mix(values * values, near * (ALPHA / NEIGHBOURS), None)).sqrt()
    normalised: Tensor = values / (root * root.sqrt())
    return normalised.to(maps.dtype)
