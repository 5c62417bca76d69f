"""Maps as grids of their coarseness, score layers below the taps they are on: the paper's figure 3."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from fullyconv.diagrams.canvas import FIXED, INK, QUIET, SKIP, SOFT, TRAINED, UNREAD, Canvas
from fullyconv.diagrams.drawing import Drawing, grid_cells, layer
from fullyconv.stages import UPSAMPLING, Stage

__all__ = ["grids"]


def grids(drawing: Drawing) -> Figure:
    """The paper's figure 3: each map a grid of its coarseness, score layers below the taps they are on."""
    outline = drawing.outline
    path = outline.main_path
    first_score = next(index for index, stage in enumerate(path) if stage.kind == "score")
    totals = [stage for stage in path if stage.kind == "sum"]
    columns = 1 + len(outline.fixed) + first_score + 1 + len(totals) + 1
    height = _DOWN * (1 + len(totals)) + 1.15
    canvas = Canvas(_ACROSS * columns + 0.5, height)
    x, y = 0.2 + _ACROSS / 2, height - _TOP
    canvas.scene(x, y, _GRID, "image")
    _above(canvas, x, y, ("image", drawing.pixels(), f"{outline.image_channels} channels"))
    taps: dict[str, float] = {}
    for found in outline.fixed:
        before, x = x, x + _ACROSS
        taps[found.label] = x
        look = FIXED if found.is_read else UNREAD
        _between(canvas, before, x, y)
        canvas.grid(x, y, _GRID, grid_cells(found.stride), look)
        sees = f"sees {found.sees}"
        _above(canvas, x, y, (found.label, drawing.size(found), f"{found.channels} channels", sees), look.ink)
    end = _GRID / 2
    for stage in path[: first_score + 1]:
        before, x = x, x + _ACROSS
        shown, side = drawing.shown(stage), 0.8 * _GRID
        half = _GRID / 2 if stage.kind == "score" else canvas.half_width(0.14, side)
        _between(canvas, before, x, y, shown=shown, left=end, right=half)
        end = half
        if stage.kind == "score":
            canvas.grid(x, y, _GRID, grid_cells(stage.stride), TRAINED, shown=shown)
        else:
            canvas.block(x, y, 0.14, side, TRAINED, shown=shown)
        words = (stage.name, drawing.size(stage), f"{stage.channels} channels", layer(stage))
        _above(canvas, x, y, words, shown=shown)
    for total in totals:
        x, y = _fuse(canvas, drawing, total, taps, x, y)
    _prediction(canvas, drawing, x, y)
    _legend(canvas, drawing, 0.3, 0.62)
    return canvas.figure


_GRID, _ACROSS, _DOWN, _TOP = 0.96, 1.42, 2.05, 1.45
"""Inches: side of a grid, distances between the middles of columns and rows, of the first row from the top."""


def _fuse(
    canvas: Canvas, drawing: Drawing, total: Stage, taps: Mapping[str, float], x: float, y: float
) -> tuple[float, float]:
    """Draw a sum and what goes into it, one row lower and one column further; return where its map is."""
    outline, shown = drawing.outline, drawing.shown(total)
    doubling = outline.stage(total.reads[0])
    below = y - _DOWN
    canvas.arrow([(x, y - _GRID / 2 - 0.03), (x, below + 0.17)], shown=shown)
    if doubling is not None and doubling.kind in UPSAMPLING:
        words = f"{doubling.name}\n{layer(doubling)}"
        canvas.chip(x, (y + below) / 2 - 0.08, words, 1.3, TRAINED, height=0.46, shown=shown)
    for found, chain in drawing.ways(total.reads[1:]):
        tap = taps[found.label]
        start = canvas.height - _TOP - _GRID / 2 - 0.03
        canvas.arrow([(tap, start), (tap, below + _GRID / 2 + 0.03)], color=SKIP, shown=shown)
        for number, stage in enumerate(chain[:-1]):
            canvas.chip(tap, start - 0.35 - 0.36 * number, layer(stage), 0.95, TRAINED, shown=shown)
        canvas.arrow([(tap + _GRID / 2 + 0.04, below), (x - 0.16, below)], color=SKIP, shown=shown)
        if chain:
            score = chain[-1]
            canvas.grid(tap, below, _GRID, grid_cells(score.stride), TRAINED, shown=shown)
            canvas.text(tap, below - _GRID / 2 - 0.23, score.name, size=11, bold=True, shown=shown)
            words = f"{layer(score)}, {score.channels} channels"
            canvas.text(tap, below - _GRID / 2 - 0.42, words, size=8.5, color=SOFT, shown=shown)
    canvas.plus(x, below, shown=shown)
    canvas.arrow([(x + 0.16, below), (x + _ACROSS - _GRID / 2 - 0.05, below)], shown=shown)
    canvas.grid(x + _ACROSS, below, _GRID, grid_cells(total.stride), TRAINED, shown=shown)
    _above(
        canvas, x + _ACROSS, below, (total.name, drawing.size(total), f"{total.channels} channels"), shown=shown
    )
    return x + _ACROSS, below


def _prediction(canvas: Canvas, drawing: Drawing, x: float, y: float) -> None:
    """Draw the last upsampling, learned or not, and the mask."""
    outline, shown = drawing.outline, drawing.is_complete
    last = outline.stages[-1]
    learned = last.kind in UPSAMPLING
    factor = int(last.factor) if learned else outline.output_stride
    _between(canvas, x, x + _ACROSS, y, shown=shown)
    canvas.scene(x + _ACROSS, y, _GRID, "mask", shown=shown)
    how = layer(last) if learned else "bilinear"
    skips = sum(stage.kind == "sum" for stage in outline.main_path)
    # The paper's name, for what is the paper's: stride 32, halved by each skip.
    paper = (f"(FCN-{factor}s)",) if factor * 2**skips == 32 else ()
    words = ("prediction", f"{factor}x upsampled", *paper, how)
    _above(canvas, x + _ACROSS, y, words, shown=shown)


def _above(
    canvas: Canvas, x: float, y: float, words: tuple[str, ...], ink: str = INK, *, shown: bool = True
) -> None:
    """The lines above a grid, its name first."""
    bottom = y + _GRID / 2 + 0.15
    for number, line in enumerate(reversed(words)):
        is_name = number == len(words) - 1
        look: dict[str, Any] = (
            {"size": 11, "bold": True, "color": ink} if is_name else {"size": 8.5, "color": SOFT}
        )
        canvas.text(x, bottom + 0.185 * number + 0.03 * is_name, line, shown=shown, **look)


def _between(
    canvas: Canvas,
    before: float,
    x: float,
    y: float,
    *,
    shown: bool = True,
    left: float = 0.48,
    right: float = 0.48,
) -> None:
    """An arrow between two things in a row, which reach so far to the right and to the left of their middles."""
    canvas.arrow([(before + left + 0.04, y), (x - right - 0.05, y)], shown=shown)


def _legend(canvas: Canvas, drawing: Drawing, x: float, y: float) -> None:
    """Fixed and Trained, with what they are and how many parameters they have."""
    parts = ((drawing.encoder_word(), drawing.fixed_line(), FIXED), ("Trained", drawing.trained_line(), TRAINED))
    for number, (words, more, look) in enumerate(parts):
        height = y - 0.32 * number
        canvas.grid(x + 0.1, height, 0.2, 2, look)
        canvas.text(x + 0.32, height - 0.06, words, size=12, bold=True, color=look.edge, align="left")
        canvas.text(x + 1.2, height - 0.06, more, size=9, color=QUIET, align="left")
