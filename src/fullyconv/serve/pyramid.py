"""An array of bytes on disk and halves of it: written and read by windows, it never is in memory whole."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from fullyconv.serve.work import BusyError
from fullyconv.shapes import Size
from fullyconv.tiles import Box

__all__ = ["TILE", "Pyramid", "blocks", "level_sizes", "reserved"]

TILE = 512
"""Side of the tiles that are given out, in pixels; the smallest level is one tile."""

BLOCK = 2048
"""Side of what is read, halved or written at a time, in pixels."""


class Pyramid:
    """A file with an image or mask and its halves, down to one tile.

    It is open only while something is read or written: many images would be too many open files.

    Args:
        path: The file to make.
        size: (height, width) in pixels.
        channels: 3 for RGB, 1 for masks.

    Attributes:
        sizes: (height, width) of each level.

    Raises:
        BusyError: The disk is full.
    """

    def __init__(self, path: Path, size: Size, channels: int = 1) -> None:
        self.sizes = level_sizes(size)
        self._path = path
        self._more = (channels,) if channels > 1 else ()
        self._starts = np.cumsum([0, *(math.prod(one) * channels for one in self.sizes)]).tolist()
        reserved(path, self._starts[-1])

    def level(self, number: int) -> npt.NDArray[np.uint8]:
        """A level, mapped: what is written to it is in the file.

        Raises:
            OSError: The file is gone.
        """
        return np.memmap(self._path, np.uint8, "r+", self._starts[number], (*self.sizes[number], *self._more))

    def halve(self, level: int) -> None:
        """Fill a level with the averages of four pixels of the larger one."""
        larger, smaller = self.level(level - 1), self.level(level)
        for box in blocks((smaller.shape[0], smaller.shape[1]), BLOCK // 2):
            block = larger[2 * box.top : 2 * box.bottom, 2 * box.left : 2 * box.right]
            smaller[box.slices] = np.asarray(PillowImage.fromarray(np.ascontiguousarray(block)).reduce(2))

    def write_all(self, box: Box, values: npt.NDArray[np.uint8]) -> None:
        """Write a part of every level: of smaller ones every second pixel of the larger one, for class indices."""
        for number in range(len(self.sizes)):
            level, step = self.level(number), 2**number
            top, left = -(-box.top // step), -(-box.left // step)
            part = values[top * step - box.top :: step, left * step - box.left :: step]
            level[top : top + part.shape[0], left : left + part.shape[1]] = part

    def tile(self, level: int, column: int, row: int) -> npt.NDArray[np.uint8] | None:
        """A tile of a level, smaller at the right and lower edge; None where there is none."""
        if column < 0 or row < 0:
            return None
        part = self.level(level)[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        return np.array(part) if part.size else None


def level_sizes(size: Size) -> list[Size]:
    """Sizes of an array and its halves, rounded up, down to one tile."""
    sizes = [size]
    while max(sizes[-1]) > TILE:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def blocks(size: Size, side: int = BLOCK) -> Iterator[Box]:
    """Squares that cover an area, row by row."""
    for top in range(0, size[0], side):
        for left in range(0, size[1], side):
            yield Box(top, left, min(top + side, size[0]), min(left + side, size[1]))


def reserved(path: Path, size: int) -> None:
    """Make a file of so many bytes, all of them there: a mapped file that finds the disk full kills the process.

    Raises:
        BusyError: The disk is full.
    """
    try:
        with path.open("xb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BusyError(f"there is no room for the image: {error.strerror}", hint="try again later") from None
