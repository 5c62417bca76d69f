"""Logits at the output stride -> logits and masks at full size.

Logit row i at output stride s has its centre at pixel position `(i + 0.5) * s`; the centre of pixel row r is
at `r + 0.5`, which is `(r + 0.5) / s - 0.5` in cells. Pixels beyond the outermost cell centres take the value
there. This is `interpolate(mode="bilinear", align_corners=False)`; everything here agrees with it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.shapes import Logits, Masks, Size

__all__ = ["bilinear_kernel", "bilinear_upsampling", "pixel_logits", "predict_mask", "upsample_logits"]

BAND_VALUES = 4_000_000
"""Full-size logits that `predict_mask` holds at a time (16 MB in float32)."""


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

    Works on bands of rows, so that full-size logits exist only for one band at a time. The result is that of
    `upsample_logits(...).argmax(1)`.

    Args:
        logits: N x C x h x w, covering the image; at most 255 classes.
        output_stride: Pixels between neighbouring logits.
        size: (height, width) of the image in pixels.

    Returns:
        N x height x width, uint8 class indices.
    """
    height, width = size
    cells = -(-height // output_stride)
    logits = logits.contiguous()  # Class by class: the comparison below reads whole planes.
    mask = torch.empty((len(logits), height, width), dtype=torch.uint8, device=logits.device)
    band = max(1, BAND_VALUES // max(1, logits[:, :, 0].numel() * output_stride**2))
    for start in range(0, cells, band):
        stop = min(start + band, cells)
        # One cell more on each side: the rows of a band are interpolated with their neighbours.
        above, below = min(start, 1), min(logits.shape[-2] - stop, 1)
        cut = logits[:, :, start - above : stop + below]
        rows = min(stop * output_stride, height) - start * output_stride
        upsampled = upsample_logits(cut, output_stride, (above * output_stride + rows, width))
        mask[:, start * output_stride : start * output_stride + rows] = _first_maximum(
            upsampled[:, :, above * output_stride :]
        )
    return mask


def _first_maximum(logits: Tensor) -> Tensor:
    """Index of the largest value over dimension 1, the lowest index where several are equal."""
    best = logits[:, 0].clone()
    index = torch.zeros_like(best, dtype=torch.uint8)
    for channel in range(1, logits.shape[1]):
        better = logits[:, channel] > best
        index.masked_fill_(better, channel)
        torch.maximum(best, logits[:, channel], out=best)
    return index


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

    def read(row: Tensor, column: Tensor) -> Tensor:
        cells = (image + row * width + column).flatten()
        return table.index_select(0, cells).view(count, -1, classes)

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
