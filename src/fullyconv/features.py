"""Features of samples and views: whole maps, or read at a few labelled pixels; through the cache or not."""

import hashlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import PIL
import torch
from torch import Tensor

from fullyconv.array_file import is_item, item_digest
from fullyconv.dataset import Dataset, Sample
from fullyconv.decoder import read_points
from fullyconv.device import instruction_set, move
from fullyconv.draws import draw_pixels
from fullyconv.embedded import open_binary
from fullyconv.encoder import PAD_TO_STRIDE, Encoder
from fullyconv.errors import DataError, UsageError
from fullyconv.feature_cache import FeatureCache, entry_key, to_half
from fullyconv.images import show_path
from fullyconv.regions import Drawn
from fullyconv.shapes import Features, Mask, Pixels, Points, Size
from fullyconv.sizes import padded_size
from fullyconv.transforms import PLAIN, View

__all__ = ["FeatureReader"]

T = TypeVar("T")

PREPROCESSING_VERSION = 6
"""Raised whenever the way from a file's bytes to an entry of the cache changes: reading, views, what the encoder
does around its network, drawing and reading points, rounding."""


class FeatureReader:
    """Read what the fixed encoder says of samples, and their targets.

    With a cache or without, features come from the same function at the same precision, so a training run ends
    in the same bits. On the processor each image is computed by one thread and several images at a time: that is
    faster than several threads on one image, keeps its speed beside other programs, and makes features independent
    of the number of threads.

    Args:
        encoder: The fixed encoder, on its device.
        dataset: Gives images and targets.
        cache: Where features are kept; None computes them each time.

    Raises:
        UsageError: A network whose features do not lie on a grid from the first pixel on, as crops need it.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, cache: FeatureCache | None = None) -> None:
        if (policy := encoder.network.size_policy) != PAD_TO_STRIDE:
            raise UsageError(
                f"the features of encoder {encoder.network.name} ({policy}) serve prediction only: they are "
                "neither cached nor trained on",
                hint="train on another encoder, vgg16 for instance",
            )
        self.encoder = encoder
        self.dataset = dataset
        self.cache = cache
        self.device = encoder.mean.device
        self._file_digests: dict[Path | Drawn, str] = {}
        workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self._ahead = 2 * workers
        self._workers = _single_threaded_workers(workers)
        self._recipe = {
            "encoder": encoder.digest(),
            **({"library": encoder.network.library} if encoder.network.library else {}),
            "preprocessing": PREPROCESSING_VERSION,
            "pillow": PIL.__version__,  # Its decoders and its resizing come before the encoder.
            "torch": torch.__version__,
            "device": self.device.type,
            "instructions": instruction_set(self.device),
            "threads": 1,
        }

    def maps(self, sample: Sample, view: View = PLAIN) -> Features:
        """Return the feature maps of a view of a sample: 1 x K x h x w each, half precision (see `to_half`)."""
        return next(self.all_maps([(sample, view)]))

    def all_maps(self, items: Iterable[tuple[Sample, View]]) -> Iterator[Features]:
        """Yield the feature maps of samples and views in order, computing a few ahead.

        Raises:
            DataError: An image cannot be read, or changes during the run.
        """
        self.encoder.working_network()  # Made before the workers would race for it.
        return self.in_order(self._maps, items)

    def all_points(
        self, items: Iterable[tuple[Sample, View]], output_stride: int, count: int, seed: int
    ) -> Iterator[tuple[Points, Tensor, Tensor]]:
        """Yield features read at labelled pixels of samples and views, their class indices and their shares.

        Args:
            items: Of which views of which samples.
            output_stride: The decoder's: pixels are read through its grid.
            count: Pixels to draw from the labelled ones (`fullyconv.draws`); all of them where there are fewer.
            seed: Decides the draw.

        Yields:
            P x K tensors, one for each spec, half precision; P int64 class indices; P float32 shares.

        Raises:
            DataError: An image or mask cannot be read, or changes during the run.
        """
        self.encoder.working_network()
        return self.in_order(lambda sample, view: self._points(sample, view, output_stride, count, seed), items)

    def map_bytes(self, size: Size) -> int:
        """Count the bytes that the feature maps of one image take in the cache and in memory.

        Args:
            size: (height, width) of the image, or of the view of it, in pixels.
        """
        total = 0
        for spec in self.encoder.specs:
            scaled = (math.ceil(size[0] * spec.scale), math.ceil(size[1] * spec.scale))
            height, width = padded_size(scaled, self.encoder.stride_grid)
            total += spec.channels * (height // spec.tap.stride) * (width // spec.tap.stride)
        return total * torch.float16.itemsize

    def point_bytes(self, count: int) -> int:
        """Count the bytes that the features of `count` pixels take in the cache and in memory."""
        return count * sum(spec.channels for spec in self.encoder.specs) * torch.float16.itemsize

    def in_order(self, read: Callable[[Sample, View], T], items: Iterable[tuple[Sample, View]]) -> Iterator[T]:
        """Read samples and views by the workers, a few before they are asked for, and yield what `read` gives."""
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
        self._refuse_changed(sample.image)
        self._store(key, {str(index): values for index, values in enumerate(maps)})
        return maps

    def _points(
        self, sample: Sample, view: View, output_stride: int, count: int, seed: int
    ) -> tuple[Points, Tensor, Tensor]:
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
            self._refuse_changed(sample.image, sample.mask)
            self._store(key, entry)
        points = [entry[str(index)] for index in range(len(self.encoder.specs))]
        return points, entry["targets"].long(), entry["shares"]

    def target(self, sample: Sample, view: View = PLAIN) -> Mask:
        """Return the target of a view: H x W uint8 class indices, 255 ignored."""
        return view.apply_mask(self.dataset.read_target(sample))

    def image(self, sample: Sample, view: View = PLAIN) -> Pixels:
        """Return the view of a sample's image, in the data set's form."""
        image = self.dataset.read_image(sample)
        if view == PLAIN:
            return image
        return view.apply(image, seed=int(self._file_digest(sample.image)[:8], 16))

    def _compute(self, sample: Sample, view: View) -> Features:
        image = move(torch.from_numpy(self.image(sample, view).copy()), self.device)
        # An entry of the cache comes back with its values in the usual order, and the order decides which kernels
        # the decoder is computed with, so its last bits: without a cache it has to be the same.
        return [
            to_half(maps).cpu().clone(memory_format=torch.contiguous_format)
            for maps in self.encoder(image.permute(2, 0, 1)[None])
        ]

    def _draw_points(
        self, sample: Sample, view: View, output_stride: int, count: int, seed: int
    ) -> dict[str, Tensor]:
        target = torch.from_numpy(self.target(sample, view).copy())
        # The draw depends on what is in the key and nothing else: two samples of equal files share an entry.
        draw = torch.Generator().manual_seed(
            int(entry_key({"image": self._file_digest(sample.image), "view": asdict(view), "seed": seed})[:8], 16)
        )
        pixels, shares = draw_pixels(target.flatten(), count, draw)
        size = (target.shape[0], target.shape[1])
        rows, columns = pixels // size[1], pixels % size[1]
        maps = [maps.float() for maps in self._compute(sample, view)]
        points = read_points(maps, self.encoder.specs, output_stride, rows, columns, size)
        entry = {str(index): to_half(values) for index, values in enumerate(points)}
        return {**entry, "targets": target.flatten()[pixels], "shares": shares}

    def _image_key(self, sample: Sample, view: View) -> dict[str, object]:
        return {
            **self._recipe,
            "precision": str(self.encoder.precision),
            "image": self._file_digest(sample.image),
            "view": asdict(view),
        }

    def _file_digest(self, path: Path | Drawn) -> str:
        """SHA-256 of a file, an item of an array or a drawn mask, as it was when this reader first saw it."""
        if (known := self._file_digests.get(path)) is not None:
            return known
        return self._file_digests.setdefault(path, _sha256(path))  # Of several threads the first one counts.

    def _refuse_changed(self, *paths: Path | Drawn | None) -> None:
        """Refuse files that are not those whose digest is in the key any more: their features are another's."""
        for path in paths:
            if path is not None and _sha256(path) != self._file_digests[path]:
                raise DataError(
                    f"{show_path(str(path))} has changed while the run was reading it",
                    hint="leave the data alone during training; start anew, or restore the file and resume",
                )

    def _load(self, key: str) -> dict[str, Tensor] | None:
        return self.cache.load(key) if self.cache else None

    def _store(self, key: str, entry: dict[str, Tensor]) -> None:
        if self.cache:
            self.cache.store(key, entry)


def _sha256(path: Path | Drawn) -> str:
    if not isinstance(path, Path):
        return path.digest()
    if is_item(path):
        return item_digest(path)
    try:
        with open_binary(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{show_path(path)} cannot be read: {error.strerror or error}") from None


def _single_threaded_workers(count: int) -> ThreadPoolExecutor:
    """Start threads in each of which torch computes with one thread.

    `torch.set_num_threads` sets the OpenMP and MKL threads of the calling thread and, beside that, the number that
    any thread starts with which has not computed yet: without more, the calling program's later threads, and its
    main thread if it comes late, would be left with one. So each worker first takes its share of that number and
    then sets its own, and when all have, the number is set again by the thread that calls this.
    """
    threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(count, "features")
    ready = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait(timeout=60)

    for _ in range(count):
        workers.submit(begin)
    ready.wait(timeout=60)
    torch.set_num_threads(threads)
    return workers
