"""By how much a class wins: the best upsampled logit of each pixel less the second best, without full-size logits.

It is 0 on the borders of the mask and grows away from them. The second best class has `exp(-margin)` times the
probability of the best one.
"""

import math

import torch
from torch import Tensor

from fullyconv.shapes import Logits, Size
from fullyconv.upsample import BAND_VALUES, CHUNK_VALUES, LEAST_STRIDE, block_weights, fill_every_pixel

__all__ = ["predict_margin"]

MOST_CLASSES = 0.25
"""Share of the classes that may be among the two best of a block from which on all pixels are computed."""


@torch.no_grad()
def predict_margin(logits: Logits, output_stride: int, size: Size) -> Tensor:
    """Give each pixel the difference of its two highest upsampled logits.

    The result is that of `upsample_logits(...).topk(2, 1)` within float32's rounding. As in `predict_mask`, a
    *block* of pixels lies between the centres of four cells; its logits are weighted means of these cells, with
    the same weights for every class. So a class that is lower at its highest cell than two others are at their
    lowest is among the two best of no pixel of the block, and is not computed there.

    Args:
        logits: N x C x h x w, covering the image.
        output_stride: Pixels between neighbouring logits.
        size: (height, width) of the image in pixels.

    Returns:
        N x height x width float32, 0 to infinity: 0 around logits that are not finite, infinity where there is
        only one class.
    """
    margin = torch.empty((len(logits), *size), dtype=torch.float32, device=logits.device)
    if logits.shape[1] == 1:
        return margin.fill_(math.inf)
    by_blocks = output_stride >= LEAST_STRIDE and logits.device.type == "cpu"
    for image, result in zip(logits, margin, strict=True):
        if by_blocks:
            _fill_by_blocks(result, image, output_stride)
        else:
            fill_every_pixel(result, image, output_stride, 0, size[0], _lead)
    return margin.nan_to_num_(nan=0.0, posinf=math.inf)


def _lead(values: Tensor) -> Tensor:
    """The highest less the second highest over the first dimension, of two at least; NaN where one is NaN."""
    best, second = torch.maximum(values[0], values[1]), torch.minimum(values[0], values[1])
    for channel in values[2:]:
        torch.maximum(second, torch.minimum(best, channel), out=second)
        torch.maximum(best, channel, out=best)
    return best.sub_(second)


def _fill_by_blocks(margin: Tensor, logits: Tensor, stride: int) -> None:
    """Fill a height x width margin from C x h x w logits, computing in each block only classes that can matter.

    Blocks are those of `predict_mask`: (i, j) lies between the centres of cells (i - 1, j - 1) and (i, j).
    """
    weights = block_weights(stride)
    before = (stride + 1) // 2  # pixels of the first blocks that lie beyond the image
    height, width = margin.shape
    blocks = -(-(height + before) // stride), -(-(width + before) // stride)
    columns = torch.arange(-1, blocks[1]).clamp(0, logits.shape[2] - 1)
    band = max(1, BAND_VALUES // (blocks[1] * (4 * len(logits) + stride**2)))
    for start in range(0, blocks[0], band):
        stop = min(start + band, blocks[0])
        rows = slice(max(start * stride - before, 0), min(stop * stride - before, height))
        cells = torch.arange(start - 1, stop).clamp(0, logits.shape[1] - 1)
        cut = logits.index_select(1, cells).index_select(2, columns).float()
        possible = _among_two_best(cut)
        # Whoever is no number is neither above nor below another one.
        if possible.float().mean() > max(MOST_CLASSES, 2 / len(logits)) or not cut.isfinite().all():
            fill_every_pixel(margin, logits, stride, rows.start, rows.stop, _lead)
            continue
        filled = _blocks(cut, possible, weights)
        whole = filled.transpose(1, 2).reshape((stop - start) * stride, -1)
        skipped = rows.start - (start * stride - before)
        margin[rows] = whole[skipped : skipped + rows.stop - rows.start, before : before + width]


def _among_two_best(cells: Tensor) -> Tensor:
    """Whether each class can be among the two best of a block: C x h x w cells -> C x h-1 x w-1."""
    upper, lower = torch.maximum(cells[:, 1:], cells[:, :-1]), torch.minimum(cells[:, 1:], cells[:, :-1])
    highest, lowest = (
        torch.maximum(upper[..., 1:], upper[..., :-1]),
        torch.minimum(lower[..., 1:], lower[..., :-1]),
    )
    best, second = torch.maximum(lowest[0], lowest[1]), torch.minimum(lowest[0], lowest[1])
    for channel in lowest[2:]:
        torch.maximum(second, torch.minimum(best, channel), out=second)
        torch.maximum(best, channel, out=best)
    return highest >= second


def _blocks(cells: Tensor, possible: Tensor, weights: Tensor) -> Tensor:
    """Compute the margins of all blocks: C x h+1 x w+1 cells -> h x w x stride x stride."""
    classes, height, width = possible.shape
    table = cells.permute(1, 2, 0).reshape(-1)
    possible = possible.permute(1, 2, 0).reshape(-1, classes)
    counts = possible.sum(1)
    margins = torch.empty((height * width, weights.shape[1]))
    around = torch.tensor([0, 1, width + 1, width + 2])
    for count in torch.unique(counts).tolist():
        for chosen in (counts == count).nonzero()[:, 0].split(max(1, CHUNK_VALUES // (count * weights.shape[1]))):
            candidates = possible.index_select(0, chosen).nonzero()[:, 1].view(-1, 1, count)
            corners = (chosen + chosen // width)[:, None] + around
            values = table[corners[..., None] * classes + candidates]
            if count == 2:
                margins[chosen] = ((values[..., 0] - values[..., 1]) @ weights).abs_()
                continue
            upsampled = values.transpose(1, 2).reshape(-1, 4) @ weights
            margins[chosen] = _lead(upsampled.view(-1, count, weights.shape[1]).transpose(0, 1))
    side = math.isqrt(weights.shape[1])
    return margins.view(height, width, side, side)
