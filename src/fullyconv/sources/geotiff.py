"""A GeoTIFF, whose mask lies at the same place on the Earth. Needs rasterio."""

import warnings
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.atomic import atomic_path
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.errors import DataError, show_path
from fullyconv.image_form import RGB, ImageForm
from fullyconv.shapes import Pixels, Size
from fullyconv.sources.blocks import BLOCK, MaskParts, colormap_of, levels_of, row_blocks
from fullyconv.sources.tiff import eight_bit_rgb
from fullyconv.stored import explained
from fullyconv.tiles import Box
from fullyconv.vectors import Place

__all__ = ["GeoTiff"]

LEAST_CACHE = 64_000_000
"""Bytes of decoded tiles that GDAL keeps; by itself a twentieth of all memory."""


class GeoTiff:
    """A raster of 8 or 16 bits: grey, or the bands that are red, green and blue, else its first three.

    Of a form other than RGB: all bands, of any numbers.

    Args:
        path: The file.
        form: In which it is read.

    Raises:
        DataError: It is damaged, or of a kind that is not read.
    """

    mask_suffix = ".tif"

    @staticmethod
    def is_installed() -> bool:
        """Whether the extra is there."""
        return find_spec("rasterio") is not None

    @staticmethod
    def is_placed(path: Path) -> bool:
        """Whether a file says where on the Earth it lies."""
        with explained(path), _opened(_rasterio(), path) as file:
            return bool(file.crs or file.gcps[0] or not file.transform.is_identity)

    def __init__(self, path: Path, form: ImageForm = RGB) -> None:
        self._library, self._path, self._form = _rasterio(), path, form
        with ExitStack() as stack, explained(path):
            self._file = stack.enter_context(_opened(self._library, path))
            kinds = set(self._file.dtypes)
            shallow = kinds <= {"uint8", "uint16"} and self._file.count != 2
            if len(kinds) > 1 or (form.is_usual and not shallow):
                raise DataError(
                    f"{show_path(path)}: expected one band or three and more, of 8 or 16 bits, got "
                    f"{self._file.count} of {', '.join(sorted(kinds))}",
                    hint="convert it to 8-bit RGB, or train with --channels and --value-range",
                )
            row_of_tiles = self._file.block_shapes[0][0] * self._file.width * self._file.count * 2
            stack.enter_context(self._library.Env(GDAL_CACHEMAX=max(LEAST_CACHE, 2 * row_of_tiles)))
            self._open = stack.pop_all()
        self.size: Size = (self._file.height, self._file.width)
        self._bands = self._visible_bands()

    @property
    def place(self) -> Place | None:
        """Where it lies on a map; None where its place is given by points."""
        if self._file.transform.is_identity:
            return None
        code = self._file.crs.to_epsg() if self._file.crs else None
        a, b, c, d, e, f = tuple(self._file.transform)[:6]
        return Place((a, b, c, d, e, f), f"urn:ogc:def:crs:EPSG::{code}" if code else "")

    def _visible_bands(self) -> list[int]:
        """The bands that are red, green and blue, or the first three, or the only one; all of another form."""
        if not self._form.is_usual:
            return list(range(1, self._file.count + 1))
        meaning = [color.name for color in self._file.colorinterp]
        if {"red", "green", "blue"} <= set(meaning):
            return [meaning.index(name) + 1 for name in ("red", "green", "blue")]
        return [1, 2, 3] if self._file.count > 2 else [1]

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def read(self, box: Box) -> Pixels:
        """Return the pixels of a part; see `ImageSource`."""
        with explained(self._path):
            pixels = self._file.read(self._bands, window=self._window(box))
        pixels = np.moveaxis(pixels, 0, 2)
        return eight_bit_rgb(pixels) if self._form.is_usual else self._form.scaled(pixels, show_path(self._path))

    def _window(self, box: Box) -> Any:
        return self._library.windows.Window(box.left, box.top, box.right - box.left, box.bottom - box.top)

    def write_mask(self, path: Path, parts: MaskParts, palette: dict[int, tuple[int, int, int]]) -> None:
        """Write the mask as GeoTIFF with a pyramid, at the same place; see `ImageSource`.

        Pixels of which the image says that they hold nothing are 255, which is declared to hold nothing.
        """
        height, width = self.size
        form = {
            "driver": "GTiff",
            "dtype": "uint8",
            "count": 1,
            "height": height,
            "width": width,
            "crs": self._file.crs,
            "transform": None if self._file.transform.is_identity else self._file.transform,
            "nodata": IGNORE_INDEX,
            "tiled": True,
            "blockxsize": BLOCK,
            "blockysize": BLOCK,
            "compress": "deflate",
            "BIGTIFF": "IF_SAFER",
        }
        with atomic_path(path, overwrite=False) as temporary:
            with _opened(self._library, temporary, "w", **form) as file:
                file.write_colormap(1, dict(enumerate(map(tuple, colormap_of(palette).tolist()))))
                if self._file.gcps[0]:
                    file.gcps = self._file.gcps
                top = 0
                for block in row_blocks(parts, self.size):
                    box = Box(top, 0, top + len(block), width)
                    valid = self._file.dataset_mask(window=self._window(box)) > 0
                    file.write(np.where(valid, block, IGNORE_INDEX), 1, window=self._window(box))
                    top = box.bottom
            with _opened(self._library, temporary, "r+") as file:
                file.build_overviews(levels_of(self.size), self._library.enums.Resampling.nearest)


def _rasterio() -> Any:
    import rasterio  # noqa: PLC0415 - an extra
    import rasterio.enums  # noqa: PLC0415
    import rasterio.windows  # noqa: PLC0415

    return rasterio


def _opened(library: Any, *args: Any, **options: Any) -> Any:
    """Open a file; that a plain TIFF lies nowhere is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.errors.NotGeoreferencedWarning)
        return library.open(*args, **options)
