"""A sheet to draw networks on: blocks, grids, arrows and words, placed in inches.

matplotlib without pyplot, as in `charts`. What is not there yet in a drawing that is built up is drawn as a
ghost: pale, with its name, in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline

__all__ = ["FIXED", "INK", "PLAIN", "QUIET", "SKIP", "SOFT", "TRAINED", "UNREAD", "Canvas", "Look"]

INK, SOFT, QUIET, GHOST = "#1f2328", "#3d444d", "#656d76", "#d3d8de"
SKIP = "#d55e00"  # Okabe and Ito, like the colours of the charts
DPI = 150


@dataclass(frozen=True)
class Look:
    """Colours of a thing: its face, two darker sides, its edge and its name."""

    face: str
    side: str
    top: str
    edge: str
    ink: str = INK


FIXED = Look("#d6e6f2", "#b5d0e4", "#e8f1f8", "#0072b2")
UNREAD = Look("#f0f3f6", "#e3e8ed", "#f7f9fa", "#a9b4be", QUIET)
TRAINED = Look("#cfeadf", "#abd8c6", "#e4f4ed", "#009e73")
PLAIN = Look("#f4f5f6", "#e3e6ea", "#fafafa", "#8b949e")
_DEPTH, _RISE = 0.20, 0.16
"""How far a solid goes back, to the right and up, for each inch of its height."""

_SHAPES = (
    ((0, 0), (1, 0), (1, 1), (0, 1)),
    ((0, 0), (1, 0), (1, 0.44), (0.8, 0.52), (0.55, 0.42), (0.3, 0.34), (0, 0.46)),
    ((0.32, 0.2), (0.68, 0.2), (0.68, 0.52), (0.5, 0.7), (0.32, 0.52)),
)
_SCENES = {
    "image": tuple(zip(("#eef1f4", "#c9d1d8", "#aab4bd"), _SHAPES, strict=True)),
    "mask": tuple(zip(("#dceaf5", "#a9dbc8", "#f0b48c"), _SHAPES, strict=True)),
}
"""A house on a hill: colours and corners in a unit square."""

_GHOST = Look("#ffffff", "#ffffff", "#ffffff", GHOST, "#c2c8cf")


class Canvas:
    """A white sheet; x to the right and y upwards, in inches.

    Args:
        width: In inches.
        height: In inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(0, height)
        self.axes.set_axis_off()

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 9,
        color: str = INK,
        bold: bool = False,
        align: str = "center",
        anchor: str = "baseline",
        shown: bool = True,
        paper: bool = False,
    ) -> None:
        """Write words on a line at a height, or around it (`anchor="center"`); `paper` clears what is behind."""
        self.axes.text(
            x,
            y,
            words,
            fontsize=size,
            color=color if shown else _GHOST.ink,
            fontweight="bold" if bold else "normal",
            ha=align,
            va=anchor,
            parse_math=False,
            zorder=6,
            linespacing=1.25,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5} if paper else None,
        )

    def block(
        self,
        x: float,
        y: float,
        thickness: float,
        side: float,
        look: Look,
        *,
        scene: Literal["", "image", "mask"] = "",
        shown: bool = True,
    ) -> None:
        """Draw a map as a solid: as high as it has rows, as thick as it has channels; (x, y) is its middle.

        A scene is painted on its right face, on which one looks at the map itself.
        """
        look = look if shown else _GHOST
        across, up = _DEPTH * side, _RISE * side
        left, bottom = x - (thickness + across) / 2, y - (side + up) / 2
        right, top = left + thickness, bottom + side
        faces = [
            (look.face, [(left, bottom), (right, bottom), (right, top), (left, top)]),
            (look.top, [(left, top), (right, top), (right + across, top + up), (left + across, top + up)]),
            (
                look.side,
                [(right, bottom), (right + across, bottom + up), (right + across, top + up), (right, top)],
            ),
        ]
        for color, corners in faces:
            self._add(Polygon(corners, facecolor=color, edgecolor=look.edge, linewidth=0.9, joinstyle="round"), 3)
        for color, shape in _SCENES[scene] if scene and shown else ():
            points = [(right + across * u, bottom + up * u + side * v) for u, v in shape]
            self._add(Polygon(points, facecolor=color, edgecolor="none"), 4)
        if scene:
            edge = Polygon(faces[-1][1], facecolor="none", edgecolor=look.edge, linewidth=0.9, joinstyle="round")
            self._add(edge, 5)

    def grid(self, x: float, y: float, side: float, cells: int, look: Look, *, shown: bool = True) -> None:
        """Draw a map as a square of cells: few of them where it is coarse; (x, y) is its middle."""
        look = look if shown else _GHOST
        left, bottom = x - side / 2, y - side / 2
        square = Rectangle((left, bottom), side, side, facecolor=look.face, edgecolor=look.edge, linewidth=1.1)
        self._add(square, 3)
        width = 0.7 if cells <= 8 else 0.45 if cells <= 16 else 0.25
        for number in range(1, cells):
            at = number * side / cells
            for along, across in (
                ((left + at,) * 2, (bottom, bottom + side)),
                ((left, left + side), (bottom + at,) * 2),
            ):
                self.axes.plot(along, across, color=look.edge, linewidth=width, zorder=4, solid_capstyle="butt")

    def scene(
        self, x: float, y: float, side: float, kind: Literal["image", "mask"], *, shown: bool = True
    ) -> None:
        """Draw a little image, or its mask; (x, y) is its middle."""
        left, bottom = x - side / 2, y - side / 2
        for color, corners in _SCENES[kind] if shown else ():
            points = [(left + side * u, bottom + side * v) for u, v in corners]
            self._add(Polygon(points, facecolor=color, edgecolor="none"), 3)
        edge = PLAIN.edge if shown else GHOST
        self._add(Rectangle((left, bottom), side, side, facecolor="none", edgecolor=edge, linewidth=1.1), 4)

    def chip(
        self, x: float, y: float, words: str, width: float, look: Look, *, height: float = 0.3, shown: bool = True
    ) -> None:
        """Draw a small layer: a rounded box with words in it."""
        look = look if shown else _GHOST
        box = FancyBboxPatch(
            (x - width / 2 + 0.05, y - height / 2 + 0.05),
            width - 0.1,
            height - 0.1,
            boxstyle="round,pad=0.05,rounding_size=0.08",
            facecolor=look.face,
            edgecolor=look.edge,
            linewidth=0.9,
        )
        self._add(box, 5)
        self.text(x, y, words, size=8, color=look.ink, anchor="center")

    def plus(self, x: float, y: float, *, shown: bool = True, radius: float = 0.13) -> None:
        """Draw the sign of a sum."""
        color = INK if shown else GHOST
        self._add(Circle((x, y), radius, facecolor="white", edgecolor=color, linewidth=1.3), 6)
        for along, across in (
            ((x - radius / 2, x + radius / 2), (y, y)),
            ((x, x), (y - radius / 2, y + radius / 2)),
        ):
            self.axes.plot(along, across, color=color, linewidth=1.3, zorder=7, solid_capstyle="round")

    def arrow(
        self, points: Sequence[tuple[float, float]], *, color: str = QUIET, shown: bool = True, head: bool = True
    ) -> None:
        """Draw a line along corners, which are rounded, with a head at its end."""
        path = _rounded(points)
        style = "-|>,head_length=4.5,head_width=2.2" if head else "-"
        self._add(
            FancyArrowPatch(
                path=path,
                arrowstyle=style,
                color=color if shown else GHOST,
                linewidth=1.2,
                joinstyle="round",
                capstyle="round",
                shrinkA=0,
                shrinkB=0,
            ),
            2,
        )

    def bracket(
        self, left: float, right: float, y: float, words: str, more: str, look: Look, *, shown: bool = True
    ) -> None:
        """Draw a bracket below a part, with its name and a line more below that."""
        color = look.edge if shown else GHOST
        tip = 0.1
        path = [(left, y + tip), (left, y), (right, y), (right, y + tip)]
        self.axes.plot(*zip(*path, strict=True), color=color, linewidth=1.6, solid_joinstyle="round", zorder=3)
        middle = (left + right) / 2
        self.text(middle, y - 0.26, words, size=14, bold=True, color=color, shown=shown)
        self.text(middle, y - 0.48, more, size=9, color=QUIET, shown=shown)

    @staticmethod
    def half_width(thickness: float, side: float) -> float:
        """From the middle of a block to its left or right end."""
        return (thickness + _DEPTH * side) / 2

    def _add(self, patch: Polygon | Rectangle | Circle | FancyBboxPatch | FancyArrowPatch, order: int) -> None:
        patch.set_zorder(order)
        self.axes.add_patch(patch)


def _rounded(points: Sequence[tuple[float, float]], radius: float = 0.1) -> Outline:
    """A path along points whose corners are rounded."""
    vertices, codes = [points[0]], [int(Outline.MOVETO)]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for other, code in ((before, Outline.LINETO), (after, Outline.CURVE3)):
            length = max(abs(other[0] - corner[0]), abs(other[1] - corner[1]))
            share = min(radius, length / 2) / length if length else 0
            end = (corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share)
            if code == Outline.CURVE3:
                vertices.append(corner)
                codes.append(int(code))
            vertices.append(end)
            codes.append(int(code))
    return Outline([*vertices, points[-1]], [*codes, int(Outline.LINETO)])
