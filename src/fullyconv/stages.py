"""What a network is made of, in a form that can be printed, drawn and checked.

A decoder says stage by stage what it computes (`Decoder.stages`), an encoder where it is read. Put together
that is an `Outline`: what the paper's figure shows, for one very network. Nothing here knows torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from fullyconv.shapes import Size

__all__ = ["UPSAMPLING", "FixedMap", "Kind", "Outline", "Sizes", "Stage"]

Kind = Literal["conv", "transposed conv", "projection", "score", "norm", "upsample", "scale", "sum", "whole"]
"""What a stage does. "projection": batch norm, then a 1x1 convolution; "score": a 1x1 convolution to one channel a
class; "upsample": bilinear interpolation to another grid; "scale": a constant factor; "whole": a decoder that does
not say more."""

UPSAMPLING = ("transposed conv", "upsample")
"""The kinds that enlarge the grid."""


@dataclass(frozen=True)
class Stage:
    """One step of a decoder.

    Attributes:
        name: The layer's name in its paper, which is its module's where it has one.
        kind: What it does.
        reads: What it is computed from: names of earlier stages or labels of features. The first one is the way
            up; in a sum the others are the skips that join it.
        channels: Channels of its result.
        stride: Pixels of the original image between neighbouring cells of its result.
        kernel: Side of the kernel of a convolution; 0 where there is none.
        factor: By how much it enlarges the grid; what it multiplies by, if it is a "scale".
        parameters: Trained numbers.
        module: Where it is in the decoder: the name of a module, or in a sum of the bias that is added; "" for
            what has no weights of its own.
        activation: What is applied to its result, "ReLU" or "".
        note: What else there is to say, such as "dropout 0.5".
    """

    name: str
    kind: Kind
    reads: tuple[str, ...]
    channels: int
    stride: float
    kernel: int = 0
    factor: float = 1.0
    parameters: int = 0
    module: str = ""
    activation: Literal["", "ReLU"] = ""
    note: str = ""

    @property
    def layer(self) -> str:
        """What it does, in a few words."""
        side = f"{self.kernel}x{self.kernel}"
        words = {
            "transposed conv": f"{side} transposed convolution",
            "upsample": "bilinear",
            "scale": f"times {self.factor:g}",
            "norm": "batch norm",
            "projection": f"batch norm, {side} convolution",
            "sum": "sum",
            "whole": "decoder",
        }
        return words.get(self.kind, f"{side} convolution")

    @property
    def formula(self) -> str:
        """What it computes from what, in one line."""
        if self.kind == "sum":
            parts = [" + ".join(self.reads) + (" + bias" if self.parameters else "")]
        else:
            parts = [f"{self.layer} of {', '.join(self.reads)}"]
        if self.kind in UPSAMPLING:
            parts.append(f"x{self.factor:.3g}")
        return ", ".join([*parts, *filter(None, (self.activation, self.note))])


@dataclass(frozen=True)
class FixedMap:
    """A feature map of the fixed part.

    Attributes:
        label: The name under which stages read it: that of the tap, with "@1.5" where the image is enlarged.
        tap: Name of the tap.
        scale: The factor by which the image is enlarged.
        tap_stride: Pixels of the enlarged image between neighbouring cells.
        channels: Channels of the map.
        receptive_field: Side of the square that one cell sees, in pixels of the original image; 0 where that may
            be all of it.
        parameters: Weights of the network between the tap before and this one.
        is_read: Whether the decoder reads it, or it only lies on the way.
    """

    label: str
    tap: str
    scale: float
    tap_stride: int
    channels: int
    receptive_field: float
    parameters: int
    is_read: bool

    @property
    def stride(self) -> float:
        """Pixels of the original image between neighbouring cells."""
        return self.tap_stride / self.scale

    @property
    def sees(self) -> str:
        """What one cell sees, in words."""
        return f"{self.receptive_field:.0f} px" if self.receptive_field else "whole image"


@dataclass(frozen=True)
class Outline:
    """A network as its figure shows it.

    Attributes:
        encoder: Name of the encoder.
        decoder: Name of the decoder.
        num_classes: Channels of the logits.
        fixed: The maps of the fixed part, scale by scale, each from the finest to the coarsest.
        stages: The trained part, in the order in which it is computed. The last one gives the logits.
        stride_grid: Scaled images are padded to its multiples.
        fixed_parameters: Weights of the encoder up to the deepest tap that is read.
        trained_parameters: Trained numbers of the decoder.
        image_channels: Channels of the image: 3, or 1 where it is grey.
        size_policy: "pad-to-stride", or another one, under which maps are not parts of the image.
        encoder_state: "fixed", or "tuned" where the encoder was trained, too, after the decoder.
    """

    encoder: str
    decoder: str
    num_classes: int
    fixed: tuple[FixedMap, ...]
    stages: tuple[Stage, ...]
    stride_grid: int
    fixed_parameters: int
    trained_parameters: int
    image_channels: int = 3
    size_policy: str = "pad-to-stride"
    encoder_state: Literal["fixed", "tuned"] = "fixed"

    @property
    def output_stride(self) -> int:
        """Pixels between neighbouring logits: by how much they are still to be upsampled."""
        return int(self.stages[-1].stride)

    @property
    def is_linear(self) -> bool:
        """Whether the logits are a sum over feature maps: no stage has an activation, none is unknown."""
        return all(stage.kind != "whole" and not stage.activation for stage in self.stages)

    def stage(self, name: str) -> Stage | None:
        """The stage of a name; None if it is a feature map's."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def map(self, label: str) -> FixedMap:
        """The feature map of a label."""
        return next(found for found in self.fixed if found.label == label)

    @cached_property
    def main_path(self) -> tuple[Stage, ...]:
        """The way from the coarsest features to the logits: each stage's first input, from the last one back."""
        path = [self.stages[-1]]
        while (before := self.stage(path[0].reads[0])) is not None:
            path.insert(0, before)
        return tuple(path)

    @cached_property
    def steps(self) -> Mapping[str, int]:
        """In which step of a drawing that is built up each stage comes; the encoder is step 1.

        Step 2 is the coarse path, and each sum adds a step, together with the upsampling in front of it and what
        comes to it over the skip. What follows the last sum belongs to it. Where many maps are summed at once,
        there is nothing between the encoder and all of it.
        """
        if any(stage.kind == "sum" and len(stage.reads) != 2 for stage in self.main_path):
            return {stage.name: 2 for stage in self.stages}
        last = 2 + sum(stage.kind == "sum" for stage in self.main_path)
        steps: dict[str, int] = {}
        upsamplings = 0
        for stage in self.main_path:
            upsamplings += stage.kind in UPSAMPLING
            steps[stage.name] = min(2 + upsamplings, last)
        for stage in reversed(self.stages):  # a side branch comes with the stage that reads it
            readers = [steps[other.name] for other in self.stages if stage.name in other.reads]
            steps.setdefault(stage.name, min(readers, default=last))
        order = {step: number for number, step in enumerate(sorted(set(steps.values())), start=2)}
        return {name: order[step] for name, step in steps.items()}

    @property
    def step_count(self) -> int:
        """Steps of a drawing that is built up."""
        return max(self.steps.values())

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "num_classes": self.num_classes,
            "image_channels": self.image_channels,
            "size_policy": self.size_policy,
            "encoder_state": self.encoder_state,
            "stride_grid": self.stride_grid,
            "output_stride": self.output_stride,
            "fixed": {
                "parameters": self.fixed_parameters,
                "maps": [{**asdict(found), "stride": found.stride} for found in self.fixed],
            },
            "trained": {
                "parameters": self.trained_parameters,
                "stages": [
                    {**asdict(stage), "reads": list(stage.reads), "step": self.steps[stage.name]}
                    for stage in self.stages
                ],
            },
        }


@dataclass(frozen=True)
class Sizes:
    """What becomes of the size of an image.

    Attributes:
        image: (height, width) in pixels.
        scaled: For each scale of the image, to what it is enlarged.
        padded: For each scale, to what that is padded.
        cells: (height, width) in cells of each feature map by its label and each stage by its name.
        upsampled: What the last upsampling gives, in pixels, before it is cropped to the image.
    """

    image: Size
    scaled: Mapping[float, Size]
    padded: Mapping[float, Size]
    cells: Mapping[str, Size]
    upsampled: Size

    def to_json(self) -> dict[str, Any]:
        """Sizes as lists of height and width."""
        return {
            "image": list(self.image),
            "scaled": [{"scale": scale, "size": list(size)} for scale, size in self.scaled.items()],
            "padded": [{"scale": scale, "size": list(size)} for scale, size in self.padded.items()],
            "cells": {name: list(size) for name, size in self.cells.items()},
            "upsampled": list(self.upsampled),
            "cropped": list(self.image),
        }
