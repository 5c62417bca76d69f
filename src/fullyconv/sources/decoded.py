"""An image that Pillow decodes whole, of which only parts become arrays: PNG, JPEG, and what nobody else reads."""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from fullyconv.errors import DataError, show_path
from fullyconv.images import SIDEWAYS, orientation, to_rgb, upright, write_mask
from fullyconv.memory import available_bytes, give_back_freed, shown_bytes
from fullyconv.shapes import Image, Size
from fullyconv.sources.blocks import MaskParts, row_blocks
from fullyconv.tiles import Box

__all__ = ["Decoded"]

PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # of Pillow's modes; others take 4

BOTTOM_FIRST, RIGHT_FIRST = (3, 4, 6, 7), (2, 3, 7, 8)
"""EXIF orientations in which stored rows, and stored columns, run against those that are seen."""


class Decoded:
    """An image that is in memory, as Pillow has it.

    Args:
        image: Open, not loaded yet.
        path: Its file, for messages.
        hint: What to do where there is not enough memory.

    Raises:
        DataError: There is not enough memory.
    """

    mask_suffix = ".png"
    place = None

    def __init__(self, image: PillowImage.Image, path: Path, hint: str) -> None:
        needed = image.width * image.height * PIXEL_BYTES.get(image.mode, 4)
        if needed > (there := available_bytes()):
            raise DataError(
                f"{show_path(path)}: expected {shown_bytes(needed)} of memory for {image.height} x {image.width} "
                f"pixels, there are {shown_bytes(there)}",
                hint=hint,
            )
        image.load()
        self._image = image
        self._orientation = orientation(image)
        sideways = self._orientation in SIDEWAYS
        self.size: Size = (image.width, image.height) if sideways else (image.height, image.width)
        self._where = show_path(path)

    def read(self, box: Box) -> Image:
        """Return the pixels of a part; see `ImageSource`."""
        rows, columns = (box.top, box.bottom), (box.left, box.right)
        if self._orientation in SIDEWAYS:
            rows, columns = columns, rows
        if self._orientation in BOTTOM_FIRST:
            rows = self._image.height - rows[1], self._image.height - rows[0]
        if self._orientation in RIGHT_FIRST:
            columns = self._image.width - columns[1], self._image.width - columns[0]
        part = self._image.crop((columns[0], rows[0], columns[1], rows[1]))
        return upright(self._image, to_rgb(part, self._where))

    def write_mask(self, path: Path, parts: MaskParts, palette: dict[int, tuple[int, int, int]]) -> None:
        """Write the mask as PNG; see `ImageSource`. The image is closed after its last part was read."""
        with tempfile.TemporaryFile(dir=path.parent) as spool:  # There is no room for the mask beside the image.
            for block in row_blocks(parts, self.size):
                spool.write(block.tobytes())
            self._image.close()
            give_back_freed()
            spool.flush()
            write_mask(path, np.memmap(spool, np.uint8, "r", shape=self.size), palette)
