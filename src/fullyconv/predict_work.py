"""What a worker of a cluster does: images, bands of huge images, and bands put together. Files in, files out."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from fullyconv.bands import Joined, band_name, predict_band
from fullyconv.choose_engine import open_predictor
from fullyconv.device import instruction_set, set_threads
from fullyconv.distribute import answered
from fullyconv.folders import HIDDEN, Folder, file_stamp, local_file, open_folder
from fullyconv.manifest import Batch, work_through
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.tiles import Box

__all__ = ["MODEL", "PredictSettings", "PredictWorker"]

MODEL = f"{HIDDEN}/model"
"""The model, beside the job: workers need no path of their own to it. Its suffix follows."""


@dataclass(frozen=True)
class PredictSettings:
    """What is to be written of each image, and how it is computed: as of `predict_files` and `open_predictor`."""

    overlay: bool = True
    probabilities: bool = False
    confidence: bool = False
    margin: bool = False
    lecture: bool = False
    engine: str | None = None
    device: str = "auto"
    precision: str = "auto"
    memory: int | None = None
    tile: int | None = None
    threads: int = 1

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured of each pixel."""
        return ("confidence",) * self.confidence + ("margin",) * self.margin

    def open(self, model: Path) -> Predictor:
        """Open a model."""
        return open_predictor(
            model,
            engine=self.engine,
            device=self.device,
            precision=self.precision,
            memory=self.memory,
            tile=self.tile,
        )


class PredictWorker:
    """Has the model open, and does batches.

    Args:
        out: The folder of the job: a path or URL.
        model: Name of the model file in it.
        settings: Those of the job, as a mapping.
    """

    def __init__(self, out: str, model: str, settings: Mapping[str, Any]) -> None:
        self.folder: Folder = open_folder(out)
        self.settings = PredictSettings(**settings)
        set_threads(self.settings.threads)
        with self.folder.local(model) as path:
            self.predictor = self.settings.open(path)
        # The first image takes long: not one of the job, on which a worker that is killed now would have died.
        form = self.predictor.image_form
        self.predictor.predict(np.zeros((64, 64, form.channels), np.uint8 if form.is_usual else np.float32))
        self.facts = {"threads": torch.get_num_threads(), "instructions": instruction_set()}

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, list[str]]:
        """Do batches, as `answered` has them."""
        return answered(rows, self._do)

    def _do(self, batch: Batch) -> dict[str, Any]:
        try:
            return {"statuses": work_through(self.folder, batch, self.work)}
        except OSError as error:
            return {"error": f"{error.filename or self.folder}: {error.strerror or error}"}

    def work(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Do one item, and say what became of it.

        Args:
            item: "key", "input", and "kind": "image"; "band" with "area"; or "join" with the "areas" of all.

        Raises:
            FullyConvError: It cannot be done.
        """
        began = time.perf_counter()
        stamp = file_stamp(item["input"])
        with local_file(item["input"]) as path, self.folder.scratch() as scratch:
            if item["kind"] == "band":
                name = band_name(item["image"], Box(*item["area"]))
                area, measures = Box(*item["area"]), self.settings.measures
                predict_band(self.predictor, path, area, measures, scratch / "band.npz")
                outputs = {name: scratch / "band.npz"}
            else:
                self._predict(item, path, scratch)
                outputs = {file.relative_to(scratch).as_posix(): file for file in _files(scratch)}
            digests = {}
            for name, file in outputs.items():
                with file.open("rb") as opened:
                    digests[name] = hashlib.file_digest(opened, "sha256").hexdigest()
                self.folder.publish(file, name)
        seconds = round(time.perf_counter() - began, 4)
        return {"stamp": stamp, "outputs": digests, "seconds": seconds, **self.facts}

    def _predict(self, item: Mapping[str, Any], path: Path, scratch: Path) -> None:
        predictor = self.predictor
        if item["kind"] == "join":
            areas = [Box(*area) for area in item["areas"]]
            joined = Joined(predictor, self.folder, item["key"], areas, self.settings.overlay)
            predictor = cast(Predictor, joined)
        chosen = ("overlay", "probabilities", "confidence", "margin", "lecture")
        outputs = {name: value for name, value in asdict(self.settings).items() if name in chosen}
        predict_files(predictor, {item["key"]: path}, scratch, **outputs)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
