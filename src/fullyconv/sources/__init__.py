"""Images that are read part by part, and masks that are written as they come: neither is in memory whole.

PNG and JPEG have to be decoded whole, but only parts of them become arrays. TIFF is read tile by tile by tifffile
(extra `large`), GeoTIFF by rasterio (extra `geo`), which knows its place on the Earth and gives it to the mask.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fullyconv.array_file import is_item
from fullyconv.image_form import RGB, ImageForm
from fullyconv.images import image_size, opened
from fullyconv.shapes import Pixels, Size
from fullyconv.sources.blocks import MaskParts
from fullyconv.sources.decoded import LARGEST_DECODED, Decoded, Whole
from fullyconv.sources.geotiff import GeoTiff
from fullyconv.sources.tiff import GEO_TAGS, TiledTiff
from fullyconv.stored import is_tiff, stored_size
from fullyconv.tiles import Box
from fullyconv.upright import upright_size
from fullyconv.vectors import Place

__all__ = ["LARGEST_DECODED", "LARGEST_READ", "Header", "ImageSource", "open_image", "read_header"]

LARGEST_READ = 2**40
"""Pixels of any image: what a header says is believed up to there."""


class ImageSource(Protocol):
    """An image that is open for reading.

    Attributes:
        size: (height, width) in pixels, upright.
        mask_suffix: Of the files that `write_mask` makes.
    """

    size: Size
    mask_suffix: str

    @property
    def place(self) -> Place | None:
        """Where it lies on a map, if it lies anywhere."""

    def read(self, box: Box) -> Pixels:
        """Return the pixels of a part of the image, in the form in which it was opened.

        Raises:
            DataError: They are damaged.
        """

    def write_mask(self, path: Path, parts: MaskParts, palette: dict[int, tuple[int, int, int]]) -> None:
        """Write the mask of this image; the file appears whole or not at all.

        Args:
            path: A file that is not there yet.
            parts: Areas of the mask and their uint8 values. They may be computed while they are asked for.
            palette: RGB, 0..255, of each value.
        """


@contextmanager
def open_image(path: str | Path, form: ImageForm = RGB) -> Iterator[ImageSource]:
    """Open an image of any size.

    Args:
        path: The file.
        form: In which it is read.

    Raises:
        DataError: It cannot be read: missing, damaged, of a kind that is not read; or it has to be decoded whole
            and is larger than `LARGEST_DECODED` or than the memory.
    """
    path = Path(path)
    tiff = is_tiff(path)
    library, _ = _reader(path, form) if tiff else (None, False)
    if library is not None:
        with closing(library(path, form)) as source:
            yield source
    else:
        hint = (
            'install what reads TIFF by tiles: pip install "fullyconv[large]"' if tiff else "save it as tiled TIFF"
        )
        if not form.is_usual:
            yield Whole(path, form, hint)
            return
        with opened(path, LARGEST_DECODED, hint) as image:
            yield Decoded(image, path, hint)


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        size: (height, width) in pixels, upright.
        mask_suffix: Of the file that `ImageSource.write_mask` makes.
        placed: Whether it lies at a known place on the Earth.
        place_kept: Whether its mask will lie there, too: the extra `geo` is installed.
    """

    size: Size
    mask_suffix: str
    placed: bool
    place_kept: bool


def read_header(path: str | Path, form: ImageForm = RGB) -> Header:
    """Read what is to be known of an image before it is opened.

    Args:
        path: The file, or an item of an array.
        form: In which it will be read.

    Raises:
        DataError: It cannot be opened.
    """
    if is_item(path):
        return Header(image_size(path), ".png", placed=False, place_kept=False)
    path = Path(path)
    library, placed = _reader(path, form) if is_tiff(path) else (None, False)
    if library is None and not form.is_usual:
        return Header(stored_size(path), ".png", placed, place_kept=False)
    if library is None:
        with opened(path, LARGEST_READ) as image:
            return Header(upright_size(image), ".png", placed, place_kept=False)
    with closing(library(path, form)) as source:
        return Header(source.size, source.mask_suffix, placed, place_kept=placed and library is GeoTiff)


def _reader(path: Path, form: ImageForm) -> tuple[type[GeoTiff] | type[TiledTiff] | None, bool]:
    """Choose what reads a TIFF part by part, if anything does, and say whether it is placed on the Earth."""
    if GeoTiff.is_installed() and GeoTiff.is_placed(path):
        return GeoTiff, True
    if TiledTiff.is_installed():
        fits, placed = TiledTiff.fits_and_is_placed(path, form)
        return (TiledTiff if fits else None), placed
    if not form.is_usual:
        return None, False
    with opened(path, LARGEST_READ) as image:
        return None, any(tag in getattr(image, "tag_v2", {}) for tag in GEO_TAGS)
