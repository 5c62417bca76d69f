"""Pixel losses that honour ignored pixels.

The definition is the cross entropy at full label resolution: of each image the mean over its labelled pixels of
`w[target] * CE`, then the mean over images. The class weights are scaled so that their expectation over the
labelled pixels of the data set is 1; the loss is divided by that expectation, never by the weights that happen to
be in a batch, so the mean over randomly drawn pixels estimates it without bias.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.shapes import Logits, Masks

__all__ = ["balanced_weights", "map_cross_entropy", "pixel_cross_entropy"]


def pixel_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean weighted cross entropy of single pixels.

    Args:
        logits: P x C float.
        targets: P int64 class indices; 255 is left out.
        weights: C float with expectation 1, from `balanced_weights`.

    Returns:
        A scalar; exactly 0, with zero gradients, where every pixel is ignored.
    """
    losses = functional.cross_entropy(logits, targets, weight=weights, ignore_index=IGNORE_INDEX, reduction="sum")
    return losses / (targets != IGNORE_INDEX).sum().clamp(min=1)


def map_cross_entropy(logits: Logits, targets: Masks, weights: Tensor | None = None) -> Tensor:
    """Return the cross entropy at full label resolution: the definition of the loss.

    Args:
        logits: N x C x H x W float.
        targets: N x H x W int64 class indices; 255 is left out.
        weights: C float with expectation 1.

    Returns:
        A scalar: the mean over the images that have labelled pixels of their mean over these; 0 if none has.
    """
    losses = functional.cross_entropy(logits, targets, weight=weights, ignore_index=IGNORE_INDEX, reduction="none")
    labelled = (targets != IGNORE_INDEX).flatten(1).sum(dim=1)
    means = losses.flatten(1).sum(dim=1) / labelled.clamp(min=1)
    return means.sum() / (labelled > 0).sum().clamp(min=1)


def balanced_weights(pixel_counts: Tensor) -> Tensor:
    """Weigh classes by the inverse square root of their frequency, scaled to an expectation of 1.

    The inverse frequency itself (median-frequency balancing) lifts rare classes more than their IoU bears.

    Args:
        pixel_counts: C int64, labelled pixels of each class; a class without pixels gets weight 0.

    Returns:
        C float32 with `(frequency * weight).sum() == 1`.
    """
    frequency = pixel_counts.double() / pixel_counts.sum()
    weights = torch.where(pixel_counts > 0, frequency.clamp(min=1e-12).rsqrt(), 0.0)
    return (weights / (frequency * weights).sum()).float()
