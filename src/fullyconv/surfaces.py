"""Metal under a camera: the material, what lies on it without being a defect, the light and the photograph.

A surface is a height field and a colour. Light from one side turns slopes into highlights and shadows, so
that whatever `synthetic` carves into the height gets its bright and its dark flank from the geometry alone.

Everything is drawn `OVERSAMPLING` times larger and averaged down at the end. Coordinates are (x, y) in
oversampled pixels unless a name says otherwise; all fields are float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from fullyconv.shapes import Image, Mask, Size

__all__ = [
    "OVERSAMPLING",
    "REFERENCE_SIDE",
    "Field",
    "Points",
    "Scene",
    "Window",
    "blur",
    "distances",
    "draw_surface",
    "fill",
    "noise",
    "photograph",
]

OVERSAMPLING = 2
"""Drawn pixels for one finished pixel, along each side."""

REFERENCE_SIDE = 256
"""The smaller side of an image that lengths are given for; they grow with the root of that side."""

Field: TypeAlias = npt.NDArray[np.float32]
"""H x W, float32: one number for each oversampled pixel of the canvas or of a window of it."""

Points: TypeAlias = npt.NDArray[np.float64]
"""P x 2, float64: (x, y) in oversampled pixels."""

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a part of the canvas, whose edges are edges of finished pixels."""


@dataclass
class Scene:
    """A surface being drawn.

    Attributes:
        height: H x W, float32, in oversampled pixels: only its slopes are seen.
        color: 3 x H x W, float32, RGB, 0..1: reflectance, before light.
        mask: h x w, uint8, at the finished size: class indices.
        light: (x, y), length 1: where the light comes from.
        grain: Direction of rolling, brushing or turning marks, radians.
        unit: Oversampled pixels in one pixel of a reference image.
    """

    height: Field
    color: Field
    mask: Mask
    light: tuple[float, float]
    grain: float
    unit: float

    @property
    def shape(self) -> Size:
        """(height, width) of the canvas in oversampled pixels."""
        return self.height.shape[0], self.height.shape[1]

    @property
    def everywhere(self) -> Window:
        """The whole canvas."""
        return slice(0, self.shape[0]), slice(0, self.shape[1])

    def place(self, rng: np.random.Generator, margin: float) -> npt.NDArray[np.float64]:
        """A random point (x, y), away from the edges by a margin given as a fraction of the sides."""
        point: npt.NDArray[np.float64] = rng.uniform(margin, 1 - margin, 2) * self.shape[::-1]
        return point

    def window(self, points: Points, margin: float) -> Window | None:
        """The part of the canvas that points and a margin around them take; None where all are outside."""
        low = np.floor((points.min(axis=0) - margin) / OVERSAMPLING).astype(int)
        high = np.ceil((points.max(axis=0) + margin) / OVERSAMPLING).astype(int)
        rows, columns = self.mask.shape
        left, right = max(int(low[0]), 0), min(int(high[0]), columns)
        top, bottom = max(int(low[1]), 0), min(int(high[1]), rows)
        if left >= right or top >= bottom:
            return None
        k = OVERSAMPLING
        return slice(top * k, bottom * k), slice(left * k, right * k)

    def label(self, window: Window, coverage: Field, index: int) -> None:
        """Give the finished pixels of a window that are covered by half or more a class index."""
        rows, columns = (slice(part.start // OVERSAMPLING, part.stop // OVERSAMPLING) for part in window)
        self.mask[rows, columns][_shrink(coverage) >= 0.5] = index

    def tint(self, window: Window, coverage: Field, factors: tuple[float, float, float]) -> None:
        """Multiply red, green and blue by factors where a window is covered."""
        for plane, factor in zip(self.color, factors, strict=True):
            plane[window] *= 1 + np.float32(factor - 1) * coverage


def noise(
    rng: np.random.Generator, shape: Size, along: float, across: float | None = None, angle: float = 0.0
) -> Field:
    """A smooth random field around 0: normal numbers on a coarse grid, interpolated.

    Args:
        rng: Where the numbers come from.
        shape: (height, width) of the field.
        along: Cell length in the direction of `angle`, in pixels.
        across: Cell length across it; equal to `along` if None.
        angle: Radians.

    Returns:
        The field, with a standard deviation of 0.5 to 1.
    """
    across = along if across is None else across
    height, width = shape
    if angle in (0.0, math.pi / 2):
        cell_x, cell_y = (along, across) if angle == 0.0 else (across, along)
        size = max(2, round(height / cell_y) + 1), max(2, round(width / cell_x) + 1)
        grid = PillowImage.fromarray(rng.standard_normal(size, dtype=np.float32))
        kind = PillowImage.Resampling.BICUBIC
        return np.asarray(grid.resize((width, height), kind), np.float32)
    cos, sin = math.cos(angle), math.sin(angle)
    columns = math.ceil((abs(width * cos) + abs(height * sin)) / along) + 4
    rows = math.ceil((abs(width * sin) + abs(height * cos)) / across) + 4
    grid = PillowImage.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    x0 = columns / 2 - (cos * width + sin * height) / 2 / along
    y0 = rows / 2 - (cos * height - sin * width) / 2 / across
    matrix = (cos / along, sin / along, x0, -sin / across, cos / across, y0)
    kind = PillowImage.Resampling.BILINEAR
    return np.asarray(grid.transform((width, height), PillowImage.Transform.AFFINE, matrix, kind), np.float32)


def blur(field: Field, radius: float) -> Field:
    """Gaussian blur of a field in 0..1. It works in 8 bits, which is enough for coverages and shadows."""
    image = PillowImage.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / np.float32(255)


def fill(window: Window, polygons: list[tuple[Points, int]]) -> Field:
    """Antialiased polygons, each with a value 0..255, the later over the earlier, as a field in 0..1."""
    fine = 2
    rows, columns = (part.stop - part.start for part in window)
    canvas = PillowImage.new("L", (columns * fine, rows * fine))
    pen = ImageDraw.Draw(canvas)
    origin = np.array([window[1].start, window[0].start])
    for points, value in polygons:
        pen.polygon(((points - origin) * fine).ravel().tolist(), fill=value)
    return np.asarray(canvas.reduce(fine), np.float32) / np.float32(255)


def distances(window: Window, point: npt.NDArray[np.float64]) -> tuple[Field, Field]:
    """The x (1 x W) and y (H x 1) offsets of a window's pixel centres from a point."""
    y = np.arange(window[0].start, window[0].stop, dtype=np.float32) + np.float32(0.5 - point[1])
    x = np.arange(window[1].start, window[1].stop, dtype=np.float32) + np.float32(0.5 - point[0])
    return x[None, :], y[:, None]


def _shrink(field: Field) -> Field:
    """Averages blocks of OVERSAMPLING x OVERSAMPLING pixels over the last two axes."""
    k = OVERSAMPLING
    total = sum((field[..., i::k, j::k] for i in range(k) for j in range(k)), np.float32(0))
    return np.asarray(total, np.float32) / np.float32(k * k)


# Materials: each adds to the height and returns how much brighter or darker the metal itself is.


def _brushed(rng: np.random.Generator, scene: Scene) -> Field:
    streaks = noise(rng, scene.shape, 90 * scene.unit, 1.3, scene.grain)
    bands = noise(rng, scene.shape, 200 * scene.unit, 5 * scene.unit, scene.grain)
    grain = rng.standard_normal(scene.shape, dtype=np.float32)
    scene.height += 0.32 * streaks + 0.3 * bands + 0.1 * grain
    return 0.05 * streaks + 0.03 * bands


def _rolled(rng: np.random.Generator, scene: Scene) -> Field:
    streaks = noise(rng, scene.shape, 45 * scene.unit, 2.5, scene.grain)
    waves = noise(rng, scene.shape, 60 * scene.unit, 13 * scene.unit, scene.grain)
    grain = noise(rng, scene.shape, 1.7)
    scene.height += 0.22 * streaks + 0.5 * waves + 0.22 * grain
    tone: Field = 0.025 * streaks + 0.035 * waves + 0.02 * grain
    return tone


def _cast(rng: np.random.Generator, scene: Scene) -> Field:
    lumps = noise(rng, scene.shape, 9.3 * scene.unit)
    skin = noise(rng, scene.shape, 3.7 * scene.unit)
    sand = noise(rng, scene.shape, 1.6 * scene.unit)
    scene.height += 1.7 * lumps + 0.9 * skin + 0.35 * sand
    tone: Field = 0.03 * (lumps + skin + sand)
    return tone


def _blasted(rng: np.random.Generator, scene: Scene) -> Field:
    """Shot blasting: dense fine dents without direction."""
    dents = noise(rng, scene.shape, 2.1 * scene.unit)
    grain = rng.standard_normal(scene.shape, dtype=np.float32)
    scene.height += 0.75 * dents + 0.12 * grain
    return 0.02 * dents + 0.02 * noise(rng, scene.shape, 19 * scene.unit)


def _turned(rng: np.random.Generator, scene: Scene) -> Field:
    """Face milling: arcs around a centre far outside, a groove for each step of the feed."""
    height, width = scene.shape
    away = rng.uniform(0.8, 2.5) * max(height, width)
    center = np.array([width / 2 - away * math.sin(scene.grain), height / 2 + away * math.cos(scene.grain)])
    x, y = distances(scene.everywhere, center)
    radius = np.sqrt(x * x + y * y)
    radius -= radius.min()
    line = rng.standard_normal(int(radius.max()) + 2).astype(np.float32)
    feed = rng.uniform(4, 9) * scene.unit
    line += 0.8 * np.sin(np.arange(line.size, dtype=np.float32) * np.float32(2 * math.pi / feed))
    step = radius.astype(np.int32)
    part = radius - step
    grooves: Field = line[step] * (1 - part) + line[step + 1] * part
    grooves *= 0.8 + 0.4 * noise(rng, scene.shape, 31 * scene.unit)
    scene.height += 0.3 * grooves
    return 0.03 * grooves


_MATERIALS: tuple[Callable[[np.random.Generator, Scene], Field], ...] = (
    _brushed,
    _rolled,
    _cast,
    _blasted,
    _turned,
)

_TINTS = (
    (1.0, 1.0, 1.0),  # a monochrome line camera
    (0.96, 1.0, 1.05),  # steel under daylight
    (1.05, 1.0, 0.93),  # under a lamp
    (1.0, 1.01, 0.97),
    (0.97, 1.0, 1.02),
)


def draw_surface(rng: np.random.Generator, size: Size) -> Scene:
    """A sound surface: the material, and on half of all images things that look like defects and are none.

    Args:
        rng: Where everything random comes from.
        size: (height, width) of the finished image.

    Returns:
        A scene whose mask is 0 everywhere.
    """
    shape = size[0] * OVERSAMPLING, size[1] * OVERSAMPLING
    angle = rng.uniform(1.1, 1.9) * math.pi  # from above in the picture: lit from below, pits read as bumps
    scene = Scene(
        height=np.zeros(shape, np.float32),
        color=np.empty((3, *shape), np.float32),
        mask=np.zeros(size, np.uint8),
        light=(math.cos(angle), math.sin(angle)),
        grain=(0.0, math.pi / 2, rng.uniform(0, math.pi))[rng.integers(3)],
        unit=OVERSAMPLING * math.sqrt(min(size) / REFERENCE_SIDE),
    )
    tone = _MATERIALS[rng.integers(len(_MATERIALS))](rng, scene)
    for fraction, weight in ((0.27, 0.05), (0.07, 0.025), (0.021, 0.015)):
        tone += weight * noise(rng, shape, fraction * min(shape))
    tone = rng.uniform(0.36, 0.58) * (1 + tone)
    for plane, tint in zip(scene.color, _TINTS[rng.integers(len(_TINTS))], strict=True):
        np.multiply(tone, np.float32(tint), out=plane)
    for chance, draw in ((0.45, _machining_lines), (0.6, _dust), (0.2, _printed_code)):
        if rng.random() < chance:
            draw(rng, scene)
    return scene


def _machining_lines(rng: np.random.Generator, scene: Scene) -> None:
    """Straight parallel lines along the grain, from edge to edge: scratches neither run so nor so far."""
    x, y = distances(scene.everywhere, np.array(scene.shape[::-1]) / 2)
    across = y * np.float32(math.cos(scene.grain)) - x * np.float32(math.sin(scene.grain))
    for _ in range(rng.integers(1, 5)):
        offset = np.float32(rng.uniform(-0.5, 0.5) * max(scene.shape))
        sigma = np.float32(rng.uniform(0.3, 0.7) * scene.unit)
        scene.height -= np.float32(rng.uniform(0.3, 0.8)) * np.exp(-(((across - offset) / sigma) ** 2))


def _dust(rng: np.random.Generator, scene: Scene) -> None:
    """Specks that glint or, out of focus, are hardly there."""
    for _ in range(rng.integers(3, 15)):
        center = scene.place(rng, 0)
        radius = rng.uniform(0.4, 1.1) * scene.unit
        window = scene.window(center[None], 4 * radius)
        if window is not None:
            x, y = distances(window, center)
            glint = np.float32(rng.uniform(0.1, 0.5)) * np.exp((x * x + y * y) / np.float32(-radius * radius))
            scene.color[(slice(None), *window)] += glint


_FONT = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "2": "01110 10001 00001 00010 00100 01000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
}


def _printed_code(rng: np.random.Generator, scene: Scene) -> None:
    """A code from an ink-jet printer: rows of flat dots, where pits have depth and no order."""
    pitch = rng.uniform(2.2, 3.2) * scene.unit
    cells = []
    for place, sign in enumerate(rng.integers(len(_FONT), size=rng.integers(3, 7))):
        rows = list(_FONT.values())[sign].split()
        cells += [(place * 6.5 + c, r) for r, row in enumerate(rows) for c, bit in enumerate(row) if bit == "1"]
    angle = scene.grain + rng.normal(0, 0.03)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centers = (np.array(cells) * pitch + rng.normal(0, 0.08 * pitch, (len(cells), 2))) @ turn
    centers += rng.uniform(0.05, 0.7, 2) * scene.shape[::-1]
    window = scene.window(centers, 2 * pitch)
    if window is None:
        return
    angles = np.arange(8) * (math.pi / 4)
    dot = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 0.42 * pitch
    ink = blur(fill(window, [(dot + center, 255) for center in centers]), 0.35 * scene.unit)
    tone = (0.55, 0.58, 0.66) if rng.random() < 0.7 else (1.3, 1.3, 1.26)
    scene.tint(window, ink * np.float32(rng.uniform(0.5, 0.95)), tone)


def photograph(rng: np.random.Generator, scene: Scene) -> Image:
    """Light a surface from one side and take its picture.

    Args:
        rng: Where everything random comes from.
        scene: The surface.

    Returns:
        H x W x 3 uint8 RGB at the finished size: uneven light, fall-off, glare, shadows, sensor noise.
    """
    slope = np.zeros_like(scene.height)
    slope[:, 1:] = np.diff(scene.height, axis=1) * np.float32(-scene.light[0])
    slope[1:] += np.diff(scene.height, axis=0) * np.float32(-scene.light[1])
    shade = 1 + 0.55 * np.tanh(slope * np.float32(rng.uniform(0.5, 0.9)))
    rows, columns = scene.shape
    x, y = distances(scene.everywhere, scene.place(rng, -0.2))
    far = np.float32(rng.uniform(0.1, 0.45) / (rows * rows + columns * columns))
    shade *= np.float32(rng.uniform(1.0, 1.3)) * (1 - far * (x * x + y * y))
    if rng.random() < 0.35:
        glare = noise(rng, scene.shape, 0.6 * columns, 0.2 * rows, scene.grain)
        shade += np.float32(rng.uniform(0.1, 0.3)) * np.clip(glare, 0, 2)
    if rng.random() < 0.25:
        shadow = noise(rng, scene.shape, 0.8 * columns, 0.4 * rows, rng.uniform(0, math.pi))
        shade *= 1 - np.float32(rng.uniform(0.12, 0.3)) * np.clip(4 * shadow, 0, 1)
    light = _shrink(scene.color * shade)
    light /= 1 + np.maximum(light - np.float32(0.75), 0)  # a soft shoulder where film and eyes have one
    grain = rng.standard_normal(light.shape[1:], dtype=np.float32)
    grain = grain + 0.4 * rng.standard_normal(light.shape, dtype=np.float32)
    light += np.float32(rng.uniform(0.008, 0.02)) * np.sqrt(np.clip(light, 0.02, 1)) * grain
    pixels = np.clip(light * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
