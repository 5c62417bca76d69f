"""Which way up an image is meant to be seen: its EXIF orientation, which cameras write and turn no pixels."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, PngImagePlugin
from PIL import Image as PillowImage

from fullyconv.shapes import Size

__all__ = ["SIDEWAYS", "orientation", "upright", "upright_size"]

_Array = npt.NDArray[Any]

# EXIF orientation -> the array as it is meant to be seen. In `SIDEWAYS`, height and width change places.
_UPRIGHT: Mapping[int, Callable[[_Array], _Array]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
SIDEWAYS = (5, 6, 7, 8)
_ORIENTATION_KEYS = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def upright_size(image: PillowImage.Image) -> Size:
    """The (height, width) that an image has when it is upright, without decoding it."""
    if image.format == "PNG" and not _ORIENTATION_KEYS & image.info.keys():
        with suppress(Exception):  # damaged metadata of any kind say nothing about the pixels
            image.info.update(_words_behind_pixels(image))
    return image.size if orientation(image) in SIDEWAYS else image.size[::-1]


def _words_behind_pixels(image: PillowImage.Image) -> dict[Any, Any]:
    """What a PNG says of itself behind its pixels, which Pillow would decode to get there."""
    file = image.fp  # type: ignore[attr-defined]
    place, pixels, reader = file.tell(), False, PngImagePlugin.PngStream(file)
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            kind, length, behind = head[4:], int.from_bytes(head[:4], "big"), file.tell()
            pixels = pixels or kind == b"IDAT"
            if kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt") and pixels:
                reader.call(kind, behind, length)
            file.seek(behind + length + 4)
        return reader.im_info
    finally:
        file.seek(place)


def orientation(image: PillowImage.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 for none; that of PNG by Pillow decodes the pixels."""
    if image.format == "TIFF":
        return 1  # Pillow has applied it, to the size in the header too
    with suppress(Exception):  # damaged metadata of any kind say nothing about the pixels
        return int(PillowImage.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    return 1


def upright(image: PillowImage.Image, array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn pixels of an image as they are stored, H x W x ..., as they are meant to be seen."""
    turn = _UPRIGHT.get(orientation(image))
    return array if turn is None else np.ascontiguousarray(turn(array))
