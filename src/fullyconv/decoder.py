"""The trained part: score the features, sum them over skips, upsample.

A decoder gives logits at its *output stride*: cell (i, j) stands for the pixels [i*s, (i+1)*s) x [j*s, (j+1)*s),
its centre is the centre of that square. The last, bilinear upsampling to pixels is a separate step
(`fullyconv.upsample`). Where the last upsampling is learned, the output stride is 1.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.encoder import FeatureSpec
from fullyconv.shapes import Features, Logits, Points, Size

__all__ = ["Decoder", "bilinear_read", "resample"]


class Decoder(nn.Module):
    """Features in, logits at `output_stride` out.

    Attributes:
        specs: The features that `forward` takes, in order.
        num_classes: Channels of the logits.
        output_stride: Pixels of the original image between neighbouring logits.
        reads_points: True where the logits of a pixel depend on each feature map only through its bilinear value
            there, so that `point_logits` exists and training can use a point cache.
        halo_cells: How many cells of the coarsest map beyond a cell its logits depend on.
    """

    specs: tuple[FeatureSpec, ...]
    num_classes: int
    output_stride: int
    reads_points: bool = False
    halo_cells: int = 1

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

    def config(self) -> dict[str, Any]:
        """The keyword arguments, beside the specs and num_classes, that rebuild this decoder, as JSON values."""
        raise NotImplementedError(f"{type(self).__name__} is abstract")


def resample(maps: Tensor, stride: float, output_stride: float, cells: Size) -> Tensor:
    """Read feature maps bilinearly at the cell centres of another grid.

    The centre of output cell i lies at pixel position `(i + 0.5) * output_stride`, which is
    `(i + 0.5) * output_stride / stride - 0.5` in cells of the map. Positions beyond the outermost centres take
    the value there (edge clamping).

    Args:
        maps: N x K x h x w.
        stride: Pixels between cells of the map.
        output_stride: Pixels between cells of the result.
        cells: (height, width) of the result in cells.

    Returns:
        N x K x cells.
    """
    rows = (torch.arange(cells[0], device=maps.device) + 0.5) * (output_stride / stride) - 0.5
    columns = (torch.arange(cells[1], device=maps.device) + 0.5) * (output_stride / stride) - 0.5
    return _lerp(_lerp(maps, rows, dim=-2), columns, dim=-1)


def _lerp(maps: Tensor, positions: Tensor, dim: int) -> Tensor:
    """Interpolate linearly along one dimension at fractional, edge-clamped positions."""
    last = maps.shape[dim] - 1
    positions = positions.clamp(0, last)
    lower = positions.floor().long()
    weight = (positions - lower).to(maps.dtype)
    if dim == -2:
        weight = weight[:, None]
    below = maps.index_select(dim, lower)
    above = maps.index_select(dim, (lower + 1).clamp(max=last))
    return below + (above - below) * weight


def bilinear_read(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read maps at fractional cell positions.

    Args:
        maps: N x K x h x w.
        rows: N x P positions in cells (0 is the centre of the first cell), clamped to the map.
        columns: N x P, likewise.

    Returns:
        N x P x K in the dtype of `maps`.
    """
    height, width = maps.shape[-2:]
    grid = torch.stack(((columns * 2 + 1) / width - 1, (rows * 2 + 1) / height - 1), dim=-1)
    read = functional.grid_sample(
        maps, grid[:, :, None].to(maps.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return read[..., 0].transpose(1, 2)
