"""The figure of a network, drawn from its outline; one file a kind of figure.

Which kind it is depends on what the network is made of, never on its name:

- *fan*: maps that are projected, or many that are summed at once, or a decoder that does not say its stages;
- *grids*: scores that go up by nothing but upsampling and sums;
- *hourglass*: everything else, a way down and a way up with features joining it.
"""

from matplotlib.figure import Figure

from fullyconv.diagrams.drawing import Drawing
from fullyconv.diagrams.fan import fan
from fullyconv.diagrams.grids import grids
from fullyconv.diagrams.hourglass import hourglass
from fullyconv.errors import UsageError
from fullyconv.stages import UPSAMPLING, Outline, Sizes

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
    drawing = Drawing(outline, sizes, step or last)
    if _meets_at_once(outline):
        return fan(drawing)
    return grids(drawing) if _is_ladder(outline) else hourglass(drawing)


def _meets_at_once(outline: Outline) -> bool:
    """Whether all maps go into one sum, or into a decoder that says no more."""
    meetings = [stage for stage in outline.main_path if stage.kind in ("sum", "whole")]
    projected = any(stage.kind in ("projection", "whole") for stage in outline.stages)
    return len(meetings) == 1 and (projected or len(meetings[0].reads) > 2)


def _is_ladder(outline: Outline) -> bool:
    """Whether scores go up by nothing but upsampling and sums, and at last to pixels."""
    kinds: list[str] = [stage.kind for stage in outline.main_path]
    if "score" not in kinds:
        return False
    rest = kinds[kinds.index("score") + 1 :]
    while rest[:1] and rest[0] in UPSAMPLING and rest[1:2] == ["sum"]:
        rest = rest[2:]
    return not rest or (len(rest) == 1 and rest[0] in UPSAMPLING)
