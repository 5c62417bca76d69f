"""What all figures of networks share: how far they are built up, and the words for maps and layers."""

from fullyconv.shapes import Size
from fullyconv.stages import FixedMap, Outline, Sizes, Stage

__all__ = ["TIMES", "Drawing", "grid_cells", "layer", "short"]

TIMES = "\N{MULTIPLICATION SIGN}"


class Drawing:
    """A network on its way to paper.

    Args:
        outline: The network.
        sizes: Of an image in it; without, sizes are parts of the image.
        step: How far the drawing is built up.
    """

    def __init__(self, outline: Outline, sizes: Sizes | None, step: int) -> None:
        self.outline, self.sizes, self.step = outline, sizes, step

    def shown(self, stage: Stage) -> bool:
        """Whether a stage is there yet."""
        return self.outline.steps[stage.name] <= self.step

    @property
    def is_complete(self) -> bool:
        """Whether everything is there."""
        return self.step == self.outline.step_count

    def size(self, item: Stage | FixedMap) -> str:
        """The size of a map: in cells where an image is given, or else as a part of the image."""
        if self.sizes:
            return _pair(self.sizes.cells[item.name if isinstance(item, Stage) else item.label])
        if self.outline.size_policy != "pad-to-stride" and item.stride != 1:
            return f"stride {number(item.stride)}"
        part = "" if item.stride == 1 else f"/{number(item.stride)}"
        return f"H{part} {TIMES} W{part}"

    def pixels(self, scale: float = 1.0) -> str:
        """The size of the image, enlarged."""
        if self.sizes:
            return _pair(self.sizes.image if scale == 1 else self.sizes.scaled[scale])
        factor = "" if scale == 1 else f"{scale:g}"
        return f"{factor}H {TIMES} {factor}W"

    def ways(self, reads: tuple[str, ...]) -> list[tuple[FixedMap, list[Stage]]]:
        """The feature maps behind some inputs of a stage, each with the stages on its way there."""
        found = []
        for name in reads:
            chain: list[Stage] = []
            while (stage := self.outline.stage(name)) is not None:
                chain.insert(0, stage)
                name = stage.reads[0]
            found.append((self.outline.map(name), chain))
        return found

    def encoder_word(self) -> str:
        """What to call the encoder's part: Fixed, or Tuned where it was trained, too."""
        return self.outline.encoder_state.capitalize()

    def fixed_line(self) -> str:
        """What the fixed part is, and how large."""
        return f"{self.outline.encoder}, {self.outline.fixed_parameters:,} parameters"

    def trained_line(self) -> str:
        """What the trained part is, and how large."""
        return f"{self.outline.decoder}, {self.outline.trained_parameters:,} parameters"


def _pair(size: Size) -> str:
    return f"{size[0]} {TIMES} {size[1]}"


def layer(stage: Stage) -> str:
    """A layer in the fewest words."""
    side, factor = f"{stage.kernel}{TIMES}{stage.kernel}", f"{TIMES}{number(stage.factor)}"
    words = {
        "transposed conv": f"{side} transp. {factor}",
        "upsample": f"bilinear {factor}",
        "scale": f"{TIMES}{stage.factor:g}",
        "norm": "batch norm",
        "projection": f"norm, {side} conv",
        "sum": "sum",
        "whole": "decoder",
    }
    then = f", {stage.activation}" if stage.activation else ""
    return words.get(stage.kind, f"{side} conv") + then


def number(value: float) -> str:
    """A number in at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def short(count: int) -> str:
    """A count in at most four characters and a unit."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def grid_cells(stride: float) -> int:
    """Cells along a drawn grid: two at stride 32, as many more as the stride is finer."""
    return max(1, min(64, round(64 / stride)))
