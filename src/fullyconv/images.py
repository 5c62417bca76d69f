"""Read an image or a mask, write a mask PNG: the only place where image files are opened.

Files are opened by Python and decoded by Pillow from a fixed set of formats; the items of arrays are read by
`array_file`. Whatever goes wrong on the way is a `DataError` that names the file. `docs/concepts/data.md` has the
rules for users.
"""

import io
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError, features

from fullyconv.array_file import is_item, item_size, read_image_item, read_mask_item
from fullyconv.atomic import atomic_path
from fullyconv.embedded import is_embedded, open_binary
from fullyconv.errors import DataError, UsageError, show_path
from fullyconv.shapes import Image, Size
from fullyconv.upright import upright, upright_size

__all__ = [
    "IGNORED_COLOR",
    "IMAGE_SUFFIXES",
    "TIFF_BEGINNINGS",
    "image_size",
    "mask_bytes",
    "mask_mode",
    "opened",
    "raw_mode",
    "read_image",
    "read_mask_array",
    "show_path",
    "to_rgb",
    "verify_image",
    "write_image",
    "write_mask",
]

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Suffixes of files that are read as images or masks, in lower case; case does not matter in file names."""

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and BigTIFF, of either order of bytes."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF") + (("WEBP",) if features.check("webp") else ())
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
SMALLER = "cut it into parts, or raise PIL.Image.MAX_IMAGE_PIXELS in Python if you trust the file"
IGNORED_COLOR = (224, 224, 192)
"""Of value 255 in the colour map of PASCAL VOC."""

_ALLOWED = threading.Lock()  # how many pixels Pillow allows is the same for all threads
_Array = npt.NDArray[Any]


def read_image(path: str | Path) -> Image:
    """Read an image file as RGB, upright by its EXIF orientation.

    Args:
        path: A file of one of the formats of `IMAGE_SUFFIXES`; its content says which, not its name. Or an item of
            an array.

    Returns:
        H x W x 3 uint8 RGB; see `to_rgb` for the modes.

    Raises:
        DataError: The file is missing, damaged, too large, of several pages or of a mode that is not read.
    """
    if is_item(path):
        return read_image_item(path)
    with opened(path) as image:
        return upright(image, to_rgb(image, show_path(path)))


def to_rgb(image: PillowImage.Image, where: str = "image") -> Image:
    """Convert an image of any mode to RGB; its EXIF orientation is left alone.

    Grey is repeated in three channels; palettes are looked up; alpha is dropped and the colours beneath it
    kept; CMYK, YCbCr and HSV are converted by Pillow (`255 - ink`, scaled by black; Adobe's inverted files
    included). Grey of 16 bits is divided by 257, so that the full range 0..65535 becomes 0..255 whatever the
    image holds. Pillow itself reads 16-bit *colour* as its upper 8 bits.

    Args:
        image: A Pillow image.
        where: Its name for messages.

    Returns:
        H x W x 3 uint8 RGB, an array of its own.

    Raises:
        DataError: The mode is float or LAB, or a 32-bit integer image has a value outside 0..65535.
    """
    mode = image.mode
    if mode in _SIXTEEN_BIT:
        return _grey_of_16_bits(np.asarray(image).astype(np.int64), where)
    if mode in ("P", "PA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about palettes with transparency
    if mode in ("F", "LAB"):
        raise DataError(
            f"{where}: expected an image of 8 or 16 bits a channel, got Pillow mode {mode}",
            hint="a float image has no agreed range: save it as 8-bit or 16-bit PNG",
        )
    return np.array(image.convert("RGB"))


def _grey_of_16_bits(values: npt.NDArray[np.int64], where: str) -> Image:
    outside = (values < 0) | (values > 65535)
    if outside.any():
        raise DataError(
            f"{where}: expected values 0..65535, got {int(values[outside][0])}", hint="save it as 16-bit PNG"
        )
    grey = ((values + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257; 257 is odd: no ties to break
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def verify_image(path: str | Path) -> Size:
    """Decode an image to see that it can be read, at the least cost.

    Returns:
        (height, width), upright.

    Raises:
        DataError: `read_image` would fail as well.
    """
    if is_item(path):
        read_image_item(path)
        return item_size(path)
    with opened(path) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            size = upright_size(image)
            image.draft(image.mode, (1, 1))  # every byte is still parsed, an eighth of the pixels made
            image.load()
            return size
        height, width = upright(image, to_rgb(image, show_path(path))).shape[:2]
        return height, width


def read_mask_array(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read what a mask file holds, upright by its EXIF orientation, nothing scaled or looked up.

    Grey and palette masks give the numbers stored in the file: palette indices, 0 and 1 of one-bit masks,
    0..3 and 0..15 of two and four bits, and 16-bit or 32-bit integers as long as they are 0..255. An alpha
    channel is dropped if it is opaque; transparent palette entries are indices like others.

    Args:
        path: A PNG, BMP, GIF, PGM, PPM or TIFF file, or an item of an array.

    Returns:
        H x W uint8 values; H x W x 3 uint8 RGB for a mask in colours.

    Raises:
        DataError: The file cannot be read, is of a lossy format or mode, or holds a value outside 0..255.
    """
    if is_item(path):
        return read_mask_item(path)
    with opened(path) as image:
        _refuse_lossy(image, show_path(path))
        values = _stored_values(image, raw_mode(image), show_path(path))
        return upright(image, values)


def mask_mode(path: str | Path) -> str:
    """The Pillow mode of a mask, from the header: "L", "P", "1", "RGB", ...; of an item of an array "L".

    Raises:
        DataError: The file cannot be opened or is of a lossy format.
    """
    if is_item(path):
        return "L"
    with opened(path) as image:
        _refuse_lossy(image, show_path(path))
        return image.mode


def _refuse_lossy(image: PillowImage.Image, where: str) -> None:
    kind = str(image.format)
    compression = str(image.info.get("compression", ""))
    if kind == "TIFF" and ("jpeg" in compression or compression == "webp"):
        kind = f"TIFF with {compression} compression"
    if kind in ("JPEG", "MPO", "WEBP") or kind.startswith("TIFF with"):
        raise DataError(
            f"{where}: expected a mask in a lossless format, got {kind}, which blurs class borders",
            hint="export the masks again as PNG; renaming or converting the file does not repair the values",
        )


def _stored_values(image: PillowImage.Image, raw: str, where: str) -> npt.NDArray[np.uint8]:
    mode = image.mode
    if raw.endswith("I") and mode in ("1", "L"):
        raise DataError(f"{where}: mask values are stored inverted (white is zero)", hint="save the mask as PNG")
    if "16" in raw and mode in ("RGB", "RGBA", "LA"):
        raise DataError(
            f"{where}: expected a mask in 8-bit colours, got 16 bits", hint="save the mask as 8-bit PNG"
        )
    values: _Array = np.array(image)
    if mode in _SIXTEEN_BIT:
        return _within_8_bits(values, where)
    if mode in ("LA", "PA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise DataError(
                f"{where}: expected an opaque mask, got transparent pixels",
                hint="flatten the mask: every pixel needs a class value, or 255 to be ignored",
            )
        values = values[..., :-1] if mode == "RGBA" else values[..., 0]
    elif mode not in ("1", "L", "P", "RGB"):
        raise DataError(
            f"{where}: expected a grey, palette or RGB mask, got Pillow mode {mode}",
            hint="save the mask as 8-bit PNG",
        )
    # Pillow stretches grey of two and four bits to 0..255.
    scale = {"L;2": 85, "L;4": 17}.get(raw, 1) if mode == "L" else 1
    return values.astype(np.uint8) // np.uint8(scale)


def _within_8_bits(values: _Array, where: str) -> npt.NDArray[np.uint8]:
    outside = (values < 0) | (values > 255)
    if outside.any():
        row, column = (int(place[0]) for place in np.nonzero(outside))
        value = int(values[row, column])
        count = int((values == value).sum())
        raise DataError(
            f"{where}: expected mask values 0..255, got {value} "
            f"({count} pixels, first at row {row}, column {column})",
            hint="map the values to 0..254, or 255 for pixels without a class, and save the mask as 8-bit PNG",
        )
    return values.astype(np.uint8)


def image_size(path: str | Path) -> Size:
    """The size of an image or mask as `read_image` gives it, from the header.

    Returns:
        (height, width), upright.

    Raises:
        DataError: The file cannot be opened.
    """
    if is_item(path):
        return item_size(path)
    with opened(path) as image:
        return upright_size(image)


def raw_mode(image: PillowImage.Image) -> str:
    """How the pixels lie in the file, in Pillow's words, such as "L;4"; known until they are loaded."""
    tile = getattr(image, "tile", None)
    args = tile[0].args if tile else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


@contextmanager
def opened(path: str | Path, largest: int | None = None, hint: str = SMALLER) -> Iterator[PillowImage.Image]:
    """Open an image file; what fails inside the block becomes a DataError that names the file.

    Args:
        path: A file of one of the formats of `IMAGE_SUFFIXES`.
        largest: Pixels that it may have, if not as many as Pillow takes for safe.
        hint: What to do with a larger one.
    """
    path = Path(path)
    where = show_path(path)
    try:
        if not (is_embedded(path) or path.is_file()):  # opening a pipe would wait for ever
            what = "no regular file" if path.exists() else "nothing there"
            raise DataError(f"{where}: expected an image file, got {what}")
        with open_binary(path) as file, _open_pillow(file, largest) as image:
            if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a photo and its thumbnails
                raise DataError(
                    f"{where}: expected one image, got a file of several",
                    hint="save each as a file of its own",
                )
            yield image
    except DataError:
        raise
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        number = re.search(r"\d+", str(error))
        count = f"{int(number.group()) / 1e6:.0f} million pixels" if number else "many pixels"
        raise DataError(
            f"{where}: the image has {count}, too many to be read safely",
            hint=hint,
        ) from error
    except UnidentifiedImageError as error:
        hint = "the file is damaged or of another format: replace it or take it away"
        begin, length = _beginning_and_length(path)
        if begin in TIFF_BEGINNINGS:
            hint = "a TIFF of other channels or numbers than 8 or 16 bits of grey or RGB? See --channels"
        raise DataError(f"{where}: expected an image, got {length} bytes that are none", hint=hint) from error
    except Exception as error:  # damaged files make Pillow raise a dozen kinds
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(
            f"{where}: cannot read the image: {show_path(reason)}",
            hint="the file is damaged or unreadable: replace it or take it away",
        ) from error


def _beginning_and_length(path: Path) -> tuple[bytes, int]:
    with open_binary(path) as file:
        return file.read(4), file.seek(0, os.SEEK_END)


def _open_pillow(file: BinaryIO, largest: int | None) -> PillowImage.Image:
    """Open an image of at most so many pixels: what Pillow allows is in a global variable."""
    with _ALLOWED:
        usual = PillowImage.MAX_IMAGE_PIXELS
        raised = usual is not None and largest is not None and largest > usual
        try:
            PillowImage.MAX_IMAGE_PIXELS = largest if raised else usual  # it warns from there on
            image = PillowImage.open(file, formats=_FORMATS)
        finally:
            PillowImage.MAX_IMAGE_PIXELS = usual
    if raised and (pixels := image.width * image.height) > (largest or 0):
        image.close()
        raise PillowImage.DecompressionBombError(f"{pixels} pixels")
    return image


def write_mask(
    path: str | Path,
    values: npt.NDArray[np.uint8],
    color_by_value: Mapping[int, tuple[int, int, int]],
    *,
    overwrite: bool = False,
) -> None:
    """Write a mask as a palette PNG: its pixels are the values, a viewer shows the colours.

    Args:
        path: The file to make; it appears whole or not at all.
        values: H x W uint8 mask values.
        color_by_value: RGB, 0..255, of each value; others are black, and 255 is (224, 224, 192) if not given.
        overwrite: Whether a file that is there already may be replaced.

    Raises:
        UsageError: The file exists and `overwrite` is false, or it cannot be written.
    """
    _write(Path(path), _with_palette(values, color_by_value), "PNG", overwrite)


def mask_bytes(values: _Array, color_by_value: Mapping[int, tuple[int, int, int]]) -> bytes:
    """The bytes of the file that `write_mask` writes."""
    buffer = io.BytesIO()
    _with_palette(values, color_by_value).save(buffer, "PNG")
    return buffer.getvalue()


def _with_palette(values: _Array, color_by_value: Mapping[int, tuple[int, int, int]]) -> PillowImage.Image:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[255] = IGNORED_COLOR
    for value, color in color_by_value.items():
        palette[value] = color
    image = PillowImage.fromarray(np.ascontiguousarray(values))
    image.putpalette(palette.tobytes())
    return image


def write_image(path: str | Path, rgb: Image, *, overwrite: bool = False) -> None:
    """Write an image as JPEG (by a suffix .jpg or .jpeg) or PNG (any other).

    Args:
        path: The file to make; it appears whole or not at all.
        rgb: H x W x 3 uint8 RGB; for a PNG also H x W x 4, RGBA.
        overwrite: Whether a file that is there already may be replaced.

    Raises:
        UsageError: The file exists and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    _write(path, PillowImage.fromarray(np.ascontiguousarray(rgb)), kind, overwrite)


def _write(path: Path, image: PillowImage.Image, kind: str, overwrite: bool) -> None:
    try:
        with atomic_path(path, overwrite=overwrite) as temporary, temporary.open("xb") as file:
            image.save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    except OSError as error:
        raise UsageError(f"{show_path(path)}: cannot write the image: {error.strerror or error}") from error
