"""Logits at the output stride -> logits and masks at full size.

Logit row i at output stride s has its centre at pixel position `(i + 0.5) * s`; the centre of pixel row r is
at `r + 0.5`, which is `(r + 0.5) / s - 0.5` in cells. Pixels beyond the outermost cell centres take the value
there. This is `interpolate(mode="bilinear", align_corners=False)`; everything here agrees with it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.shapes import Logits, Masks, Size

__all__ = [
    "bilinear_kernel",
    "bilinear_upsampling",
    "block_weights",
    "fill_every_pixel",
    "pixel_logits",
    "predict_confidence",
    "predict_mask",
    "upsample_logits",
]

BAND_VALUES = 4_000_000
"""Full-size logits that are held at a time where all of a band are computed (16 MB in float32)."""

CHUNK_VALUES = 2_000_000
"""Logits that are held at a time where only blocks on borders between classes are computed."""

LEAST_STRIDE = 3
"""Below it there are so few pixels between cells that computing all of them is as fast."""

MOST_BORDERS = 0.5
"""Share of blocks on borders between classes from which on all pixels of a band are computed."""


def upsample_logits(logits: Logits, output_stride: int, size: Size) -> Logits:
    """Upsample logits bilinearly by the output stride and crop them to the image.

    Args:
        logits: N x C x h x w, covering the image: `h * output_stride >= height`, likewise the width.
        output_stride: Pixels between neighbouring logits.
        size: (height, width) of the image in pixels.

    Returns:
        N x C x height x width.
    """
    if output_stride > 1:
        logits = functional.interpolate(logits, scale_factor=output_stride, mode="bilinear", align_corners=False)
    return logits[..., : size[0], : size[1]]


@torch.no_grad()
def predict_mask(logits: Logits, output_stride: int, size: Size) -> Masks:
    """Give each pixel the class with the highest upsampled logit; of equal ones the lowest index.

    The result is that of `upsample_logits(...).argmax(1)`, but where the two best logits lie within a few units of
    float32's last place. Full-size logits are never built. Between the centres of four cells lies a *block* of
    pixels, whose logits are weighted means of these cells, with the same weights for every class. So:

    - Where one class is the best of all four cells it is the best of every pixel between them, and nothing is
      computed.
    - Elsewhere only classes count whose highest cell is not below the lowest cell of another one.

    Args:
        logits: N x C x h x w, covering the image.
        output_stride: Pixels between neighbouring logits.
        size: (height, width) of the image in pixels.

    Returns:
        N x height x width class indices, uint8, or uint16 where there are more than 256 classes.
    """
    kind = torch.uint8 if logits.shape[1] <= 256 else torch.int32
    mask = torch.empty((len(logits), *size), dtype=kind, device=logits.device)
    by_blocks = output_stride >= LEAST_STRIDE and logits.device.type == "cpu"
    for image, result in zip(logits, mask, strict=True):
        if by_blocks:
            _fill_by_blocks(result, image, output_stride)
        else:
            fill_every_pixel(result, image, output_stride, 0, size[0], _first_maximum)
    return mask if kind == torch.uint8 else mask.to(torch.uint16)


def fill_every_pixel(
    result: Tensor, logits: Tensor, stride: int, first: int, last: int, reduce: Callable[[Tensor], Tensor]
) -> None:
    """Fill rows of a mask, or of anything else, by computing the logits of all their pixels.

    Bands of cell rows are interpolated to the width of the result once; of those, one row of each block at a time.

    Args:
        result: height x width.
        logits: C x h x w.
        stride: Pixels between neighbouring logits.
        first: The first row.
        last: The row behind the last one.
        reduce: Makes one value of C, over the first dimension.
    """
    before = (stride + 1) // 2  # pixels of the first blocks that lie beyond the image
    width = result.shape[1]
    band = max(1, BAND_VALUES // (3 * len(logits) * width))
    for start in range((first + before) // stride, -(-(last + before) // stride), band):
        stop = min(start + band, -(-(last + before) // stride))
        upper = torch.arange(start - 1, stop - 1, device=logits.device).clamp(0, logits.shape[1] - 1)
        lower = torch.arange(start, stop, device=logits.device).clamp(0, logits.shape[1] - 1)
        origin = int(upper[0])
        cut = logits[None, :, origin : int(lower[-1]) + 1].float()
        wide = functional.interpolate(cut, scale_factor=(1, stride), mode="bilinear", align_corners=False)[0]
        wide = wide[..., :width].contiguous()
        above, below = (wide.index_select(1, rows - origin) for rows in (upper, lower))
        below -= above
        for phase, share in enumerate(_phases(stride).tolist()):
            rows = torch.arange(start, stop, device=logits.device) * stride + phase - before
            kept = (rows >= first) & (rows < last)
            found = reduce(torch.add(above, below, alpha=share))
            result[rows[kept]] = found[kept].to(result.dtype)


def _fill_by_blocks(mask: Tensor, logits: Tensor, stride: int) -> None:
    """Fill a mask from C x h x w logits, computing only the blocks on borders between classes.

    Block (i, j) lies between the centres of cells (i - 1, j - 1) and (i, j). Beyond the edges cells are repeated:
    so there is a block more than cells on each axis, and the first ones begin half a cell before the image.
    """
    weights = block_weights(stride)
    before = (stride + 1) // 2  # pixels of the first blocks that lie beyond the image
    height, width = mask.shape
    blocks = -(-(height + before) // stride), -(-(width + before) // stride)
    band = max(1, BAND_VALUES // (logits[:, 0].numel() + blocks[1] * stride**2))
    for start in range(0, blocks[0], band):
        stop = min(start + band, blocks[0])
        rows = slice(max(start * stride - before, 0), min(stop * stride - before, height))
        cells = torch.arange(start - 1, stop).clamp(0, logits.shape[1] - 1)
        cut = logits[:, cells[0] : cells[-1] + 1].float().contiguous()  # whole planes, class by class
        best = _first_maximum(cut).index_select(0, cells - cells[0])
        winners = torch.cat([best[:, :1], best, best[:, -1:]], 1)[:, : blocks[1] + 1]
        border = _differs(winners)
        # Whoever is no number is neither above nor below another one.
        if border.float().mean() > MOST_BORDERS or not cut.isfinite().all():
            fill_every_pixel(mask, logits, stride, rows.start, rows.stop, _first_maximum)
            continue
        filled = winners[:-1, :-1, None, None].expand(-1, -1, stride, stride).contiguous()
        table = cut.permute(1, 2, 0).contiguous()
        for places in torch.split(border.nonzero(), max(1, CHUNK_VALUES // (4 * len(logits)))):
            own = torch.stack([cells[places[:, 0]], cells[places[:, 0] + 1]], 1) - cells[0]
            along = torch.stack([places[:, 1] - 1, places[:, 1]], 1).clamp(0, logits.shape[2] - 1)
            filled[places[:, 0], places[:, 1]] = _border_blocks(table, own, along, weights).to(mask.dtype)
        whole = filled.transpose(1, 2).reshape((stop - start) * stride, -1)
        skipped = rows.start - (start * stride - before)
        mask[rows] = whole[skipped : skipped + rows.stop - rows.start, before : before + width]


def _differs(winners: Tensor) -> Tensor:
    """Whether the four cells around each block have more than one winner."""
    across = winners[:, 1:] != winners[:, :-1]
    down = winners[1:, :-1] != winners[:-1, :-1]
    return across[1:] | across[:-1] | down


def _phases(stride: int) -> Tensor:
    """For each pixel of a block, along one axis, the weight of the cell behind it; float64."""
    offset = 0.5 if stride % 2 == 0 else 0.0
    return (torch.arange(stride, dtype=torch.float64) + offset) / stride


def block_weights(stride: int) -> Tensor:
    """Weights of the four cells around a block for each of its pixels: 4 x stride**2, upper left cell first."""
    phases = _phases(stride)
    axis = torch.stack([1 - phases, phases])
    return torch.einsum("ay,bx->abyx", axis, axis).reshape(4, stride**2).float()


def _border_blocks(table: Tensor, rows: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """Compute the masks of blocks from the classes that can win in them.

    Args:
        table: h x w x C logits.
        rows: K x 2, of the cells above and below each block.
        columns: K x 2, of the cells left and right of it.
        weights: From `block_weights`.

    Returns:
        K x stride x stride int64 class indices.
    """
    classes = table.shape[-1]
    cells = (rows[:, :, None] * table.shape[1] + columns[:, None]).flatten(1)
    corners = table.view(-1, classes).index_select(0, cells.flatten()).view(-1, 4, classes)
    upper, lower = corners[:, ::2], corners[:, 1::2]
    highest, lowest = torch.maximum(upper, lower), torch.minimum(upper, lower)
    highest, lowest = torch.maximum(*highest.unbind(1)), torch.minimum(*lowest.unbind(1))
    possible = highest >= lowest.amax(1, keepdim=True)
    counts = possible.sum(1)
    side = math.isqrt(weights.shape[1])
    masks = torch.empty((len(rows), side**2), dtype=torch.int64)
    for count in torch.unique(counts).tolist():
        chosen = (counts == count).nonzero()[:, 0]
        candidates = possible.index_select(0, chosen).nonzero()[:, 1].view(-1, count)
        values = corners.index_select(0, chosen).gather(2, candidates[:, None].expand(-1, 4, -1))
        upsampled = (values.transpose(1, 2).reshape(-1, 4) @ weights).view(-1, count, side**2)
        winner = _first_maximum(upsampled.transpose(0, 1)).long()
        masks[chosen] = candidates.gather(1, winner)
    return masks.view(-1, side, side)


def _first_maximum(logits: Tensor) -> Tensor:
    """Index of the largest value over the first dimension, the lowest index where several are equal."""
    best = logits[0].clone()
    index = torch.zeros_like(best, dtype=torch.uint8 if len(logits) <= 256 else torch.int32)
    for channel in range(1, len(logits)):
        better = logits[channel] > best
        index.masked_fill_(better, channel)
        torch.maximum(best, logits[channel], out=best)
    return index


@torch.no_grad()
def predict_confidence(logits: Logits, output_stride: int, size: Size) -> Tensor:
    """Give each pixel the softmax probability of the class with the highest upsampled logit.

    All classes count, so all are upsampled, but only for a few rows at a time.

    Args:
        logits: N x C x h x w, covering the image.
        output_stride: Pixels between neighbouring logits.
        size: (height, width) of the image in pixels.

    Returns:
        N x height x width float32, 1 / C to 1: `upsample_logits(...).softmax(1).amax(1)` within rounding.
    """
    count, classes, cells, _ = logits.shape
    confidence = logits.new_empty((count, *size), dtype=torch.float32)
    rows = max(BAND_VALUES // (count * classes * size[1]) // output_stride, 1)  # of cells
    for first in range(0, -(-size[0] // output_stride), rows):
        top, bottom = max(first - 1, 0), min(first + rows + 1, cells)
        start, end = first * output_stride, min((first + rows) * output_stride, size[0])
        origin = top * output_stride
        wide = upsample_logits(logits[:, :, top:bottom].float(), output_stride, (end - origin, size[1]))
        wide = wide[:, :, start - origin :]
        confidence[:, start:end] = 1 / (wide - wide.amax(dim=1, keepdim=True)).exp_().sum(dim=1)
    return confidence


def pixel_logits(logits: Logits, output_stride: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Read upsampled logits at pixels, interpolating only there.

    Equals `upsample_logits` at these pixels. On the CPU the backward (of `index_select`) adds in a fixed
    order: the same gradients, bit for bit, every time.

    Args:
        logits: N x C x h x w.
        output_stride: Pixels between neighbouring logits.
        rows: N x P, integer pixel rows in the image of the same index.
        columns: N x P, integer pixel columns.

    Returns:
        N x P x C, differentiable with respect to `logits`.
    """
    count, classes, height, width = logits.shape
    upper, lower, down = _corners(rows, output_stride, height)
    left, right, along = _corners(columns, output_stride, width)
    table = logits.permute(0, 2, 3, 1).reshape(-1, classes)
    image = torch.arange(count, device=logits.device)[:, None] * (height * width)
    shape = (*rows.shape, classes)

    def read(row: Tensor, column: Tensor) -> Tensor:
        cells = (image + row * width + column).flatten()
        return table.index_select(0, cells).view(shape)

    down, along = down.to(logits.dtype)[..., None], along.to(logits.dtype)[..., None]
    top = read(upper, left) * (1 - along) + read(upper, right) * along
    bottom = read(lower, left) * (1 - along) + read(lower, right) * along
    return top * (1 - down) + bottom * down


def _corners(pixels: Tensor, output_stride: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells around each pixel and the weight of the second."""
    positions = ((pixels + 0.5) / output_stride - 0.5).clamp(0, cells - 1)
    first = positions.floor().long()
    return first, (first + 1).clamp(max=cells - 1), positions - first


def bilinear_kernel(side: int) -> Tensor:
    """The weights with which a transposed convolution interpolates bilinearly.

    Per axis `1 - |i - centre| / factor` with factor `(side + 1) // 2` and centre `factor - 1` for an odd
    side, `factor - 0.5` for an even one (the paper's section 3.3, and `surgery.interp` of its authors).

    Args:
        side: Side of the square kernel; twice the stride for upsampling by the stride.

    Returns:
        side x side, float32.
    """
    factor = (side + 1) // 2
    centre = factor - 1 if side % 2 else factor - 0.5
    axis = 1 - (torch.tensor([float(cell) for cell in range(side)]) - centre).abs() / factor
    return axis[:, None] * axis


def bilinear_upsampling(channels: int, factor: int, *, bias: bool) -> nn.ConvTranspose2d:
    """Make a trainable upsampling that begins bilinear: kernel 2s, stride s, padding s/2, for an even factor s.

    At first each channel is upsampled by itself, as by interpolation except within s/2 pixels of the border, where
    zeros are read.

    Args:
        channels: Of the maps, before and after.
        factor: How many times larger the result is, exactly.
        bias: Whether there is one, with torch's usual start.
    """
    layer = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, padding=factor // 2, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels)[:, :, None, None] * bilinear_kernel(2 * factor))
    return layer
