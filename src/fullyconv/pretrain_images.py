"""The images that an autoencoder learns from: files and arrays, a part held out, what fits kept in memory."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fullyconv.config import PretrainConfig
from fullyconv.encoder import to_grey
from fullyconv.errors import DataError, UsageError
from fullyconv.image_files import find_images
from fullyconv.image_form import RGB, ImageForm
from fullyconv.shapes import Size

__all__ = ["ImageReader", "Picture", "collected", "split", "to_tensor"]

MEMORY = 2 * 10**9
"""Bytes of images that are held in memory; what does not fit is read again in every epoch."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image to learn from: a file, or an H x W x channels array."""

    id: str
    source: Path | _Array


def collected(images: Sequence[str | Path | _Array]) -> list[Picture]:
    """Find files and name arrays."""
    names = [item for item in images if not isinstance(item, np.ndarray)]
    found = [Picture(name, path) for name, path in (find_images(names) if names else {}).items()]
    arrays = [item for item in images if isinstance(item, np.ndarray)]
    for number, array in enumerate(arrays):
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
            raise UsageError(
                f"an image array has to be H x W or H x W x channels uint8, got "
                f"{' x '.join(map(str, array.shape))} {array.dtype}",
                hint="scale to 0..255 and convert with .astype('uint8')",
            )
        found.append(Picture(f"array-{number:06}", array if array.ndim == 3 else array[..., None]))
    return found


def split(pictures: Sequence[Picture], config: PretrainConfig) -> dict[str, list[Picture]]:
    """Hold a part of the images out, by their names and the seed alone."""
    if len(pictures) < 2:
        raise DataError(
            f"expected 2 images or more, got {len(pictures)}", hint="one of them is held out and measured"
        )
    drawn = sorted(
        pictures, key=lambda p: hashlib.sha256(f"{config.seed}:{p.id}".encode(errors="surrogateescape")).digest()
    )
    count = min(max(round(config.val_fraction * len(pictures)), 1), len(pictures) - 1)
    held_out = {picture.id for picture in drawn[:count]}
    return {
        "train": [picture for picture in pictures if picture.id not in held_out],
        "val": [picture for picture in pictures if picture.id in held_out],
    }


class ImageReader:
    """Reads images with the autoencoder's number of channels, and holds what fits in memory."""

    def __init__(self, form: ImageForm) -> None:
        self.form, self.channels = form, form.channels
        self._from_rgb = form.value_range is None and form.channels in (1, 3)
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0

    def sizes(self, pictures: Sequence[Picture]) -> list[Size]:
        """(height, width) of images, all of which can be read then."""
        with ThreadPoolExecutor() as workers:
            return list(workers.map(self._size, pictures))

    def _size(self, picture: Picture) -> Size:
        if isinstance(picture.source, Path):
            return (RGB if self._from_rgb else self.form).verify(picture.source)
        height, width, channels = picture.source.shape
        if channels != self.channels:
            raise UsageError(f"expected images of {self.channels} channels, {picture.id} has {channels}")
        return height, width

    def read(self, picture: Picture) -> Tensor:
        """Return an image, channels x H x W, 0..255: uint8, or float32 of a form other than grey and RGB."""
        if (held := self._held.get(picture.id)) is not None:
            return held
        file = isinstance(picture.source, Path)
        form = RGB if self._from_rgb else self.form
        pixels = to_tensor(form.read(picture.source) if isinstance(picture.source, Path) else picture.source)
        if file and self._from_rgb and self.channels == 1:
            pixels = to_grey(pixels[None].float())[0].round().byte()
        if self._held_bytes + pixels.nbytes <= MEMORY:
            self._held[picture.id] = pixels
            self._held_bytes += pixels.nbytes
        return pixels


def to_tensor(image: _Array) -> Tensor:
    """H x W x channels as channels x H x W."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
