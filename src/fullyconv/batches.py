"""What a training step sees, and its loss: drawn pixels of many images, or crops of feature maps or images.

What gives the batches of an epoch has a file of its own: `point_batches`, `map_batches`, `image_batches`. All draw
everything from (seed, epoch), so an epoch is the same whether the run was interrupted before it or not. Where
several processes train together, all draw the same steps, and each gets its share of every one, perhaps nothing.
"""

from dataclasses import dataclass

from torch import Tensor

from fullyconv.decoder import Decoder
from fullyconv.losses import FOCAL_GAMMA, dice_loss, map_loss, pixel_loss
from fullyconv.shapes import Features, Logits, Points, Size
from fullyconv.upsample import pixel_logits, upsample_logits

__all__ = ["MEMORY", "MapBatch", "PointBatch", "step_loss"]

MEMORY = 2 * 10**9
"""Bytes of points, or of feature maps and targets, or of images, that are held in memory."""

AUXILIARY_WEIGHT = 0.5
"""Of the loss of an auxiliary head, as in torchvision's reference training."""


@dataclass(frozen=True)
class PointBatch:
    """Pixels of any images: P x K float32 features for each spec, P int64 class indices, P float32 shares."""

    points: Points
    targets: Tensor
    shares: Tensor


@dataclass(frozen=True)
class MapBatch:
    """Crops of N images: their feature maps, the crops' size, and the pixels that count.

    Attributes:
        features: N x K x h x w float32 for each spec.
        size: (height, width) of the crops in pixels.
        targets: N x H x W int64 class indices; 255 where a pixel is ignored, beyond the image, or so near to a cut
            edge that its logits would depend on cells beyond it.
        rows: N x P int64 rows of drawn pixels; empty where the loss is taken at every pixel.
        columns: N x P int64, likewise.
        shares: N x P float32: how many pixels each drawn one stands for (`fullyconv.draws`), with mean 1.
    """

    features: Features
    size: Size
    targets: Tensor
    rows: Tensor
    columns: Tensor
    shares: Tensor

    @property
    def drawn_targets(self) -> Tensor:
        """Class indices of the drawn pixels, N x P int64."""
        width = self.targets.shape[-1]
        return self.targets.flatten(1).gather(1, self.rows * width + self.columns)


def step_loss(
    decoder: Decoder,
    batch: PointBatch | MapBatch,
    loss: str,
    weights: Tensor | None,
    *,
    summed: bool = False,
) -> Tensor:
    """Compute the loss of a step: at drawn points, at drawn pixels of maps, or at every pixel.

    Args:
        decoder: In train mode.
        batch: Points, or crops of feature maps; every pixel counts where none was drawn.
        loss: "cross_entropy" or "focal"; at every pixel also "dice", or "dice+cross_entropy" for their sum.
        weights: C float class weights with expectation 1, or None. Dice takes none.
        summed: At every pixel: sum over the pixels of an image (`fullyconv.losses.map_loss`).
    """
    if isinstance(batch, PointBatch):
        gamma = FOCAL_GAMMA if loss == "focal" else 0.0
        logits = decoder.point_logits(batch.points)
        return pixel_loss(logits, batch.targets, weights, shares=batch.shares, gamma=gamma)
    logits, *auxiliary = decoder.training_logits(batch.features, batch.size)
    how = decoder.output_stride, batch, loss, weights, summed
    total = _map_batch_loss(logits, *how)
    for other in auxiliary:
        total = total + AUXILIARY_WEIGHT * _map_batch_loss(other, *how)
    return total


def _map_batch_loss(
    logits: Logits, output_stride: int, batch: MapBatch, loss: str, weights: Tensor | None, summed: bool
) -> Tensor:
    """Compute the loss of logits on the output grid of a batch's crops."""
    gamma = FOCAL_GAMMA if loss == "focal" else 0.0
    if batch.rows.shape[1]:
        drawn = pixel_logits(logits, output_stride, batch.rows, batch.columns).flatten(0, 1)
        targets, shares = batch.drawn_targets.flatten(), batch.shares.flatten()
        return pixel_loss(drawn, targets, weights, shares=shares, gamma=gamma)
    logits = upsample_logits(logits, output_stride, batch.size)
    if loss == "dice":
        return dice_loss(logits, batch.targets)
    total = map_loss(logits, batch.targets, weights, gamma=gamma, summed=summed)
    return total + dice_loss(logits, batch.targets) if loss == "dice+cross_entropy" else total
