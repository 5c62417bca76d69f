"""Whole epochs: of a recipe, as `train` runs it, and of the peer, taking turns.

The peer takes a turn after each epoch of ours, while our training waits: what else the machine does meets both.
A time is a pair: seconds on the clock, and seconds of the processor, which are summed over threads and which other
programs hardly change.
"""

import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullyconv.check import check_dataset
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.feature_cache import FeatureCache
from fullyconv.progress import Silent
from fullyconv.train import train

RECIPES = ("default", "fast")
PRECISIONS = ("float32", "bfloat16")
PEER_PACKAGES = ("torch", "torchvision", "timm", "segmentation_models_pytorch")
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def now() -> np.ndarray:
    """The clock and the processor's time, in seconds, to be subtracted."""
    return np.array([time.perf_counter(), time.process_time()])


class Watch(Silent):
    """Take the time of what `train` reports, and call something after each epoch.

    Attributes:
        reading: The time of reading the features of the train split, computing those that are not cached.
        steps: The times of the training steps of each epoch.
        validations: The times of each validation.
    """

    def __init__(self, after_epoch: Callable[[], None]) -> None:
        self.after_epoch = after_epoch
        self.reading = np.zeros(2)
        self.steps: list[np.ndarray] = []
        self.validations: list[np.ndarray] = []

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Take the time of reading features, or of the steps of an epoch."""
        start = now()
        yield lambda: None
        self.end = now()
        if label.startswith("epoch"):
            self.steps.append(self.end - start)
        else:
            self.reading = self.end - start

    def say(self, line: str) -> None:
        """Take the time of a validation: it lies between the steps and the line about the epoch."""
        if line.startswith("epoch "):
            self.validations.append(now() - self.end)
            print(line, file=sys.stderr, flush=True)
            self.after_epoch()


def time_recipe(
    name: str, dataset: Dataset, folder: Path, after_epoch: Callable[[], None]
) -> dict[str, np.ndarray]:
    """Train a recipe from an empty cache and return what an epoch of it takes.

    Args:
        name: The recipe. Small data sets get as many epochs as large ones.
        dataset: With splits train and val.
        folder: For the cache and the run.
        after_epoch: Called after each epoch; its time is nobody's.
    """
    config = recipe(name, steps=0)
    watch = Watch(after_epoch)
    train(dataset, folder / "run", config, cache=FeatureCache(folder), progress=watch)
    return epoch_times(watch.reading, watch.steps, watch.validations)


def epoch_times(
    reading: np.ndarray, steps: Sequence[np.ndarray], validations: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """What an epoch takes, alone and with its share of what is done once in a run.

    Args:
        reading: The time of computing the features of the train split.
        steps: Of each epoch.
        validations: Of each epoch; the first one computes the features of the val split, the others read them.
    """
    step, validation = np.median(steps, axis=0), np.median(validations[1:], axis=0)
    share, share_of_val = reading / len(steps), (validations[0] - validation) / len(steps)
    return {
        "steps": step,
        "steps + extraction": step + share,
        "steps + validation": step + validation,
        "steps + validation + extraction of both": step + share + validation + share_of_val,
    }


def peer_python(given: Path | None, folder: Path) -> Path:
    """Return the Python of the peer's environment: the one given, or that of an environment made in a folder."""
    if given is not None:
        return given
    print("installing the peer into an environment of its own", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "-qq", "-c", CONSTRAINTS, *PEER_PACKAGES], check=True)
    return python


class Peer:
    """A process that trains the peer when it is told to.

    Args:
        python: Of an environment that has `PEER_PACKAGES`.
        dataset: The train split; its first images, of those as large as the very first.
        batches: Steps in a turn.
        batch: Images in a step.
        folder: For the images.

    Attributes:
        about: What the process says of itself.
        turns: The times of each turn, by precision.
    """

    def __init__(self, python: Path, dataset: Dataset, *, batches: int, batch: int, folder: Path) -> None:
        sizes = list(check_dataset(dataset).sizes)
        equal = [sample for sample, size in zip(dataset, sizes, strict=True) if size == sizes[0]]
        samples = equal[: batches * batch]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "images.npz"
        np.savez(
            path,
            images=np.stack([dataset.read_image(sample) for sample in samples]),
            targets=np.stack([dataset.read_target(sample) for sample in samples]),
        )
        numbers = (dataset.class_table.num_classes, torch.get_num_threads(), batch)
        command = [python, Path(__file__).with_name("_peer.py"), path, *map(str, numbers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()
        self.turns: dict[str, list[np.ndarray]] = {precision: [] for precision in PRECISIONS}
        for precision in PRECISIONS:
            self._ask(precision)  # Not counted: the first steps of a process are slow.

    def __enter__(self) -> "Peer":
        """The process ends with the block."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self.process.communicate()

    def turn(self) -> None:
        """Take the steps of a turn in each precision."""
        for precision, times in self.turns.items():
            times.append(self._ask(precision))
            print(
                f"peer, {precision}, {self.about['images']} images: {times[-1][0]:.2f} s",
                file=sys.stderr,
                flush=True,
            )

    def epoch(self, precision: str, images: int) -> np.ndarray:
        """The median turn, scaled to an epoch."""
        return np.median(self.turns[precision], axis=0) / self.about["images"] * images

    def _ask(self, precision: str) -> np.ndarray:
        print(precision, file=self.process.stdin, flush=True)
        answer = self._answer()
        return np.array([answer["clock"], answer["processor"]])

    def _answer(self) -> dict[str, float]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer has ended: see above")
        return json.loads(line)


def against_peer(dataset: Dataset, python: Path | None, batches: int, folder: Path) -> dict[str, object]:
    """Train both recipes, the peer taking turns, and compare an epoch of each.

    Args:
        dataset: With a train and a val split.
        python: Of the peer's environment; None makes one.
        batches: Steps of the peer in a turn.
        folder: For everything.
    """
    split = dataset.split("train")
    with Peer(peer_python(python, folder / "peer"), split, batches=batches, batch=8, folder=folder) as peer:
        ours = {name: time_recipe(name, dataset, folder / name, peer.turn) for name in RECIPES}
    views = {name: len(split) * (1 + recipe(name).mirror) for name in RECIPES}
    theirs = {precision: peer.epoch(precision, len(split)) for precision in PRECISIONS}
    rows = [_row(f"peer, {precision}", pair, len(split), {}) for precision, pair in theirs.items()]
    for name, epoch in ours.items():
        rows += [_row(f"{name}: {what}", pair, views[name], theirs) for what, pair in epoch.items()]
    return {"peer": peer.about, "turns": len(peer.turns[PRECISIONS[0]]), "images": len(split), "epochs": rows}


def _row(what: str, pair: np.ndarray, views: int, peers: Mapping[str, np.ndarray]) -> dict[str, object]:
    """A line of the table; the factors say how many times longer the peer takes."""
    return {
        "epoch": what,
        **named(pair),
        "image_views": views,
        "clock_an_image_view": pair[0] / views,
        "factors": {precision: named(peer / pair) for precision, peer in peers.items()},
    }


def named(pair: np.ndarray) -> dict[str, float]:
    """A pair as JSON."""
    return dict(zip(("clock", "processor"), pair.tolist(), strict=True))


def show_epochs(result: Mapping[str, Any]) -> None:
    """Print the table of whole epochs."""
    peer = result["peer"]
    height, width = peer["padded_size"]
    turns = f"{result['turns']} turns of {peer['images']} images of {height} x {width}, {peer['batch']} a step"
    print(
        f"\nan epoch of {result['images']} training images, in seconds\n"
        f"peer: U-Net of {peer['toolkit']}, {peer['encoder']} frozen, {peer['trained_parameters']} trained\n"
        f"parameters; the median of {turns}, scaled\n"
        f"{'':52} views    clock  a view  processor   peer takes as long x, by the clock (the processor)"
    )
    for row in result["epochs"]:
        factors = [f"{key} {by['clock']:.1f} ({by['processor']:.1f})" for key, by in row["factors"].items()]
        print(
            f"  {row['epoch']:50} {row['image_views']:5} {row['clock']:8.2f} {row['clock_an_image_view']:7.4f}"
            f" {row['processor']:10.2f}   {'  '.join(factors)}"
        )
