"""The run folder: what a training leaves behind, each file whole or not there.

RUN/best.safetensors    the model file of the best epoch on the validation split
RUN/last.safetensors    the model file of the last epoch
RUN/sums.safetensors    of the closed form alone: the sums that the model was solved from
RUN/checkpoint/         what `--resume` goes on from
RUN/config.toml         the settings as run
RUN/split.csv           which sample was in which split
RUN/metrics.csv         one line an epoch
RUN/curves.png          loss and mean IoU
RUN/validation.png      image, target, prediction, overlay of a few validation samples
RUN/log.txt             what was said

A run of `pretrain` has cae.safetensors and reconstructions.png in place of the model files and validation.png.
"""

import contextlib
import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fullyconv.atomic import atomic_path
from fullyconv.checkpoint import RunLock
from fullyconv.config import PretrainConfig, TrainConfig
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.progress import Progress, Silent
from fullyconv.settings import write_config

__all__ = ["Follower", "Named", "RunFolder", "next_run_folder"]

FILE_NAMES = "surrogateescape"
"""File names, and so ids and messages, may hold bytes that are no UTF-8; Python keeps them as surrogates."""


class Named(Protocol):
    """Whatever has an id: samples of a data set, images."""

    @property
    def id(self) -> str:
        """What it is called in split.csv."""


def next_run_folder(data: Path, parent: Path = Path("runs")) -> Path:
    """Return the first of `runs/<data>-1`, `runs/<data>-2`, ... that is not there yet.

    Args:
        data: The data set: a folder, or a list file, whose suffix is left out.
        parent: Where runs are.
    """
    data = data.resolve()
    name = (data.stem if data.is_file() else data.name) or "run"
    number = 1
    while os.path.lexists(folder := parent / f"{name}-{number}"):
        number += 1
    return folder


class RunFolder:
    """The files of one run, and a `Progress` that also keeps what is said in the log.

    Args:
        path: The folder; made, with its parents, where it is not there.
        resume: Go on in a folder that has a run in it.
        progress: Where lines go besides the log.

    Raises:
        UsageError: The folder is not empty or cannot be made, or, with `resume`, has no run in it.
    """

    def __init__(self, path: Path, *, resume: bool, progress: Progress) -> None:
        missing = [name for name in ("config.toml", "split.csv") if not (path / name).exists()]
        if resume and missing:
            hint = "add --staged" if (path / "32s").is_dir() else "leave --resume out"
            raise UsageError(f"{path} has no run to resume: there is no {missing[0]} in it", hint=hint)
        # What a run leaves that was killed before it wrote its settings.
        remains = {".lock", "split.csv", "log.txt", "tracking.txt", "tensorboard", "wandb", "start.safetensors"}
        empty = not path.exists() or (path.is_dir() and {entry.name for entry in path.iterdir()} <= remains)
        if not resume and not empty:
            hint = "give --resume to go on with it, or another folder with -o"
            raise UsageError(f"the run folder {path} is there already and is not empty", hint=hint)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the run folder {path} cannot be made: {error.strerror or error}") from None
        self._name(path, progress)

    def _name(self, path: Path, progress: Progress) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.start = path / "start.safetensors"
        self.sums = path / "sums.safetensors"
        self.checkpoint = path / "checkpoint"
        self.progress = progress

    @contextlib.contextmanager
    def held(self, *, resumed: bool) -> Iterator[None]:
        """Hold the folder's lock; give the folder up again if a new run fails before it has learned anything."""
        with RunLock(self.path):
            try:
                yield
            except FullyConvError:
                if not resumed and not self.checkpoint.exists():
                    self.discard()  # The next try may have the same folder.
                raise

    def discard(self) -> None:
        """Remove what a run writes before its first epoch."""
        for name in ("config.toml", "split.csv", "log.txt", "tracking.txt", "start.safetensors"):
            (self.path / name).unlink(missing_ok=True)

    def say(self, line: str) -> None:
        """Report a line and keep it in log.txt."""
        self.progress.say(line)
        with (self.path / "log.txt").open("a", encoding="utf-8", errors=FILE_NAMES) as log:
            log.write(line + "\n")

    def track(self, label: str, total: int) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """Track steps; bars are not kept in the log."""
        return self.progress.track(label, total)

    def write_start(
        self,
        config: TrainConfig | PretrainConfig,
        splits: Mapping[str, Iterable[Named]],
        start_from: Path | None = None,
    ) -> None:
        """Write the settings, which sample is in which split, and a copy of the model that the run starts from."""
        if start_from is not None:
            with atomic_path(self.start) as temporary:
                shutil.copyfile(start_from, temporary)
        rows = [{"split": name, "id": sample.id} for name, samples in splits.items() for sample in samples]
        self._write_csv("split.csv", rows)
        with atomic_path(self.path / "config.toml", overwrite=True) as temporary:
            write_config(config, temporary)

    def read_split(self) -> dict[str, str]:
        """Return the split of each sample id, as the run began."""
        with (self.path / "split.csv").open(encoding="utf-8", errors=FILE_NAMES, newline="") as file:
            return {row["id"]: row["split"] for row in csv.DictReader(file)}

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.csv anew from all epochs so far: one line an epoch, the keys as columns."""
        self._write_csv("metrics.csv", history)

    def _write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        # Text is quoted whatever it holds: the csv module leaves a carriage return in a name bare, and then cannot
        # read it.
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows(rows)
        with atomic_path(self.path / name, overwrite=True) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", errors=FILE_NAMES, newline="")


class Follower(RunFolder):
    """The run folder of a process that is not the first of several: that one says and writes everything.

    Args:
        path: The folder, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._name(path, Silent())

    @contextlib.contextmanager
    def held(self, *, resumed: bool) -> Iterator[None]:
        """Hold nothing: the first process does."""
        yield

    def discard(self) -> None:
        """Leave what is there."""

    def say(self, line: str) -> None:
        """Drop the line."""

    def write_start(
        self,
        config: TrainConfig | PretrainConfig,
        splits: Mapping[str, Iterable[Named]],
        start_from: Path | None = None,
    ) -> None:
        """Write nothing."""

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write nothing."""
