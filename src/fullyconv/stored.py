"""What an image file holds, number for number: any channels, 8 or 16 bits, integers or floats.

`images` turns every file into 8-bit RGB, which is what most people have; here nothing is converted. TIFF is read
by tifffile, and PNG with 16-bit colours by imagecodecs (extra `large`): Pillow reads neither as it is.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from fullyconv.array_file import is_item, item_size, read_stored_item
from fullyconv.embedded import is_embedded, open_binary
from fullyconv.errors import DataError, FullyConvError, show_path
from fullyconv.images import TIFF_BEGINNINGS, image_size, opened, raw_mode
from fullyconv.shapes import Size
from fullyconv.upright import upright

__all__ = ["CHANNELS_HINT", "explained", "is_tiff", "pillow_values", "read_stored", "stored_size", "tifffile"]

_Array: TypeAlias = npt.NDArray[Any]

_MODES = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I;16L", "I;16N", "I", "F")
CHANNELS_HINT = "a model reads what it was trained on; train, check, convert: say how many with --channels"
"""What to do about another number of channels."""

_UPRIGHT = 1
_ORIENTATION = 274


def read_stored(path: str | Path, channels: int | None = None, largest: int | None = None) -> _Array:
    """Read the numbers of an image, upright by its EXIF orientation.

    Args:
        path: An image file, or an item of an array.
        channels: How many it has to have, where that is known: another number is refused unread.
        largest: Pixels that it may have, if not as many as Pillow takes for safe.

    Returns:
        H x W x K of the file's own dtype.

    Raises:
        DataError: The file is missing, damaged, has a palette or several images, or its reader is missing.
    """
    if is_item(path):
        return read_stored_item(path)
    path = Path(path)
    if is_tiff(path) and find_spec("tifffile") is not None:
        with explained(path), open_binary(path) as data, tifffile().TiffFile(data) as file:
            if file.pages[0].tags.valueof(_ORIENTATION, _UPRIGHT) == _UPRIGHT:
                return _channels_last(file, show_path(path), channels, largest)
    with opened(path, largest) as image:
        if "16" in raw_mode(image) and image.mode in ("RGB", "RGBA", "LA"):
            return upright(image, _deep_png(path, show_path(path)))
        return upright(image, pillow_values(image, show_path(path)))


def stored_size(path: str | Path) -> Size:
    """The (height, width) of what `read_stored` gives, from the header.

    Raises:
        DataError: The file cannot be opened.
    """
    if is_item(path):
        return item_size(path)
    path = Path(path)
    if is_tiff(path) and find_spec("tifffile") is not None:
        with explained(path), open_binary(path) as data, tifffile().TiffFile(data) as file:
            page = file.pages[0]
            if page.tags.valueof(_ORIENTATION, _UPRIGHT) == _UPRIGHT:
                return page.imagelength, page.imagewidth
    return image_size(path)


def pillow_values(image: PillowImage.Image, where: str = "image") -> _Array:
    """What Pillow has of an image, H x W x K, nothing turned.

    Raises:
        DataError: It has a palette, or is of a mode that holds no plain numbers.
    """
    if image.mode not in _MODES:
        raise DataError(
            f"{where}: expected an image of plain channels, got Pillow mode {image.mode}",
            hint="leave --channels and --value-range out, or save it as grey, RGB or TIFF with more channels",
        )
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    return values.reshape(*values.shape[:2], -1)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF or BigTIFF does. What cannot be opened is left to others to complain of."""
    try:
        if not (is_embedded(path) or path.is_file()):  # opening a pipe would wait for ever
            return False
        with open_binary(path) as file:
            return file.read(4) in TIFF_BEGINNINGS
    except (OSError, DataError):
        return False


def tifffile() -> Any:
    """The library of the extra `large`."""
    return import_module("tifffile")


def _channels_last(file: Any, where: str, channels: int | None, largest: int | None) -> _Array:
    """The image of a TIFF whose channels are samples, planes or pages."""
    images = [series for series in file.series if not series.keyframe.is_reduced]
    level = images[0].levels[0]
    others = [axis for axis in level.axes if axis not in "YX"]
    if len(images) > 1 or len(others) > 1 or not {"Y", "X"} <= set(level.axes):
        raise DataError(
            f"{where}: expected one image, got {len(images)} of axes {level.axes}",
            hint="save each as a file of its own",
        )
    if (kind := level.keyframe.photometric.name) in ("PALETTE", "MINISWHITE"):
        what = "a palette" if kind == "PALETTE" else "values of which 0 is white"
        raise DataError(f"{where}: expected an image of plain channels, got {what}")
    pixels, most = level.keyframe.imagelength * level.keyframe.imagewidth, largest or _safe_pixels()
    if pixels > most:
        raise DataError(f"{where}: the image has {pixels / 1e6:.0f} million pixels, too many to be read safely")
    there = level.shape[level.axes.index(others[0])] if others else 1
    if there != (channels or there):
        raise DataError(f"{where}: expected {channels} channels, got {there}", hint=CHANNELS_HINT)
    values: _Array = level.asarray()
    place = level.axes.index(others[0]) if others else values.ndim
    values = values if others else values[..., None]
    return np.moveaxis(values, place, -1)


def _safe_pixels() -> float:
    return 2 * (PillowImage.MAX_IMAGE_PIXELS or math.inf)  # from where on Pillow refuses


def _deep_png(path: Path, where: str) -> _Array:
    """A PNG with 16 bits a channel, of which Pillow would give the upper 8."""
    if find_spec("imagecodecs") is None:
        raise DataError(
            f"{where}: colours of 16 bits need imagecodecs", hint='install it with: pip install "fullyconv[large]"'
        )
    with open_binary(path) as file:
        values: _Array = import_module("imagecodecs").png_decode(file.read())
    return values


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into a DataError that names the file."""
    try:
        yield
    except FullyConvError:
        raise
    except Exception as error:  # damaged files make readers raise a dozen kinds
        raise DataError(
            f"{show_path(path)}: cannot read the image: {show_path(str(error) or type(error).__name__)}",
            hint="the file is damaged or unreadable: replace it or take it away",
        ) from error
