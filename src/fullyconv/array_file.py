"""Images and masks in `.npy` arrays, read one by one without loading the array.

An item of an array has a path as if the file were a folder: `images.npy/17` is item 17 of `images.npy`, counted
from 0. So a sample's image is a path whether it lies in a file of its own or not; `images` asks here where it does
not. Arrays are mapped into memory, never unpickled, and opened anew for each item: nothing is held, and a file
that was exchanged is seen. `docs/concepts/data.md` has the rules for users.
"""

import hashlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DataError, show_path
from fullyconv.shapes import Image, Size

__all__ = [
    "ARRAY_SUFFIX",
    "image_items",
    "is_item",
    "is_rgb_item",
    "item_digest",
    "item_size",
    "mask_channels",
    "open_images",
    "open_masks",
    "open_rgb_images",
    "read_image_item",
    "read_mask_item",
    "read_stored_item",
]

ARRAY_SUFFIX = ".npy"

_Array: TypeAlias = npt.NDArray[Any]

_ONE_HOT = "[N, H, W, C] one-hot"
_INDEX = "[N, H, W] integers"


def is_item(path: str | Path) -> bool:
    """Whether a path is that of an item of an array."""
    path = Path(path)
    return path.name.isdecimal() and path.parent.suffix.lower() == ARRAY_SUFFIX


def image_items(path: Path) -> list[Path]:
    """The paths of all images of an array.

    Raises:
        DataError: It is no array of images.
    """
    return [path / str(index) for index in range(len(open_images(path)))]


def open_images(path: Path) -> _Array:
    """Map an array of images: [N, H, W, K], integers or floats.

    Values are checked when an item is read.

    Raises:
        DataError: The file is no such array.
    """
    array = _open(path)
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "iuf":
        raise _no_rgb(path, array)
    return array


def open_rgb_images(path: Path) -> _Array:
    """Map an array of images: [N, H, W, 3], float16, float32 or float64 in 0..1, or uint8; RGB.

    Raises:
        DataError: The file is no such array.
    """
    array = open_images(path)
    kinds = [np.dtype(name) for name in ("float16", "float32", "float64", "uint8")]
    if array.shape[3] != 3 or array.dtype.newbyteorder("=") not in kinds:
        raise _no_rgb(path, array)
    return array


def is_rgb_item(path: str | Path) -> bool:
    """Whether an item is of an array of 8-bit RGB images, or of floats that become such.

    Raises:
        DataError: Its array is no array of images.
    """
    array = open_images(Path(path).parent)
    return array.shape[3] == 3 and (array.dtype == np.uint8 or array.dtype.kind == "f")


def _no_rgb(path: Path, array: _Array) -> DataError:
    return DataError(
        f"{show_path(path)}: expected RGB images [N, H, W, 3], floats 0..1 or uint8, got {_described(array)}",
        hint="the colours are the last axis: np.moveaxis brings them there; other images need --channels",
    )


def open_masks(path: Path) -> _Array:
    """Map an array of masks: [N, H, W, C] one-hot, [N, H, W] or [N, H, W, 1] integers.

    Values are checked when an item is read.

    Raises:
        DataError: The file is no such array.
    """
    array = _open(path)
    one_hot = array.ndim == 4 and 2 <= array.shape[3] <= 255 and array.dtype.kind in "biuf"
    index = (array.ndim == 3 or (array.ndim == 4 and array.shape[3] == 1)) and array.dtype.kind in "biu"
    if 0 in array.shape or not (one_hot or index):
        raise DataError(
            f"{show_path(path)}: expected masks {_ONE_HOT} or {_INDEX}, got {_described(array)}",
            hint="one-hot masks have the class as last axis, 2 to 255 of them; others hold class values",
        )
    return array


def mask_channels(path: Path) -> int | None:
    """C of an array of one-hot masks; None if its masks hold class values.

    Raises:
        DataError: The file is no array of masks.
    """
    array = open_masks(path)
    return int(array.shape[3]) if _is_one_hot(array) else None


def _is_one_hot(array: _Array) -> bool:
    return array.ndim == 4 and array.shape[3] > 1


def item_size(path: str | Path) -> Size:
    """The (height, width) of an image or mask of an array, from its header."""
    _, height, width = _open(Path(path).parent).shape[:3]
    return height, width


def item_digest(path: str | Path) -> str:
    """SHA-256 of an item: dtype, shape and bytes, 64 hex digits.

    Raises:
        DataError: There is no such item.
    """
    path = Path(path)
    values = _item(_open(path.parent), path)
    sha = hashlib.sha256(f"{values.dtype.str} {values.shape}\n".encode())
    sha.update(values.tobytes())
    return sha.hexdigest()


def read_image_item(path: str | Path) -> Image:
    """Read an image of an array.

    Returns:
        H x W x 3 uint8 RGB. Floats are multiplied by 255 and rounded: exact for images that came from 8 bits,
        to 1/510 for others.

    Raises:
        DataError: There is no such item, or a float in it is not in 0..1.
    """
    path = Path(path)
    values = _item(open_rgb_images(path.parent), path)
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    wrong = ~((values >= 0) & (values <= 1))  # NaN, too
    if wrong.any():
        row, column, channel = (int(places[0]) for places in np.nonzero(wrong))
        raise DataError(
            f"{show_path(path)}: expected floats 0..1, got {values[row, column, channel]:g} "
            f"({int(wrong.sum())} values, first at row {row}, column {column}, channel {channel})",
            hint="divide values 0..255 by 255, or save the array as uint8",
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def read_stored_item(path: str | Path) -> _Array:
    """Read an image of an array as it is stored: H x W x K of the array's dtype.

    Raises:
        DataError: There is no such item.
    """
    path = Path(path)
    return _item(open_images(path.parent), path)


def read_mask_item(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read a mask of an array.

    Returns:
        H x W uint8 mask values; of a one-hot mask the channels.

    Raises:
        DataError: There is no such item, a pixel is not one-hot, or a value is not in 0..255.
    """
    path = Path(path)
    array = open_masks(path.parent)
    values = _item(array, path)
    if _is_one_hot(array):
        return _channels_of(values, show_path(path))
    values = values.reshape(values.shape[:2])
    outside = (values < 0) | (values > 255)
    if outside.any():
        row, column = (int(places[0]) for places in np.nonzero(outside))
        raise DataError(
            f"{show_path(path)}: expected mask values 0..255, got {int(values[row, column])} "
            f"({int((values == values[row, column]).sum())} pixels, first at row {row}, column {column})",
            hint="map the values to 0..254, or 255 for pixels without a class",
        )
    return values.astype(np.uint8)


def _channels_of(values: _Array, where: str) -> npt.NDArray[np.uint8]:
    """The channel of each pixel's 1; a pixel without exactly one 1 among zeros is refused."""
    ones = values == 1
    wrong = ~(ones | (values == 0)).all(axis=2) | (ones.sum(axis=2) != 1)
    if wrong.any():
        row, column = (int(places[0]) for places in np.nonzero(wrong))
        got = ", ".join(f"{float(value):g}" for value in values[row, column][:6])
        raise DataError(
            f"{where}: expected one 1 and zeros at each pixel of a one-hot mask, got {got} "
            f"({int(wrong.sum())} pixels, first at row {row}, column {column})",
            hint=f"take the argmax of soft masks; {_INDEX} can hold 255 for pixels without a class",
        )
    channels: npt.NDArray[np.uint8] = ones.argmax(axis=2).astype(np.uint8)
    return channels


def _open(path: Path) -> _Array:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a header can be wrong in many ways, and numpy raises as many kinds
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{show_path(path)}: cannot read the array: {show_path(reason)}",
            hint="a .npy file of numbers, as numpy.save writes it",
        ) from error


def _item(array: _Array, path: Path) -> _Array:
    """A copy of the item that a path names: as the file may be cut short later, nothing is kept mapped."""
    index = int(path.name)
    if index >= len(array):
        raise DataError(f"{show_path(path)}: expected an item 0..{len(array) - 1}, got {index}")
    return np.array(array[index])


def _described(array: _Array) -> str:
    return f"{array.dtype} {list(array.shape)}"
