"""Parts of a mask put together to blocks of whole rows, for writers that need them in order."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from fullyconv.shapes import Mask, Size
from fullyconv.tiles import Box

__all__ = ["BLOCK", "MaskParts", "colormap_of", "levels_of", "row_blocks"]

BLOCK = 512
"""Rows of a block, and side of the tiles of a mask that is written as TIFF."""

SMALLEST_LEVEL = 1024
"""Pixels on the longer side of a level of a pyramid that is not halved again."""

MaskParts = Iterable[tuple[Box, Mask]]
"""Where a part of a mask lies and its values: row of parts by row of parts, each from left to right."""


def row_blocks(parts: MaskParts, size: Size) -> Iterator[Mask]:
    """Yield `BLOCK` rows at a time of the mask that parts make up, and last what is left.

    Args:
        parts: Cover a mask of `size`; each row of parts has one height.
        size: (height, width) in pixels.
    """
    beside: list[Mask] = []
    held = np.empty((0, size[1]), np.uint8)
    for box, values in parts:
        beside.append(values)
        if box.right == size[1]:
            held = np.concatenate([held, np.concatenate(beside, axis=1)])
            beside = []
            while len(held) >= BLOCK:
                yield held[:BLOCK]
                held = held[BLOCK:]
    if len(held):
        yield held


def levels_of(size: Size) -> list[int]:
    """By how much the levels of a pyramid are smaller than the whole: 2, 4, ... until one is small."""
    factors = []
    factor = 2
    while max(size) * 2 / factor > SMALLEST_LEVEL and factor <= BLOCK:
        factors.append(factor)
        factor *= 2
    return factors


def colormap_of(palette: dict[int, tuple[int, int, int]]) -> npt.NDArray[np.uint8]:
    """256 x 3 colours, black where there is none."""
    colors = np.zeros((256, 3), np.uint8)
    for value, color in palette.items():
        colors[value] = color
    return colors
