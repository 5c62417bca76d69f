"""Aligned random crops of the feature maps of every image and view."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fullyconv import processes
from fullyconv.batches import MEMORY, MapBatch
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset, Sample
from fullyconv.decoder import Decoder
from fullyconv.device import generator_of, move
from fullyconv.draws import draw_pixels
from fullyconv.features import FeatureReader
from fullyconv.progress import Progress
from fullyconv.shapes import Features, Size
from fullyconv.sizes import padded_size
from fullyconv.transforms import View

__all__ = ["MapBatches"]


class MapBatches:
    """Aligned random crops of the feature maps of every image and view.

    Images smaller than the crop are continued by the edge values of their feature maps, which is what
    interpolation reads beyond an edge. A decoder with zero padding (learned upsampling, the lecture's) sees these
    values where it sees zeros in the whole image.

    Args:
        reader: Gives maps and targets of the samples of `dataset`.
        dataset: The training split.
        views: The views of each sample.
        decoder: Whose logits are trained: its halo decides which pixels near a cut edge count.
        sizes: (height, width) of the samples' images, in order.
        crop: Side of the crops in pixels; 0 takes the smallest image's. Rounded up to the crop grid, at least four
            halos and 128 pixels, at most the largest image.
        count: Pixels drawn from a crop; 0 for all.
        batch: Crops in a step.
        seed: Decides crops, pixels and order.
        steps: Steps of an epoch, their images drawn with replacement; 0 shows each image and view once.
    """

    def __init__(
        self,
        reader: FeatureReader,
        dataset: Dataset,
        views: tuple[View, ...],
        *,
        decoder: Decoder,
        sizes: list[Size],
        crop: int,
        count: int,
        batch: int,
        seed: int,
        steps: int = 0,
    ) -> None:
        self.reader = reader
        self.steps = steps
        self.items = [(sample, view) for sample in dataset for view in views]
        self.count = count
        self.batch = batch
        self.seed = seed
        self.device = reader.device
        self.grid = reader.encoder.crop_grid
        self.halo = math.ceil(decoder.halo_cells * max(spec.stride for spec in decoder.specs))
        self.output_stride = decoder.output_stride
        self.crop = self._crop_size(sizes, crop)
        self.skipped = 0
        specs = reader.encoder.specs
        self._ends_agree = all(spec.scale == 1 and spec.stride >= self.output_stride for spec in specs)
        self._held: dict[tuple[Sample, View], tuple[Features, Tensor]] = {}
        self._held_bytes = 0

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self.steps or -(-len(self.items) // self.batch)

    def epoch(self, epoch: int) -> Iterator[MapBatch]:
        """Yield the batches of an epoch. Crops without a labelled pixel are left out and counted in `skipped`.

        What is drawn from a crop depends on its target, so that each process reads the targets of all of them.
        """
        draw = generator_of(self.seed, epoch)
        if self.steps:
            order = torch.randint(len(self.items), (self.steps * self.batch,), generator=draw).tolist()
        else:
            order = torch.randperm(len(self.items), generator=draw).tolist()
        items = [self.items[index] for index in order]
        own = [processes.owns(place % self.batch) for place in range(len(order))]
        reading = self._read_all([item for item, mine in zip(items, own, strict=True) if mine])
        others = (item for item, mine in zip(items, own, strict=True) if not mine)
        targets = self.reader.in_order(self._target, others)
        for first in range(0, len(order), self.batch):
            step = own[first : first + self.batch]
            crops = [self._draw(*(next(reading) if mine else ([], next(targets))), draw) for mine in step]
            usable = [bool((crop.targets != IGNORE_INDEX).any()) for crop in crops]
            self.skipped += usable.count(False)
            if any(usable):
                kept = zip(crops, usable, step, strict=True)
                yield self._collate([crop for crop, is_usable, mine in kept if is_usable and mine])

    def _crop_size(self, sizes: list[Size], crop: int) -> Size:
        """Round the crop up to the grid, at most as large as the largest image."""
        largest = padded_size((max(size[0] for size in sizes), max(size[1] for size in sizes)), self.grid)
        # Tiny crops would be all halo: images smaller than a few halos are padded instead.
        floor = max(4 * self.halo, 128)
        wanted = (crop, crop) if crop else (min(size[0] for size in sizes), min(size[1] for size in sizes))
        height, width = padded_size((max(wanted[0], floor), max(wanted[1], floor)), self.grid)
        return min(height, largest[0]), min(width, largest[1])

    def _draw(self, features: Features, target: Tensor, draw: torch.Generator) -> MapBatch:
        """Cut one crop and draw its pixels; of another process's the features are not there."""
        top, bottom = self._window(target.shape[0], self.crop[0], draw)
        left, right = self._window(target.shape[1], self.crop[1], draw)
        targets = torch.full(self.crop, IGNORE_INDEX, dtype=torch.uint8)
        first, last = self._counting(top, bottom, target.shape[0], self.crop[0])
        start, stop = self._counting(left, right, target.shape[1], self.crop[1])
        targets[first - top : last - top, start - left : stop - left] = target[first:last, start:stop]
        cut = [
            _cut(maps, spec.stride, (top, left), self.crop)
            for spec, maps in zip(self.reader.encoder.specs, features, strict=bool(features))
        ]
        chosen, shares = self._draw_pixels(targets, draw)
        rows, columns = chosen // self.crop[1], chosen % self.crop[1]
        return MapBatch(cut, self.crop, targets[None], rows[None], columns[None], shares[None])

    def _draw_pixels(self, targets: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` pixels of a crop; where fewer are labelled, the rest is there for the shape alone."""
        chosen, shares = draw_pixels(targets.flatten(), self.count, draw)
        if len(chosen) == 0:
            return chosen, shares
        missing = self.count - len(chosen)
        shares = torch.cat([shares * (self.count / len(chosen)), torch.zeros(missing)])
        return torch.cat([chosen, chosen[:1].expand(missing)]), shares

    def _window(self, side: int, crop: int, draw: torch.Generator) -> tuple[int, int]:
        """Choose a window of a side on the grid; the whole side where it fits."""
        padded = padded_size((side, side), self.grid)[0]
        positions = max(0, padded - crop) // self.grid + 1
        start = int(torch.randint(positions, (1,), generator=draw)) * self.grid if positions > 1 else 0
        return start, min(start + crop, side)

    def _counting(self, start: int, stop: int, side: int, crop: int) -> tuple[int, int]:
        """Shrink a window of a side to the pixels whose logits are those of the whole image."""
        first = start + self.halo if start > 0 else start
        last = stop - self.halo if stop < side else stop
        # Pixels beyond the last centre of the whole image's output grid take the logits there. Where a crop goes
        # on beyond that grid, they are interpolated with the next ones: the same, unless a map says more there.
        end = padded_size((side, side), self.reader.encoder.stride_grid)[0]
        if start + crop > end and not self._ends_agree:
            last = min(last, end - self.output_stride // 2)
        return first, max(first, last)

    def _collate(self, crops: list[MapBatch]) -> MapBatch:
        if not crops:
            return self._nothing()
        features = [
            move(torch.cat(maps), self.device).float()
            for maps in zip(*(crop.features for crop in crops), strict=True)
        ]
        targets = move(torch.cat([crop.targets for crop in crops]), self.device).long()
        rows = move(torch.cat([crop.rows for crop in crops]), self.device)
        columns = move(torch.cat([crop.columns for crop in crops]), self.device)
        shares = move(torch.cat([crop.shares for crop in crops]), self.device)
        return MapBatch(features, self.crop, targets, rows, columns, shares)

    def _nothing(self) -> MapBatch:
        """The share of a process that has no crop of a step."""
        none = torch.zeros(0, self.count, dtype=torch.long, device=self.device)
        features = [
            torch.zeros(0, spec.channels, *(round(side / spec.stride) for side in self.crop), device=self.device)
            for spec in self.reader.encoder.specs
        ]
        targets = torch.zeros(0, *self.crop, dtype=torch.long, device=self.device)
        return MapBatch(features, self.crop, targets, none, none, none.float())

    def read_ahead(self, progress: Progress) -> None:
        """Compute the maps that are not cached yet, and hold what fits in memory; nothing without a cache.

        Of several processes each does its share, and then waits for the others.
        """
        if self.reader.cache is not None:
            items = processes.share(self.items)
            with progress.track("reading features", len(items)) as step:
                for _ in self._read_all(items):
                    step()
            processes.wait()

    def _target(self, sample: Sample, view: View) -> Tensor:
        held = self._held.get((sample, view))
        return held[1] if held else torch.from_numpy(self.reader.target(sample, view).copy())

    def _read_all(self, items: Sequence[tuple[Sample, View]]) -> Iterator[tuple[Features, Tensor]]:
        """Yield maps and target of items in order, from memory where they are held."""
        # An item may come twice: which ones are read is settled before the first of them is held.
        known = set(self._held)
        missing = self.reader.all_maps(item for item in items if item not in known)
        for item in items:
            if item in known:
                held = self._held[item]
            else:
                held = next(missing), self._target(*item)
                size = sum(maps.nbytes for maps in held[0]) + held[1].nbytes
                # Without a cache the encoder is meant to be in the loop: nothing is held then.
                affordable = self._held_bytes + size <= MEMORY and item not in self._held
                if self.reader.cache is not None and affordable:
                    self._held[item] = held
                    self._held_bytes += size
            yield held


def _cut(maps: Tensor, stride: float, corner: tuple[int, int], crop: Size) -> Tensor:
    """Cut a feature map at a pixel window on the grid; smaller maps are continued by their edge values."""
    top, left = (round(position / stride) for position in corner)
    height, width = (round(side / stride) for side in crop)
    rows = torch.arange(top, top + height).clamp(max=maps.shape[-2] - 1)
    columns = torch.arange(left, left + width).clamp(max=maps.shape[-1] - 1)
    return maps.index_select(-2, rows).index_select(-1, columns)
