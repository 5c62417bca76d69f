"""Send what a training says of itself to TensorBoard, Weights & Biases or MLflow: extras, one class each.

A training does not depend on them: what goes wrong after it has begun is said once and ends the tracking, not the
training. Where they send things to, and as whom, is told to them in their own ways: `WANDB_MODE`, `wandb login`,
`MLFLOW_TRACKING_URI`.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from fullyconv.atomic import atomic_path
from fullyconv.errors import UsageError
from fullyconv.images import read_image

__all__ = ["FILE", "TRACKERS", "Tracker", "Trackers", "open_trackers"]

FILE = "tracking.txt"
"""In the run folder: what the run is called by those who follow it."""

PROJECT = "fullyconv"
"""What runs are filed under at Weights & Biases and MLflow; their own variables say otherwise."""

_NAMES = {"loss": "train/loss", "mean_iou": "val/mean_iou", "pixel_accuracy": "val/pixel_accuracy"}


class Tracker(Protocol):
    """Where a training is followed."""

    def start(self, run: Path, identity: str, settings: Mapping[str, Any], done: int) -> None:
        """Begin, or go on.

        Args:
            run: The run folder.
            identity: The same for a run that is resumed, and else never the same.
            settings: Names and values, which JSON can hold.
            done: Epochs that are behind it.
        """

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Take what an epoch gave; `number` counts from 1."""

    def finish(self, files: Sequence[Path]) -> None:
        """End, and take the pictures of the run."""

    def stop(self) -> None:
        """End a run that was interrupted or has failed; it may be resumed."""


class TensorBoard:
    """Writes RUN/tensorboard; to be seen with `tensorboard --logdir RUN`."""

    def start(self, run: Path, identity: str, settings: Mapping[str, Any], done: int) -> None:
        """See `Tracker`."""
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run / "tensorboard"), purge_step=done + 1 if done else None)
        if not done:
            rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def finish(self, files: Sequence[Path]) -> None:
        """See `Tracker`."""
        for file in files:
            self._writer.add_image(file.stem, read_image(file), dataformats="HWC")
        self._writer.close()

    def stop(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """Sends to Weights & Biases, or keeps it in RUN/wandb with `WANDB_MODE=offline`."""

    def start(self, run: Path, identity: str, settings: Mapping[str, Any], done: int) -> None:
        """See `Tracker`."""
        self._wandb = import_module("wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=identity,
            resume="allow",
            dir=str(run),
            config=dict(settings),
        )

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=number)

    def finish(self, files: Sequence[Path]) -> None:
        """See `Tracker`."""
        self._run.log({file.stem: self._wandb.Image(str(file)) for file in files})
        self._run.finish()

    def stop(self) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=1)


class MLflow:
    """Sends to the server, or the store, that `MLFLOW_TRACKING_URI` names."""

    TAG = "fullyconv.run"

    def start(self, run: Path, identity: str, settings: Mapping[str, Any], done: int) -> None:
        """See `Tracker`."""
        mlflow = import_module("mlflow")
        self._client = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{self.TAG}` = '{identity}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(experiment, run_name=run.name, tags={self.TAG: identity}).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=number)

    def finish(self, files: Sequence[Path]) -> None:
        """See `Tracker`."""
        for file in files:
            self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run)

    def stop(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run, status="FAILED")


TRACKERS: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""By name; the name is that of the extra, too."""


def open_trackers(names: Sequence[str]) -> list[Tracker]:
    """Make trackers by their names.

    Raises:
        UsageError: There is none of a name, or its package is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            raise UsageError(f"a tracker is one of {', '.join(TRACKERS)}, got {name}")
        try:
            import_module(name)
        except ImportError:
            raise UsageError(
                f"{name} is not installed", hint=f'install it with: pip install "fullyconv[{name}]"'
            ) from None
        found.append(TRACKERS[name]())
    return found


class Trackers:
    """Several trackers of one run, none of which can stop it once it has begun.

    Args:
        trackers: The trackers.
        say: Where to say that one has failed.
    """

    def __init__(self, trackers: Sequence[Tracker], say: Callable[[str], None]) -> None:
        self._live, self._say = list(trackers), say

    def start(self, run: Path, settings: Mapping[str, Any], done: int) -> None:
        """Begin, or go on after so many epochs.

        Raises:
            UsageError: One of them cannot.
        """
        if not self._live:
            return
        place = run / FILE
        identity = place.read_text(encoding="utf-8").strip() if place.is_file() else uuid.uuid4().hex[:16]
        with atomic_path(place) as temporary:
            temporary.write_text(identity, encoding="utf-8")
        for tracker in self._live:
            try:
                tracker.start(run, identity, settings, done)
            except Exception as error:  # of kinds of their own
                raise UsageError(
                    f"{type(tracker).__name__} cannot be used: {_line(error)}",
                    hint="set it up as docs/how-to/follow-a-run.md says, or train without it",
                ) from error

    def stop(self) -> None:
        """End a run that was interrupted or has failed."""
        for tracker in self._live:
            with contextlib.suppress(Exception):
                tracker.stop()

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Pass on what an epoch gave, a row of metrics.csv."""
        values = {_NAMES.get(name, name): value for name, value in row.items() if name != "epoch"}
        self._each("epoch", number, values)

    def finish(self, files: Sequence[Path]) -> None:
        """End, with the pictures of the run."""
        self._each("finish", files)

    def _each(self, what: str, *arguments: Any) -> None:
        for tracker in list(self._live):
            try:
                getattr(tracker, what)(*arguments)
            except Exception as error:  # the training goes on whatever it is
                self._live.remove(tracker)
                self._say(f"WARNING: {type(tracker).__name__} has failed and gets no more: {_line(error)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
