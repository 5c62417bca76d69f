"""What a training step sees where the whole encoder is trained: crops of images, varied anew in every epoch.

Nothing can be computed once here, so that images may be mirrored, enlarged and recoloured at random. Everything
is drawn from (seed, epoch, place), so an epoch is the same whether the run was interrupted before it or not, and
however many threads read. Where several processes train together, each reads its share of the images of a step.
"""

import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fullyconv import processes
from fullyconv.batches import MEMORY, MapBatch
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset, Sample
from fullyconv.device import move
from fullyconv.features import FeatureReader
from fullyconv.shapes import Mask, Pixels, Size
from fullyconv.transforms import View

__all__ = ["ImageBatches"]

COLOURS = 2**30
"""So many ways to recolour an image (`View.colour`)."""


class ImageBatches:
    """Random crops of the images of a data set.

    A crop that is larger than the images of its batch becomes as large as the largest of them; smaller images are
    continued by their edge values then, and ignored there. So a batch of one image shows it as it is.

    Args:
        reader: Gives images and targets of the samples of `dataset`.
        dataset: The training split.
        sizes: (height, width) of the images, in order.
        mirror: Whether to exchange left and right of every second image.
        scales: The images are enlarged by a factor drawn from LOW..HIGH, even on a logarithmic scale.
        colours: Whether brightness, contrast and saturation of four images in five are changed.
        crop: Side of the crops in pixels; 0 takes the smallest image's height and width.
        batch: Crops in a step.
        seed: Decides all that is drawn.
        steps: Steps of an epoch, their images drawn with replacement; 0 shows each image once.
    """

    def __init__(
        self,
        reader: FeatureReader,
        dataset: Dataset,
        sizes: list[Size],
        *,
        mirror: bool,
        scales: tuple[float, float],
        colours: bool,
        crop: int,
        batch: int,
        seed: int,
        steps: int = 0,
    ) -> None:
        self.reader = reader
        self.samples = list(dataset)
        self.mirror = mirror
        self.scales = scales
        self.colours = colours
        self.crop = (crop, crop) if crop else (min(size[0] for size in sizes), min(size[1] for size in sizes))
        self._sizes = dict(zip(self.samples, sizes, strict=True))
        self.batch = batch
        self.seed = seed
        self.steps = steps
        self.device = reader.device
        self.skipped = 0
        self._dtype = reader.image(self.samples[0]).dtype
        pixel_bytes = self._dtype.itemsize * reader.encoder.image_form.channels + 1
        self._holds = sum(height * width for height, width in sizes) * pixel_bytes <= MEMORY
        self._held: dict[Sample, tuple[Pixels, Mask]] = {}

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps or math.ceil(len(self.samples) / self.batch)

    def epoch(self, epoch: int) -> Iterator[MapBatch]:
        """Yield the batches of an epoch. Crops without a labelled pixel are left out and counted in `skipped`."""
        draw = random.Random(f"{self.seed} {epoch}")
        if self.steps:
            order = draw.choices(self.samples, k=self.steps * self.batch)
        else:
            order = draw.sample(self.samples, len(self.samples))
        draws = [random.Random(f"{self.seed} {epoch} {place}") for place in range(len(order))]
        items = [(sample, self._view(own)) for sample, own in zip(order, draws, strict=True)]
        steps = [range(first, min(first + self.batch, len(order))) for first in range(0, len(order), self.batch)]
        reading = self.reader.in_order(
            self._read, (items[place] for step in steps for place in processes.share(step))
        )
        for step in steps:
            own = processes.share(step)
            sizes = [view.size(self._sizes[sample]) for sample, view in (items[place] for place in step)]
            height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
            size = min(self.crop[0], height), min(self.crop[1], width)
            crops = [_crop(*next(reading), size, draws[place]) for place in own]
            usable = [crop for crop in crops if (crop[1] != IGNORE_INDEX).any()]
            count = int(processes.total(torch.tensor(len(usable))))
            self.skipped += len(step) - count
            if count:
                yield self._collate(usable, size)

    def _view(self, draw: random.Random) -> View:
        low, high = self.scales
        mirrored = self.mirror and draw.random() < 0.5
        scale = math.exp(draw.uniform(math.log(low), math.log(high)))
        recoloured = self.colours and draw.random() < 0.8
        return View(mirrored, scale, draw.randint(1, COLOURS) if recoloured else 0)

    def _read(self, sample: Sample, view: View) -> tuple[Pixels, Mask]:
        plain = self._held.get(sample) or (self.reader.image(sample), self.reader.target(sample))
        if self._holds:
            self._held[sample] = plain
        return view.apply(plain[0]), view.apply_mask(plain[1])

    def _collate(self, crops: list[tuple[Pixels, Mask]], size: Size) -> MapBatch:
        if crops:
            images, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
        else:  # The share of a process that has no crop of a step.
            channels = self.reader.encoder.image_form.channels
            images = torch.from_numpy(np.zeros((0, *size, channels), self._dtype))
            targets = torch.zeros(0, *size, dtype=torch.uint8)
        none = torch.empty(len(crops), 0, dtype=torch.int64, device=self.device)
        features: list[Tensor] = [move(images, self.device).permute(0, 3, 1, 2)]
        return MapBatch(features, size, move(targets, self.device).long(), none, none, none.float())


def _crop(image: Pixels, target: Mask, size: Size, draw: random.Random) -> tuple[Pixels, Mask]:
    """Cut a window of (height, width) `size`; what is smaller is continued by its edge, and ignored there."""
    missing = [max(0, wanted - side) for wanted, side in zip(size, target.shape, strict=True)]
    if any(missing):
        below, right = missing
        image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
        target = np.pad(target, ((0, below), (0, right)), constant_values=IGNORE_INDEX)
    top, left = (draw.randint(0, side - wanted) for wanted, side in zip(size, target.shape, strict=True))
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return image[window], target[window]
