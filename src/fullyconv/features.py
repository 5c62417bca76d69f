"""Features of samples and views: whole maps, or read at a few labelled pixels; through the cache or not."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset, Sample
from fullyconv.decoder import read_points
from fullyconv.device import instruction_set
from fullyconv.encoder import Encoder
from fullyconv.feature_cache import FeatureCache, entry_key, to_half
from fullyconv.shapes import Features, Image, Mask, Points
from fullyconv.transforms import PLAIN, View

__all__ = ["FeatureReader"]

T = TypeVar("T")

PREPROCESSING_VERSION = 1
"""Raised whenever the way from a file's bytes to the encoder's input changes."""


class FeatureReader:
    """Read what the fixed encoder says of samples, and their targets.

    With a cache or without, features come from the same function at the same precision, so a training run ends
    in the same bits. On the processor each image is computed by one thread and several images at a time: that is
    faster than several threads on one image, keeps its speed beside other programs, and makes features independent
    of the number of threads.

    Args:
        encoder: The fixed encoder, on its device and in its precision.
        dataset: Gives images and targets.
        cache: Where features are kept; None computes them each time.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, cache: FeatureCache | None = None) -> None:
        self.encoder = encoder
        self.dataset = dataset
        self.cache = cache
        self.device = encoder.mean.device
        self._file_digests: dict[Path, str] = {}
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._ahead = 2 * workers
        self._workers = ThreadPoolExecutor(workers, "features", torch.set_num_threads, (1,))
        encoder.working_network()  # Made before the workers would race for it.
        self._recipe = {
            "encoder": encoder.digest(),
            "preprocessing": PREPROCESSING_VERSION,
            "precision": str(encoder.precision),
            "torch": torch.__version__,
            "device": str(self.device.type),
            "instructions": instruction_set(),
            "threads": 1,
        }

    def maps(self, sample: Sample, view: View = PLAIN) -> Features:
        """Return the feature maps of a view of a sample: 1 x K x h x w each, half precision (see `to_half`)."""
        return next(self.all_maps([(sample, view)]))

    def all_maps(self, items: Iterable[tuple[Sample, View]]) -> Iterator[Features]:
        """Yield the feature maps of samples and views in order, computing a few ahead."""
        return self._in_order(self._maps, items)

    def all_points(
        self, items: Iterable[tuple[Sample, View]], output_stride: int, count: int, seed: int
    ) -> Iterator[tuple[Points, Tensor]]:
        """Yield features read at labelled pixels of samples and views, and their class indices.

        Args:
            items: Of which views of which samples.
            output_stride: The decoder's: pixels are read through its grid.
            count: Pixels to draw from the labelled ones, with equal probability and without repetition; all of
                them where there are fewer.
            seed: Decides the draw.

        Yields:
            P x K tensors, one for each spec, half precision, and P int64 class indices.
        """
        return self._in_order(
            lambda sample, view: self._points(sample, view, output_stride, count, seed), items
        )

    def _in_order(
        self, read: Callable[[Sample, View], T], items: Iterable[tuple[Sample, View]]
    ) -> Iterator[T]:
        """Read items by the workers, at most `_ahead` of them before they are asked for."""
        running: deque[Future[T]] = deque()
        try:
            for item in items:
                running.append(self._workers.submit(read, *item))
                if len(running) > self._ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()

    def _maps(self, sample: Sample, view: View) -> Features:
        key = entry_key({**self._image_key(sample, view), "kind": "maps"})
        if (entry := self._load(key)) is not None:
            return [entry[str(index)] for index in range(len(self.encoder.specs))]
        maps = self._compute(sample, view)
        self._store(key, maps)
        return maps

    def _points(
        self, sample: Sample, view: View, output_stride: int, count: int, seed: int
    ) -> tuple[Points, Tensor]:
        key = entry_key(
            {
                **self._image_key(sample, view),
                "kind": "points",
                "mask": self._file_digest(sample.mask) if sample.mask else None,
                "class_table": self.dataset.class_table.to_json(),
                "output_stride": output_stride,
                "count": count,
                "seed": seed,
            }
        )
        entry = self._load(key)
        if entry is None:
            entry = self._draw_points(sample, view, output_stride, count, seed)
            self._store_entry(key, entry)
        return [entry[str(index)] for index in range(len(self.encoder.specs))], entry["targets"].long()

    def target(self, sample: Sample, view: View = PLAIN) -> Mask:
        """Return the target of a view: H x W uint8 class indices, 255 ignored."""
        return view.apply_mask(self.dataset.read_target(sample))

    def image(self, sample: Sample, view: View = PLAIN) -> Image:
        """Return the view of a sample's image: H x W x 3 uint8."""
        image = self.dataset.read_image(sample)
        if view == PLAIN:
            return image
        return view.apply(image, seed=int(self._file_digest(sample.image)[:8], 16))

    def _compute(self, sample: Sample, view: View) -> Features:
        image = torch.from_numpy(self.image(sample, view).copy()).to(self.device)
        return [to_half(maps).cpu() for maps in self.encoder(image.permute(2, 0, 1)[None])]

    def _draw_points(
        self, sample: Sample, view: View, output_stride: int, count: int, seed: int
    ) -> dict[str, Tensor]:
        target = torch.from_numpy(self.target(sample, view).copy())
        labelled = (target.flatten() != IGNORE_INDEX).nonzero()[:, 0]
        draw = torch.Generator().manual_seed(
            int(entry_key({"id": sample.id, "view": asdict(view), "seed": seed})[:8], 16)
        )
        pixels = labelled[torch.randperm(len(labelled), generator=draw)[:count]].sort().values
        size = (target.shape[0], target.shape[1])
        rows, columns = pixels // size[1], pixels % size[1]
        maps = [maps.float() for maps in self._compute(sample, view)]
        points = read_points(maps, self.encoder.specs, output_stride, rows, columns, size)
        entry = {str(index): to_half(values) for index, values in enumerate(points)}
        return {**entry, "targets": target.flatten()[pixels]}

    def _image_key(self, sample: Sample, view: View) -> dict[str, object]:
        return {**self._recipe, "image": self._file_digest(sample.image), "view": asdict(view)}

    def _file_digest(self, path: Path) -> str:
        if path not in self._file_digests:
            self._file_digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._file_digests[path]

    def _load(self, key: str) -> dict[str, Tensor] | None:
        return self.cache.load(key) if self.cache else None

    def _store(self, key: str, maps: Features) -> None:
        self._store_entry(key, {str(index): values for index, values in enumerate(maps)})

    def _store_entry(self, key: str, entry: dict[str, Tensor]) -> None:
        if self.cache:
            self.cache.store(key, entry)
