"""Joint views of an image and its mask: mirrored, resized, recoloured.

A *view* is one fixed version of an image. Its features can be computed once and kept, so there are a few views
of each image and not a new one for every epoch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageEnhance

from fullyconv.shapes import Image, Mask, Pixels, Size

__all__ = ["PLAIN", "View", "make_views"]


@dataclass(frozen=True)
class View:
    """One version of each image.

    Attributes:
        mirror: Left and right exchanged.
        scale: The size of the view relative to the image.
        colour: 0 leaves the colours; another number draws brightness, contrast and saturation from it.
    """

    mirror: bool = False
    scale: float = 1.0
    colour: int = 0

    def apply(self, image: Pixels, seed: int = 0) -> Pixels:
        """Return this view of an image; `seed` makes the colours of RGB differ between images."""
        if self.scale != 1:
            image = _resized(image, self._width_height(image))
        if self.colour:
            image = _recolour(image, random.Random(f"{self.colour} {seed}"))
        return np.ascontiguousarray(image[:, ::-1]) if self.mirror else image

    def apply_mask(self, mask: Mask) -> Mask:
        """Return this view of an H x W mask of class indices: nearest pixel, so no new class appears."""
        if self.scale != 1:
            mask = np.asarray(
                PillowImage.fromarray(mask).resize(self._width_height(mask), PillowImage.Resampling.NEAREST)
            )
        return np.ascontiguousarray(mask[:, ::-1]) if self.mirror else mask

    def size(self, size: Size) -> Size:
        """Return the (height, width) of this view of an image of (height, width) `size`."""
        return max(1, round(size[0] * self.scale)), max(1, round(size[1] * self.scale))

    def _width_height(self, array: Pixels) -> tuple[int, int]:
        height, width = self.size(array.shape[:2])
        return width, height


PLAIN = View()
"""The image as it is."""


def _resized(image: Pixels, width_height: tuple[int, int]) -> Pixels:
    bilinear = PillowImage.Resampling.BILINEAR
    if image.dtype == np.uint8:
        return np.asarray(PillowImage.fromarray(image).resize(width_height, bilinear))
    planes = [PillowImage.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(plane.resize(width_height, bilinear)) for plane in planes], axis=2)


def _recolour(image: Image, draw: random.Random) -> Image:
    """Change brightness, contrast and saturation by up to 30 % each."""
    picture = PillowImage.fromarray(image)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(draw.uniform(0.7, 1.3))
    return np.asarray(picture)


def make_views(mirror: bool, scales: Sequence[float], colours: int) -> tuple[View, ...]:
    """List the views of a data set: every scale, plain and mirrored, as it is and in `colours` other colours."""
    return tuple(
        View(mirrored, scale, colour)
        for scale in scales
        for colour in range(colours + 1)
        for mirrored in ((False, True) if mirror else (False,))
    )
