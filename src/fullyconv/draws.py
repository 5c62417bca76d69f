"""Which labelled pixels of an image are drawn, and how many each of them stands for.

Drawn with equal probability, a class of a few pixels would hardly ever be among a few hundred. So half of the
draws go to the classes in proportion to their pixels and half to all classes of the image alike. The pixels of a
class, row by row, are cut into as many stretches as it has draws, and one pixel is drawn from each: it stands for
its stretch. The mean over the drawn pixels of share * loss has the expectation of the mean loss over all labelled
ones, however the draws are divided (stratified sampling: Cochran, "Sampling techniques", 1977, chapter 5).
"""

import torch
from torch import Tensor

from fullyconv.class_table import IGNORE_INDEX

__all__ = ["draw_pixels"]

EVEN = 0.5
"""The part of the draws that is divided evenly between the classes of an image."""


def draw_pixels(target: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw labelled pixels of one image, none of them twice.

    Args:
        target: P uint8 class indices, row by row; 255 is never drawn.
        count: How many to draw; all labelled ones are taken where there are no more.
        generator: Decides the draw.

    Returns:
        D int64 positions in `target`, ascending, D = min(labelled pixels, count); and D float32 shares with the
        mean 1: the pixels that each stands for, as a multiple of those that it would stand for if all were alike.
    """
    counts = torch.bincount(target.int(), minlength=IGNORE_INDEX)[:IGNORE_INDEX]
    labelled = int(counts.sum())
    if min(labelled, count) == 0:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0)
    if EVEN * count < (counts > 0).sum():  # A class without a draw would be missing from the mean.
        strata = [((target != IGNORE_INDEX).nonzero()[:, 0], min(count, labelled))]
    else:
        quotas = _quotas(counts, count).tolist()
        strata = [((target == index).nonzero()[:, 0], quota) for index, quota in enumerate(quotas) if quota]
    drawn = [_one_of_each_stretch(pixels, quota, generator) for pixels, quota in strata]
    chosen, order = torch.cat([pixels for pixels, _ in drawn]).sort()
    lengths = torch.cat([lengths for _, lengths in drawn])[order]
    return chosen, lengths.float() * (len(chosen) / labelled)


def _one_of_each_stretch(pixels: Tensor, quota: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut pixels into `quota` stretches as equal as can be; draw one of each, and give the stretches' lengths."""
    ends = torch.arange(quota + 1) * len(pixels) // quota
    lengths = ends.diff()
    places = (torch.rand(quota, generator=generator, dtype=torch.float64) * lengths).long()
    return pixels[ends[:-1] + places], lengths


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
