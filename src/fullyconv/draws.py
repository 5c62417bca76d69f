"""Which labelled pixels of an image are drawn, and how many each of them stands for.

Drawn with equal probability, a class of a few pixels would hardly ever be among a few hundred. So half of the
draws go to the classes in proportion to their pixels and half to all classes of the image alike; within a class,
pixels are drawn without repetition. Each drawn pixel then stands for more or fewer pixels of its class: its
*share*. The mean of share * loss over the drawn pixels has the expectation of the mean loss over all labelled
ones, however the draws are divided (stratified sampling: Cochran, "Sampling techniques", 1977, chapter 5).
"""

import torch
from torch import Tensor

__all__ = ["draw_pixels"]

EVEN = 0.5
"""The part of the draws that is divided evenly between the classes of an image."""


def draw_pixels(classes: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pixels of one image.

    Args:
        classes: P uint8 class indices of its labelled pixels.
        count: How many to draw; all are taken where there are no more.
        generator: Decides the draw.

    Returns:
        D int64 positions in `classes`, ascending, D = min(P, count); and D float32 shares with the mean 1. Where
        every class of the image can have a draw, the shares of a class sum up to D times its part of the pixels.
    """
    order = torch.randperm(len(classes), generator=generator)
    counts = torch.bincount(classes.long(), minlength=1)
    if EVEN * count < (counts > 0).sum():  # A class without a draw would be missing from the mean.
        chosen = order[:count].sort().values
        return chosen, torch.ones(len(chosen))
    quotas = _quotas(counts, count)
    order = order[classes[order].argsort(stable=True)]  # Class by class, each in random order.
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    chosen = order[place < quotas.repeat_interleave(counts)].sort().values
    shares = (counts / len(classes)) / (quotas / len(chosen)).clamp(min=1e-12)
    return chosen, shares.float()[classes[chosen].long()]


def _quotas(counts: Tensor, count: int) -> Tensor:
    """Divide draws between classes with so many pixels each; no class gets more than it has."""
    present = counts > 0
    wanted = (1 - EVEN) * counts / counts.sum() + EVEN * present / present.sum()
    quotas = torch.zeros_like(counts)
    left, rest = count, float(wanted.sum())
    # From the rarest class on: what it has no pixels for is left to the others.
    for index in counts.argsort(stable=True).tolist():
        if present[index]:
            part = float(wanted[index])
            quotas[index] = min(int(counts[index]), round(left * min(1.0, part / rest)))
            left, rest = left - int(quotas[index]), rest - part
    return quotas
