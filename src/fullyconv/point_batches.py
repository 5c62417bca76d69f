"""The point cache: features of drawn pixels of every image and view, read once, shuffled in every epoch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fullyconv import processes
from fullyconv.batches import MEMORY, PointBatch
from fullyconv.dataset import Dataset
from fullyconv.device import generator_of, move
from fullyconv.features import FeatureReader
from fullyconv.progress import Progress
from fullyconv.shapes import Points
from fullyconv.transforms import View

__all__ = ["POINTS_SEED", "PointBatches", "points_each"]

POINTS_SEED = 0
"""The draw of pixels is the same for every seed of a training, so that runs with other seeds find their points in
the cache. Their order in an epoch is not."""


class PointBatches:
    """The point cache: features of drawn pixels of every image and view, shuffled across images.

    The pixels are drawn once and the same in every epoch. An image with fewer labelled pixels than `count` gives
    all of them, and so weighs less than the others. Of several processes each holds the points of its share of the
    images and views.

    Args:
        reader: Gives points of the samples of `dataset`.
        dataset: The training split.
        views: The views of each sample.
        output_stride: The decoder's.
        count: Pixels drawn from an image and view; fewer where `MEMORY` would not hold them.
        size: Points in a step.
        seed: Decides the order.
        progress: Told how far the reading is.
    """

    def __init__(
        self,
        reader: FeatureReader,
        dataset: Dataset,
        views: tuple[View, ...],
        *,
        output_stride: int,
        count: int,
        size: int,
        seed: int,
        progress: Progress,
    ) -> None:
        each = points_each(reader, len(dataset) * len(views), count)
        if each < count:
            progress.say(f"points: {each} pixels an image and view instead of {count}, to stay below 2 GB")
        # A process may have no image: then these are all.
        parts = [[torch.zeros(0, spec.channels, dtype=torch.half)] for spec in reader.encoder.specs]
        targets = [torch.zeros(0, dtype=torch.long)]
        shares = [torch.zeros(0)]
        every = [(sample, view) for sample in dataset for view in views]
        items = processes.share(every)
        with progress.track("reading features", len(items)) as step:
            for points, classes, share in reader.all_points(items, output_stride, each, POINTS_SEED):
                for part, values in zip(parts, points, strict=True):
                    part.append(values)
                targets.append(classes)
                shares.append(share)
                step()
        self.points: Points = []
        while parts:  # Each list goes when it is joined: not everything is there twice.
            self.points.append(torch.cat(parts.pop(0)))
        self.targets = torch.cat(targets)
        self.shares = torch.cat(shares)
        self._rows = _rows_of_points([len(classes) for classes in targets[1:]], len(every))
        self.size = size
        self.seed = seed
        self.device = reader.device
        self.skipped = 0

    def __len__(self) -> int:
        """Steps in an epoch."""
        return -(-self.count // self.size)

    @property
    def count(self) -> int:
        """Points of all processes."""
        return len(self._rows)

    def epoch(self, epoch: int) -> Iterator[PointBatch]:
        """Yield the batches of an epoch, in an order of its own."""
        order = torch.randperm(self.count, generator=generator_of(self.seed, epoch))
        for start in range(0, len(order), self.size):
            chosen = self._rows[order[start : start + self.size]]
            chosen = chosen[chosen >= 0]
            # The same rows as by values[chosen], five times and more as fast.
            points = [move(values.index_select(0, chosen), self.device).float() for values in self.points]
            yield PointBatch(
                points, *(move(values[chosen], self.device) for values in (self.targets, self.shares))
            )


def points_each(reader: FeatureReader, views: int, count: int) -> int:
    """How many pixels are drawn from an image and view: `count`, or as many as `MEMORY` holds of so many views."""
    return min(count, max(1, MEMORY // (reader.point_bytes(1) * views)))


def _rows_of_points(counts: list[int], items: int) -> Tensor:
    """Say where this process holds each point of all processes, numbered image by image; -1 where another has it.

    Args:
        counts: Points of each image and view of this process.
        items: Images and views of all processes.
    """
    lengths = torch.zeros(items, dtype=torch.long)
    lengths[processes.rank() :: processes.count()] = torch.tensor(counts, dtype=torch.long)
    ends = processes.total(lengths).cumsum(0)
    rows = torch.full((int(ends[-1]),), -1)
    numbers = torch.split(torch.arange(sum(counts)), counts)
    for end, own in zip(processes.share(ends.tolist()), numbers, strict=True):
        rows[end - len(own) : end] = own
    return rows
