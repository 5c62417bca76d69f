"""Cut an area into tiles on the stride grid, each with the halo it needs.

Geometry only: no pixel is read and no feature computed here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fullyconv.errors import UsageError
from fullyconv.shapes import Size

__all__ = ["Box", "Halo", "Tile", "cut", "largest_sides", "overlapping", "share_computed", "window_of"]


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows `top` to `bottom`, columns `left` to `right`, each without its end."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two axes of an array of channels, or the first two of an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The first and last row, and column, ends not included."""
        return (self.top, self.bottom), (self.left, self.right)

    def within(self, other: "Box") -> "Box":
        """The same rectangle, counted from the corner of another one."""
        return Box(self.top - other.top, self.left - other.left, self.bottom - other.top, self.right - other.left)


@dataclass(frozen=True)
class Halo:
    """How far a pixel's logits reach beyond it, in pixels: above and left of it, and below and right of it.

    Attributes:
        before: Rows above, and columns to the left.
        after: Rows below, and columns to the right.
    """

    before: int
    after: int


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        area: The pixels that it gives. The areas of an image's tiles cover each pixel once.
        window: The pixels that have to be read for that: the area and its halo, as far as the image goes, from the
            grid on.
    """

    area: Box
    window: Box


def window_of(area: Box, size: Size, halo: Halo, grid: int) -> Box:
    """The pixels that an area's logits depend on, rounded outwards to the grid and clipped to the image.

    Args:
        area: In the image.
        size: (height, width) of the image in pixels.
        halo: Of the model.
        grid: Pixels between the positions at which a window may begin: there the network sees its cells where it
            sees them in the whole image.
    """

    def start(first: int) -> int:
        return max(first - halo.before, 0) // grid * grid

    def end(last: int, limit: int) -> int:
        return min(math.ceil((last + halo.after) / grid) * grid, limit)

    return Box(start(area.top), start(area.left), end(area.bottom, size[0]), end(area.right, size[1]))


def cut(size: Size, sides: Size, halo: Halo, grid: int) -> list[Tile]:
    """Cut an image into tiles, row by row; those at the right and bottom are as small as what is left.

    Args:
        size: (height, width) of the image in pixels.
        sides: (height, width) of a tile's area in pixels, rounded up to the grid.
        halo: Of the model.
        grid: On which areas and windows begin.

    Raises:
        UsageError: A side that is not positive.
    """
    if min(sides) < 1:
        raise UsageError(f"a tile has to be 1 pixel wide or more, got {min(sides)}")
    height, width = (math.ceil(side / grid) * grid for side in sides)
    areas = [
        Box(top, left, min(top + height, size[0]), min(left + width, size[1]))
        for top in range(0, size[0], height)
        for left in range(0, size[1], width)
    ]
    return [Tile(area, window_of(area, size, halo, grid)) for area in areas]


def overlapping(size: Size, side: int, grid: int) -> list[Box]:
    """Cover an image with squares that overlap by half, for a network that cannot be cut exactly.

    Args:
        size: (height, width) of the image in pixels.
        side: Of a square, rounded up to an even number of grid steps; at the right and bottom they are cut off.
        grid: On which they begin.
    """
    step = max(math.ceil(side / (2 * grid)), 1) * grid
    tops, lefts = (range(0, max(length - step, 1), step) for length in size)
    return [
        Box(top, left, min(top + 2 * step, size[0]), min(left + 2 * step, size[1]))
        for top in tops
        for left in lefts
    ]


def largest_sides(size: Size, pixels: int, halo: Halo, grid: int) -> Size | None:
    """Choose the tiles whose windows have at most so many pixels, and of these the ones that recompute least.

    Args:
        size: (height, width) of the image in pixels.
        pixels: How many a window may have.
        halo: Of the model.
        grid: On which tiles begin.

    Returns:
        (height, width) of a tile's area, multiples of the grid; None where even the smallest needs more pixels.
    """
    around = math.ceil(halo.before / grid) * grid + math.ceil(halo.after / grid) * grid
    best: tuple[int, Size] | None = None
    for width in range(grid, size[1] + grid, grid):
        wide = min(width + around, size[1])
        high = min(pixels // wide, size[0])
        height = math.ceil(high / grid) * grid if high == size[0] else (high - around) // grid * grid
        if height >= grid:
            count = math.ceil(size[0] / height) * math.ceil(size[1] / width)
            computed = count * wide * min(height + around, size[0])
            if best is None or computed < best[0]:
                best = computed, (height, width)
    return None if best is None else best[1]


def share_computed(tiles: Sequence[Tile]) -> float:
    """Pixels of all windows per pixel of all areas: 1 where nothing is computed twice."""
    windows = sum(math.prod(tile.window.size) for tile in tiles)
    return windows / sum(math.prod(tile.area.size) for tile in tiles)
