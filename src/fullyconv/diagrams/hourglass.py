"""Blocks in a row: down the encoder and up the decoder, features joining over skips. The lecture's figure."""

import math
from collections.abc import Mapping
from typing import Literal

from matplotlib.figure import Figure

from fullyconv.diagrams.canvas import FIXED, PLAIN, QUIET, SKIP, SOFT, TRAINED, UNREAD, Canvas, Look
from fullyconv.diagrams.drawing import TIMES, Drawing, layer, short
from fullyconv.stages import Stage

__all__ = ["hourglass"]


def hourglass(drawing: Drawing) -> Figure:
    """Blocks in a row: down the encoder, up the decoder, skips over them."""
    outline = drawing.outline
    totals = [stage for stage in outline.main_path if stage.kind == "sum"]
    columns = 1 + len(outline.fixed) + len(outline.main_path) - len(totals) + (outline.output_stride > 1)
    top = _LEVEL * sum(len(total.reads) - 1 for total in totals) + 0.3
    canvas = Canvas(_MARGIN + _PITCH * columns + _SUM * len(totals) + 0.1, 4.35 + top)
    for height, head in zip(_ROWS, ("layer", "size", "channels", "sees", "parameters"), strict=True):
        canvas.text(0.12, height, head, size=8.5, color=QUIET, align="left")
    row = _Row(canvas, _MARGIN + _PITCH / 2)
    channels = outline.image_channels
    row.block(channels, 1, PLAIN, ("image", "", drawing.pixels(), str(channels), "", ""), scene="image")
    for found in outline.fixed:
        sees, parameters = found.sees, short(found.parameters)
        words = (found.label, "", drawing.size(found), f"{found.channels:,}", sees, parameters)
        row.block(found.channels, found.stride, FIXED if found.is_read else UNREAD, words)
    end_of_fixed = row.x + _PITCH / 2
    for stage in outline.main_path:
        shown = drawing.shown(stage)
        if stage.kind == "sum":
            row.plus(stage.name, shown)
            continue
        parameters = short(stage.parameters) if stage.parameters else ""
        words = (stage.name, layer(stage), drawing.size(stage), f"{stage.channels:,}", "", parameters)
        is_mask: Literal["", "mask"] = "mask" if stage is outline.stages[-1] and stage.stride == 1 else ""
        row.block(stage.channels, stage.stride, TRAINED, words, shown=shown, scene=is_mask)
    end = row.x + _PITCH / 2 - 0.06
    if outline.output_stride > 1:
        words = ("mask", f"bilinear {TIMES}{outline.output_stride}", drawing.pixels(), "", "", "")
        row.block(1, 1, PLAIN, words, shown=drawing.is_complete, scene="mask")
    _arcs(canvas, drawing, totals, row.places)
    canvas.bracket(_MARGIN + 0.06, end_of_fixed - 0.06, 0.6, drawing.encoder_word(), drawing.fixed_line(), FIXED)
    shown = drawing.step > 1
    canvas.bracket(end_of_fixed + 0.06, end, 0.6, "Trained", drawing.trained_line(), TRAINED, shown=shown)
    return canvas.figure


_MARGIN, _PITCH, _SUM, _AXIS = 0.9, 1.2, 0.42, 3.25
"""Inches: left of the first column, from column to column, more where a sum lies between; height of the axis."""

_LEVEL = 0.45
"""Inches between the skips above each other."""

_NAMES, *_ROWS = 1.88, 1.64, 1.42, 1.2, 0.98, 0.76
"""Heights of the lines below the blocks."""


class _Row:
    """The blocks of an hourglass, from the left to the right, each linked with the one before."""

    def __init__(self, canvas: Canvas, x: float) -> None:
        self.canvas, self.x, self.end = canvas, x - _PITCH, -1.0
        self.places: dict[str, float] = {}

    def block(
        self,
        channels: int,
        stride: float,
        look: Look,
        words: tuple[str, ...],
        *,
        shown: bool = True,
        scene: Literal["", "image", "mask"] = "",
    ) -> None:
        """Draw a block one column further, with its name and what the row heads say below."""
        self.x += _PITCH
        thickness, side = _thickness(channels), _side(stride)
        half = self.canvas.half_width(thickness, side)
        if self.end > 0:
            self.canvas.arrow([(self.end + 0.06, _AXIS), (self.x - half - 0.04, _AXIS)], shown=shown)
        self.canvas.block(self.x, _AXIS, thickness, side, look, shown=shown, scene=scene)
        self.canvas.text(self.x, _NAMES, words[0], size=11, bold=True, shown=shown, color=look.ink)
        for height, line in zip(_ROWS, words[1:], strict=True):
            self.canvas.text(self.x, height, line, size=8.5, color=SOFT, shown=shown)
        self.end = self.x + half
        self.places[words[0]] = self.x

    def plus(self, name: str, shown: bool) -> None:
        """Draw the sign of a sum between two columns."""
        at = self.x + (_PITCH + _SUM) / 2
        self.canvas.arrow([(self.end + 0.06, _AXIS), (at - 0.17, _AXIS)], shown=shown)
        self.canvas.plus(at, _AXIS, shown=shown)
        self.x += _SUM
        self.end = at + 0.1
        self.places[name] = at


def _arcs(canvas: Canvas, drawing: Drawing, totals: list[Stage], places: Mapping[str, float]) -> None:
    """Skips from the encoder's blocks over the others into the sums, the last one outermost."""
    arcs = [(total, *way) for total in totals for way in drawing.ways(total.reads[1:])]
    for level, (total, found, chain) in enumerate(arcs):
        shown, side = drawing.shown(total), _side(found.stride)
        start, end = places[found.label] + 0.08 * side, places[total.name]
        top = canvas.height - 0.3 - _LEVEL * (len(arcs) - 1 - level)
        above = _AXIS + 0.58 * side + 0.04
        canvas.arrow([(start, above), (start, top), (end, top), (end, _AXIS + 0.16)], color=SKIP, shown=shown)
        words = " → ".join([found.label, *map(layer, chain)]) if chain else total.name
        middle = (start + end) / 2
        canvas.text(middle, top, words, size=10, color=SKIP, shown=shown, paper=True, anchor="center")


def _side(stride: float) -> float:
    """How high a map is drawn: its logarithm, since a 32nd could not be seen."""
    return 0.42 + 0.27 * (5 - min(math.log2(max(stride, 1)), 5))


def _thickness(channels: int) -> float:
    """How thick a map is drawn: the logarithm of its channels."""
    return 0.06 + 0.035 * math.log2(max(channels, 1))
