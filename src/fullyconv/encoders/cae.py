"""The convolutional autoencoder (CAE): images to images through a narrow middle, trained without a label.

Convolutions with stride 2 (or with pooling) down, transposed convolutions up, as in the lecture's first half.
The downsampling path alone is an `EncoderNetwork` like any other; `fullyconv.pretrain` trains the whole, and
`FCN.from_cae` gives the upsampling path classes in place of pixels.

Sizes follow TensorFlow's rules, which are the lecture's (`conv_size`, `transposed_size`). Both paths use SAME: a
layer of stride 2 has ceil(n / 2) cells, and its mirror image gives back exactly the n it came from, so that an
image of any size comes back at its own size.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.encoder import EncoderNetwork, InputConvention, Part
from fullyconv.encoders.efficientnet_lite import conv_same, same_padding
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.images import show_path
from fullyconv.shapes import Size
from fullyconv.taps import ReceptiveField, Tap
from fullyconv.tensor_file import read_tensor_file, write_tensor_file
from fullyconv.weights import INITIALISATION_SEED

__all__ = [
    "CAE",
    "PRESETS",
    "Architecture",
    "CAENetwork",
    "TransposeSame",
    "conv_size",
    "load_cae",
    "save_cae",
    "transposed_size",
]

_KIND = "fullyconv_cae"
_VERSION = 1

Padding = Literal["VALID", "SAME"]


def conv_size(size: int, kernel: int, stride: int = 1, padding: Padding = "SAME") -> int:
    """Cells that a convolution or pooling makes of `size` cells.

    VALID, without padding: floor((n - k) / s) + 1. SAME, with as many zeros as it takes: ceil(n / s).

    Raises:
        UsageError: VALID, and the kernel is longer than the input.
    """
    if padding == "SAME":
        return -(-size // stride)
    if kernel > size:
        raise UsageError(f"a kernel of {kernel} cells has no VALID place on {size} cells", hint="use SAME")
    return (size - kernel) // stride + 1


def transposed_size(size: int, kernel: int, stride: int = 1, padding: Padding = "SAME") -> int:
    """Cells that a transposed convolution makes of `size` cells.

    VALID: n s + max(k - s, 0). SAME: n s. Several sizes lead to the same n on the way down; `TransposeSame` is
    told which one to give back.
    """
    return size * stride + (max(kernel - stride, 0) if padding == "VALID" else 0)


class TransposeSame(nn.ConvTranspose2d):
    """A transposed convolution with SAME padding: the mirror image of `conv_same`, cell for cell.

    Args:
        in_channels: Of its input.
        out_channels: Of its result.
        kernel: Its side, at least the stride.
        stride: By how much it enlarges.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 2) -> None:
        super().__init__(in_channels, out_channels, kernel, stride)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Enlarge maps.

        Args:
            input: N x in_channels x ceil(height / stride) x ceil(width / stride).
            output_size: (height, width) of the result; that of the input times the stride by default.

        Returns:
            N x out_channels x height x width. Each cell is placed where `conv_same` on such a map reads it.
        """
        stride, kernel = self.stride[0], self.kernel_size[0]
        height, width = output_size or (input.shape[-2] * stride, input.shape[-1] * stride)
        before = same_padding(height, kernel, stride)[0], same_padding(width, kernel, stride)[0]
        whole = functional.conv_transpose2d(input, self.weight, self.bias, stride, before)
        return whole[..., :height, :width]

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Fill it with Kaiming-normal values (He et al. 2015), its bias with zero.

        A cell of the result is reached by (k / s)^2 cells of each input channel, which is not what torch counts.
        """
        reach = (self.kernel_size[0] / self.stride[0]) ** 2
        nn.init.normal_(self.weight, 0, math.sqrt(2 / (self.in_channels * reach)), generator=generator)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Architecture:
    """What a CAE is made of: a stage for each halving of the size.

    Attributes:
        channels: Of the images: 1 is grey, 3 is RGB.
        widths: Channels after each stage, from the image inwards; the last ones are the code.
        kernel: Side of all convolutions and transposed convolutions, 2..5.
        down: "stride": convolutions of stride 2. "pool": convolutions of stride 1, then the maximum of 2x2 cells.

    Raises:
        UsageError: A number out of range.
    """

    channels: int
    widths: tuple[int, ...]
    kernel: int = 3
    down: Literal["stride", "pool"] = "stride"

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("channels", self.channels, 1, 64),
            ("stages", len(self.widths), 1, 6),
            ("kernel", self.kernel, 2, 5),
            *(("width", width, 1, 1024) for width in self.widths),
        ):
            if not least <= value <= most:
                raise UsageError(f"an autoencoder has a {name} in {least}..{most}, got {value}")
        if self.down not in ("stride", "pool"):
            raise UsageError(f"an autoencoder goes down by stride or pool, got {self.down!r}")

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Architecture":
        """Read what `to_json` gave.

        Raises:
            UsageError: Another form, or a number out of range.
        """
        kinds = {"channels": int, "widths": list, "kernel": int, "down": str}
        fits = set(values) == set(kinds) and all(type(values[name]) is kind for name, kind in kinds.items())
        if not fits or not all(type(width) is int for width in values["widths"]):
            raise UsageError(f"an autoencoder is described by {', '.join(kinds)}, got {str(values)[:200]}")
        return cls(values["channels"], tuple(values["widths"]), values["kernel"], values["down"])


PRESETS: Mapping[str, Architecture] = {
    # Two halvings, as the lecture's digits have them; its own numbers of channels are not known for certain.
    "digits": Architecture(1, (32, 8), kernel=3),
    # Strides 2 to 32, what the decoders read. With kernel 4 every pixel is reached by equally many weights of a
    # transposed convolution of stride 2: no checkerboard, and cells lie where their features say.
    "photo": Architecture(3, (24, 48, 96, 192, 384), kernel=4),
}
"""The architectures that `pretrain` has names for."""


class CAENetwork(EncoderNetwork):
    """The downsampling path: a tap `downN` after each stage, at strides 2, 4, 8, ...

    A ReLU follows every stage but the last: the code takes either sign.
    """

    name = "cae"
    weights_licence = "NOASSERTION"  # SPDX: whoever trained it says

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.form = architecture
        self.architecture = architecture.to_json()
        channels = architecture.channels
        grey = channels == 1
        # Values of -1..1. The zeros that images are padded with, to the stride grid and by SAME, are a mid grey.
        self.input_convention = InputConvention(
            mean=(127.5,) * channels, std=(127.5,) * channels, channel_order="grey" if grey else "RGB"
        )
        stride = 2 if architecture.down == "stride" else 1
        self.stages = nn.ModuleList()
        taps, field = [], ReceptiveField()
        for number, width in enumerate(architecture.widths, start=1):
            self.stages.append(nn.Conv2d(channels, width, architecture.kernel, stride))
            padding = same_padding(stride, architecture.kernel, stride)[0]  # of every multiple of the stride
            field, channels = field.through(architecture.kernel, stride, padding=padding), width
            if architecture.down == "pool":
                field = field.through(2, 2, padding=0)
            taps.append(Tap.seeing(f"down{number}", field, width))
        self.taps = tuple(taps)

    def parts(self) -> Sequence[Part]:
        """The stages; of images of any size, a map of stride s has ceil(H / s) rows."""
        return [
            Part(partial(self._stage, stage, tap), (stage,), tap)  # type: ignore[arg-type]
            for stage, tap in zip(self.stages, self.taps, strict=True)
        ]

    def _stage(self, convolution: nn.Conv2d, tap: Tap, maps: Tensor) -> Tensor:
        maps = conv_same(maps, convolution, "none" if tap is self.taps[-1] else "relu")
        return functional.max_pool2d(maps, 2, ceil_mode=True) if self.form.down == "pool" else maps


class CAE(nn.Module):
    """The whole autoencoder: `down`, the downsampling path, and `up`, its mirror image.

    `up.N` is the transposed convolution from stage N + 1 back to stage N, `up.0` the one to pixels. A ReLU follows
    all but that one.

    Args:
        architecture: Its form.
        training: What is worth knowing about the training, as JSON values; travels in the file.
    """

    def __init__(self, architecture: Architecture, training: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.training_record: dict[str, Any] = dict(training or {})
        self.down = CAENetwork(architecture)
        channels = (architecture.channels, *architecture.widths)
        self.up = nn.ModuleList(
            TransposeSame(inner, outer, architecture.kernel) for outer, inner in itertools.pairwise(channels)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images.

        Args:
            images: N x channels x H x W float, 0..1; any H and W from 1 up.

        Returns:
            N x channels x H x W. Values may leave 0..1 a little.
        """
        (code,) = self.down(2 * images - 1, [self.down.taps[-1].stride])
        return (self.upsample(code, (images.shape[-2], images.shape[-1])) + 1) / 2

    def upsample(self, code: Tensor, size: Size) -> Tensor:
        """Turn the code of images of `size` into N x channels x height x width, -1..1."""
        sizes = self.sizes(size)
        maps = code
        for number in reversed(range(len(self.up))):
            maps = self.up[number](maps, sizes[number])
            if number:
                maps = functional.relu(maps)
        return maps

    def sizes(self, size: Size) -> list[Size]:
        """(height, width) of the image and of the map after each stage."""
        found = [size]
        for _ in self.up:
            height, width = found[-1]
            kernel = self.architecture.kernel
            found.append((conv_size(height, kernel, 2), conv_size(width, kernel, 2)))
        return found

    def initialise(self, seed: int = INITIALISATION_SEED) -> None:
        """Fill all layers with seeded random values that keep activations at their size."""
        generator = torch.Generator().manual_seed(seed)
        for convolution in self.down.stages:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)  # type: ignore[arg-type]
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        for layer in self.up:
            layer.initialise(generator)  # type: ignore[operator]

    @torch.no_grad()
    def start_from_components(self, images: Tensor) -> None:
        """Start as a linear autoencoder: principal components of blocks of 2x2 cells, stage by stage.

        Each stage keeps the components of its input that vary most, each as two channels of opposite sign, since
        a ReLU keeps one sign (x = relu(x) - relu(-x)); the transposed convolution is the transposed matrix. It is
        the layer by layer pretraining of stacked autoencoders (Masci et al. 2011), in closed form. Channels beyond
        the components keep their random weights on the way down and have none on the way up.

        Args:
            images: N x channels x H x W float, 0..1; H and W multiples of the last stride, more blocks than values
                in one.

        Raises:
            UsageError: A path down by pooling, which is not linear, or a width of 1.
        """
        if self.architecture.down != "stride" or min(self.architecture.widths) < 2:
            raise UsageError("an autoencoder with pooling, or a single channel, cannot start from components")
        before = same_padding(2, self.architecture.kernel, 2)[0]  # where a block lies within the kernel
        maps = 2 * images - 1
        layers: list[tuple[Any, Any]] = list(zip(self.down.stages, self.up, strict=True))
        for number, (down, up) in enumerate(layers):
            mean = maps.mean((0, 2, 3)) if number == 0 else maps.new_zeros(maps.shape[1])
            blocks = (
                functional.unfold(maps - mean[:, None, None], 2, stride=2).transpose(1, 2).flatten(0, 1).double()
            )
            vectors = torch.linalg.eigh(blocks.T @ blocks).eigenvectors.flip(1).T
            last = number == len(layers) - 1
            kept = vectors[: down.out_channels if last else down.out_channels // 2].float()
            core = kept.unflatten(1, (-1, 2, 2))
            maps = functional.conv2d(maps - mean[:, None, None], core, stride=2)
            weight = _signed(_signed(core, 0, not last), 1, number > 0)
            window = up.weight.zero_()[:, :, before : before + 2, before : before + 2]
            window[: len(weight), : weight.shape[1]] = weight
            down.weight[: len(weight)] = up.weight[: len(weight)]
            offset = -(core * mean[:, None, None]).sum((1, 2, 3))
            down.bias[: len(weight)] = _signed(offset, 0, not last)
            up.bias.copy_(mean) if number == 0 else up.bias.zero_()


def _signed(values: Tensor, axis: int, both: bool) -> Tensor:
    """Put the negatives behind the values along an axis, where both are wanted."""
    return torch.cat((values, -values), axis) if both else values


def save_cae(cae: CAE, path: str | Path, *, overwrite: bool = False) -> None:
    """Write an autoencoder file: its architecture, training and weights, sealed; no paths, no times.

    Args:
        cae: Any autoencoder in float32; it is not changed.
        path: Where to, in an existing folder; usually `cae.safetensors`.
        overwrite: Whether a file that is there already is replaced.

    Raises:
        ModelFileError: Weights that are not finite, or a disk that does not take the file.
        UsageError: There is a file already and `overwrite` is False.
    """
    tensors = cae.state_dict()
    _check_finite(tensors, "the autoencoder")
    document = {"architecture": cae.architecture.to_json(), "training": cae.training_record}
    write_tensor_file(path, _KIND, _VERSION, document, tensors, overwrite=overwrite)


def load_cae(path: str | Path) -> CAE:
    """Read an autoencoder file.

    Args:
        path: What `save_cae` wrote.

    Returns:
        The autoencoder on the CPU, equal to the saved one in every bit. The source of its encoder's weights is the
        digest of the file.

    Raises:
        ModelFileError: No such file, another kind of file, damaged, or one that contradicts itself.
    """
    document, tensors = read_tensor_file(path, _KIND, _VERSION)
    where = show_path(path)
    if set(document) != {"architecture", "training", "format_version", "digest"}:
        raise ModelFileError(f"{where} is no autoencoder: it describes {', '.join(sorted(document))[:200]}")
    if type(document["architecture"]) is not dict or type(document["training"]) is not dict:
        raise ModelFileError(f"{where} is no autoencoder: architecture and training have to be objects")
    try:
        architecture = Architecture.from_json(document["architecture"])
    except UsageError as error:
        raise ModelFileError(f"{where} is no autoencoder: {error.message}") from None
    with torch.device("meta"):  # Nothing is allocated before the file has proved to hold these tensors.
        expected = CAE(architecture).state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        forms = [
            (tuple(t.shape), t.dtype) if (t := given.get(name)) is not None else None
            for given in (expected, tensors)
        ]
        if forms[0] != forms[1]:
            raise ModelFileError(f"{where}: expected {show_path(name)} to be {forms[0]}, got {forms[1]}")
    _check_finite(tensors, where)
    with torch.random.fork_rng(devices=[]):  # Fresh layers draw initial weights that nobody needs.
        cae = CAE(architecture, document["training"])
    cae.load_state_dict(tensors)
    cae.down.weights_source = f"cae sha256:{document['digest']}"
    return cae


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ModelFileError(
                f"{where}: {name} has values that are not finite", hint="the training has diverged"
            )
