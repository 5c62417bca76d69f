"""A huge image in bands of rows, predicted anywhere in any order, and put together to the mask of the whole."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.folders import HIDDEN, Folder
from fullyconv.predict import Predictor, Read
from fullyconv.shapes import Mask, Pixels, Size
from fullyconv.sources import open_image
from fullyconv.sources.blocks import BLOCK
from fullyconv.tiles import Box, Halo, cut, window_of

__all__ = ["BANDS", "HUGE", "Joined", "cut_bands", "predict_band"]

BANDS = f"{HIDDEN}/bands"

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


def predict_band(predictor: Predictor, path: Path, area: Box, measures: Sequence[str], out: Path) -> None:
    """Predict a band from its window: the area and its halo.

    Args:
        predictor: The model.
        path: The image.
        area: One of those of `cut_bands`.
        measures: What is measured of each pixel, too: of `Predictor.measured_parts`.
        out: The .npz file: H x W uint8 class indices as `mask`, H x W float32 by the names of measures.
    """
    with open_image(path, predictor.image_form) as source:
        window = window_of(area, source.size, predictor.halo or Halo(0, 0), predictor.tile_grid)
        read = _shifted(source.read, window)
        mask = np.empty(window.size, np.uint8)
        whole = {name: np.empty(window.size, np.float32) for name in measures}
        for box, classes, measured in predictor.measured_parts(window.size, read, measures):
            mask[box.slices] = classes
            for name, values in measured.items():
                whole[name][box.slices] = values
    inner = area.within(window).slices
    arrays: dict[str, Any] = {name: values[inner] for name, values in whole.items()}
    np.savez_compressed(out, mask=mask[inner], **arrays)


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

    def measured_parts(
        self, size: Size, read: Read, measures: Sequence[str]
    ) -> Iterator[tuple[Box, Mask, dict[str, npt.NDArray[np.float32]]]]:
        """As of `Predictor`."""
        for area in self._areas:
            with self._folder.local(band_name(self._key, area)) as path, np.load(path) as file:
                mask, whole = file["mask"], {name: file[name] for name in measures}
            for top in range(0, area.bottom - area.top, BLOCK):
                bottom = min(top + BLOCK, area.bottom - area.top)
                box = Box(area.top + top, 0, area.top + bottom, size[1])
                if self._look:
                    read(box)
                yield box, mask[top:bottom], {name: values[top:bottom] for name, values in whole.items()}
