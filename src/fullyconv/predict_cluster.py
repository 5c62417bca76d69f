"""Predict image files over the workers of a cluster: the driver."""

import contextlib
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fullyconv import __version__
from fullyconv.bands import BANDS, HUGE, bands_of, cut_bands
from fullyconv.checkpoint import RunLock
from fullyconv.distribute import Cluster, batches_of, opened_cluster
from fullyconv.errors import DataError, FullyConvError, UsageError, show_path
from fullyconv.folders import HIDDEN, WORK, Folder, LocalFolder, file_stamp, is_url, open_folder
from fullyconv.image_files import find_places
from fullyconv.manifest import QUARANTINE, Manifest, quarantined, start_job
from fullyconv.memory import available_bytes
from fullyconv.predict import Predictor
from fullyconv.predict_work import MODEL, PredictSettings, PredictWorker
from fullyconv.progress import Progress, Silent, duration
from fullyconv.sources import read_header

__all__ = ["predict_on_cluster"]

LEAST_BYTES = 4_000_000
"""Of a TIFF whose header is read to see whether it is huge: a smaller file holds no such image, or a blank one."""


def predict_on_cluster(
    model: Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    settings: PredictSettings,
    *,
    cluster: str = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Predict masks of image files by several processes on one machine or many, and write them.

    Each output appears once and is what one process with as many threads writes. Killed workers are replaced; a
    driver that is killed is started again with the same command, which does what is left.

    Args:
        model: A model file, or an exported one.
        inputs: Files, folders, globs, arrays, and URLs of files, folders and globs. The workers read them under
            the same names.
        out: The folder for the masks: a path that the workers have, too, or a URL.
        settings: What is written, and how it is computed.
        cluster: As of `opened_cluster`.
        workers: How many; one for each core by default, or for each `settings.threads` of them.
        progress: Where to report.

    Returns:
        The number of images whose outputs are there.

    Raises:
        FullyConvError: Some images could not be predicted: they are in quarantine.csv, all others are done.
        UsageError: The folder has another job in it, or files of somebody else; or Ray is not there.
        ModelFileError: The model is damaged.
    """
    progress = progress or Silent()
    images = find_places(inputs)
    if settings.device == "auto":
        settings = replace(settings, device="cpu")  # Not one here and another one there.
    predictor = settings.open(model)  # What is wrong with it is said here.
    with _held(open_folder(out)) as folder:
        settings = _begun(folder, model, settings, images, predictor)
        manifest = Manifest(folder)
        left = _left(manifest, images)
        if len(left) < len(images):
            progress.say(f"{len(images) - len(left)} of {len(images)} images are done already")
        if left:
            with opened_cluster(cluster, progress) as ray:
                job = _Job(ray, workers, manifest, settings, predictor, MODEL + model.suffix, progress)
                job.run(left)
        if not folder.names(BANDS):
            folder.remove(BANDS)
            manifest.forget(_cut_otherwise(manifest))
        manifest.write()
        folder.remove(WORK)
    lost = [name for name in images if manifest.records[name]["status"] != "done"]
    if lost:
        raise FullyConvError(
            f"{len(lost)} of {len(images)} images are in quarantine, all others are done: {folder}/{QUARANTINE}",
            hint="the same command tries them again",
        )
    return len(images)


@contextlib.contextmanager
def _held(folder: Folder) -> Iterator[Folder]:
    """Let nobody else work in a folder of this machine; at a URL two at a time write the same."""
    if not isinstance(folder, LocalFolder):
        yield folder
        return
    hidden = folder.path / HIDDEN
    hidden.mkdir(parents=True, exist_ok=True)
    with RunLock(hidden):
        folder.remove(WORK)
        yield folder


def _begun(
    folder: Folder, model: Path, settings: PredictSettings, images: Mapping[str, str], predictor: Predictor
) -> PredictSettings:
    """Begin the job or go on with it; its settings, with what was chosen when it began."""
    data = model.read_bytes()
    given = {name: value for name, value in asdict(settings).items() if name not in ("memory", "precision")}
    precision = settings.precision
    if precision == "auto" and type(predictor) is Predictor:
        precision = str(predictor.model.encoder.precision).removeprefix("torch.")
    share = predictor.memory if settings.memory else available_bytes() // (2 * (os.cpu_count() or 1))
    job = {
        "model": hashlib.sha256(data).hexdigest(),
        "fullyconv": __version__,
        **given,
        "chosen": {"memory": share, "precision": precision},
    }
    names = (f"{name}{suffix}" for name in images for suffix in (".png", ".tif"))
    begun = start_job(folder, job, names)
    if not folder.exists(MODEL + model.suffix):
        folder.write(MODEL + model.suffix, data)
    return replace(settings, **begun["chosen"])


def _left(manifest: Manifest, images: Mapping[str, str]) -> dict[str, str]:
    """The images that are left: all but those that are done and as they were, their outputs in place."""
    left = {}
    for name, place in images.items():
        record = manifest.records.get(name, {"status": "new", "input": place})
        if record["input"] != place:
            raise UsageError(
                f"{name} is the mask of {show_path(record['input'])} here, not of {show_path(place)}",
                hint="choose another folder with -o",
            )
        there = record["status"] == "done" and all(map(manifest.folder.exists, record["outputs"]))
        if not there or record["stamp"] != file_stamp(place):
            left[name] = place
    manifest.forget(left)
    return left


def _cut_otherwise(manifest: Manifest) -> list[str]:
    """Keys of bands, of runs with other numbers of workers."""
    outputs = {key: record.get("outputs", ()) for key, record in manifest.records.items()}
    return [key for key, names in outputs.items() if any(name.startswith(BANDS) for name in names)]


class _Job:
    """What of a job is left, done by workers.

    Args:
        ray: The cluster.
        workers: How many, or None for as many as it has cores for.
        manifest: Of the job.
        settings: Of the job.
        predictor: The model, to see what can be cut.
        model: Name of the model file in the folder.
        progress: Where to report.
    """

    def __init__(
        self,
        ray: Cluster,
        workers: int | None,
        manifest: Manifest,
        settings: PredictSettings,
        predictor: Predictor,
        model: str,
        progress: Progress,
    ) -> None:
        self.ray, self.manifest, self.folder = ray, manifest, manifest.folder
        self.settings, self.predictor, self.model, self.progress = settings, predictor, model, progress
        self.workers = workers or max(1, ray.cores() // settings.threads)

    def run(self, images: Mapping[str, str]) -> None:
        """Do some images: bands of huge ones and all others first, then put the bands together."""
        began = time.perf_counter()
        bands = {name: self._bands(name, place) for name, place in images.items()}
        items = [item for name in images for item in bands[name]]
        items = [item for item in items if not self._is_there(item)]
        items += [
            {"key": name, "input": place, "kind": "image"} for name, place in images.items() if not bands[name]
        ]
        self._do("predicting", items)
        self._do("putting together", list(self._joins(images, bands)))
        for name in images:
            if bands[name] and self.manifest.records[name]["status"] == "done":
                self.manifest.forget(item["key"] for item in bands[name])
                self.folder.remove(bands_of(name))
        seconds = time.perf_counter() - began
        self.progress.say(
            f"{len(images)} images in {duration(seconds)} by {self.workers} workers: "
            f"{len(images) / seconds:.3g} images/s"
        )

    def _bands(self, name: str, place: str) -> list[dict[str, Any]]:
        """What an image is cut into; nothing where it is not huge or cannot be cut."""
        whole = self.settings.probabilities or self.settings.lecture
        if whole or is_url(place) or not place.lower().endswith((".tif", ".tiff")):
            return []
        try:
            if Path(place).stat().st_size < LEAST_BYTES:
                return []
            header = read_header(place, self.predictor.image_form)
        except (DataError, OSError):
            return []  # Whoever predicts it will say so.
        if header.mask_suffix != ".tif" or math.prod(header.size) < HUGE:
            return []
        areas = cut_bands(self.predictor, header.size, self.workers)
        boxes = [(area.top, area.left, area.bottom, area.right) for area in areas]
        return [
            {"key": f"{name}#{box[0]}-{box[2]}", "input": place, "kind": "band", "image": name, "area": box}
            for box in boxes
        ]

    def _is_there(self, item: Mapping[str, Any]) -> bool:
        """Whether an earlier run has left a band."""
        record = self.manifest.records.get(item["key"], {"status": "new"})
        done = record["status"] == "done" and record["stamp"] == file_stamp(item["input"])
        return done and all(map(self.folder.exists, record["outputs"]))

    def _joins(
        self, images: Mapping[str, str], bands: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> Iterator[dict[str, Any]]:
        """The images whose bands are all there; the others are put in quarantine."""
        for name, parts in bands.items():
            item = {"key": name, "input": images[name], "kind": "join", "areas": [part["area"] for part in parts]}
            lost = [part["key"] for part in parts if self.manifest.records[part["key"]]["status"] != "done"]
            if lost:
                reason = str(self.manifest.records[lost[0]]["reason"])
                self.manifest.forget(part["key"] for part in parts)
                self.manifest.records[name] = quarantined(item, reason)
            elif parts:
                yield item

    def _do(self, label: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Have items done, and take what became of them into the manifest, however this ends."""
        if not items:
            return
        batches = batches_of(items, self.workers, lambda item: item["kind"] != "image")
        arguments = {"out": self.folder.place, "model": self.model, "settings": asdict(self.settings)}
        try:
            with self.progress.track(label, len(items)) as step:
                for statuses in self.ray.run(
                    PredictWorker,
                    arguments,
                    batches,
                    workers=min(self.workers, len(batches)),
                    threads=self.settings.threads,
                    gpu=self.settings.device.startswith("cuda"),
                ):
                    for _ in statuses:
                        step()
        finally:
            self.manifest.merge()
        for item in items:
            self.manifest.records.setdefault(item["key"], quarantined(item, "no worker said what became of it"))
