"""Pictures put together: in rows and columns with titles, below each other; at another size; text that fits."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from fullyconv.shapes import Image

__all__ = [
    "GAP",
    "INK",
    "LINE",
    "PAPER",
    "Cell",
    "box_of",
    "fitted",
    "font_of",
    "in_rows",
    "shortened",
    "stacked",
    "zoom_of",
]

INK = (31, 35, 40)
LINE = (200, 205, 212)
PAPER = (255, 255, 255)
PANEL_WIDTH = 1600  # what a panel aims at, in pixels
GAP = 12  # between cells, in pixels
CELL = (96, 320)  # smallest and largest side of the box that an image is fitted into

Cell = tuple[str, Image]
"""A title, and what is below it."""


def box_of(columns: int) -> int:
    """The side of the square that each image of a row is fitted into."""
    return int(np.clip(PANEL_WIDTH // columns - GAP, *CELL))


def zoom_of(size: tuple[int, ...], box: int) -> float:
    """By how much an image is enlarged to fill a square, in whole steps where it grows."""
    zoom = box / max(size)
    return zoom if zoom < 1 else float(int(zoom))


def fitted(picture: Image, zoom: float) -> Image:
    """A picture at another size: pixels repeated when it grows, averaged when it shrinks."""
    height, width = (max(1, round(side * zoom)) for side in picture.shape[:2])
    kind = PillowImage.Resampling.NEAREST if zoom >= 1 else PillowImage.Resampling.BOX
    return np.asarray(PillowImage.fromarray(picture).resize((width, height), kind))


def in_rows(cells: Sequence[Sequence[Cell]]) -> Image:
    """Pictures in rows and columns, each with a thin frame and, where it has one, a title above."""
    size, font = 14, font_of(14)
    width = max(CELL[0], *(picture.shape[1] for row in cells for _, picture in row))
    heads = [round(1.7 * size) if any(title for title, _ in row) else 0 for row in cells]
    heights = [max(picture.shape[0] for _, picture in row) for row in cells]
    total = GAP + len(cells[0]) * (width + GAP), GAP + sum(heads) + sum(heights) + GAP * len(cells)
    canvas = PillowImage.new("RGB", total, PAPER)
    pen = ImageDraw.Draw(canvas)
    top = GAP
    for row, head, height in zip(cells, heads, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            left = GAP + column * (width + GAP)
            pen.text((left, top), shortened(title, font, width), INK, font)
            x, y = left + (width - picture.shape[1]) // 2, top + head + (height - picture.shape[0]) // 2
            pen.rectangle((x - 1, y - 1, x + picture.shape[1], y + picture.shape[0]), outline=LINE)
            canvas.paste(PillowImage.fromarray(picture), (x, y))
        top += head + height + GAP
    return np.asarray(canvas)


def stacked(pictures: Sequence[Image]) -> Image:
    """Pictures below each other, centred on white."""
    width = max(picture.shape[1] for picture in pictures)
    canvas = np.full((sum(picture.shape[0] for picture in pictures), width, 3), PAPER, np.uint8)
    top = 0
    for picture in pictures:
        height, columns = picture.shape[:2]
        left = (width - columns) // 2
        canvas[top : top + height, left : left + columns] = picture
        top += height
    return canvas


@lru_cache(maxsize=8)
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font has no umlauts, Greek or Cyrillic."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A text that fits a width, its end replaced by dots where it does not."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
