"""A row for each feature map, all of which meet in one sum: the practical decoder's figure.

Also that of a decoder that does not say what it is made of.
"""

from matplotlib.figure import Figure

from fullyconv.diagrams.canvas import FIXED, SKIP, SOFT, TRAINED, UNREAD, Canvas
from fullyconv.diagrams.drawing import TIMES, Drawing, grid_cells, layer, short
from fullyconv.stages import FixedMap, Stage

__all__ = ["fan"]

_ROW, _SIDE = 0.9, 0.7
"""Inches: from row to row, side of a grid."""

_IMAGE, _MAP, _BRANCH, _CHIP, _KNOT = 0.62, 2.05, 4.35, 1.6, 8.25
"""Inches from the left: middle of the image and of the maps, start of the branches, from chip to chip, the sum."""


def fan(drawing: Drawing) -> Figure:
    """Draw a row for each feature map, its way to the sum, and what follows that."""
    outline = drawing.outline
    node = next(stage for stage in outline.main_path if stage.kind in ("sum", "whole"))
    after = outline.main_path[outline.main_path.index(node) + 1 :]
    ways = drawing.ways(node.reads)
    order = [found.label for found in outline.fixed]
    below = 0.6 + _ROW * sum(order.index(found.label) for found, _ in ways) / len(ways)
    # Below the last row, and below what stands below the logits, there has to be room for the brackets.
    height = max(_ROW * len(order) + 1.4, below + 1.85)
    chips = bool(node.activation) + len(after) + 0.5 * (node.kind == "whole")
    canvas = Canvas(_KNOT + 3.2 + 1.45 * chips, height)
    middle = height - below
    heights: dict[str, float] = {}
    scale = 0.0
    for row, found in enumerate(outline.fixed):
        heights[found.label] = height - 0.6 - _ROW * row
        _map(canvas, drawing, found, heights[found.label], is_first=found.scale != scale)
        scale = found.scale
    for found, chain in ways:
        _branch(canvas, drawing, chain, heights[found.label], middle, drawing.shown(node))
    x = _knot(canvas, drawing, node, middle)
    for stage in after:
        canvas.arrow([(x, middle), (x + 0.22, middle)], shown=drawing.shown(stage))
        words = f"{stage.name}\n{layer(stage)}"
        canvas.chip(x + 0.85, middle, words, 1.25, TRAINED, height=0.5, shown=drawing.shown(stage))
        x += 1.48
    last, shown = outline.stages[-1], drawing.is_complete
    canvas.arrow([(x, middle), (x + 0.22, middle)], shown=shown)
    canvas.grid(x + 0.65, middle, 0.78, grid_cells(last.stride), TRAINED, shown=shown)
    _below(canvas, x + 0.65, middle, ("logits", drawing.size(last), f"{last.channels} channels"), shown=shown)
    if outline.output_stride > 1:
        canvas.arrow([(x + 1.08, middle), (x + 1.55, middle)], shown=shown)
        canvas.scene(x + 2.0, middle, 0.78, "mask", shown=shown)
        _below(
            canvas,
            x + 2.0,
            middle,
            ("mask", drawing.pixels(), f"bilinear {TIMES}{outline.output_stride}"),
            shown=shown,
        )
    canvas.bracket(0.15, _BRANCH - 0.05, 0.62, drawing.encoder_word(), drawing.fixed_line(), FIXED)
    end = x + 1.12
    canvas.bracket(_BRANCH + 0.15, end, 0.62, "Trained", drawing.trained_line(), TRAINED, shown=drawing.step > 1)
    return canvas.figure


def _map(canvas: Canvas, drawing: Drawing, found: FixedMap, y: float, *, is_first: bool) -> None:
    """A map of the encoder, below the finer one that it is computed from; the image beside the first."""
    look = FIXED if found.is_read else UNREAD
    if is_first:
        canvas.scene(_IMAGE, y, _SIDE, "image")
        scale = "" if found.scale == 1 else f" {TIMES}{found.scale:g}"
        _below(canvas, _IMAGE, y + 0.07, (f"image{scale}", drawing.pixels(found.scale)))
        canvas.arrow([(_IMAGE + _SIDE / 2 + 0.05, y), (_MAP - _SIDE / 2 - 0.05, y)])
    else:
        canvas.arrow([(_MAP, y + _ROW - _SIDE / 2 - 0.02), (_MAP, y + _SIDE / 2 + 0.02)])
    canvas.grid(_MAP, y, _SIDE, grid_cells(found.stride), look)
    canvas.text(_MAP + 0.5, y + 0.13, found.label, size=11, bold=True, align="left", color=look.ink)
    words = f"{drawing.size(found)}\n{found.channels} channels, sees {found.sees}"
    canvas.text(_MAP + 0.5, y - 0.13, words, size=8.5, align="left", color=SOFT, anchor="center")


def _branch(canvas: Canvas, drawing: Drawing, chain: list[Stage], y: float, middle: float, shown: bool) -> None:
    """The way of one map to the sum: its stages as chips on a line."""
    start = _BRANCH
    for number, stage in enumerate(chain):
        at, width = _BRANCH + 1.0 + _CHIP * number, 1.5 if number == 0 else 1.3
        canvas.arrow([(start, y), (at - width / 2 - 0.02, y)], shown=drawing.shown(stage))
        words = layer(stage)
        if stage.parameters:
            words += f" → {stage.channels}\n{short(stage.parameters)} parameters"
        height = 0.46 if stage.parameters else 0.3
        canvas.chip(at, y, words, width, TRAINED, height=height, shown=drawing.shown(stage))
        start = at + width / 2 + 0.02
    if abs(y - middle) < 0.05:
        canvas.arrow([(start, y), (_KNOT - 0.2, y)], color=SKIP, shown=shown)
    else:
        gap = 0.2 if chain else 0.28
        stop = middle + (gap if y > middle else -gap)
        canvas.arrow([(start, y), (_KNOT, y), (_KNOT, stop)], color=SKIP, shown=shown)


def _knot(canvas: Canvas, drawing: Drawing, node: Stage, y: float) -> float:
    """Where all maps meet: the sum, or a decoder as a whole. Returns where it ends."""
    shown = drawing.shown(node)
    if node.kind == "whole":
        words = f"{node.name}\n{short(node.parameters)} parameters"
        canvas.chip(_KNOT + 0.1, y, words, 1.5, TRAINED, height=0.5, shown=shown)
        return _KNOT + 0.87
    canvas.plus(_KNOT, y, shown=shown, radius=0.17)
    end = _KNOT + 0.2
    if not node.activation:
        return end
    canvas.arrow([(end, y), (end + 0.27, y)], shown=shown)
    words = "\n".join(filter(None, (node.activation, node.note)))
    canvas.chip(end + 0.9, y, words, 1.25, TRAINED, height=0.5, shown=shown)
    return end + 1.53


def _below(canvas: Canvas, x: float, y: float, words: tuple[str, ...], *, shown: bool = True) -> None:
    """The lines below a grid, its name first."""
    for number, line in enumerate(words):
        size = 11 if number == 0 else 8.5
        canvas.text(x, y - 0.6 - 0.185 * number, line, size=size, bold=number == 0, shown=shown)
