"""The practical decoder: batch norm, projection and a sum over skips.

Every feature map is normalised, projected by a 1x1 convolution, resampled to the output grid and summed: what a
1x1 convolution on the concatenated maps would do, and the skip that the lecture draws. Without a hidden layer the
projections are the score layers, and the network is a linear FCN of a few thousand trained numbers. With one,
ReLU, dropout and a score layer follow the sum.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.decoder import Decoder, output_cells, resample
from fullyconv.encoder import FeatureSpec
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Points, Size

__all__ = ["PracticalDecoder"]


class PracticalDecoder(Decoder):
    """Batch norm on each skip, 1x1 projections, a sum; optionally ReLU, dropout and a score layer.

    Args:
        specs: The features to read, at any scales.
        num_classes: Channels of the logits.
        hidden: Channels of the hidden layer; 0 for none (a linear FCN).
        dropout: Probability with which a hidden value is dropped in training. Without a hidden layer there is
            nothing to drop.
        output_stride: Pixels between logits; by default the finest stride among the features at scale 1 (among
            all, where there are none).

    Raises:
        UsageError: No features, or a number out of range.
    """

    reads_points = True

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        num_classes: int,
        *,
        hidden: int = 0,
        dropout: float = 0.0,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        if not specs:
            raise UsageError("a decoder needs features, got none")
        if hidden < 0:
            raise UsageError(f"hidden channels have to be 0 (none) or more, got {hidden}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout has to lie in 0..1 (1 excluded), got {dropout:g}")
        finest = min(spec.tap.stride for spec in specs if spec.scale == 1 or all(s.scale != 1 for s in specs))
        if output_stride is not None and output_stride < 1:
            raise UsageError(f"the output stride has to be 1 or more, got {output_stride}")
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.output_stride = output_stride or finest
        self.hidden = hidden
        self.norms = nn.ModuleList(nn.BatchNorm2d(spec.channels) for spec in specs)
        # No bias: the batch norm before a projection has one for each of its input channels.
        self.projections = nn.ModuleList(
            nn.Conv2d(spec.channels, hidden or num_classes, 1, bias=False) for spec in specs
        )
        self.dropout = nn.Dropout(dropout)
        if hidden:
            self.score = nn.Conv2d(hidden, num_classes, 1)
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        else:
            self.bias = nn.Parameter(torch.zeros(num_classes))
            for projection in self.projections:
                nn.init.zeros_(projection.weight)  # type: ignore[arg-type]

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`; see `Decoder.forward`."""
        cells = output_cells(self.specs, self.output_stride, size)
        total: Tensor | None = None
        for spec, norm, projection, maps in zip(self.specs, self.norms, self.projections, features, strict=True):
            projected = resample(projection(_normalise(norm, maps)), spec.stride, self.output_stride, cells)
            total = projected if total is None else total + projected
        if self.hidden:
            return self.score(self.dropout(functional.relu(total)))  # type: ignore[no-any-return]
        return total + self.bias[:, None, None]

    def point_logits(self, points: Points) -> Tensor:
        """Compute logits from features read at P pixels (`read_points`).

        Without a hidden layer these are exactly the bilinearly upsampled logits. With one, ReLU is applied to the
        interpolated hidden values here and to those of the output grid in `forward`: the same function, sampled
        at other positions.

        Args:
            points: P x K for each of `specs`.

        Returns:
            P x num_classes.
        """
        total: Tensor | None = None
        for norm, projection, values in zip(self.norms, self.projections, points, strict=True):
            projected = functional.linear(_normalise(norm, values), projection.weight.flatten(1))
            total = projected if total is None else total + projected
        if self.hidden:
            hidden = self.dropout(functional.relu(total))
            return functional.linear(hidden, self.score.weight.flatten(1), self.score.bias)
        return total + self.bias

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {"hidden": self.hidden, "dropout": self.dropout.p, "output_stride": self.output_stride}


def _normalise(norm: nn.Module, values: Tensor) -> Tensor:
    """Batch norm of N x K x h x w maps or P x K points with one module's parameters and statistics."""
    training = norm.training and values.numel() > values.shape[1]
    # A single value has no variance (torch raises): it is normalised with the running statistics instead.
    return functional.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, training, norm.momentum, norm.eps
    )
