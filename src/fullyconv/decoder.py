"""The trained part: score the features, sum them over skips, upsample.

A decoder gives logits at its *output stride* s: cell (i, j) stands for the s x s pixels from row i*s and
column j*s on, its centre is the centre of that square. The last, bilinear upsampling to pixels is a separate
step (`fullyconv.upsample`). Where the last upsampling is learned, the output stride is 1.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import processes
from fullyconv.batch_statistics import learned, normalised
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Points, Size
from fullyconv.sizes import padded_size, read_between
from fullyconv.stages import Kind, Stage
from fullyconv.taps import FeatureSpec
from fullyconv.tiles import Halo

__all__ = [
    "BatchNorm",
    "Decoder",
    "bilinear_read",
    "layer_stage",
    "output_cells",
    "positions_of_strides",
    "read_points",
    "resample",
    "sum_stage",
    "take_over",
]


LARGEST_DENOMINATOR = 10**4
"""Of a ratio of strides as a fraction: more than any encoder scale and output stride make."""

LEAST_CHANNELS = 4
"""Of maps that torch interpolates with the same rounding whatever their size."""

MOMENTUM = 0.1
"""Weight of a batch in the running statistics of the batch norm: torch's own default."""


class Decoder(nn.Module):
    """Features in, logits at `output_stride` out.

    Attributes:
        name: The name under which `build_decoder` finds it.
        specs: The features that `forward` takes, in order.
        num_classes: Channels of the logits.
        output_stride: Pixels of the original image between neighbouring logits.
        reads_points: True where the logits of a pixel depend on each feature map only through its bilinear
            value there, so that `point_logits` exists and training can use a point cache.
        sees_all: Whether a pixel's logits may depend on the whole maps: `halo_cells` means nothing then.
        halo_cells: How many cells of the coarsest map beyond its own a pixel's logits depend on.
        size_policy: That of the encoders whose features it reads (`EncoderNetwork.size_policy`).
    """

    name: str
    specs: tuple[FeatureSpec, ...]
    num_classes: int
    output_stride: int
    reads_points: bool = False
    sees_all: bool = False
    halo_cells: int = 1
    size_policy: str = "pad-to-stride"

    def halo(self, reach: Halo) -> Halo:
        """How far a pixel's logits reach in the image, with features that reach so far beyond their cells."""
        own = math.ceil(self.halo_cells * max(spec.stride for spec in self.specs))
        return Halo(own + reach.before, own + reach.after)

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`.

        Args:
            features: One N x K x h x w float32 tensor for each of `specs`.
            size: (height, width) of the images in pixels, before padding.

        Returns:
            N x num_classes x h x w with `h * output_stride >= height` and `w * output_stride >= width`.
        """
        raise NotImplementedError(f"{type(self).__name__} is abstract")

    def point_logits(self, points: Points) -> Tensor:
        """Compute P x num_classes logits from features read at P pixels (where `reads_points`)."""
        raise NotImplementedError(f"{type(self).__name__} has no point logits")

    def auxiliary_logits(self, features: Features, size: Size) -> Tensor | None:
        """Compute the logits of a second head, for the loss alone: shaped as those of `forward`; None without."""
        return None

    def training_logits(self, features: Features, size: Size) -> tuple[Logits, ...]:
        """Compute the logits that the loss is taken of: the auxiliary head's, where there is one, come last."""
        auxiliary = self.auxiliary_logits(features, size)
        logits = self(features, size)
        return (logits,) if auxiliary is None else (logits, auxiliary)

    def config(self) -> dict[str, Any]:
        """The keyword arguments, beside the specs and num_classes, that rebuild it, as JSON values."""
        raise NotImplementedError(f"{type(self).__name__} is abstract")

    def stages(self) -> tuple[Stage, ...]:
        """Say stage by stage what `forward` computes, for `fullyconv explain`.

        Features are read by their `FeatureSpec.label`; the last stage gives the logits. A test computes the stages
        one by one and compares with `forward`. A decoder that says nothing here is one stage as a whole.
        """
        reads = tuple(spec.label for spec in self.specs)
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return (Stage(self.name, "whole", reads, self.num_classes, self.output_stride, parameters=parameters),)


def layer_stage(
    name: str,
    layer: nn.Conv2d | nn.ConvTranspose2d,
    reads: str,
    stride: float,
    *,
    kind: Kind | None = None,
    module: str | None = None,
    activation: Literal["", "ReLU"] = "",
    note: str = "",
) -> Stage:
    """Describe a convolution or transposed convolution by what it says of itself.

    Args:
        name: Name of the stage.
        layer: The layer.
        reads: The stage or the features that it is computed from.
        stride: Pixels of the original image between neighbouring cells of its input.
        kind: "conv" or "transposed conv" if None.
        module: Name of the layer in its decoder; that of the stage if None.
        activation: What is applied to its result.
        note: What else there is to say.
    """
    up = layer.stride[0] if isinstance(layer, nn.ConvTranspose2d) else 1
    return Stage(
        name,
        kind or ("conv" if isinstance(layer, nn.Conv2d) else "transposed conv"),
        (reads,),
        layer.out_channels,
        stride / up,
        kernel=layer.kernel_size[0],
        factor=up,
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        module=name if module is None else module,
        activation=activation,
        note=note,
    )


def sum_stage(name: str, way_up: Stage, *skips: str) -> Stage:
    """Describe the sum of a stage and of what comes over skips, as large as the stage.

    Args:
        name: Name of the stage.
        way_up: The stage that the skips join.
        skips: The stages or features that join it.
    """
    return Stage(name, "sum", (way_up.name, *skips), way_up.channels, way_up.stride)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of N x K x h x w maps or of P x K points, which takes a single value for each channel, too."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=MOMENTUM)

    def forward(self, values: Tensor) -> Tensor:
        """Normalise by the batch in training and by the running statistics otherwise."""
        if self.training and processes.several():
            running = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
            return normalised(values, *running, self.weight, self.bias, MOMENTUM, self.eps)
        return functional.batch_norm(
            values,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self._learns(values),
            momentum=MOMENTUM,
            eps=self.eps,
        )

    @torch.no_grad()
    def statistics(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the K means and standard deviations that `values` are normalised by; learn from them, too."""
        means, variances = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        if self.training and processes.several():
            means, variances = learned(values, means, variances, MOMENTUM)
            return means, torch.sqrt(variances + self.eps)
        if not self._learns(values):
            return means, torch.sqrt(variances + self.eps)
        _, means, inverse = torch.native_batch_norm(values, None, None, means, variances, True, MOMENTUM, self.eps)
        return means, 1 / inverse

    def _learns(self, values: Tensor) -> bool:
        """Whether to normalise by the batch: a single value of a channel has no variance (torch raises)."""
        return self.training and values.numel() > values.shape[1]


def take_over(decoder: Decoder, other: Decoder) -> tuple[int, int]:
    """Copy another decoder's weights where name and shape agree (the paper's staged training).

    Returns:
        How many tensors were copied, and how many the decoder has.

    Raises:
        UsageError: None agrees.
    """
    mine, theirs = decoder.state_dict(), other.state_dict()
    shared = {name: value for name, value in theirs.items() if name in mine and mine[name].shape == value.shape}
    if not shared:
        raise UsageError("the model to start from shares no decoder weights with this one")
    decoder.load_state_dict({**mine, **shared})
    return len(shared), len(mine)


def positions_of_strides(name: str, specs: Sequence[FeatureSpec], strides: Sequence[int]) -> list[int]:
    """Find where a decoder's features stand among an encoder's.

    Args:
        name: The decoder's name, for the message.
        specs: The features that the encoder gives.
        strides: The strides that the decoder reads.

    Returns:
        For each of `strides` the position of its feature in `specs`; of several the deepest, which comes last.

    Raises:
        UsageError: Features at another scale than 1, or none at one of the strides.
    """
    scaled = sorted({spec.scale for spec in specs} - {1.0})
    if scaled:
        raise UsageError(
            f"decoder {name} reads features at scale 1 only, got scale {', '.join(f'{s:g}' for s in scaled)}",
            hint="leave the scales out, or choose the decoder practical",
        )
    found = {spec.tap.stride: position for position, spec in enumerate(specs)}
    if not set(strides) <= set(found):
        raise UsageError(
            f"decoder {name} needs features at strides {', '.join(map(str, strides))}, "
            f"the encoder gives {', '.join(map(str, sorted(found))) or 'none'}",
            hint="let the encoder give all of these strides",
        )
    return [found[stride] for stride in strides]


def output_cells(specs: Sequence[FeatureSpec], output_stride: int, size: Size) -> Size:
    """Count the cells of the output grid: enough for the image padded to the stride of the coarsest tap.

    Args:
        specs: The features of a decoder.
        output_stride: Pixels between cells of the result.
        size: (height, width) of the image in pixels, before padding.

    Returns:
        (height, width) in cells.
    """
    height, width = padded_size(size, max(spec.tap.stride for spec in specs))
    return -(-height // output_stride), -(-width // output_stride)


def resample(maps: Tensor, stride: float, output_stride: float, cells: Size) -> Tensor:
    """Read feature maps bilinearly at the cell centres of another grid.

    The centre of output cell i lies at pixel position `(i + 0.5) * output_stride`, which is
    `(i + 0.5) * output_stride / stride - 0.5` in cells of the map. Positions beyond the outermost centres
    take the value there (edge clamping).

    Args:
        maps: N x K x h x w, float.
        stride: Pixels between cells of the map.
        output_stride: Pixels between cells of the result.
        cells: (height, width) of the result in cells.

    Returns:
        N x K x cells, differentiable with respect to `maps`.
    """
    factor = stride / output_stride
    if factor == 1 and tuple(maps.shape[-2:]) == cells:
        return maps
    exact = Fraction(factor).limit_denominator(LARGEST_DENOMINATOR)
    # The operator below rounds positions where that is no power of two, and for few channels it takes one of two
    # kernels by the size of the map.
    if exact.numerator & (exact.numerator - 1) or maps.shape[1] < LEAST_CHANNELS:
        return read_between(read_between(maps, -2, exact, cells[0]), -1, exact, cells[1])
    # `interpolate` takes either a size or a factor. The operator below it takes both: the factor says where
    # the cells are, the size how many there are. Along an axis of equal sizes it would copy, whatever the
    # factor: one more cell keeps it from doing so.
    more = [side + (side == given) for side, given in zip(cells, maps.shape[-2:], strict=True)]
    resampled: Tensor = torch.ops.aten.upsample_bilinear2d(maps, more, False, factor, factor)
    return resampled[..., : cells[0], : cells[1]]


def bilinear_read(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read maps at fractional cell positions.

    Args:
        maps: N x K x h x w, float of any precision.
        rows: N x P positions in cells (0 is the centre of the first cell), clamped to the map.
        columns: N x P, likewise.

    Returns:
        N x P x K, float32.
    """
    row_cells, row_weights = _neighbours(rows, maps.shape[-2])
    column_cells, column_weights = _neighbours(columns, maps.shape[-1])
    return _read_cells(maps, row_cells, row_weights, column_cells, column_weights)


def read_points(
    features: Features,
    specs: Sequence[FeatureSpec],
    output_stride: int,
    rows: Tensor,
    columns: Tensor,
    size: Size,
) -> Points:
    """Read the features of one image at pixels, as a linear decoder and its upsampling would see them.

    The definition is `resample` to the output grid, then bilinear interpolation between the four cells of it
    around the pixel (`fullyconv.upsample`). Each step reads two cells an axis, so that a pixel's features are
    a weighted sum of 16 cells of the map: only these are read, no resampled map is built.

    Args:
        features: One 1 x K x h x w float tensor (of any precision) for each of `specs`.
        specs: Where they come from.
        output_stride: Pixels between logits of the decoder.
        rows: P pixel rows, integers in 0..height-1.
        columns: P pixel columns.
        size: (height, width) of the image in pixels, before padding.

    Returns:
        P x K float32 for each of `specs`.
    """
    cells = output_cells(specs, output_stride, size)
    points: Points = []
    for spec, maps in zip(specs, features, strict=True):
        ratio = output_stride / spec.stride
        row_cells, row_weights = _two_steps(rows[None], output_stride, cells[0], ratio, maps.shape[-2])
        column_cells, column_weights = _two_steps(columns[None], output_stride, cells[1], ratio, maps.shape[-1])
        points.append(_read_cells(maps, row_cells, row_weights, column_cells, column_weights)[0])
    return points


def _two_steps(
    pixels: Tensor, output_stride: int, output_cells: int, ratio: float, map_cells: int
) -> tuple[Tensor, Tensor]:
    """Along one axis: the 1 x P x 4 cells of a map, and their weights, that a pixel's value is made of."""
    corners, corner_weights = _neighbours((pixels + 0.5) / output_stride - 0.5, output_cells)
    cells, weights = _neighbours((corners + 0.5) * ratio - 0.5, map_cells)
    return cells.flatten(-2), (weights * corner_weights[..., None]).flatten(-2)


def _neighbours(positions: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The two cells around fractional, edge-clamped positions, and their weights, in a new last dimension."""
    positions = positions.clamp(0, cells - 1)
    lower = positions.floor()
    weight = positions - lower
    upper = (lower + 1).clamp(max=cells - 1)
    return torch.stack((lower, upper), dim=-1).long(), torch.stack((1 - weight, weight), dim=-1)


def _read_cells(
    maps: Tensor, row_cells: Tensor, row_weights: Tensor, column_cells: Tensor, column_weights: Tensor
) -> Tensor:
    """Sum weighted cells: N x K x h x w maps and N x P x n cells an axis -> N x P x K."""
    count, channels, height, width = maps.shape
    image = torch.arange(count, device=maps.device)[:, None, None, None] * (height * width)
    index = image + row_cells[..., :, None] * width + column_cells[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels).float()
    # One pass over the cells of a point: several times as fast as gathering them and adding.
    sums = functional.embedding_bag(
        index.flatten(0, 1).flatten(1),
        table,
        per_sample_weights=weights.flatten(0, 1).flatten(1),
        mode="sum",
    )
    return sums.view(count, -1, channels)
