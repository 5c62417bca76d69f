"""The features that a training will read, computed before it by as many processes as there are."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset, Sample
from fullyconv.device import choose_precision, instruction_set, seed_everything, set_threads
from fullyconv.distribute import answered, batches_of, opened_cluster
from fullyconv.encoder import Encoder
from fullyconv.encoders import fetch_pretrained
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.folders import LocalFolder
from fullyconv.manifest import Batch, Manifest, work_through
from fullyconv.memory import shown_bytes
from fullyconv.model import build_model, image_form_of
from fullyconv.point_batches import POINTS_SEED, points_each
from fullyconv.progress import Progress, Silent
from fullyconv.train import splits_of
from fullyconv.trained_part import TrainedPart
from fullyconv.transforms import PLAIN, View, make_views

__all__ = ["FeatureWorker", "Readings", "fill_cache"]


@dataclass(frozen=True)
class _Reading:
    """A reader, and what a training reads by it."""

    reader: FeatureReader
    items: list[tuple[Sample, View]]
    points: tuple[int, int] | None = None
    """Output stride and count where pixels are drawn; None where whole maps are read."""

    def run(self, items: list[tuple[Sample, View]]) -> Iterator[object]:
        """Read some of the items."""
        if self.points is not None:
            return self.reader.all_points(items, *self.points, POINTS_SEED)
        return self.reader.all_maps(items)

    def bytes(self) -> int:
        """What the items take in the cache, at most."""
        if self.points is not None:
            return len(self.items) * self.reader.point_bytes(self.points[1])
        sizes = {sample: self.reader.dataset.read_target(sample).shape for sample, _ in self.items}
        return sum(self.reader.map_bytes(view.size(sizes[sample])) for sample, view in self.items)


class Readings:
    """Everything that a training reads through the feature cache.

    Args:
        data: The data set, as the training opens it.
        config: Its settings.
        cache: Where the features are kept.

    Attributes:
        readings: A reader with what it reads, one after the other.
    """

    def __init__(self, data: Dataset, config: TrainConfig, cache: FeatureCache) -> None:
        splits = splits_of(data, config)
        seed_everything(config.seed)
        model = build_model(config, data.class_table)
        encoder, decoder = model.encoder, model.decoder
        encoder.set_precision(choose_precision(config.precision, encoder.mean.device))
        train, views = splits["train"], make_views(config.mirror, config.view_scales, config.colour_views)
        varied = [(sample, view) for sample in train for view in views]
        self.readings: list[_Reading] = []
        if config.epochs:
            reader = FeatureReader(encoder, train, cache)
            points = None
            if config.train_on == "points":
                points = decoder.output_stride, points_each(reader, len(varied), config.pixels)
            plain = [(sample, PLAIN) for sample in splits["val"]]
            self.readings.append(_Reading(reader, varied, points))
            self.readings.append(_Reading(FeatureReader(encoder, splits["val"], cache), plain))
        if isinstance(config.train_encoder, int):
            front = TrainedPart(encoder, decoder, config.train_encoder).front
            if isinstance(front, Encoder):
                self.readings.append(_Reading(FeatureReader(front, train, cache), varied))

    def keys(self) -> list[str]:
        """Name what is to be read, one key an image and view of each reader."""
        return [f"{place}:{index}" for place, one in enumerate(self.readings) for index in range(len(one.items))]

    def read(self, key: str) -> str:
        """Read what a key names, and return the id of its sample."""
        place, index = map(int, key.split(":"))
        item = self.readings[place].items[index]
        list(self.readings[place].run([item]))
        return item[0].id


class FeatureWorker:
    """A process that computes features into a cache that all see.

    Args:
        data: The data set.
        config: Settings of the training.
        cache: The folder of the cache.
        limit: Bytes that it may take.
        folder: In which paths that are relative begin.
        job: A folder for what is done.
    """

    def __init__(
        self, data: str, config: Mapping[str, Any], cache: str, limit: int, folder: str, job: str
    ) -> None:
        os.chdir(folder)
        set_threads(1)  # Features are computed by one thread each, whoever reads them.
        settings = TrainConfig(**config)
        self.cache = FeatureCache(Path(cache), limit)
        self.readings = Readings(_opened(Path(data), settings), settings, self.cache)
        self.job = LocalFolder(Path(job))

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do batches, as `answered` has them."""
        return answered(rows, self._do)

    def _do(self, batch: Batch) -> dict[str, Any]:
        statuses = work_through(self.job, batch, self.work)
        return {"error": f"feature cache: {self.cache.failure}"} if self.cache.failure else {"statuses": statuses}

    def work(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Read one image and view."""
        return {"sample": self.readings.read(item["key"]), "instructions": instruction_set()}


def fill_cache(
    data: Path,
    config: TrainConfig,
    *,
    cluster: str | None = None,
    workers: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> int:
    """Compute the features that a training with these settings will read, as far as the user's cache lacks them.

    Args:
        data: The data set.
        config: The settings of the training.
        cluster: As of `opened_cluster`; None for this process. The workers need the data set and the cache
            (`FULLYCONV_CACHE`) under the same paths.
        workers: How many.
        offline: Download no pretrained weights.
        progress: Where to report.

    Returns:
        How many entries are new.

    Raises:
        UsageError: The features would not fit into the cache.
        FullyConvError: Some images could not be read; the features of all others are there.
        DataError: An image cannot be read (in this process).
    """
    progress = progress or Silent()
    if config.encoder_weights == "pretrained":
        fetch_pretrained(config.encoder, offline=offline, progress=progress)
    set_threads(config.threads)
    cache = FeatureCache()
    readings = Readings(_opened(data, config), config, cache)
    needed, before = sum(reading.bytes() for reading in readings.readings), cache.info()
    if needed > before.limit:
        raise UsageError(
            f"the features take {shown_bytes(needed)}, the cache may hold {shown_bytes(before.limit)}",
            hint="give FULLYCONV_CACHE a larger disk, or train on fewer views, or on points",
        )
    if cluster is None:
        for reading in readings.readings:
            with progress.track("reading features", len(reading.items)) as step:
                for _ in reading.run(reading.items):
                    step()
    else:
        _by_workers(data, config, cache, readings.keys(), cluster, workers, progress)
    if cache.failure:
        raise FullyConvError(f"feature cache: {cache.failure}")
    return cache.info().entries - before.entries


def _opened(data: Path, config: TrainConfig) -> Dataset:
    return Dataset.open(data, classes=config.classes, ignore=config.ignore, image_form=image_form_of(config))


def _by_workers(
    data: Path,
    config: TrainConfig,
    cache: FeatureCache,
    keys: list[str],
    cluster: str,
    workers: int | None,
    progress: Progress,
) -> None:
    """Have what keys name read by the workers of a cluster."""
    job = LocalFolder(cache.folder.parent / f"job-{secrets.token_hex(8)}")
    arguments = {
        "data": str(data.absolute()),
        "config": json.loads(json.dumps(asdict(config), default=str)),
        "cache": str(cache.folder.parent.absolute()),
        "limit": cache.limit,
        "folder": str(Path.cwd()),
        "job": job.place,
    }
    items = [{"key": key, "input": str(data)} for key in keys]
    try:
        with opened_cluster(cluster, progress) as ray:
            count = workers or ray.cores()
            batches = batches_of(items, count, lambda item: False)
            count = min(count, len(batches))
            with progress.track("reading features", len(items)) as step:
                for statuses in ray.run(FeatureWorker, arguments, batches, workers=count, threads=1):
                    for _ in statuses:
                        step()
        records = Manifest(job).records.values()
    finally:
        job.remove("")
    lost = [record["reason"] for record in records if record["status"] != "done"]
    if lost:
        raise FullyConvError(f"{len(lost)} of {len(keys)} images and views could not be read: {lost[0]}")
    others = {record["instructions"] for record in records} - {instruction_set()}
    if others:
        progress.say(
            f"WARNING: some workers compute with {', '.join(sorted(others))}, this machine with "
            f"{instruction_set()}: a training here does not use their features"
        )
