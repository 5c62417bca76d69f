"""Images that are read part by part, and masks that are written as they come: neither is in memory whole.

PNG and JPEG have to be decoded whole, but only parts of them become arrays. TIFF is read tile by tile by tifffile
(extra `large`), GeoTIFF by rasterio (extra `geo`), which knows its place on the Earth and gives it to the mask.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image as PillowImage

from fullyconv.array_file import is_item
from fullyconv.images import image_size, opened, upright_size
from fullyconv.shapes import Image, Size
from fullyconv.sources.blocks import MaskParts
from fullyconv.sources.decoded import Decoded
from fullyconv.sources.geotiff import GeoTiff, rasterio_or_none
from fullyconv.sources.tiff import TiledTiff, tifffile_or_none
from fullyconv.tiles import Box

__all__ = ["LARGEST_DECODED", "LARGEST_READ", "Header", "ImageSource", "open_image", "read_header"]

LARGEST_DECODED = 2**29
"""Pixels of an image that has to be decoded whole."""

LARGEST_READ = 2**40
"""Pixels of any image: what a header says is believed up to there."""

GEO_TAGS = (33550, 33922, 34264, 34735)
"""Tags that place a TIFF on the Earth: pixel scale, tie points, transformation, keys (OGC GeoTIFF 1.1)."""


class ImageSource(Protocol):
    """An image that is open for reading.

    Attributes:
        size: (height, width) in pixels, upright.
        mask_suffix: Of the files that `write_mask` makes.
    """

    size: Size
    mask_suffix: str

    def read(self, box: Box) -> Image:
        """Return the pixels of a part of the image: H x W x 3 uint8 RGB.

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
def open_image(path: str | Path) -> Iterator[ImageSource]:
    """Open an image of any size.

    Raises:
        DataError: It cannot be read: missing, damaged, of a kind that is not read; or it has to be decoded whole
            and is larger than `LARGEST_DECODED` or than the memory.
    """
    path = Path(path)
    with opened(path, LARGEST_READ) as image:
        tiff, placed = image.format == "TIFF", _is_placed(image)
    rasterio, tifffile = rasterio_or_none(), tifffile_or_none()
    if placed and rasterio is not None:
        with closing(GeoTiff(rasterio, path)) as raster:
            yield raster
    elif tiff and tifffile is not None:
        with closing(TiledTiff(tifffile, path)) as tiles:
            yield tiles
    else:
        hint = (
            'install what reads TIFF by tiles: pip install "fullyconv[large]"' if tiff else "save it as tiled TIFF"
        )
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


def read_header(path: str | Path) -> Header:
    """Read what is to be known of an image before it is opened.

    Raises:
        DataError: It cannot be opened.
    """
    if is_item(path):
        return Header(image_size(path), ".png", False, False)
    with opened(path, LARGEST_READ) as image:
        tiff, placed = image.format == "TIFF", _is_placed(image)
        kept = placed and rasterio_or_none() is not None
        suffix = ".tif" if kept or (tiff and tifffile_or_none() is not None) else ".png"
        return Header(upright_size(image), suffix, placed, kept)


def _is_placed(image: PillowImage.Image) -> bool:
    return any(tag in getattr(image, "tag_v2", {}) for tag in GEO_TAGS)
