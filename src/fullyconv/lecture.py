"""The lecture's figures: image and class maps stacked, the mask alone, and the mask pasted half transparent.

"Fully Convolutional Network (FCN)", Prof. Seungchul Lee, Industrial AI Lab, slides 10 and 15. There a pixel is
painted where the probability of class 1 is above 0.5. That is where its logit is above that of class 0: of two
classes the one that a prediction names, with class 0 where both are equal.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from fullyconv.class_table import ClassTable
from fullyconv.pictures import class_maps
from fullyconv.shapes import Image, Mask

__all__ = ["FIGURES", "lecture_figures", "painted"]

FIGURES = ("_lecture_maps", "_lecture_mask", "_lecture_overlay")
"""How the figures' names end."""

ALPHA = 127


def lecture_figures(image: Image, mask: Mask, table: ClassTable) -> dict[str, npt.NDArray[np.uint8]]:
    """Draw the lecture's figures of one image.

    Args:
        image: H x W x 3 uint8 RGB.
        mask: H x W uint8 class indices, 255 = ignored.
        table: The classes, in whose colours masks are painted; the lecture's is green.

    Returns:
        For each of `FIGURES`: image and one binary map a class below each other (RGB, with titles); the mask alone
        (H x W x 4 uint8 RGBA); the image with the mask pasted on it (H x W x 3 uint8 RGB).

    Raises:
        UsageError: Image and mask differ in size, or an index is not of this table.
    """
    stacked = class_maps(image, mask, table, columns=1)
    alone = painted(mask, table)
    picture, paint = PillowImage.fromarray(image), PillowImage.fromarray(alone)
    picture.paste(paint, mask=paint)
    return dict(zip(FIGURES, (stacked, alone, np.asarray(picture)), strict=True))


def painted(mask: Mask, table: ClassTable) -> npt.NDArray[np.uint8]:
    """Paint every class but the first in its colour with an opacity of 127 of 255.

    Args:
        mask: H x W uint8 class indices, 255 = ignored, which stays transparent like class 0.
        table: The classes.

    Returns:
        H x W x 4 uint8 RGBA; (0, 0, 0, 0) where nothing is painted.
    """
    palette = np.zeros((256, 4), np.uint8)
    palette[1 : table.num_classes, :3] = table.colors[1:]
    palette[1 : table.num_classes, 3] = ALPHA
    return palette[mask]
