"""A huge image in bands of rows, predicted anywhere in any order, and put together to the mask of the whole."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.folders import Folder
from fullyconv.predict import Predictor, Read
from fullyconv.shapes import Mask, Pixels, Size
from fullyconv.sources import open_image
from fullyconv.sources.blocks import BLOCK
from fullyconv.tiles import Box, Halo, cut, window_of

__all__ = ["BANDS", "HUGE", "Joined", "cut_bands", "predict_band"]

BANDS = ".fullyconv/bands"

HUGE = 64_000_000
"""Pixels from which on an image is cut, where its parts can be read by themselves."""

LEAST_HALOS, MOST_HALOS = 2, 8
"""Rows of a band in halos: of the fewest a third is computed twice, of the most a tenth."""


def cut_bands(predictor: Predictor, size: Size, workers: int) -> list[Box]:
    """Cut an image into areas of its full width, as many for each worker as for any other.

    Args:
        predictor: Whose halo each band needs.
        size: (height, width) of the image in pixels.
        workers: How many there are.

    Returns:
        The areas, from top to bottom; none where the network may see the whole image.
    """
    if predictor.halo is None:
        return []
    halo = predictor.halo.before + predictor.halo.after
    rounds = math.ceil(size[0] / (MOST_HALOS * halo * workers))
    rows = max(math.ceil(size[0] / (rounds * workers)), math.ceil(LEAST_HALOS * halo))
    return [tile.area for tile in cut(size, (rows, size[1]), predictor.halo, predictor.tile_grid)]


def predict_band(predictor: Predictor, path: Path, area: Box, confidence: bool, out: Path) -> None:
    """Predict a band from its window: the area and its halo.

    Args:
        predictor: The model.
        path: The image.
        area: One of those of `cut_bands`.
        confidence: Whether the probability of each pixel's class is wanted, too.
        out: The .npz file: H x W uint8 class indices as `mask`, 0..255 for 0..1 as `confidence`.
    """
    with open_image(path, predictor.image_form) as source:
        window = window_of(area, source.size, predictor.halo or Halo(0, 0), predictor.tile_grid)
        read = _shifted(source.read, window)
        mask = np.empty(window.size, np.uint8)
        grey = np.empty(window.size if confidence else (0, 0), np.uint8)
        if confidence:
            for box, classes, values in predictor.confidence_parts(window.size, read):
                mask[box.slices], grey[box.slices] = classes, np.rint(values * 255)
        else:
            for box, classes in predictor.mask_parts(window.size, read):
                mask[box.slices] = classes
    inner = area.within(window).slices
    np.savez_compressed(out, mask=mask[inner], confidence=grey[inner])


def _shifted(read: Read, window: Box) -> Read:
    """Read the parts of a window, counted from its corner."""

    def shifted(box: Box) -> Pixels:
        return read(Box(box.top + window.top, box.left, box.bottom + window.top, box.right))

    return shifted


def band_name(key: str, area: Box) -> str:
    """Where a band of the image with a key is kept until all are there."""
    return f"{bands_of(key)}/{area.top}-{area.bottom}.npz"


def bands_of(key: str) -> str:
    """The folder of an image's bands."""
    return f"{BANDS}/{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


class Joined:
    """Stands in for the predictor where an image's bands are there.

    `predict_files` writes from them what it would write of the whole.

    Args:
        predictor: The model.
        folder: Of the job.
        key: Of the image.
        areas: Of its bands.
        look: Whether the pixels are looked at, too: for an overlay.
    """

    def __init__(self, predictor: Predictor, folder: Folder, key: str, areas: list[Box], look: bool) -> None:
        self.class_table, self.image_form = predictor.class_table, predictor.image_form
        self._folder, self._key, self._areas, self._look = folder, key, areas, look

    def is_exact(self, size: Size) -> bool:
        """Bands are."""
        return True

    def mask_parts(self, size: Size, read: Read, rows: int | None = None) -> Iterator[tuple[Box, Mask]]:
        """As of `Predictor`."""
        for box, mask, _ in self.confidence_parts(size, read):
            yield box, mask

    def confidence_parts(self, size: Size, read: Read) -> Iterator[tuple[Box, Mask, npt.NDArray[np.float32]]]:
        """As of `Predictor`."""
        for area in self._areas:
            with self._folder.local(band_name(self._key, area)) as path, np.load(path) as file:
                mask, grey = file["mask"], file["confidence"]
            for top in range(0, area.bottom - area.top, BLOCK):
                bottom = min(top + BLOCK, area.bottom - area.top)
                box = Box(area.top + top, 0, area.top + bottom, size[1])
                if self._look:
                    read(box)
                yield box, mask[top:bottom], np.float32(1 / 255) * grey[top:bottom]
