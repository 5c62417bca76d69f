"""Batch normalisation of pretrained networks, and how it goes into the convolution in front of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fullyconv import processes
from fullyconv.batch_statistics import normalised

__all__ = ["FixedNorm", "fold"]


MOMENTUM = 0.1
"""Weight of a batch in statistics that live: torch's own default."""


class FixedNorm(nn.Module):
    """Batch normalisation with statistics that do not change (Ioffe and Szegedy 2015, inference form).

    It is made in eval mode. In train mode, into which only `fullyconv.trained_part` puts it where it is asked for,
    it normalises by the statistics of the batch, and they follow.

    Args:
        channels: Of the maps.
        epsilon: Added to the variance, as in the training of the weights.
        gain: What `reset_parameters` fills the scale with.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float, gain: float = 1.0) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.gain = gain
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.reset_parameters()
        self.eval()

    def reset_parameters(self) -> None:
        """Become a multiplication by the gain."""
        nn.init.constant_(self.weight, self.gain)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise N x K x h x w."""
        statistics = self.running_mean, self.running_var
        learned = self.weight, self.bias
        if self.training and processes.several():
            return normalised(maps, *statistics, *learned, MOMENTUM, self.epsilon)
        return functional.batch_norm(maps, *statistics, *learned, self.training, MOMENTUM, self.epsilon)


def fold(conv: nn.Conv2d, norm: FixedNorm) -> None:
    """Make a convolution without bias do what its normalisation `a * y + b` does: weights `a * w`, bias `b`."""
    # In float64, so that the only rounding is the last one; on the processor, since not all devices have it.
    scale, shift, mean, variance, weight = (
        tensor.detach().cpu().double()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, conv.weight)
    )
    factor = scale / (variance + norm.epsilon).sqrt()
    conv.weight = nn.Parameter((weight * factor[:, None, None, None]).to(norm.weight))
    conv.bias = nn.Parameter((shift - mean * factor).to(norm.weight))
