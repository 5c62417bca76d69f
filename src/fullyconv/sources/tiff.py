"""A TIFF or BigTIFF, plain or a pyramid, of which only the tiles are read that are asked for. Needs tifffile."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fullyconv.atomic import atomic_path
from fullyconv.errors import DataError, show_path
from fullyconv.image_form import RGB, ImageForm
from fullyconv.shapes import Image, Mask, Pixels, Size
from fullyconv.sources.blocks import BLOCK, MaskParts, colormap_of, levels_of, row_blocks
from fullyconv.stored import explained, tifffile
from fullyconv.tiles import Box

__all__ = ["GEO_TAGS", "TiledTiff", "eight_bit_rgb"]

GEO_TAGS = (33550, 33922, 34264, 34735)
"""Tags that place a TIFF on the Earth: pixel scale, tie points, transformation, keys (OGC GeoTIFF 1.1)."""

ORIENTATION = 274

KINDS = ("MINISBLACK", "RGB", "YCBCR")

LARGEST_CLASSIC = 2**31
"""Bytes of a mask from which on it is written as BigTIFF, whose offsets have 64 bits."""


class TiledTiff:
    """A TIFF that is read by tiles, or strips.

    Args:
        path: The file.
        form: In which it is read.

    Raises:
        DataError: It is damaged, or of a kind that is not read.
    """

    mask_suffix = ".tif"
    place = None

    @staticmethod
    def is_installed() -> bool:
        """Whether the extra is there."""
        return find_spec("tifffile") is not None

    @staticmethod
    def fits_and_is_placed(path: Path, form: ImageForm) -> tuple[bool, bool]:
        """Whether a file can be read here, and whether it is placed on the Earth.

        It has to be stored as it is seen. Of forms other than RGB its channels must not lie in planes or pages.
        """
        with explained(path), tifffile().TiffFile(path) as file:
            tags = file.pages[0].tags
            kind = file.pages[0].photometric.name
            together = form.is_usual or (file.series[0].axes in ("YX", "YXS") and kind in KINDS)
            return together and tags.valueof(ORIENTATION, 1) == 1, any(tag in tags for tag in GEO_TAGS)

    def __init__(self, path: Path, form: ImageForm = RGB) -> None:
        self._library, self._path, self._form = tifffile(), path, form
        with ExitStack() as stack, explained(path):
            self._file = stack.enter_context(self._library.TiffFile(path))
            self._page = page = self._only_page()
            self._open = stack.pop_all()
        self.size: Size = (page.imagelength, page.imagewidth)
        self._high = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self._wide = page.tilewidth if page.is_tiled else page.imagewidth
        self._across = -(-page.imagewidth // self._wide)
        self._held: dict[int, Pixels] = {}

    def _only_page(self) -> Any:
        """The image at its full size, where there is one only and it is of a kind that is read."""
        where = show_path(self._path)
        images = [series for series in self._file.series if not series.keyframe.is_reduced]
        level = self._file.series[0].levels[0]
        if len(images) > 1 or len(level.pages) > 1:
            raise DataError(
                f"{where}: expected one image, got a file of several", hint="save each as a file of its own"
            )
        page = level.keyframe
        kind = f"{page.samplesperpixel} x {page.dtype}, {page.photometric.name.lower()}"
        deep = page.dtype not in (np.uint8, np.uint16) or page.samplesperpixel > 4
        if page.photometric.name not in KINDS or (deep and self._form.is_usual):
            raise DataError(
                f"{where}: expected grey or RGB of 8 or 16 bits, got {kind}",
                hint="convert it to 8-bit RGB, or train with --channels and --value-range",
            )
        if page.planarconfig != 1:
            raise DataError(
                f"{where}: expected the channels of a pixel side by side, got them in planes",
                hint="save it with planar configuration 1",
            )
        return page

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def read(self, box: Box) -> Pixels:
        """Return the pixels of a part; see `ImageSource`."""
        numbers = range(box.top // self._high, (box.bottom - 1) // self._high + 1)
        self._held = {number: rows for number, rows in self._held.items() if number in numbers}  # frees the others
        with explained(self._path):
            self._held = {
                number: self._held[number] if number in self._held else self._row_of_tiles(number)
                for number in numbers
            }
        parts = []
        for number, rows in self._held.items():
            top = number * self._high
            parts.append(rows[max(box.top - top, 0) : box.bottom - top, box.left : box.right])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _row_of_tiles(self, number: int) -> Pixels:
        page = self._page
        height = min(self._high, self.size[0] - number * self._high)
        rows = np.zeros((height, self._across * self._wide, page.samplesperpixel), page.dtype)
        indices = range(number * self._across, (number + 1) * self._across)
        segments = self._file.filehandle.read_segments(
            [page.dataoffsets[index] for index in indices],
            [page.databytecounts[index] for index in indices],
            indices=indices,
            sort=False,
        )
        for data, index in segments:
            tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
            if tile is not None:  # a sparse file leaves empty tiles out
                left = (index - indices.start) * self._wide
                pixels = tile[0, :height]
                rows[: len(pixels), left : left + pixels.shape[1]] = pixels
        rows = rows[:, : self.size[1]]
        return eight_bit_rgb(rows) if self._form.is_usual else self._form.scaled(rows, show_path(self._path))

    def write_mask(self, path: Path, parts: MaskParts, palette: dict[int, tuple[int, int, int]]) -> None:
        """Write the mask as a tiled TIFF with a pyramid; see `ImageSource`."""
        factors = levels_of(self.size)
        big = self.size[0] * self.size[1] > LARGEST_CLASSIC
        form = {
            "dtype": np.uint8,
            "tile": (BLOCK, BLOCK),
            "compression": "zlib",
            "photometric": "palette",
            "colormap": colormap_of(palette).T.astype(np.uint16) * 257,
            "metadata": None,
        }
        with ExitStack() as stack:
            levels = [stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in factors]
            temporary = stack.enter_context(atomic_path(path, overwrite=False))
            file = stack.enter_context(self._library.TiffWriter(temporary, bigtiff=big))
            blocks = _keeping(row_blocks(parts, self.size), factors, levels)
            file.write(_tiles(blocks), shape=self.size, subifds=len(factors), **form)
            for factor, level in zip(factors, levels, strict=True):
                size = (-(-self.size[0] // factor), -(-self.size[1] // factor))
                file.write(_tiles(_blocks_of(level, size[1])), shape=size, subfiletype=1, **form)


def _keeping(blocks: Iterator[Mask], factors: list[int], levels: Sequence[IO[bytes]]) -> Iterator[Mask]:
    """Pass blocks on; put every second, fourth, ... pixel of them into files, one a level."""
    for block in blocks:
        for factor, level in zip(factors, levels, strict=True):
            level.write(block[::factor, ::factor].tobytes())
        yield block


def _blocks_of(level: IO[bytes], width: int) -> Iterator[Mask]:
    level.seek(0)
    while data := level.read(BLOCK * width):
        yield np.frombuffer(data, np.uint8).reshape(-1, width)


def _tiles(blocks: Iterator[Mask]) -> Iterator[Mask]:
    """Cut blocks of rows into tiles, filled up at the right and bottom."""
    for block in blocks:
        for left in range(0, block.shape[1], BLOCK):
            part = block[:, left : left + BLOCK]
            yield np.pad(part, ((0, BLOCK - part.shape[0]), (0, BLOCK - part.shape[1])))


def eight_bit_rgb(pixels: npt.NDArray[Any]) -> Image:
    """Turn H x W x (1..4) of 8 or 16 bits into H x W x 3 uint8 RGB, as `fullyconv.images.to_rgb` does.

    Grey is repeated, alpha is dropped. Grey of 16 bits is divided by 257; of such colours the upper 8 bits count.
    """
    pixels = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
    if pixels.dtype == np.uint16:
        grey = pixels.shape[-1] == 1
        pixels = (((pixels.astype(np.uint32) + 128) // 257) if grey else pixels >> 8).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[-1] == 1 else pixels
