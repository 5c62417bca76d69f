"""Batch normalisation where a batch is divided among processes: by the statistics of the whole of it.

With those of its own share each process would train another network than one process does. torch has the same for
GPUs alone (`SyncBatchNorm`).
"""

import torch
from torch import Tensor
from torch.nn import functional

from fullyconv import processes

__all__ = ["learned", "normalised"]


@torch.no_grad()
def learned(values: Tensor, means: Tensor, variances: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Return the statistics of a batch, and let the running ones follow.

    Args:
        values: This process's share: N x K x h x w or P x K float, N and P from 0 up.
        means: K, running; changed.
        variances: K, running, unbiased; changed.
        momentum: Weight of the batch in them.

    Returns:
        K means and K biased variances; the running ones where the batch has a single value of each channel.
    """
    count = values.numel() // values.shape[1]
    own = torch.zeros(3, values.shape[1], dtype=torch.float64, device=values.device)
    if count:
        variance, mean = torch.var_mean(values.float(), _all_but_channels(values), correction=0)
        mean, variance = mean.double(), variance.double()
        own[:] = torch.stack([torch.ones_like(mean), mean, variance + mean.square()]) * count
    counts, sums, squares = processes.total(own)
    if counts[0] <= 1:
        return means, variances
    found = sums / counts, squares / counts - (sums / counts).square()
    _follow(int(counts[0]), *found, means, variances, momentum)
    return found[0].to(means), found[1].clamp(min=0).to(variances)


def normalised(
    values: Tensor,
    means: Tensor,
    variances: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """Compute what `functional.batch_norm` does in training, differentiated through the statistics.

    Args:
        values: This process's share: N x K x h x w or P x K float, N and P from 0 up.
        means: K, running; changed.
        variances: K, running, unbiased; changed.
        weight: K, the scale.
        bias: K.
        momentum: Weight of the batch in the running statistics.
        epsilon: Added to the variance.

    Returns:
        As `values`.
    """
    count = int(processes.total(torch.tensor(values.numel() // values.shape[1])))
    if count <= 1:
        return functional.batch_norm(values, means, variances, weight, bias, False, momentum, epsilon)
    exact, axes = values.float(), _all_but_channels(values)
    shape = [1, -1] + [1] * (values.ndim - 2)
    mean = processes.joint(exact.sum(axes)) / count
    centred = exact - mean.view(shape)
    variance = processes.joint(centred.square().sum(axes)) / count
    with torch.no_grad():
        _follow(count, mean, variance, means, variances, momentum)
    scale = weight * torch.rsqrt(variance + epsilon)
    return (centred * scale.view(shape) + bias.view(shape)).to(values.dtype)


def _all_but_channels(values: Tensor) -> list[int]:
    return [axis for axis in range(values.ndim) if axis != 1]


def _follow(count: int, mean: Tensor, variance: Tensor, means: Tensor, variances: Tensor, momentum: float) -> None:
    means.lerp_(mean.to(means), momentum)
    variances.lerp_((variance * (count / (count - 1))).to(variances), momentum)
