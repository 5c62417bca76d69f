"""The figure of a network, drawn from its outline; one file a kind of figure.

Which kind it is depends on what the network is made of, never on its name:

- *fan*: maps that are projected, or many that are summed at once, or a decoder that does not say its stages;
- *grids*: score layers, with or without skips between them;
- *hourglass*: everything else, a way down and a way up with features joining it.
"""

from matplotlib.figure import Figure

from fullyconv.diagrams.drawing import Drawing
from fullyconv.diagrams.fan import fan
from fullyconv.diagrams.grids import grids
from fullyconv.diagrams.hourglass import hourglass
from fullyconv.errors import UsageError
from fullyconv.stages import Outline, Sizes

__all__ = ["draw"]


def draw(outline: Outline, sizes: Sizes | None = None, step: int | None = None) -> Figure:
    """Draw a network.

    Args:
        outline: The network.
        sizes: Of an image in it, to be written instead of H/8 x W/8.
        step: How far the drawing is built up, from 1 (the encoder) to `outline.step_count`; what comes later is
            pale. All of it by default.

    Returns:
        A figure; equal outlines give equal figures.

    Raises:
        UsageError: There is no such step.
    """
    last = outline.step_count
    if step is not None and not 1 <= step <= last:
        raise UsageError(f"the figure is built up in steps 1 to {last}, got {step}")
    kinds = {stage.kind for stage in outline.stages}
    many = any(stage.kind == "sum" and len(stage.reads) > 2 for stage in outline.stages)
    drawing = Drawing(outline, sizes, step or last)
    if many or kinds & {"whole", "projection"}:
        return fan(drawing)
    return grids(drawing) if "score" in kinds else hourglass(drawing)
