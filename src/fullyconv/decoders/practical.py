"""The practical decoder: batch norm, projection and a sum over skips.

Every feature map is normalised, projected by a 1x1 convolution, resampled to the output grid and summed: what
one 1x1 convolution on the concatenated maps would do, and the skip that the lecture draws. (A map that has few
channels and becomes smaller is resampled first.) Without a hidden layer the projections are the score layers, and
the network is a linear FCN of a few thousand trained numbers. With one, ReLU, dropout and a score layer follow.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv.convolve import Conv2d, mix
from fullyconv.decoder import BatchNorm, Decoder, layer_stage, output_cells, resample
from fullyconv.errors import UsageError
from fullyconv.shapes import Features, Logits, Points, Size
from fullyconv.stages import Stage
from fullyconv.taps import FeatureSpec

__all__ = ["PracticalDecoder", "Skip"]


class Skip(nn.Module):
    """Batch norm and a 1x1 projection of one feature map, or of points read from it.

    Args:
        channels: Channels of the map.
        projected: Channels of the result.
    """

    def __init__(self, channels: int, projected: int) -> None:
        super().__init__()
        self.norm = BatchNorm(channels)
        # No bias: the batch norm has one for each of its channels.
        self.projection = Conv2d(channels, projected, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Turn N x K x h x w maps into N x projected x h x w, or P x K points into P x projected."""
        weight, offset = self.projection.weight.flatten(1), None
        if values.requires_grad:
            values = self.norm(values)
        else:
            weight, offset = self.folded(values)
        if values.ndim == 2:
            return functional.linear(values, weight, offset)
        return mix(values, weight, offset)

    def folded(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Fold the norm into the projection: `forward(points)` is `points @ weight.T + offset`.

        Features of a fixed encoder need no gradient. So a step of training does not have to normalise them: it
        reads them three times (for their statistics, forward, and for the gradient of the weights) and writes
        nothing of their size.

        Args:
            values: Maps or points without gradient: in training their statistics are taken for constants.

        Returns:
            weight, projected x K, and offset, projected.
        """
        means, deviations = self.norm.statistics(values)
        scales = self.norm.weight / deviations
        weight = self.projection.weight.flatten(1)
        return weight * scales, weight @ (self.norm.bias - means * scales)

    def set_linear(self, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """Compute `weights @ (values - means)` in eval mode, and give what that leaves out, `weights @ means`."""
        means, variances = means.float(), variances.float()
        statistics = {"running_mean": means, "running_var": variances}
        identity = {"weight": torch.ones_like(means), "bias": torch.zeros_like(means)}
        self.norm.load_state_dict({**statistics, **identity}, strict=False)
        deviations = (variances.double() + self.norm.eps).sqrt()
        self.projection.weight.copy_((weights * deviations)[..., None, None])
        return weights @ means.double()


class PracticalDecoder(Decoder):
    """Batch norm on each skip, 1x1 projections, a sum; optionally ReLU, dropout and a score layer.

    Args:
        specs: The features to read, at any strides and scales.
        num_classes: Channels of the logits.
        hidden: Channels of the hidden layer; 0 for none (a linear FCN).
        dropout: Probability with which a hidden value is dropped in training. Without a hidden layer there is
            nothing to drop.
        output_stride: Pixels between logits; by default the finest stride among the features at scale 1
            (among all, where there are none).

    Raises:
        UsageError: No features, or a number out of range.
    """

    name = "practical"
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
            raise UsageError("decoder practical needs features, got none")
        if hidden < 0:
            raise UsageError(f"hidden channels have to be 0 (no hidden layer) or more, got {hidden}")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout has to lie in 0..1 (1 excluded), got {dropout:g}")
        if output_stride is not None and output_stride < 1:
            raise UsageError(f"the output stride has to be 1 or more, got {output_stride}")
        unscaled = [spec.tap.stride for spec in specs if spec.scale == 1]
        self.specs = tuple(specs)
        self.num_classes = num_classes
        self.output_stride = output_stride or min(unscaled or [spec.tap.stride for spec in specs])
        self.halo_cells = _halo(max(spec.stride for spec in specs), self.output_stride)
        self.hidden = hidden
        self.skips = nn.ModuleList(Skip(spec.channels, hidden or num_classes) for spec in specs)
        self.dropout = nn.Dropout(dropout)
        # Score layers start at zero (the paper's section 4.3): at first all classes are equally probable.
        if hidden:
            self.score = Conv2d(hidden, num_classes, 1)
            nn.init.zeros_(self.score.weight)
            nn.init.constant_(self.score.bias, 0)  # type: ignore[arg-type]
        else:
            self.bias = nn.Parameter(torch.zeros(num_classes))
            for skip in self.skips:
                nn.init.zeros_(skip.projection.weight)  # type: ignore[union-attr, arg-type]

    def forward(self, features: Features, size: Size) -> Logits:
        """Compute logits of images of `size`; see `Decoder.forward`."""
        cells = output_cells(self.specs, self.output_stride, size)
        # Summed one by one: two resampled maps exist at a time, not all of them.
        total: Tensor = reduce(
            Tensor.add_,
            (
                self._on_output_grid(spec, skip, maps, cells)
                for spec, skip, maps in zip(self.specs, self.skips, features, strict=True)
            ),
        )
        if not self.hidden:
            return total + self.bias[:, None, None]
        logits: Tensor = self.score(self.dropout(functional.relu_(total)))
        return logits

    def _on_output_grid(self, spec: FeatureSpec, skip: nn.Module, maps: Tensor, cells: Size) -> Tensor:
        strides, early = (spec.stride, self.output_stride), self._is_reduced_early(spec)
        projected: Tensor = skip(resample(maps, *strides, cells) if early else maps)
        return projected if early else resample(projected, *strides, cells)

    def _is_reduced_early(self, spec: FeatureSpec) -> bool:
        """Whether to resample before projecting. It changes no more than rounding: the fewest numbers are made."""
        return spec.stride < self.output_stride and spec.channels < (self.hidden or self.num_classes)

    def point_logits(self, points: Points) -> Tensor:
        """Compute logits from features read at P pixels (`fullyconv.decoder.read_points`).

        Without a hidden layer these are the bilinearly upsampled logits. With one, ReLU is applied to the
        interpolated hidden values here, and to those of the output grid in `forward`: the same function of
        the features, read at the pixels instead of the grid.

        Args:
            points: P x K for each of `specs`.

        Returns:
            P x num_classes.
        """
        total = self._sum_at(points)
        if not self.hidden:
            return total + self.bias
        dropped = self.dropout(functional.relu(total))
        return functional.linear(dropped, self.score.weight.flatten(1), self.score.bias)

    def _sum_at(self, points: Points) -> Tensor:
        """The sum of the skips at P pixels."""
        pairs = list(zip(self.skips, points, strict=True))
        if any(values.requires_grad for values in points):
            plain: Tensor = reduce(torch.add, (skip(values) for skip, values in pairs))
            return plain
        weights, offsets = zip(*(skip.folded(values) for skip, values in pairs), strict=True)  # type: ignore[operator]
        total: Tensor = torch.stack(offsets).sum(dim=0)
        for weight, values in zip(weights, points, strict=True):
            total = torch.addmm(total, values, weight.T)
        return total

    @torch.no_grad()
    def set_linear(self, weights: Tensor, biases: Tensor, means: Tensor, variances: Tensor) -> None:
        """Take over a linear function of the features: in eval mode the logits are `weights @ features + biases`.

        The batch norms get the given statistics and the projections what undoes them, so that training, which
        normalises by the statistics of its batches, begins with about the same logits.

        Args:
            weights: num_classes x K float64, over the channels of all specs in order.
            biases: num_classes float64.
            means: K float64, the mean of each channel over the pixels.
            variances: K float64, likewise.

        Raises:
            UsageError: There is a hidden layer.
        """
        if self.hidden:
            raise UsageError(
                f"a linear function needs a decoder without hidden layer, this one has {self.hidden} channels"
            )
        channels = [spec.channels for spec in self.specs]
        parts = (torch.split(values, channels, dim=-1) for values in (weights, means, variances))
        offsets = [skip.set_linear(*part) for skip, *part in zip(self.skips, *parts, strict=True)]
        self.bias.copy_(torch.stack([biases, *offsets]).sum(dim=0))

    def config(self) -> dict[str, Any]:
        """The arguments beside specs and num_classes."""
        return {"hidden": self.hidden, "dropout": self.dropout.p, "output_stride": self.output_stride}

    def stages(self) -> tuple[Stage, ...]:
        """Say what `forward` computes; see `Decoder.stages`. The sum reads the coarsest skip first."""
        channels, stages, ends = self.hidden or self.num_classes, [], {}
        for position, (spec, skip) in enumerate(zip(self.specs, self.skips, strict=True)):
            projection = Stage(
                f"skip_{spec.label}",
                "projection",
                (spec.label,),
                channels,
                spec.stride,
                kernel=1,
                parameters=sum(parameter.numel() for parameter in skip.parameters()),
                module=f"skips.{position}",
            )
            up = replace(projection, name=f"up_{spec.label}", kind="upsample", kernel=0, parameters=0, module="")
            up = replace(up, stride=self.output_stride, factor=spec.stride / self.output_stride)
            if self._is_reduced_early(spec):
                up = replace(up, channels=spec.channels)
                chain = [up, replace(projection, reads=(up.name,), stride=self.output_stride)]
            elif spec.stride != self.output_stride:
                chain = [projection, replace(up, reads=(projection.name,))]
            else:
                chain = [projection]
            stages += chain
            ends[position] = chain[-1].name
        order = sorted(ends, key=lambda position: -self.specs[position].stride)
        skips = tuple(ends[position] for position in order)
        total = Stage("sum", "sum", skips, channels, self.output_stride)
        if not self.hidden:
            return (*stages, replace(total, parameters=self.num_classes, module="bias"))
        note = f"dropout {self.dropout.p:g}" if self.dropout.p else ""
        total = replace(total, activation="ReLU", note=note)
        return (*stages, total, layer_stage("score", self.score, "sum", self.output_stride, kind="score"))


def _halo(stride: float, output_stride: int) -> int:
    """Cells of the coarsest map, beyond its own, that a pixel reads through two bilinear steps."""
    if (stride / output_stride).is_integer():
        return 1  # Aligned grids: both steps end in the neighbouring cell.
    return math.ceil(output_stride / stride + 0.5)
