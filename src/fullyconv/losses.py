"""Pixel losses that honour ignored pixels.

The definition is the mean at full label resolution: of each image the mean over its labelled pixels of
`w[target] * loss`, then the mean over images. The class weights are scaled so that their expectation over the
labelled pixels of the data set is 1; the loss is divided by that expectation, never by the weights that happen to
be in a batch, so the mean over randomly drawn pixels estimates it without bias. Dice is no mean over pixels: it
exists at full resolution only.

Where several processes share a batch (`fullyconv.processes`), each gets a part of its loss: their sum is the loss
of the whole, and so are their gradients.
"""

import torch
from torch import Tensor
from torch.nn import functional

from fullyconv import processes
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.shapes import Logits, Masks

__all__ = ["FOCAL_GAMMA", "balanced_weights", "dice_loss", "map_loss", "pixel_loss"]

FOCAL_GAMMA = 2.0
"""The exponent with which the focal loss's paper reports its results (section 4.1)."""


def pixel_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    *,
    shares: Tensor | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Return the mean weighted loss of single pixels.

    Args:
        logits: P x C float.
        targets: P int64 class indices; 255 is left out.
        weights: C float with expectation 1, from `balanced_weights`.
        shares: P float, how many pixels of its image each pixel stands for, with mean 1 over the drawn ones; 1
            if None.
        gamma: 0 is the cross entropy; more is the focal loss, see `map_loss`.

    Returns:
        A scalar; exactly 0, with zero gradients, where every pixel is ignored.
    """
    losses = _losses(logits, targets, weights, gamma)
    if shares is not None:
        losses = losses * shares
    return losses.sum() / processes.total((targets != IGNORE_INDEX).sum()).clamp(min=1)


def map_loss(
    logits: Logits,
    targets: Masks,
    weights: Tensor | None = None,
    *,
    gamma: float = 0.0,
    summed: bool = False,
) -> Tensor:
    """Return the mean weighted loss at full label resolution: the definition.

    The focal loss `(1 - p)**gamma * -log(p)`, with p the probability of the target class, takes weight from pixels
    that are right already (Lin, Goyal, Girshick, He, Dollár, "Focal loss for dense object detection", ICCV 2017,
    section 3.2). Its class weights are `weights`; the factor (1 - p)**gamma is differentiated, too.

    Args:
        logits: N x C x H x W float.
        targets: N x H x W int64 class indices; 255 is left out.
        weights: C float with expectation 1.
        gamma: 0 is the cross entropy.
        summed: Sum over pixels instead, as the released FCNs were trained (Caffe's `normalize: false`).

    Returns:
        A scalar: the mean over the images that have labelled pixels of their mean over these, 0 if none has; or
        the sum over all pixels, divided by the number of images.
    """
    losses = _losses(logits, targets, weights, gamma)
    if summed:
        return losses.sum() / int(processes.total(torch.tensor(len(logits))))
    labelled = (targets != IGNORE_INDEX).flatten(1).sum(dim=1)
    means = losses.flatten(1).sum(dim=1) / labelled.clamp(min=1)
    return means.sum() / processes.total((labelled > 0).sum()).clamp(min=1)


def _losses(logits: Tensor, targets: Tensor, weights: Tensor | None, gamma: float) -> Tensor:
    """The weighted loss of each pixel; 0 where it is ignored."""
    plain = functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
    losses = plain if gamma == 0 else (-torch.expm1(-plain)).clamp(min=1e-12) ** gamma * plain
    if weights is None:
        return losses
    return losses * weights[targets.where(targets != IGNORE_INDEX, 0)]


def dice_loss(logits: Logits, targets: Masks) -> Tensor:
    """Return 1 minus the mean soft Dice coefficient of the classes in the targets.

    Of class c it is `2 sum(p_c t_c) / (sum(p_c) + sum(t_c))` with probabilities p and one-hot targets t, all sums
    over the labelled pixels of the whole batch (Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3, without
    the squares there). A class that no target of the batch has is left out: its coefficient would be 0 whatever
    is predicted.

    Args:
        logits: N x C x H x W float.
        targets: N x H x W int64 class indices; 255 is left out.

    Returns:
        A scalar in 0..1; exactly 0, with zero gradients, where every pixel is ignored.
    """
    labelled = targets != IGNORE_INDEX
    classes = targets.where(labelled, 0)
    probabilities = logits.softmax(dim=1) * labelled[:, None]
    counts = processes.total(torch.bincount(targets[labelled], minlength=logits.shape[1]))
    own = probabilities.gather(1, classes[:, None])
    hits = logits.new_zeros(logits.shape[1]).index_add(0, classes.flatten(), own.flatten())
    hits, sums = processes.joint(hits), processes.joint(probabilities.sum(dim=(0, 2, 3)))
    dice = 2 * hits / (sums + counts).clamp(min=1e-12)
    present = counts > 0
    whole = torch.where(present, 1 - dice, 0.0).sum() / present.sum().clamp(min=1)
    return whole / processes.count()


def balanced_weights(pixel_counts: Tensor, power: float) -> Tensor:
    """Weigh classes by a power of their inverse frequency, scaled to an expectation of 1.

    The inverse frequency itself, power 1 (median-frequency balancing, Eigen and Fergus 2015), lifts rare classes
    more than their IoU bears.

    Args:
        pixel_counts: C int64, labelled pixels of each class; a class without pixels gets weight 0.
        power: 0 (all classes weigh 1) to 1.

    Returns:
        C float32 with `(frequency * weight).sum() == 1`.
    """
    frequency = pixel_counts.double() / pixel_counts.sum()
    weights = torch.where(pixel_counts > 0, frequency.clamp(min=1e-300) ** -power, 0.0)
    return (weights / (frequency * weights).sum()).float()
