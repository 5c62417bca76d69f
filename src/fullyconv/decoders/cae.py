"""The autoencoder's upsampling path with classes in place of pixels, and summed skips.

The lecture's step from CAE to FCN: what was trained to draw the image again from its code is asked for classes.
The transposed convolutions double the map, the encoder's features of the same size are added, as they are in the
lecture's network, and the last layer gives C channels instead of colours.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from fullyconv.decoder import Decoder, layer_stage, positions_of_strides, sum_stage
from fullyconv.encoders.cae import CAE, TransposeSame
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec

__all__ = ["CAEDecoder"]


class CAEDecoder(Decoder):
    """Transposed convolutions of stride 2 from the coarsest features up to pixels, skips added on the way.

    Layers are named as in the autoencoder: `up.N` gives maps of stride 2^N. A ReLU follows all but `up.0`, which
    starts at zero; the others start from random values, or from an autoencoder's (`take_over`).

    Args:
        specs: The features of the encoder, at scale 1. The coarsest is the code, all others are skips; each has
            twice the stride of the one before.
        num_classes: Channels of the logits.
        kernel: Side of the transposed convolutions, 2..5.
        widths: Channels of the maps between the finest skip and the pixels, from the inside outwards: of half its
            stride, a quarter, ... By default half the channels of the map before.

    Raises:
        UsageError: Features of other strides or at another scale, or a number out of range.
    """

    name = "cae"
    output_stride = 1
    # Each doubling looks at most one cell aside, which is half a cell further in: less than 2 in all.
    halo_cells = 2

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        num_classes: int,
        *,
        kernel: int = 4,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        strides = sorted({spec.tap.stride for spec in specs})
        if not strides or strides[0] < 2 or any(2 ** int(math.log2(stride)) != stride for stride in strides):
            raise UsageError(f"decoder cae needs strides that are powers of 2, got {', '.join(map(str, strides))}")
        doubled = [strides[0] * 2**index for index in range(int(math.log2(strides[-1] / strides[0])) + 1)]
        self.positions = positions_of_strides(self.name, specs, doubled)[::-1]
        if not 2 <= kernel <= 5:
            raise UsageError(f"the kernel of decoder cae has to lie in 2..5, got {kernel}")
        finest = specs[self.positions[-1]].channels
        outer = int(math.log2(strides[0])) - 1
        self.widths = tuple(max(1, finest >> (1 + index)) for index in range(outer)) if widths is None else widths
        if len(self.widths) != outer or any(width < 1 for width in self.widths):
            raise UsageError(
                f"decoder cae needs {outer} widths from 1 up below stride {strides[0]}, got {list(self.widths)}"
            )
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.kernel = kernel
        channels = [*(specs[position].channels for position in self.positions), *self.widths, num_classes][::-1]
        self.up = nn.ModuleList(
            TransposeSame(inner, outer, kernel) for outer, inner in itertools.pairwise(channels)
        )
        for layer in self.up[1:]:
            layer.initialise()  # type: ignore[operator]
        for parameter in self.up[0].parameters():
            nn.init.zeros_(parameter)  # At first all classes are equally probable (the paper's section 4.3).

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size` at every pixel; see `Decoder.forward`."""
        skips = [features[position] for position in self.positions]
        maps = skips.pop(0)
        for number in reversed(range(len(self.up))):
            maps = self.up[number](maps)
            if number:
                maps = functional.relu(maps)
            if skips:
                maps = maps + skips.pop(0)
        return maps[..., : size[0], : size[1]]

    def take_over(self, cae: CAE) -> list[str]:
        """Copy the upsampling path of an autoencoder, all but its last layer, which gives pixels.

        Returns:
            The names of the tensors that were copied, `up.N.weight` and `up.N.bias` with N from 1 up: the same
            there and here.

        Raises:
            UsageError: Its layers have another form.
        """
        mine, theirs = self.state_dict(), cae.state_dict()
        names = [name for name in mine if not name.startswith("up.0.")]
        for name in names:
            if name not in theirs or theirs[name].shape != mine[name].shape:
                raise UsageError(f"the autoencoder has no {name} of the form that this decoder needs")
        with torch.no_grad():
            for name in names:
                mine[name].copy_(theirs[name])
        return names

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes; see `Decoder.stages`."""
        code, *skips = (self.specs[position] for position in self.positions)
        reads, stride, stages = code.label, code.stride, []
        for number in reversed(range(len(self.up))):
            layer = cast(TransposeSame, self.up[number])
            stage = layer_stage(f"up.{number}", layer, reads, stride, activation="ReLU" if number else "")
            stages.append(stage)
            if skips:
                skip = skips.pop(0).label
                stages.append(sum_stage(f"{stage.name} + {skip}", stage, skip))
            reads, stride = stages[-1].name, stage.stride
        return tuple(stages)

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {"kernel": self.kernel, "widths": list(self.widths)}
