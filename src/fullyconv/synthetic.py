"""Draws a labelled surface-inspection data set: metal under a camera, with scratches, pits, stains, inclusions.

A surface is a height field and a colour. Light from one side turns slopes into highlights and shadows, so that
a pit gets its rim light and a scratch its bright flank from the geometry alone. What looks like a defect and is
none (machining lines, dust, printed marks, specular patches, shadows) is drawn as well, before the defects.

Everything is drawn `_OVERSAMPLING` times larger and averaged down; a pixel belongs to a defect that covers at
least half of it. Coordinates are (x, y) in oversampled pixels unless a name says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFilter

from fullyconv.errors import UsageError
from fullyconv.shapes import Image, Mask, Size

__all__ = ["CLASS_COLORS", "CLASS_NAMES", "MIN_SIDE", "draw_sample", "write_dataset"]

CLASS_NAMES = ("surface", "scratch", "pit", "stain", "inclusion")
"""Names of the classes; a class's index is its place here and 0 is the sound surface."""

CLASS_COLORS = ((38, 43, 51), (240, 228, 66), (213, 94, 0), (86, 180, 233), (204, 121, 167))
"""RGB of each class: slate, then four colours of Okabe and Ito's palette for all kinds of colour vision."""

MIN_SIDE = 8
"""The smallest height or width that can be drawn, in pixels."""

_SCRATCH, _PIT, _STAIN, _INCLUSION = 1, 2, 3, 4
_OVERSAMPLING = 2
_REFERENCE_SIDE = 256
"""Sizes of defects are given in pixels of an image of this side; they grow with the root of the side."""

_Field: TypeAlias = npt.NDArray[np.float32]
_Rng: TypeAlias = np.random.Generator
_Window: TypeAlias = tuple[slice, slice]


@dataclass
class _Scene:
    """A surface being drawn, oversampled.

    Attributes:
        height: H x W, float32, in oversampled pixels; only its slopes are seen.
        color: H x W x 3, float32, 0..1: reflectance before light.
        mask: h x w, uint8: class indices at the size of the finished image.
        light: (x, y) of the direction that the light comes from, length 1.
        grain: Angle of rolling, brushing or grinding marks, radians.
        unit: Oversampled pixels that one pixel of a reference image takes.
    """

    height: _Field
    color: _Field
    mask: Mask
    light: tuple[float, float]
    grain: float
    unit: float

    @property
    def shape(self) -> Size:
        """(height, width) of the oversampled canvas."""
        height, width = self.height.shape
        return height, width

    def window(self, points: npt.NDArray[np.float64], margin: float) -> _Window | None:
        """The part of the canvas around points, aligned to finished pixels; None where nothing is left."""
        low = np.floor((points.min(axis=0) - margin) / _OVERSAMPLING).astype(int)
        high = np.ceil((points.max(axis=0) + margin) / _OVERSAMPLING).astype(int)
        rows, columns = self.mask.shape
        left, right = max(int(low[0]), 0), min(int(high[0]), columns)
        top, bottom = max(int(low[1]), 0), min(int(high[1]), rows)
        if left >= right or top >= bottom:
            return None
        k = _OVERSAMPLING
        return slice(top * k, bottom * k), slice(left * k, right * k)

    def label(self, window: _Window, coverage: _Field, index: int) -> None:
        """Gives the finished pixels that a defect covers by half or more its class index."""
        k = _OVERSAMPLING
        target = self.mask[
            window[0].start // k : window[0].stop // k, window[1].start // k : window[1].stop // k
        ]
        target[_shrink(coverage) >= 0.5] = index

    def tint(self, window: _Window, coverage: _Field, factor: tuple[float, float, float]) -> None:
        """Multiplies the colour by a factor where covered."""
        change = np.asarray(factor, np.float32) - 1
        self.color[window] *= 1 + coverage[..., None] * change


def _shrink(field: _Field) -> _Field:
    k = _OVERSAMPLING
    rows, columns = field.shape[0] // k, field.shape[1] // k
    blocks = field.reshape(rows, k, columns, k, *field.shape[2:])
    mean: _Field = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def _noise(rng: _Rng, shape: Size, along: float, across: float, angle: float = 0.0) -> _Field:
    """Smooth random field of unit variance before smoothing: random cells, along x across, turned by angle."""
    height, width = shape
    cos, sin = math.cos(angle), math.sin(angle)
    columns = math.ceil((abs(width * cos) + abs(height * sin)) / along) + 4
    rows = math.ceil((abs(width * sin) + abs(height * cos)) / across) + 4
    grid = PilImage.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    x0 = columns / 2 - (cos * width + sin * height) / 2 / along
    y0 = rows / 2 - (-sin * width + cos * height) / 2 / across
    matrix = (cos / along, sin / along, x0, -sin / across, cos / across, y0)
    kind = PilImage.Resampling.BICUBIC if min(along, across) > 4 else PilImage.Resampling.BILINEAR
    return np.asarray(grid.transform((width, height), PilImage.Transform.AFFINE, matrix, kind), np.float32)


def _blur(field: _Field, radius: float) -> _Field:
    """Gaussian blur of a 0..1 field; 8 bits are enough for coverages and shadows."""
    image = PilImage.fromarray(np.clip(field * 255, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _fill(window: _Window, polygons: list[tuple[npt.NDArray[np.float64], int]]) -> _Field:
    """Antialiased polygons in a window, each with a value 0..255, as a 0..1 field."""
    fine = 2
    rows, columns = window[0].stop - window[0].start, window[1].stop - window[1].start
    canvas = PilImage.new("L", (columns * fine, rows * fine))
    pen = ImageDraw.Draw(canvas)
    origin = np.array([window[1].start, window[0].start])
    for points, value in polygons:
        pen.polygon([(float(x), float(y)) for x, y in (points - origin) * fine], fill=value)
    return np.asarray(canvas.reduce(fine), np.float32) / 255


def _grid(window: _Window, center: npt.NDArray[np.float64]) -> tuple[_Field, _Field]:
    """The x and y distances of a window's pixel centres from a point."""
    y = np.arange(window[0].start, window[0].stop, dtype=np.float32) + np.float32(0.5 - center[1])
    x = np.arange(window[1].start, window[1].stop, dtype=np.float32) + np.float32(0.5 - center[0])
    return x[None, :], y[:, None]


# --- the material ---------------------------------------------------------------------------------------------


def _brushed(rng: _Rng, scene: _Scene) -> _Field:
    streaks = _noise(rng, scene.shape, 90 * scene.unit, 1.3, scene.grain)
    bands = _noise(rng, scene.shape, 200 * scene.unit, 5 * scene.unit, scene.grain)
    scene.height += 0.35 * streaks + 0.3 * bands
    return 0.05 * streaks + 0.035 * bands


def _rolled(rng: _Rng, scene: _Scene) -> _Field:
    streaks = _noise(rng, scene.shape, 40 * scene.unit, 2.5, scene.grain)
    waves = _noise(rng, scene.shape, 60 * scene.unit, 14 * scene.unit, scene.grain)
    grain = _noise(rng, scene.shape, 2.2, 2.2)
    scene.height += 0.22 * streaks + 0.5 * waves + 0.22 * grain
    return 0.025 * streaks + 0.04 * waves + 0.02 * grain


def _cast(rng: _Rng, scene: _Scene) -> _Field:
    lumps = _noise(rng, scene.shape, 11 * scene.unit, 11 * scene.unit)
    skin = _noise(rng, scene.shape, 4.5 * scene.unit, 4.5 * scene.unit)
    grain = _noise(rng, scene.shape, 2, 2)
    scene.height += 1.4 * lumps + 0.8 * skin + 0.3 * grain
    return 0.03 * lumps + 0.03 * skin + 0.03 * grain


def _turned(rng: _Rng, scene: _Scene) -> _Field:
    """Marks of a lathe or a face mill: arcs around a centre far outside."""
    height, width = scene.shape
    side = max(height, width)
    distance = rng.uniform(0.8, 2.5) * side
    center = np.array([width / 2, height / 2]) + distance * np.array(
        [-math.sin(scene.grain), math.cos(scene.grain)]
    )
    x, y = _grid((slice(0, height), slice(0, width)), center)
    radius = np.sqrt(x * x + y * y)
    start = float(radius.min())
    line = rng.standard_normal(int(radius.max() - start) + 3).astype(np.float32)
    line += 0.8 * np.sin(np.arange(line.size, dtype=np.float32) * np.float32(2 * math.pi / (6 * scene.unit)))
    steps = (radius - start).astype(np.int32)
    rest = radius - start - steps
    grooves: _Field = line[steps] * (1 - rest) + line[steps + 1] * rest
    grooves *= 1 + 0.4 * _noise(rng, scene.shape, 30 * scene.unit, 30 * scene.unit)
    scene.height += 0.3 * grooves
    return 0.035 * grooves


_MATERIALS: tuple[Callable[[_Rng, _Scene], _Field], ...] = (_brushed, _rolled, _cast, _turned)

_TINTS = ((1.0, 1.0, 1.0), (0.95, 1.0, 1.06), (1.05, 1.0, 0.94), (1.0, 1.01, 0.97), (0.97, 1.0, 1.02))


def _surface(rng: _Rng, size: Size) -> _Scene:
    k = _OVERSAMPLING
    shape = size[0] * k, size[1] * k
    angle = rng.uniform(0, 2 * math.pi)
    scene = _Scene(
        height=np.zeros(shape, np.float32),
        color=np.empty((*shape, 3), np.float32),
        mask=np.zeros(size, np.uint8),
        light=(math.cos(angle), math.sin(angle)),
        grain=float(rng.choice([0.0, math.pi / 2, rng.uniform(0, math.pi)])),
        unit=k * math.sqrt(min(size) / _REFERENCE_SIDE),
    )
    texture = _MATERIALS[rng.integers(len(_MATERIALS))](rng, scene)
    side = min(shape)
    texture += 0.05 * _noise(rng, shape, 0.25 * side, 0.25 * side) + 0.03 * _noise(
        rng, shape, 0.06 * side, 0.06 * side
    )
    base = rng.uniform(0.36, 0.58)
    tint = np.asarray(_TINTS[rng.integers(len(_TINTS))], np.float32)
    scene.color[:] = (base * (1 + texture))[..., None] * tint
    return scene


# --- what is no defect ----------------------------------------------------------------------------------------


def _machining_lines(rng: _Rng, scene: _Scene) -> None:
    """Straight parallel lines along the grain, from edge to edge: scratches they are not."""
    height, width = scene.shape
    x, y = _grid((slice(0, height), slice(0, width)), np.array([width / 2, height / 2]))
    across = y * np.float32(math.cos(scene.grain)) - x * np.float32(math.sin(scene.grain))
    for _ in range(rng.integers(1, 5)):
        offset, sigma = rng.uniform(-0.5, 0.5) * max(scene.shape), rng.uniform(0.6, 1.4) * scene.unit / 2
        profile = np.exp(-(((across - np.float32(offset)) / np.float32(sigma)) ** 2))
        scene.height -= np.float32(rng.uniform(0.3, 0.9)) * profile


def _dust(rng: _Rng, scene: _Scene) -> None:
    for _ in range(rng.integers(3, 15)):
        center = rng.uniform(0, 1, 2) * scene.shape[::-1]
        radius = rng.uniform(0.5, 1.2) * scene.unit
        window = scene.window(center[None], 4 * radius)
        if window is not None:
            x, y = _grid(window, center)
            spot = np.exp(-(x * x + y * y) / np.float32(radius * radius))
            scene.color[window] += (np.float32(rng.uniform(0.15, 0.6)) * spot)[..., None]


_DIGITS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "2": "01110 10001 00001 00010 00100 01000 11111",
    "3": "11111 00010 00100 00010 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "K": "10001 10010 10100 11000 10100 10010 10001",
}


def _printed_mark(rng: _Rng, scene: _Scene) -> None:
    """A code of an ink-jet printer: flat dots without rim or depth."""
    pitch = rng.uniform(2.2, 3.4) * scene.unit
    angle = scene.grain + rng.normal(0, 0.03)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    dots = []
    for place, sign in enumerate(rng.choice(list(_DIGITS), size=rng.integers(3, 7))):
        rows = _DIGITS[str(sign)].split()
        dots += [
            (place * 6.5 + c, r) for r, row in enumerate(rows) for c, bit in enumerate(row) if bit == "1"
        ]
    origin = rng.uniform(0.05, 0.7, 2) * scene.shape[::-1]
    centers = (np.array(dots) * pitch + rng.normal(0, 0.08 * pitch, (len(dots), 2))) @ turn + origin
    window = scene.window(centers, 2 * pitch)
    if window is None:
        return
    corners = np.linspace(0, 2 * math.pi, 9)[:-1]
    disc = np.stack([np.cos(corners), np.sin(corners)], axis=1) * 0.42 * pitch
    ink = _blur(_fill(window, [(disc + center, 255) for center in centers]), 0.35 * scene.unit)
    tone = (0.55, 0.58, 0.66) if rng.random() < 0.7 else (1.3, 1.3, 1.26)
    scene.tint(window, ink * np.float32(rng.uniform(0.5, 0.95)), tone)


def _draw_distractors(rng: _Rng, scene: _Scene) -> None:
    for chance, draw in ((0.5, _machining_lines), (0.7, _dust), (0.2, _printed_mark)):
        if rng.random() < chance:
            draw(rng, scene)


# --- the defects ----------------------------------------------------------------------------------------------


def _draw_scratch(rng: _Rng, scene: _Scene) -> None:
    count = 48
    length = rng.uniform(0.25, 1.1) * min(scene.shape)
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(rng.normal(0, 0.015), 0.03, count))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / count
    path = np.cumsum(steps, axis=0)
    path += rng.uniform(0.15, 0.85, 2) * scene.shape[::-1] - path[count // 2]
    across = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    wobble = np.interp(np.arange(count), np.linspace(0, count, 9), rng.uniform(0.6, 1.3, 9))
    taper = np.minimum(1, np.minimum(np.arange(count), count - 1 - np.arange(count)) / 8 + 0.25)
    width = max(rng.uniform(1.5, 5.0) ** 1 * scene.unit, 1.5 * _OVERSAMPLING)
    half = (0.5 * width * wobble * taper)[:, None] * across
    window = scene.window(path, 3 * width)
    if window is None:
        return
    coverage = _fill(window, [(np.concatenate([path + half, (path - half)[::-1]]), 255)])
    strength = rng.uniform(0.5, 1.4)
    burr = _blur(coverage, 0.45 * width)
    scene.height[window] += np.float32(strength * width) * (0.9 * burr - 0.75 * _blur(coverage, 0.2 * width))
    tone = rng.uniform(1.12, 1.45) if rng.random() < 0.5 else rng.uniform(0.55, 0.85)
    scene.tint(window, coverage, (tone, tone, tone))
    scene.label(window, coverage, _SCRATCH)


def _draw_pit(rng: _Rng, scene: _Scene) -> None:
    home = rng.uniform(0.08, 0.92, 2) * scene.shape[::-1]
    spread = rng.uniform(5, 26) * scene.unit
    for _ in range(rng.integers(1, 12)):
        center = home + rng.normal(0, spread, 2)
        radius = float(np.clip(rng.lognormal(1.1, 0.55), 1.5, 10)) * scene.unit
        window = scene.window(center[None], 2 * radius + 2)
        if window is None:
            continue
        x, y = _grid(window, center)
        angle = np.arctan2(y, x)
        outline = np.float32(radius)
        for order in (2, 3, 5):
            outline = outline * (
                1 + np.float32(rng.uniform(0, 0.12)) * np.cos(order * angle + rng.uniform(0, 6.3))
            )
        distance = np.sqrt(x * x + y * y)
        ratio = distance / outline
        bowl = np.clip(1 - ratio**4, 0, 1)
        rim = np.exp(-(((ratio - 1.15) / 0.2) ** 2))
        scene.height[window] += np.float32(radius * rng.uniform(0.35, 0.7)) * (0.35 * rim - bowl)
        coverage: _Field = np.clip(outline - distance + 0.5, 0, 1)
        tone = rng.uniform(0.35, 0.65)
        scene.tint(window, coverage * (0.6 + 0.4 * bowl), (tone, tone, tone))
        scene.label(window, coverage, _PIT)


_STAIN_TINTS = (
    (0.86, 0.76, 0.62),
    (0.78, 0.82, 0.92),
    (0.74, 0.74, 0.72),
    (1.14, 1.12, 1.04),
    (0.9, 0.8, 0.78),
)


def _draw_stain(rng: _Rng, scene: _Scene) -> None:
    side = min(scene.shape)
    center = rng.uniform(0.1, 0.9, 2) * scene.shape[::-1]
    radii = rng.uniform(0.09, 0.2) * side * np.array([rng.uniform(0.8, 1.6), 1])
    angle = rng.uniform(0, math.pi)
    window = scene.window(center[None], 1.7 * float(radii.max()))
    if window is None:
        return
    x, y = _grid(window, center)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    distance = np.sqrt(((x * cos + y * sin) / radii[0]) ** 2 + ((y * cos - x * sin) / radii[1]) ** 2)
    shape = distance.shape
    ragged = sum(
        w * _noise(rng, shape, r * side, r * side) for w, r in ((0.28, 0.12), (0.14, 0.05), (0.06, 0.02))
    )
    level = (1 - distance.astype(np.float32) + ragged) / np.float32(rng.uniform(0.12, 0.35))
    cover: _Field = np.clip(level + 0.5, 0, 1)
    cover *= cover * (3 - 2 * cover)
    tide = np.exp(-(((level - 0.9) / 0.6) ** 2))
    inside = (
        0.75 + 0.2 * _noise(rng, shape, 0.03 * side, 0.03 * side) + np.float32(rng.uniform(0, 0.7)) * tide
    )
    tint = _STAIN_TINTS[rng.integers(len(_STAIN_TINTS))]
    scene.tint(window, np.clip(cover * inside * np.float32(rng.uniform(0.6, 1.1)), 0, 1.3), tint)
    scene.label(window, cover, _STAIN)


_CHIP_TONES = (
    (0.16, 0.15, 0.15),
    (0.3, 0.22, 0.16),
    (0.74, 0.72, 0.68),
    (0.55, 0.46, 0.28),
    (0.24, 0.27, 0.31),
)


def _draw_inclusion(rng: _Rng, scene: _Scene) -> None:
    home = rng.uniform(0.1, 0.9, 2) * scene.shape[::-1]
    tone = np.asarray(_CHIP_TONES[rng.integers(len(_CHIP_TONES))], np.float32)
    largest = rng.uniform(4, 25) * scene.unit
    for number in range(rng.integers(1, 4)):
        radius = (
            largest * rng.uniform(0.7, 1)
            if number == 0
            else max(largest * rng.uniform(0.2, 0.5), 4 * scene.unit)
        )
        center = home + (rng.normal(0, 1.6 * largest, 2) if number else 0)
        corners = rng.integers(5, 9)
        turns = np.sort((np.arange(corners) + rng.uniform(0.1, 0.9, corners)) * 2 * math.pi / corners)
        reach = radius * rng.uniform(0.65, 1.05, corners)[:, None]
        stretch = rng.uniform(0.55, 1.0)
        angle = rng.uniform(0, math.pi)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        outline = (np.stack([np.cos(turns), stretch * np.sin(turns)], axis=1) * reach) @ turn + center
        peak = center + rng.uniform(-0.3, 0.3, 2) * radius
        _place_chip(rng, scene, outline, peak, tone)


def _place_chip(
    rng: _Rng, scene: _Scene, outline: npt.NDArray[np.float64], peak: npt.NDArray[np.float64], tone: _Field
) -> None:
    window = scene.window(outline, 6 * scene.unit)
    if window is None:
        return
    coverage = _fill(window, [(outline, 255)])
    facets = []
    for a, b in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        outward = (a + b) / 2 - peak
        facing = float(outward @ np.asarray(scene.light)) / (float(np.hypot(*outward)) + 1e-6)
        facets.append(
            (np.stack([a, b, peak]), int(np.clip(120 + 70 * facing + rng.uniform(-25, 25), 20, 250)))
        )
    shade = (
        _fill(window, facets) * 2 * (1 + 0.12 * _noise(rng, coverage.shape, 3 * scene.unit, 3 * scene.unit))
    )
    fall = rng.uniform(1.5, 3.0) * scene.unit
    shadow = _fill(window, [(outline - fall * np.asarray(scene.light), 255)])
    scene.color[window] *= 1 - 0.45 * _blur(shadow, fall * 0.6)[..., None]
    scene.height[window] *= 1 - coverage
    chip = tone * shade[..., None]
    scene.color[window] += coverage[..., None] * (chip - scene.color[window])
    scene.height[window] += np.float32(0.8 * scene.unit) * _blur(coverage, 0.5 * scene.unit)
    scene.label(window, coverage, _INCLUSION)


def _draw_defects(rng: _Rng, scene: _Scene) -> None:
    if rng.random() < 0.05:
        return
    draws = (_draw_scratch, _draw_pit, _draw_stain, _draw_inclusion)
    kinds = np.sort(rng.choice(4, size=rng.integers(1, 7), p=(0.32, 0.24, 0.18, 0.26)))
    for kind in (*kinds[kinds == 2], *kinds[kinds != 2]):  # stains lie under what is cut into the metal
        draws[kind](rng, scene)


# --- the camera -----------------------------------------------------------------------------------------------


def _photograph(rng: _Rng, scene: _Scene) -> Image:
    """Lights the surface from one side and takes its picture: H x W x 3 uint8 at the finished size."""
    slope = np.zeros_like(scene.height)
    slope[:, 1:] = (scene.height[:, 1:] - scene.height[:, :-1]) * np.float32(-scene.light[0])
    slope[1:] += (scene.height[1:] - scene.height[:-1]) * np.float32(-scene.light[1])
    shade = 1 + 0.55 * np.tanh(slope * np.float32(rng.uniform(0.5, 0.9)))
    rows, columns = scene.shape
    center = rng.uniform(-0.2, 1.2, 2) * scene.shape[::-1]
    x, y = _grid((slice(0, rows), slice(0, columns)), center)
    fall = (x * x + y * y) / np.float32(rows * rows + columns * columns)
    shade *= np.float32(rng.uniform(1.0, 1.3)) * (1 - np.float32(rng.uniform(0.1, 0.45)) * fall)
    if rng.random() < 0.35:
        glare = _noise(rng, scene.shape, 0.6 * columns, 0.2 * rows, scene.grain)
        shade += np.float32(rng.uniform(0.1, 0.3)) * np.clip(glare, 0, 2)
    if rng.random() < 0.25:
        shadow = _noise(rng, scene.shape, 0.8 * columns, 0.4 * rows, rng.uniform(0, math.pi))
        shade *= 1 - np.float32(rng.uniform(0.15, 0.35)) * np.clip(4 * shadow, 0, 1)
    light = _shrink(scene.color * shade[..., None])
    light = light / (1 + np.maximum(light - 0.75, 0))  # a soft shoulder instead of hard clipping
    grain = rng.standard_normal(light.shape[:2], dtype=np.float32)[..., None]
    color_grain = rng.standard_normal(light.shape, dtype=np.float32)
    light += (
        np.float32(rng.uniform(0.008, 0.02)) * np.sqrt(np.clip(light, 0.02, 1)) * (grain + 0.4 * color_grain)
    )
    return np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8)


def draw_sample(size: Size, seed: int | tuple[int, ...]) -> tuple[Image, Mask]:
    """Draws one image of a metal surface and its mask.

    Args:
        size: (height, width) in pixels, each at least `MIN_SIDE`.
        seed: One or more non-negative integers; equal seeds give equal bytes.

    Returns:
        The H x W x 3 uint8 RGB image and the H x W uint8 mask of class indices of `CLASS_NAMES`.

    Raises:
        UsageError: If a side is too small or the seed negative.
    """
    if min(size) < MIN_SIDE:
        raise UsageError(
            f"a drawn image needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {size[0]} x {size[1]}"
        )
    numbers = (seed,) if isinstance(seed, int) else seed
    if min(numbers) < 0:
        raise UsageError(f"a seed is a whole number from 0 up, got {seed}")
    rng = np.random.default_rng(numbers)
    scene = _surface(rng, size)
    _draw_distractors(rng, scene)
    _draw_defects(rng, scene)
    return _photograph(rng, scene), scene.mask


def write_dataset(
    root: Path,
    *,
    train: int = 64,
    val: int = 16,
    test: int = 16,
    size: Size = (256, 256),
    seed: int = 0,
    image_format: Literal["png", "jpg"] = "png",
) -> None:
    """Writes a drawn data set: `images/SPLIT/NNNN.png`, `masks/SPLIT/NNNN.png` and `classes.txt`.

    A sample depends only on the seed, its split and its number: a larger set begins with the smaller one.

    Args:
        root: Folder to make; it may exist, but no data set in it.
        train: Number of training samples.
        val: Number of validation samples.
        test: Number of test samples.
        size: (height, width) of every image in pixels.
        seed: A whole number from 0 up.
        image_format: File format of the images; masks are always palette PNGs of class indices.

    Raises:
        UsageError: If the folder already holds a data set, or size or seed cannot be.
    """
    for name in ("images", "masks", "classes.txt"):
        if (root / name).exists():
            raise UsageError(f"{root} already holds {name}", hint="name a new folder or remove the old one")
    for split, (name, count) in enumerate((("train", train), ("val", val), ("test", test))):
        for number in range(count):
            image, mask = draw_sample(size, (seed, split, number))
            _write_sample(root, f"{name}/{number:04d}", image, mask, image_format)
    lines = [
        f"{i},{name},{r},{g},{b}"
        for i, (name, (r, g, b)) in enumerate(zip(CLASS_NAMES, CLASS_COLORS, strict=True))
    ]
    (root / "classes.txt").write_text("\n".join(["# index,name,r,g,b", *lines, ""]), encoding="utf-8")


def _write_sample(root: Path, stem: str, image: Image, mask: Mask, image_format: str) -> None:
    image_path = root / "images" / f"{stem}.{image_format}"
    mask_path = root / "masks" / f"{stem}.png"
    for path in (image_path, mask_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(image).save(image_path, **({"quality": 92} if image_format == "jpg" else {}))
    labels = PilImage.fromarray(mask, mode="L")
    labels.putpalette([channel for color in CLASS_COLORS for channel in color])
    labels.save(mask_path, optimize=True)
