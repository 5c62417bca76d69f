"""Read an image or a mask, write a mask PNG: the only place where image files are opened.

Files are opened by Python and decoded by Pillow from a fixed set of formats; everything that goes wrong on the
way is a `DataError` that names the file. The rules for image modes are in `docs/concepts/data.md`.
"""

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, ImageOps
from PIL import Image as PillowImage

from fullyconv.errors import DataError, UsageError
from fullyconv.shapes import Image, Size

__all__ = [
    "IMAGE_SUFFIXES",
    "image_size",
    "mask_mode",
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

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_IGNORED_COLOR = (224, 224, 192)  # of value 255 in the palette of PASCAL VOC


def show_path(path: str | Path) -> str:
    """A path for a message: one line, printable, whatever bytes the name holds."""
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


@contextmanager
def _opened(path: str | Path) -> Iterator[PillowImage.Image]:
    """Open an image file; whatever fails inside the block becomes a DataError that names the file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{show_path(path)}: expected an image file, got {'no regular file' if path.exists() else 'nothing'}")
    try:
        with path.open("rb") as file, PillowImage.open(file, formats=_FORMATS) as image:
            yield image
    except DataError:
        raise
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise DataError(
            f"{show_path(path)}: the image is too large to be read safely: {error}",
            hint="cut it into parts; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS",
        ) from error
    except Exception as error:  # damaged files make Pillow raise a dozen kinds
        text = show_path(str(error)) or type(error).__name__
        raise DataError(f"{show_path(path)}: cannot read the image: {text}") from error


def read_image(path: str | Path) -> Image:
    with _opened(path) as image:
        return to_rgb(ImageOps.exif_transpose(image))


def verify_image(path: str | Path) -> Size:
    with _opened(path) as image:
        size = _oriented_size(image)
        image.load()
        return size


def to_rgb(image: PillowImage.Image) -> Image:
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.stack([grey] * 3, axis=2)
    if image.mode == "F":
        raise DataError("float images are not supported")
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
    return np.array(image.convert("RGB") if image.mode != "RGBA" else image)[..., :3].copy()


def read_mask_array(path: str | Path) -> npt.NDArray[np.uint8]:
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise DataError(f"{show_path(path)}: JPEG masks are lossy", hint="save masks as PNG")
        turned = ImageOps.exif_transpose(image)
        values = np.array(turned)
        if turned.mode in _SIXTEEN_BIT or turned.mode == "I":
            if values.min() < 0 or values.max() > 255:
                raise DataError(f"{show_path(path)}: mask values above 255")
        return values.astype(np.uint8)


def mask_mode(path: str | Path) -> str:
    with _opened(path) as image:
        return image.mode


def image_size(path: str | Path) -> Size:
    with _opened(path) as image:
        return _oriented_size(image)


def _oriented_size(image: PillowImage.Image) -> Size:
    width, height = image.size
    if image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
        return width, height
    return height, width


def write_mask(
    path: str | Path,
    values: npt.NDArray[np.uint8],
    color_by_value: Mapping[int, tuple[int, int, int]],
    *,
    overwrite: bool = False,
) -> None:
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[255] = _IGNORED_COLOR
    for value, color in color_by_value.items():
        palette[value] = color
    image = PillowImage.fromarray(values)
    image.putpalette(palette.tobytes())
    _write(Path(path), image, "PNG", overwrite)


def write_image(path: str | Path, rgb: Image, *, overwrite: bool = False) -> None:
    path = Path(path)
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    _write(path, PillowImage.fromarray(rgb), kind, overwrite)


def _write(path: Path, image: PillowImage.Image, kind: str, overwrite: bool) -> None:
    if not overwrite and path.exists():
        raise UsageError(f"{show_path(path)} exists already", hint="choose another folder, or allow overwriting")
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            image.save(file, kind)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
