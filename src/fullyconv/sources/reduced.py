"""An image and its mask in a size to look at, put together while their parts come."""

import numpy as np
import numpy.typing as npt

from fullyconv.shapes import Image, Mask, Size
from fullyconv.tiles import Box

__all__ = ["LONGEST", "Reduced"]

LONGEST = 4096
"""Pixels on the longer side of the picture."""


class Reduced:
    """Every pixel that is nearest to one of a smaller picture, whose longer side is at most `LONGEST`.

    Attributes:
        image: h x w x 3 uint8 RGB.
        mask: h x w uint8 class indices.
    """

    def __init__(self, size: Size) -> None:
        factor = min(LONGEST / max(size), 1)
        self._rows, self._columns = (_picked(side, max(round(side * factor), 1)) for side in size)
        shape = (len(self._rows), len(self._columns))
        self.image: Image = np.zeros((*shape, 3), np.uint8)
        self.mask: Mask = np.zeros(shape, np.uint8)

    def add_image(self, box: Box, pixels: Image) -> None:
        """Take what is needed of a part of the image."""
        self._take(self.image, box, pixels)

    def add_mask(self, box: Box, values: Mask) -> None:
        """Take what is needed of a part of the mask."""
        self._take(self.mask, box, values)

    def _take(self, picture: npt.NDArray[np.uint8], box: Box, values: npt.NDArray[np.uint8]) -> None:
        top, bottom = np.searchsorted(self._rows, (box.top, box.bottom))
        left, right = np.searchsorted(self._columns, (box.left, box.right))
        rows, columns = self._rows[top:bottom] - box.top, self._columns[left:right] - box.left
        picture[top:bottom, left:right] = values[np.ix_(rows, columns)]


def _picked(side: int, count: int) -> npt.NDArray[np.int64]:
    """The pixels of a side that are nearest to the centres of so many."""
    return ((np.arange(count) + 0.5) * side / count).astype(np.int64)
