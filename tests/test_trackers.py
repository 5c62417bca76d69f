"""Following a training elsewhere: what arrives, what is said when it fails, and that the training is the same."""

import sys
import warnings

import pytest
from command_line import run
from test_train import QUICK, InterruptBefore, cache, data  # noqa: F401 - fixtures
from tiny_data import tiny_dataset

from fullyconv.config import recipe
from fullyconv.errors import UsageError
from fullyconv.progress import Silent
from fullyconv.trackers import TRACKERS, open_trackers
from fullyconv.train import train


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


class Book:
    """Writes down what it is told, and fails where it is asked to."""

    def __init__(self, fails=""):
        self.told, self.fails = [], fails

    def note(self, what, *values):
        if self.fails == what:
            raise OSError(f"no route to\nhost at {what}")
        self.told.append((what, *values))

    def start(self, folder, identity, settings, done):
        self.note("start", identity, settings["hidden"], done)

    def epoch(self, number, values):
        self.note("epoch", number, dict(values))

    def finish(self, files):
        self.note("finish", [file.name for file in files])

    def stop(self):
        self.note("stop")


def test_a_tracker_is_told_settings_epochs_and_pictures(data, cache, tmp_path):  # noqa: F811
    book = Book()
    result = train(data, tmp_path / "run", recipe(**QUICK), cache=cache, trackers=[book])
    assert [entry[0] for entry in book.told] == ["start", "epoch", "epoch", "epoch", "finish"]
    (_, identity, hidden, done), (_, number, values), *_, (_, files) = book.told
    assert (identity, hidden, done) == ((result.run / "tracking.txt").read_text(), 8, 0)
    assert number == 1
    assert set(values) == {"train/loss", "val/mean_iou", "val/pixel_accuracy", "lr", "seconds"}
    assert values["val/mean_iou"] == result.history[0]["mean_iou"]
    assert files == ["curves.png", "validation.png"]


def test_a_resumed_run_goes_on_under_the_same_name(data, cache, tmp_path):  # noqa: F811
    first, second = Book(), Book()
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(data, folder, recipe(**QUICK), cache=cache, progress=InterruptBefore(3), trackers=[first])
    train(data, folder, recipe(**QUICK), resume=True, cache=cache, trackers=[second])
    assert first.told[-1] == ("stop",)
    assert second.told[0] == (*first.told[0][:3], 2)
    assert [entry[1] for entry in [*first.told, *second.told] if entry[0] == "epoch"] == [1, 2, 3]


def test_without_trackers_nothing_more_is_written(data, cache, tmp_path):  # noqa: F811
    train(data, tmp_path / "run", recipe(**QUICK), cache=cache)
    assert not (tmp_path / "run" / "tracking.txt").exists()


@pytest.mark.parametrize("what", ["epoch", "finish"])
def test_one_that_fails_is_named_once_and_the_training_ends_in_the_same_bits(what, data, cache, tmp_path):  # noqa: F811
    lines, other = Lines(), Book()
    plain = train(data, tmp_path / "plain", recipe(**QUICK), cache=cache)
    trackers = [Book(what), other]
    result = train(data, tmp_path / "run", recipe(**QUICK), cache=cache, progress=lines, trackers=trackers)
    said = [line for line in lines.lines if "WARNING: Book" in line]
    assert said == [f"WARNING: Book has failed and gets no more: no route to host at {what}"]
    assert other.told[-1][0] == "finish"
    assert result.model.read_bytes() == plain.model.read_bytes()


def test_one_that_cannot_begin_is_refused_and_the_folder_can_be_used_again(data, cache, tmp_path):  # noqa: F811
    with pytest.raises(UsageError, match="Book cannot be used: no route to host at start"):
        train(data, tmp_path / "run", recipe(**QUICK), cache=cache, trackers=[Book("start")])
    assert train(data, tmp_path / "run", recipe(**QUICK), cache=cache).model.exists()


def test_a_name_that_there_is_not_and_one_that_is_not_installed(monkeypatch):
    with pytest.raises(UsageError, match="a tracker is one of tensorboard, wandb, mlflow, got tensorbord"):
        open_trackers(["tensorbord"])
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UsageError, match=rf'{name} is not installed .*pip install "fullyconv\[{name}\]"'):
            open_trackers([name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that all three have followed, from the command line."""
    folder = tmp_path_factory.mktemp("tracked")
    tiny_dataset(folder / "data", [(40, 48)] * 6)
    return folder


@pytest.mark.filterwarnings("ignore")  # of other people's packages
def test_all_three_get_the_same_numbers(folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "mlflow").as_uri())
    names = [word for name in TRACKERS for word in ("--track", name)]
    out, settings = (
        folder / "run",
        ["--recipe", "fast", "--steps", "4", "--epochs", "2", "--pixels", "32", "--no-cache"],
    )
    assert run(monkeypatch, "train", folder / "data", "-o", out, *settings, *names) == 0
    rows = (out / "metrics.csv").read_text().splitlines()
    epochs, ious = len(rows) - 1, [float(row.split(",")[2]) for row in rows[1:]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    seen = EventAccumulator(str(out / "tensorboard"))
    seen.Reload()
    assert [event.step for event in seen.Scalars("val/mean_iou")] == [*range(1, epochs + 1)]
    assert [event.value for event in seen.Scalars("val/mean_iou")] == pytest.approx(ious, abs=1e-6)
    assert set(seen.Tags()["images"]) == {"curves", "validation"}

    client = MlflowClient()
    (kept,) = client.search_runs([client.get_experiment_by_name("fullyconv").experiment_id])
    history = client.get_metric_history(kept.info.run_id, "val/mean_iou")
    assert [(metric.step, metric.value) for metric in history] == [*enumerate(ious, 1)]
    assert kept.data.params["pixels"] == "32"
    assert kept.info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(kept.info.run_id)} == {"curves.png", "validation.png"}

    (local,) = (out / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"val/mean_iou" in local.read_bytes()
    assert local.stem == "run-" + (out / "tracking.txt").read_text()
