"""Areas of an image as annotation tools write them, polygons and run lengths: drawn into masks, traced from masks.

Coordinates are pixels, x to the right and y down, with integers on the borders between pixels: the pixel of row r
and column c is the square from (c, r) to (c + 1, r + 1), and belongs to the areas that its centre lies in. So what
`trace` finds is drawn as the same pixels again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fullyconv.errors import DataError, show_path
from fullyconv.shapes import Size

__all__ = ["Annotation", "Area", "Drawn", "Polygon", "Runs", "circle", "keyhole", "rectangle", "trace"]

Bits: TypeAlias = npt.NDArray[np.bool_]
Ring: TypeAlias = npt.NDArray[np.float64]
"""N x 2: the corners (x, y) of a closed line; the last one is joined to the first."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """What lies within an odd number of rings.

    Attributes:
        rings: The outline, and holes.
    """

    rings: tuple[Ring, ...]

    def draw(self, values: npt.NDArray[np.uint8], value: int) -> None:
        """Set the pixels of H x W `values` whose centre lies inside. What is beyond the image is left out."""
        height, width = values.shape
        starts = np.concatenate(self.rings)
        ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in self.rings])
        # From top to bottom whichever way a ring runs, so that a line there and back is crossed twice at one x.
        down = (starts[:, 1] < ends[:, 1])[:, None]
        upper, lower = np.where(down, starts, ends), np.where(down, ends, starts)
        first, last = (np.clip(_centres_before(points[:, 1]), 0, height) for points in (upper, lower))
        crossed = last - first
        if not crossed.any():
            return
        edge = np.repeat(np.arange(len(starts)), crossed)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
        (x, y), (to_x, to_y) = upper[edge].T, lower[edge].T
        column = np.clip(_centres_before(x + (row + 0.5 - y) * (to_x - x) / (to_y - y)), 0, width)
        top, left, right = row.min(), column.min(), column.max()
        crossings = np.zeros((row.max() + 1 - top, right + 1 - left), np.int32)
        np.add.at(crossings, (row - top, column - left), 1)
        inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
        values[top : top + len(inside), left:right][inside] = value

    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of its outline, whose corners are integers."""
        (left, top), (right, bottom) = self.rings[0].min(axis=0), self.rings[0].max(axis=0)
        return int(left), int(top), int(right), int(bottom)

    def pixels(self) -> int:
        """How many pixels it has, if its corners are integers."""
        around = [
            ring[:, 0] * np.roll(ring[:, 1], -1) - np.roll(ring[:, 0], -1) * ring[:, 1] for ring in self.rings
        ]
        outline, *holes = (round(abs(float(parts.sum())) / 2) for parts in around)
        return outline - sum(holes)

    def moved(self, right: float, down: float) -> "Polygon":
        """The same shape at another place."""
        return Polygon(tuple(ring + np.array([right, down]) for ring in self.rings))

    def digest(self) -> bytes:
        """What tells it from others."""
        return b"".join(b"ring" + np.ascontiguousarray(ring).tobytes() for ring in self.rings)


def _centres_before(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many of the pixel centres 0.5, 1.5, ... lie before a position, negative left of the image."""
    return np.ceil(positions - 0.5).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Runs:
    """Pixels as the lengths of runs, the first of pixels outside, then inside, outside, and so on.

    Attributes:
        lengths: Of the runs, int64, 0 allowed; their sum is the number of pixels.
        size: (height, width) of the image.
        by_columns: Whether pixels are counted down columns (COCO) or along rows.
    """

    lengths: npt.NDArray[np.int64]
    size: Size
    by_columns: bool = False

    @classmethod
    def of(cls, bits: Bits, *, by_columns: bool = False) -> "Runs":
        """The runs of H x W pixels."""
        line = bits.ravel("F" if by_columns else "C")
        borders = np.flatnonzero(np.diff(line, prepend=False))
        lengths = np.diff(borders, prepend=0, append=line.size).astype(np.int64)
        return cls(lengths, (bits.shape[0], bits.shape[1]), by_columns)

    def bits(self) -> Bits:
        """H x W: whether a pixel is inside."""
        inside = np.arange(len(self.lengths)) % 2 == 1
        return np.repeat(inside, self.lengths).reshape(self.size, order="F" if self.by_columns else "C")

    def draw(self, values: npt.NDArray[np.uint8], value: int) -> None:
        """Set the pixels of `values`, of the same size, that are inside."""
        values[self.bits()] = value

    def digest(self) -> bytes:
        """What tells it from others."""
        return b"runs" + repr((self.size, self.by_columns)).encode() + self.lengths.tobytes()


Area: TypeAlias = Polygon | Runs


class Drawn(Protocol):
    """A mask that no file holds as it is."""

    def draw(self, size: Size) -> npt.NDArray[np.uint8]:
        """Draw H x W uint8 mask values for an image of `size`, (height, width).

        Raises:
            DataError: The image has another size, or something cannot be read.
        """
        ...

    def digest(self) -> str:
        """What tells it from other masks, 64 hex digits."""
        ...

    def __str__(self) -> str:
        """Its name for messages: file and place."""
        ...


@dataclass(frozen=True, eq=False)
class Annotation:
    """A mask that is drawn when it is read.

    Attributes:
        source: The file that it comes from.
        areas: Mask values and their areas; later ones cover earlier ones.
        background: The value where there is no area.
        size: (height, width) of the image as the file says; None if it does not.
        name: Of the image, where the file has several.
    """

    source: Path
    areas: tuple[tuple[int, Area], ...]
    background: int = 0
    size: Size | None = None
    name: str = ""

    def draw(self, size: Size) -> npt.NDArray[np.uint8]:
        """Draw H x W uint8 mask values.

        Raises:
            DataError: The image has another size than the file says, or than an area made of runs.
        """
        stated = [self.size, *(area.size for _, area in self.areas if isinstance(area, Runs))]
        for given in stated:
            if given is not None and given != size:
                raise DataError(
                    f"{show_path(str(self))}: expected annotations of an image of {size[0]} x {size[1]} pixels "
                    f"(height x width), got {given[0]} x {given[1]}",
                    hint="the image was resized or turned since it was annotated: take the original",
                )
        values = np.full(size, self.background, np.uint8)
        for value, area in self.areas:
            area.draw(values, value)
        return values

    def digest(self) -> str:
        """SHA-256 of the areas and their values, 64 hex digits."""
        sha = hashlib.sha256(repr((self.background, self.size)).encode())
        for value, area in self.areas:
            sha.update(bytes([value]) + area.digest())
        return sha.hexdigest()

    def __str__(self) -> str:
        return f"{self.source}{f' ({self.name})' if self.name else ''}"


# ---- from masks ----


def trace(bits: Bits) -> list[Polygon]:
    """Outline areas along the borders of pixels. Pixels that touch at a corner alone belong to different areas.

    Args:
        bits: H x W, where to look.

    Returns:
        A polygon for each area, from top to bottom: its outline, then its holes. All corners are integers.
    """
    corners = _corners(bits)
    rings = [corners[ring] for ring in _closed_lines(corners)]
    # Where a ring is highest, and there leftmost, the pixel below and right of that corner is inside the line.
    tops = [ring[np.lexsort((ring[:, 0], ring[:, 1]))[0], :2] for ring in rings]
    order = sorted(range(len(rings)), key=lambda i: (tops[i][1], tops[i][0]))
    ring_at = np.full((bits.shape[0], bits.shape[1] + 1), -1, np.int64)
    for index, ring in enumerate(rings):
        for (x, y), (_, to_y) in zip(ring[1::2, :2], np.roll(ring, -1, axis=0)[1::2, :2], strict=True):
            ring_at[min(y, to_y) : max(y, to_y), x] = index
    parts: dict[int, list[int]] = {}
    outline_of: dict[int, int] = {}
    for index in order:
        x, y = tops[index]
        if bits[y, x]:
            outline_of[index] = index
            parts[index] = [index]
        else:  # A hole: the nearest line on the left, one row above it, is the outline or a hole of the same area.
            before = ring_at[y - 1, : x + 1]
            outline = outline_of[int(before[np.flatnonzero(before >= 0)[-1]])]
            outline_of[index] = outline
            parts[outline].append(index)
    return [Polygon(tuple(rings[i][:, :2].astype(np.float64) for i in indices)) for indices in parts.values()]


def _corners(bits: Bits) -> npt.NDArray[np.int64]:
    """Where borders turn: N x 4 of x, y, whether it goes on to the right, whether it goes on downwards."""
    padded = np.pad(bits, 1)
    # The four pixels around each corner of a pixel.
    up_left, up_right, down_left, down_right = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    odd = up_left ^ up_right ^ down_left ^ down_right
    found = []
    # One or three of them are inside: the border leaves on the sides where neighbours differ.
    y, x = np.nonzero(odd)
    found.append(np.stack([x, y, (up_right ^ down_right)[y, x], (down_left ^ down_right)[y, x]], axis=1))
    # Two across from each other: a corner of each.
    for pair, right in ((up_left & down_right, down_right), (up_right & down_left, up_right)):
        y, x = np.nonzero(pair & ~odd & (up_left ^ up_right))
        falling = np.full(len(x), right is down_right)
        for goes_right in (False, True):
            down = falling if goes_right else ~falling
            found.append(np.stack([x, y, np.full(len(x), goes_right), down], axis=1))
    return np.concatenate(found).astype(np.int64)


def _closed_lines(corners: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    """The corners of each ring in order; the first line is level, the next upright, and so on."""
    x, y, right, down = corners.T
    beside, beyond = (np.empty(len(corners), np.int64) for _ in range(2))
    # On a level line corners are joined two by two, where two lie on one spot the one that ends there comes first.
    for partner, order in ((beside, np.lexsort((right, x, y))), (beyond, np.lexsort((down, y, x)))):
        partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    pairs = list(zip(beside.tolist(), beyond.tolist(), strict=True))
    left = bytearray(b"\1" * len(pairs))
    for start in range(len(pairs)):
        ring = []
        while left[start]:
            across = pairs[start][0]
            left[start] = left[across] = 0
            ring += [start, across]
            start = pairs[across][1]
        if ring:
            yield ring


def keyhole(polygon: Polygon) -> Ring:
    """One ring for a polygon with holes: a line leads to each hole and the same way back."""
    outline, *holes = polygon.rings
    home = outline[:1]
    parts: Sequence[Ring] = [outline, *(part for hole in holes for part in (home, hole, hole[:1]))]
    return np.concatenate([*parts, home] if holes else parts)


def rectangle(x: float, y: float, to_x: float, to_y: float) -> Polygon:
    """What lies between two corners."""
    return Polygon((np.array([(x, y), (to_x, y), (to_x, to_y), (x, to_y)], np.float64),))


def circle(x: float, y: float, radius: float, corners: int = 256) -> Polygon:
    """What lies within a distance, as a polygon of many corners."""
    turn = np.arange(corners) * (2 * np.pi / corners)
    return Polygon((np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1),))
