"""Logits of overlapping tiles averaged, where a network may see more than a tile: this is not exact."""

from collections.abc import Iterable

import torch
from torch import Tensor

from fullyconv.shapes import Logits, Size
from fullyconv.tiles import Box

__all__ = ["blended"]


def blended(parts: Iterable[tuple[Box, Logits]], size: Size, stride: int) -> Logits:
    """Average logits of overlapping tiles, each the less the nearer to its border.

    Args:
        parts: Windows that cover the image and begin on cells, and 1 x C x h x w logits of each, which may go
            beyond the image.
        size: (height, width) of the image in pixels.
        stride: Pixels between neighbouring logits.

    Returns:
        1 x C x h x w logits of the image.
    """
    total, weights = torch.zeros(0), torch.zeros(0)
    for window, logits in parts:
        if not len(total):
            total = logits.new_zeros((*logits.shape[:2], *(-(-side // stride) for side in size)))
            weights = torch.zeros_like(total[0, 0])
        rows, columns = (slice(start // stride, -(-end // stride)) for start, end in window.ranges)
        height, width = total[..., rows, columns].shape[-2:]
        weight = _ramp(height).outer(_ramp(width)).to(total)
        total[..., rows, columns] += logits[..., :height, :width] * weight
        weights[rows, columns] += weight
    return total / weights


def _ramp(count: int) -> Tensor:
    """Weights that rise to the middle of so many cells and fall again."""
    cells = torch.arange(count)
    return torch.minimum(cells, count - 1 - cells).float() + 1
