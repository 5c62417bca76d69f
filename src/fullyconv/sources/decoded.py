"""An image that is decoded whole, of which only parts become pixels: PNG, JPEG, and what nobody else reads."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from fullyconv.errors import DataError, show_path
from fullyconv.image_form import ImageForm
from fullyconv.images import to_rgb, write_mask
from fullyconv.memory import available_bytes, give_back_freed, shown_bytes
from fullyconv.shapes import Image, Pixels, Size
from fullyconv.sources.blocks import MaskParts, row_blocks
from fullyconv.stored import read_stored, stored_size
from fullyconv.tiles import Box
from fullyconv.upright import SIDEWAYS, orientation, upright

__all__ = ["LARGEST_DECODED", "Decoded", "Whole"]

LARGEST_DECODED = 2**29
"""Pixels of an image that has to be decoded whole."""

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
        _refuse_too_large(path, (image.height, image.width), PIXEL_BYTES.get(image.mode, 4), hint)
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
        write_png(path, parts, self.size, palette, self._image.close)


class Whole:
    """An image of a form other than RGB that has to be read whole: nobody reads it part by part.

    Args:
        path: Its file.
        form: In which it is read.
        hint: What to do where there is not enough memory.

    Raises:
        DataError: It cannot be read, or there is not enough memory.
    """

    mask_suffix = ".png"
    place = None

    def __init__(self, path: Path, form: ImageForm, hint: str) -> None:
        self.size: Size = stored_size(path)
        _refuse_too_large(path, self.size, 4 * form.channels, hint)
        self._values = read_stored(path, form.channels, LARGEST_DECODED)
        self._form, self._where = form, show_path(path)

    def read(self, box: Box) -> Pixels:
        """Return the pixels of a part; see `ImageSource`."""
        return self._form.scaled(self._values[box.slices], self._where)

    def write_mask(self, path: Path, parts: MaskParts, palette: dict[int, tuple[int, int, int]]) -> None:
        """Write the mask as PNG; see `ImageSource`."""
        write_png(path, parts, self.size, palette, lambda: None)


def write_png(
    path: Path, parts: MaskParts, size: Size, palette: dict[int, tuple[int, int, int]], free: Callable[[], None]
) -> None:
    """Write a mask as PNG; `free` gives back what the image took, after its last part was read."""
    with tempfile.TemporaryFile(dir=path.parent) as spool:  # There is no room for the mask beside the image.
        for block in row_blocks(parts, size):
            spool.write(block.tobytes())
        free()
        give_back_freed()
        spool.flush()
        write_mask(path, np.memmap(spool, np.uint8, "r", shape=size), palette)


def _refuse_too_large(path: Path, size: Size, pixel_bytes: int, hint: str) -> None:
    needed = size[0] * size[1] * pixel_bytes
    if needed > (there := available_bytes()):
        raise DataError(
            f"{show_path(path)}: expected {shown_bytes(needed)} of memory for {size[0]} x {size[1]} "
            f"pixels, there are {shown_bytes(there)}",
            hint=hint,
        )
