"""Draws a labelled surface-inspection data set: metal with scratches, pits, stains and inclusions.

`surfaces` makes the metal and takes the photograph; this file carves the defects and writes the data set.
A pixel belongs to the defect that covers at least half of it; where several do, to the one drawn last.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np

from fullyconv.errors import UsageError
from fullyconv.images import write_image, write_mask
from fullyconv.shapes import Image, Mask, Size
from fullyconv.surfaces import (
    OVERSAMPLING,
    Field,
    Points,
    Scene,
    blur,
    distances,
    draw_surface,
    fill,
    noise,
    photograph,
)

__all__ = ["CLASS_COLORS", "CLASS_NAMES", "MIN_SIDE", "draw_sample", "write_dataset"]

CLASS_NAMES = ("surface", "scratch", "pit", "stain", "inclusion")
"""A class's index is its place here; 0 is the sound surface."""

CLASS_COLORS = ((38, 43, 51), (240, 228, 66), (213, 94, 0), (86, 180, 233), (204, 121, 167))
"""RGB of each class: slate, and four colours of Okabe and Ito's palette for all kinds of colour vision."""

MIN_SIDE = 8
"""The smallest height or width that can be drawn, in pixels."""

_SCRATCH, _PIT, _STAIN, _INCLUSION = 1, 2, 3, 4
_SHARES = (0.3, 0.24, 0.2, 0.26)  # of the four kinds among all defects
_SOUND_SHARE = 0.05  # of images without a defect


def _draw_scratch(rng: np.random.Generator, scene: Scene) -> None:
    """One long scratch, at times with shorter companions beside it."""
    count = 96
    length = rng.uniform(0.3, 1.2) * min(scene.shape)
    bend = rng.normal(0, 0.008) + 0.01 * np.interp(np.arange(count), np.arange(0, 101, 20), rng.normal(0, 1, 6))
    heading = rng.uniform(0, 2 * math.pi) + np.cumsum(bend + rng.normal(0, 0.012, count))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * length / count
    path += scene.place(rng, 0.15) - path[count // 2]
    aside = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    width = max(rng.uniform(1.8, 5) * scene.unit, 1.7 * OVERSAMPLING)
    bright = rng.random() < 0.6
    _cut(rng, scene, path, aside, width, bright)
    for _ in range(rng.integers(1, 4) if rng.random() < 0.25 else 0):
        start = int(rng.integers(0, count // 2))
        part = slice(start, start + int(rng.integers(count // 5, count // 2)))
        offset = rng.choice((-1, 1)) * rng.uniform(3, 9) * scene.unit
        narrow = max(0.6 * width, 1.7 * OVERSAMPLING)
        _cut(rng, scene, path[part] + offset * aside[part], aside[part], narrow, bright)


def _cut(rng: np.random.Generator, scene: Scene, path: Points, aside: Points, width: float, bright: bool) -> None:
    """Cuts a groove with ragged edges, thrown-up burrs and gaps where the tool jumped."""
    count = len(path)
    at = np.arange(count)
    pressure = np.interp(at, np.linspace(0, count, 12), rng.uniform(0.45, 1.25, 12) ** 0.7)
    ends = np.minimum(1, (np.minimum(at, count - 1 - at) + 2) / 10)
    half = 0.5 * width * pressure * ends
    left, right = (half * rng.normal(1, 0.12, count) for _ in range(2))
    ribbon = np.concatenate([path + left[:, None] * aside, (path - right[:, None] * aside)[::-1]])
    window = scene.window(path, 3 * width)
    if window is None:
        return
    groove = fill(window, [(ribbon, 255)])
    furrows = [path + (share * half)[:, None] * aside for share in (-0.35, 0.3)]
    lines = fill(window, [(np.concatenate([f, (f + 0.5 * aside)[::-1]]), 255) for f in furrows])
    deep = np.float32(rng.uniform(0.6, 1.3) * width)
    scene.height[window] += deep * (0.8 * blur(groove, 0.4 * width) - 0.7 * blur(groove, 0.18 * width))
    scene.height[window] -= np.float32(0.6) * lines
    tone = rng.uniform(1.12, 1.4) if bright else rng.uniform(0.55, 0.82)
    patchy: Field = np.clip(0.8 + 0.35 * noise(rng, groove.shape, 7 * scene.unit), 0.35, 1.3)
    scene.tint(window, groove * patchy, (tone, tone, tone))
    scene.label(window, groove, _SCRATCH)


def _draw_pit(rng: np.random.Generator, scene: Scene) -> None:
    """A cluster of small craters, at times with corrosion in them."""
    home = scene.place(rng, 0.08)
    spread = rng.uniform(5, 26) * scene.unit
    rust = rng.uniform(0.82, 0.95) if rng.random() < 0.4 else 1.0
    largest = rng.uniform(5, 10)
    for _ in range(rng.integers(2, 14)):
        center = home + rng.normal(0, spread, 2)
        radius = max(largest * rng.uniform(0.25, 1), 1.5) * scene.unit
        window = scene.window(center[None], 1.8 * radius + 2)
        if window is None:
            continue
        x, y = distances(window, center)
        around = np.arctan2(y, x)
        outline = np.full_like(around, radius)
        for order, most in ((2, 0.16), (3, 0.07), (4, 0.05), (7, 0.03)):
            wave = np.cos(order * around + np.float32(rng.uniform(0, 2 * math.pi)))
            outline *= 1 + np.float32(rng.uniform(0, most)) * wave
        distance = np.sqrt(x * x + y * y)
        ratio = distance / outline
        bowl = np.sqrt(np.clip(1 - ratio * ratio, 0, 1))
        lip = np.exp(-(((ratio - 1.06) / 0.13) ** 2))
        scene.height[window] += np.float32(radius * rng.uniform(0.3, 0.6)) * (0.13 * lip - bowl)
        coverage: Field = np.clip(outline - distance + np.float32(0.5), 0, 1)
        facing = (x * np.float32(scene.light[0]) + y * np.float32(scene.light[1])) / np.float32(radius)
        depth = np.float32(rng.uniform(0.25, 0.65)) * coverage
        depth *= 1 + np.float32(0.4) * np.clip(facing, -1, 1)
        depth *= 1 + np.float32(0.15) * noise(rng, coverage.shape, 1.5 * scene.unit)
        scene.tint(window, depth, (0.05 + 0.25 * (1 - rust), 0.05, 0.05 * rust))
        scene.label(window, coverage, _PIT)


_STAIN_TINTS = (
    (0.84, 0.74, 0.6),  # rust
    (0.77, 0.82, 0.93),  # heat
    (0.74, 0.73, 0.71),  # oil
    (1.24, 1.22, 1.12),  # dried coolant
    (0.86, 0.75, 0.72),  # preservative
)


def _draw_stain(rng: np.random.Generator, scene: Scene) -> None:
    """A large soft blot with a ragged outline and a tide mark along it."""
    side = min(scene.shape)
    center = scene.place(rng, 0.1)
    radii = rng.uniform(0.1, 0.22) * side * np.array([rng.uniform(1, 1.6), rng.uniform(0.7, 1)])
    angle = rng.uniform(0, math.pi)
    window = scene.window(center[None], 1.7 * float(radii.max()))
    if window is None:
        return
    x, y = distances(window, center)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u, v = (x * cos + y * sin) / np.float32(radii[0]), (y * cos - x * sin) / np.float32(radii[1])
    level = 1 - np.sqrt(u * u + v * v)
    for cell, weight in ((0.16, 0.3), (0.07, 0.17), (0.031, 0.09), (0.012, 0.05)):
        level += np.float32(weight) * noise(rng, level.shape, max(cell * side, 2))
    level /= np.float32(rng.uniform(0.12, 0.35))
    cover: Field = np.clip(level + np.float32(0.5), 0, 1)
    cover *= cover * (3 - 2 * cover)
    tide = np.exp(-(((level - np.float32(0.7)) / np.float32(0.5)) ** 2))
    inside = 0.7 + 0.2 * noise(rng, level.shape, 0.04 * side) + 0.1 * noise(rng, level.shape, 0.011 * side)
    inside += np.float32(rng.uniform(0, 0.6)) * tide
    strength = np.clip(cover * inside * np.float32(rng.uniform(0.75, 1.15)), 0, 1.3)
    scene.tint(window, strength, _STAIN_TINTS[rng.integers(len(_STAIN_TINTS))])
    scene.label(window, cover, _STAIN)


_CHIP_TONES = (
    (0.15, 0.145, 0.145),  # magnetite
    (0.27, 0.22, 0.19),  # slag
    (0.66, 0.65, 0.62),  # alumina
    (0.47, 0.42, 0.33),  # sand
    (0.23, 0.25, 0.275),  # scale
)


def _draw_inclusion(rng: np.random.Generator, scene: Scene) -> None:
    """A chip of other material, at times with smaller ones around it."""
    home = scene.place(rng, 0.1)
    tone = _CHIP_TONES[rng.integers(len(_CHIP_TONES))]
    largest = (5 + 20 * rng.random() ** 1.2) * scene.unit
    for number in range(rng.integers(1, 5)):
        radius = largest if number == 0 else max(largest * rng.uniform(0.2, 0.5), 4 * scene.unit)
        center = home + (rng.normal(0, 1.5 * largest, 2) if number else 0)
        corners = int(rng.integers(6, 11))
        turns = (np.arange(corners) + rng.uniform(0.05, 0.95, corners)) * (2 * math.pi / corners)
        reach = radius * rng.uniform(0.7, 1.05, corners)
        angle, stretch = rng.uniform(0, math.pi), rng.uniform(0.5, 1)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        outline = (np.stack([np.cos(turns) * reach, stretch * np.sin(turns) * reach], axis=1)) @ turn + center
        _set_chip(rng, scene, outline, center, tone)


def _set_chip(
    rng: np.random.Generator, scene: Scene, outline: Points, center: Points, tone: tuple[float, float, float]
) -> None:
    """Sets a chip into the surface: a broken plateau with bevelled sides, a gap around it and a shadow."""
    window = scene.window(outline, 6 * scene.unit)
    if window is None:
        return
    cover = fill(window, [(outline, 255)])
    corners = len(outline)
    plateau = center + (outline - center) * rng.uniform(0.35, 0.75, (corners, 1))
    light = np.asarray(scene.light)
    facets = []
    for i in range(corners):
        j = (i + 1) % corners
        outward = (outline[i] + outline[j]) / 2 - center
        facing = float(outward @ light) / (float(np.hypot(outward[0], outward[1])) + 1e-6)
        shade = int(np.clip(118 + 62 * facing + rng.uniform(-18, 18), 20, 250))
        facets.append((np.stack([outline[i], outline[j], plateau[j], plateau[i]]), shade))
    split = int(rng.integers(2, corners - 1))
    facets.append((plateau, int(rng.uniform(105, 150))))
    facets.append((plateau[: split + 1], int(rng.uniform(95, 160))))
    shape = cover.shape
    shade_field = blur(fill(window, facets), 0.25 * scene.unit) * 2
    shade_field *= 1 + 0.14 * noise(rng, shape, 2.6 * scene.unit) + 0.08 * noise(rng, shape, 1.0 * scene.unit)
    fall = rng.uniform(1.2, 2.6) * scene.unit
    shadow = fill(window, [(outline - fall * light, 255)])
    darker = 1 - 0.45 * blur(shadow, 0.6 * fall) - 0.25 * blur(cover, 0.8 * scene.unit)
    for plane, part in zip(scene.color, tone, strict=True):
        plane[window] *= darker
        plane[window] += cover * (np.float32(part) * shade_field - plane[window])
    scene.height[window] *= 1 - cover
    scene.label(window, cover, _INCLUSION)


def _draw_defects(rng: np.random.Generator, scene: Scene) -> None:
    if rng.random() < _SOUND_SHARE:
        return
    draws = (_draw_scratch, _draw_pit, _draw_stain, _draw_inclusion)
    kinds = rng.choice(len(draws), size=1 + rng.binomial(5, 0.55), p=_SHARES)
    for kind in sorted(kinds, key=lambda kind: draws[kind] is not _draw_stain):  # the rest is cut into stains
        draws[kind](rng, scene)


def draw_sample(size: Size, seed: int | tuple[int, ...]) -> tuple[Image, Mask]:
    """Draw one image of a metal surface with up to six defects, and its mask.

    Args:
        size: (height, width) in pixels, each at least `MIN_SIDE`.
        seed: One or more whole numbers from 0 up; equal seeds give equal bytes.

    Returns:
        The H x W x 3 uint8 RGB image and the H x W uint8 mask: indices of `CLASS_NAMES`, no pixel ignored.

    Raises:
        UsageError: A side is too small or a seed negative.
    """
    if min(size) < MIN_SIDE:
        raise UsageError(f"expected images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {size[0]} x {size[1]}")
    numbers = (seed,) if isinstance(seed, int) else seed
    if min(numbers) < 0:
        raise UsageError(f"expected a seed from 0 up, got {min(numbers)}")
    rng = np.random.default_rng(numbers)
    scene = draw_surface(rng, size)
    _draw_defects(rng, scene)
    return photograph(rng, scene), scene.mask


def write_dataset(
    root: str | Path,
    *,
    train: int = 64,
    val: int = 16,
    test: int = 16,
    size: Size = (256, 256),
    seed: int = 0,
    image_format: Literal["png", "jpg"] = "png",
) -> None:
    """Write a drawn data set: `images/SPLIT/NNNN.png`, `masks/SPLIT/NNNN.png` and `classes.txt`.

    A sample depends on the seed, its split and its number alone: a larger set begins with the smaller one.

    Args:
        root: Folder to make. It may exist, but hold no data set.
        train: Number of training samples.
        val: Number of validation samples.
        test: Number of test samples.
        size: (height, width) of every image in pixels.
        seed: A whole number from 0 up.
        image_format: File format of the images; masks are always palette PNGs that hold class indices.

    Raises:
        UsageError: The folder holds a data set already, a count is negative, or size or seed cannot be.
    """
    root = Path(root)
    for name in ("images", "masks", "classes.txt"):
        if (root / name).exists():
            raise UsageError(
                f"expected a folder without a data set, but {root} holds {name}", hint="name a new folder"
            )
    counts = {"train": train, "val": val, "test": test}
    for name, count in counts.items():
        if count < 0:
            raise UsageError(f"expected a number of {name} samples from 0 up, got {count}")
    color_by_value = dict(enumerate(CLASS_COLORS))
    for split, (name, count) in enumerate(counts.items()):
        for number in range(count):
            image, mask = draw_sample(size, (seed, split, number))
            image_path = root / "images" / name / f"{number:04d}.{image_format}"
            mask_path = root / "masks" / name / f"{number:04d}.png"
            image_path.parent.mkdir(parents=True, exist_ok=True)
            mask_path.parent.mkdir(parents=True, exist_ok=True)
            write_image(image_path, image)
            write_mask(mask_path, mask, color_by_value)
    rows = zip(range(len(CLASS_NAMES)), CLASS_NAMES, CLASS_COLORS, strict=True)
    lines = [f"{index},{name},{red},{green},{blue}\n" for index, name, (red, green, blue) in rows]
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("# index,name,r,g,b\n" + "".join(lines), encoding="utf-8")
