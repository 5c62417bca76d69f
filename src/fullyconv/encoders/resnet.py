"""ResNet (He et al. 2015, "Deep residual learning"), in torchvision's edition and key layout, dilated or not.

torchvision's is "v1.5": in a bottleneck the 3x3 convolution has the stride, not the first 1x1. Dilated (Yu,
Koltun and Funkhouser 2017), the last two stages keep the resolution of stride 8: their strides become factors of
the dilation of the 3x3 convolutions behind them. That is torchvision's
`replace_stride_with_dilation=[False, True, True]`, the network of its FCN and DeepLab, with the same weights.
"""

import copy
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Activation, convolve
from fullyconv.encoder import IMAGENET_INPUT, EncoderNetwork, Part
from fullyconv.encoders.fixed_norm import FixedNorm, fold
from fullyconv.errors import UsageError
from fullyconv.taps import ReceptiveField, Tap
from fullyconv.weights import DownloadableWeights

__all__ = ["ResNet"]

NORM_EPSILON = 1e-5
STEM_CHANNELS = 64
WIDTHS = (64, 128, 256, 512)
STRIDES = (1, 2, 2, 2)
FINEST_DILATED_STRIDE = 8

# Blocks of each stage (He et al. 2015, table 1), and torchvision's file of the first edition of its weights.
VARIANTS = {
    18: ((2, 2, 2, 2), "resnet18-f37072fd.pth"),
    34: ((3, 4, 6, 3), "resnet34-b627a593.pth"),
    50: ((3, 4, 6, 3), "resnet50-0676ba61.pth"),
    101: ((3, 4, 23, 3), "resnet101-63fe2227.pth"),
}
BOTTLENECK_FROM = 50
EXPANSION = 4


class Block(nn.Module):
    """Convolutions with batch norm; the input, projected where its shape changes, is added before the last ReLU.

    Args:
        in_channels: Of the maps that come in.
        width: Channels of the first convolutions.
        stride: Of the first 3x3 convolution, and of the projection.
        dilation: Of the first 3x3 convolution.
        bottleneck: 1x1, 3x3 and 1x1 to 4 times the width, instead of 3x3 and 3x3.
        gain: What the normalisations before the sum begin with, for random weights.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, bottleneck: bool, gain: float
    ) -> None:
        super().__init__()
        filtering = (3, stride, dilation)
        # Kernel, stride and dilation of each convolution.
        self.shapes = [(1, 1, 1), filtering, (1, 1, 1)] if bottleneck else [filtering, (3, 1, 1)]
        self.out_channels = width * EXPANSION if bottleneck else width
        channels = in_channels
        for number, (kernel, step, spread) in enumerate(self.shapes, start=1):
            last = number == len(self.shapes)
            out_channels = self.out_channels if last else width
            padding = spread * (kernel // 2)
            conv = nn.Conv2d(channels, out_channels, kernel, step, padding, spread, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", FixedNorm(out_channels, NORM_EPSILON, gain if last else 1.0))
            channels = out_channels
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != self.out_channels:
            projection = nn.Conv2d(in_channels, self.out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, FixedNorm(self.out_channels, NORM_EPSILON, gain))

    def forward(self, maps: Tensor) -> Tensor:
        """N x in_channels x h x w to N x out_channels x ceil(h / stride) x ceil(w / stride)."""
        shortcut = maps if self.downsample is None else conv_norm(maps, *self.downsample)
        *first, last = ((getattr(self, f"conv{n}"), getattr(self, f"bn{n}")) for n, _ in enumerate(self.shapes, 1))
        for conv, norm in first:
            maps = conv_norm(maps, conv, norm, "relu")
        return functional.relu(conv_norm(maps, *last) + shortcut, inplace=True)

    def seen_from(self, field: ReceptiveField) -> ReceptiveField:
        """The field after this block of what has a field in front of it."""
        for kernel, stride, dilation in self.shapes:
            field = field.through(kernel, stride, dilation, padding=dilation * (kernel // 2))
        return field


class ResNet(EncoderNetwork):
    """ResNet-18, 34, 50 or 101 without its classifier: features behind each stage, none below zero.

    Its keys are torchvision's, without those of the classifier.

    Args:
        depth: 18, 34, 50 or 101: 11,176,512, 21,284,672, 23,508,032 or 42,500,160 weights.
        dilated: Whether the last two stages keep stride 8. Of 50 and 101 only: torchvision defines no dilation for
            the blocks of the others.

    Raises:
        UsageError: One of the others is to be dilated.
    """

    input_convention = IMAGENET_INPUT
    weights_licence = "BSD-3-Clause"
    ignored_weights = ("fc.",)

    def __init__(self, depth: int, dilated: bool = False) -> None:
        super().__init__()
        if dilated and depth < BOTTLENECK_FROM:
            raise UsageError(f"ResNet-{depth} has no dilated edition", hint="take ResNet-50 or 101")
        stages, file = VARIANTS[depth]
        self.name = f"resnet{depth}" + "_d8" * dilated
        self.downloadable = DownloadableWeights(file)
        self.usual_file = f"torchvision's {file}"
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, 2, padding=3, bias=False)
        self.bn1 = FixedNorm(STEM_CHANNELS, NORM_EPSILON)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        field = ReceptiveField().through(7, 2, padding=3).through(3, 2, padding=1)
        channels, dilation = STEM_CHANNELS, 1
        taps: list[Tap] = []
        for number, (width, stride, count) in enumerate(zip(WIDTHS, STRIDES, stages, strict=True), start=1):
            stage = nn.Sequential()
            spread = dilation  # The first block of a stage still has the dilation of the stage before.
            if dilated and field.stride * stride > FINEST_DILATED_STRIDE:
                dilation, stride = dilation * stride, 1
            for index in range(count):
                # A sum over many blocks of random weights would grow with each.
                gain = count**-0.5
                step, spread = (1, dilation) if index else (stride, spread)
                block = Block(channels, width, step, spread, depth >= BOTTLENECK_FROM, gain)
                stage.append(block)
                field, channels = block.seen_from(field), block.out_channels
            self.add_module(f"layer{number}", stage)
            taps.append(Tap.seeing(f"layer{number}", field, channels))
        self.taps = tuple(taps)

    def parts(self) -> Sequence[Part]:
        """The stem with its pooling, and the stages."""
        stages = [(self.get_submodule(tap.name), tap) for tap in self.taps]
        return [
            Part(self._stem, (self.conv1, self.bn1)),
            *(Part(stage, (stage,), tap) for stage, tap in stages),
        ]

    def _stem(self, images: Tensor) -> Tensor:
        maps: Tensor = self.maxpool(conv_norm(images, self.conv1, self.bn1, "relu"))
        return maps

    def folded(self) -> "ResNet":
        """Copy for inference: same features within rounding, normalisation folded into convolutions."""
        network = copy.deepcopy(self)
        for module in network.modules():
            # Each normalisation stands right behind its convolution.
            for (_, conv), (name, norm) in pairwise(list(module.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, FixedNorm):
                    fold(conv, norm)
                    setattr(module, name, nn.Identity())
        return network


def conv_norm(maps: Tensor, conv: nn.Conv2d, norm: nn.Module, activation: Activation = "none") -> Tensor:
    """Convolve, normalise and apply a ReLU; without a normalisation of its own in one operation."""
    if isinstance(norm, nn.Identity):
        return convolve(maps, conv, activation)
    maps = norm(convolve(maps, conv))
    return functional.relu(maps, inplace=True) if activation == "relu" else maps
