"""Sizes of images and maps: padded to a grid, or changed by a factor that is a fraction."""

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from fullyconv.shapes import Size

__all__ = ["as_fraction", "pad_to_multiple", "padded_size", "read_between", "resize_by", "scaled_size"]


def as_fraction(scale: float) -> Fraction:
    """The decimal number that was meant: 1.1 is 11/10, which no float is."""
    return Fraction(str(float(scale)))


def resize_by(images: Tensor, scale: float) -> Tensor:
    """Enlarge (or reduce) images by exactly `scale`, bilinearly.

    Result pixel i is read at `(i + 0.5) / scale - 0.5`, clamped to the image, whatever the size: so the
    feature maps of all scales stay aligned. Nothing is smoothed before it is reduced.

    Args:
        images: N x K x H x W float.
        scale: Result pixels per input pixel.

    Returns:
        N x K x ceil(H * scale) x ceil(W * scale).
    """
    if scale == 1:
        return images
    rows, columns = scaled_size((images.shape[-2], images.shape[-1]), scale)
    factor = as_fraction(scale)
    return read_between(read_between(images, -1, factor, columns), -2, factor, rows)


def read_between(maps: Tensor, axis: int, factor: Fraction, count: int) -> Tensor:
    """Read maps linearly between their cells along one axis: the same bits from a part of a map as from the whole.

    Result cell i is read at `(i + 0.5) / factor - 0.5`, clamped to the map. Its weights are rounded once from that
    fraction, so they are the same wherever i / factor has the same remainder. (`interpolate` rounds the positions,
    and so has other weights further down in a large image.)

    Args:
        maps: Any shape, float.
        axis: Along which it is read.
        factor: Result cells per cell of the map.
        count: Cells of the result along the axis.
    """
    steps = 2 * factor.numerator  # of a cell; every position is a whole number of them
    positions = (2 * torch.arange(count, device=maps.device) + 1) * factor.denominator - factor.numerator
    positions = positions.clamp(0, (maps.shape[axis] - 1) * steps)
    lower = positions // steps
    upper = (lower + 1).clamp(max=maps.shape[axis] - 1)
    along = [1] * maps.ndim
    along[axis] = count
    weights = ((positions % steps).cpu().double() / steps).to(maps).view(along)
    return torch.lerp(_cells(maps, axis, lower), _cells(maps, axis, upper), weights)


def _cells(maps: Tensor, axis: int, chosen: Tensor) -> Tensor:
    """Read cells along an axis. Along the last one `gather` takes a third of the time of `index_select`."""
    if axis % maps.ndim < maps.ndim - 1:
        return maps.index_select(axis, chosen)
    return maps.gather(axis, chosen.expand(*maps.shape[:-1], -1))


def scaled_size(size: Size, scale: float) -> Size:
    """The (height, width) to which `resize_by` brings images of `size`."""
    ratio = as_fraction(scale)
    return math.ceil(size[0] * ratio), math.ceil(size[1] * ratio)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad N x K x H x W with zeros at the bottom and right until both sides are multiples of `multiple`."""
    height, width = padded_size((images.shape[-2], images.shape[-1]), multiple)
    return functional.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))


def padded_size(size: Size, multiple: int) -> Size:
    """Round a (height, width) up to multiples of `multiple`."""
    height, width = size
    return math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple
