"""Training from a folder to a model file: what it leaves, what it refuses, and that its bits repeat."""

import contextlib
import csv
import dataclasses
import json
import math
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.batches import step_loss
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.device import choose_precision
from fullyconv.discriminant import Sums, fit_decoder, model_sums
from fullyconv.errors import DataError, FullyConvError, TrainingError, UsageError
from fullyconv.evaluate import evaluate
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.model import build_model
from fullyconv.model_file import load_model, read_description
from fullyconv.point_batches import POINTS_SEED
from fullyconv.progress import Silent
from fullyconv.synthetic import write_dataset
from fullyconv.train import train
from fullyconv.transforms import make_views

INSTANT = recipe(instant=True, threads=1, scales=(1.0,), pixels=128)
QUICK_MAPS = {"steps": 0, "epochs": 3, "threads": 1, "scales": (1.0,), "pixels": 128, "batch": 2}
QUICK = {**QUICK_MAPS, "hidden": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("train") / "data"
    write_dataset(root, train=4, val=2, test=2, size=(64, 96), seed=3)
    return Dataset.open(root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def finished(data, cache, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("runs") / "run", recipe(**QUICK), cache=cache)


class InterruptBefore(Silent):
    """Ctrl-C as an epoch begins."""

    def __init__(self, epoch):
        self.epoch = epoch

    def track(self, label, total):
        if label.startswith(f"epoch {self.epoch} of"):
            raise KeyboardInterrupt
        return super().track(label, total)


def weights_of(result, name="last.safetensors"):
    return (result.run / name).read_bytes()


def test_a_run_leaves_its_files_and_nothing_else(finished):
    assert sorted(path.name for path in finished.run.iterdir()) == [
        "best.safetensors",
        "checkpoint",
        "config.toml",
        "curves.png",
        "last.safetensors",
        "log.txt",
        "metrics.csv",
        "split.csv",
        "validation.png",
    ]


def test_metrics_have_a_line_for_each_epoch(finished):
    with (finished.run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert all(math.isfinite(float(row["loss"])) for row in rows)


def test_a_model_file_holds_no_paths(finished):
    text = json.dumps(read_description(finished.model))
    assert str(finished.run.parent) not in text
    assert "/" not in text.replace("https://", "")


def test_the_report_is_what_evaluating_the_best_model_gives(finished, data):
    report = evaluate(finished.model, data.split("val"))
    assert report.to_json() == finished.report.to_json()


def test_the_loss_falls(data, cache, tmp_path):
    result = train(data, tmp_path / "run", recipe(**{**QUICK, "epochs": 12}), cache=cache)
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < 0.7 * losses[0]


def test_the_encoder_is_the_same_after_training(finished, data):
    before = build_model(recipe(**QUICK), data.class_table).encoder
    assert load_model(finished.model).encoder.digest() == before.digest()


@pytest.mark.parametrize("changes", [{}, {"recipe": "fast", "pixels": 128, "epochs": 2}])
def test_the_same_seed_ends_in_the_same_bits_with_and_without_cache(changes, data, cache, tmp_path):
    settings = {**QUICK, **changes}
    config = recipe(settings.pop("recipe", "default"), **settings)
    first = train(data, tmp_path / "first", config, cache=cache)
    without = train(data, tmp_path / "without", config, use_cache=False)
    assert weights_of(first) == weights_of(without)
    assert weights_of(first, "best.safetensors") == weights_of(without, "best.safetensors")


def test_another_seed_ends_in_other_weights(finished, data, cache, tmp_path):
    other = train(data, tmp_path / "run", recipe(**QUICK, seed=1), cache=cache)
    assert weights_of(other) != weights_of(finished)


@pytest.mark.parametrize("epochs_done", [0, 1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_resumed_run_ends_in_the_bits_of_an_uninterrupted_one(epochs_done, finished, data, cache, tmp_path):
    run = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt):
        train(data, run, recipe(**QUICK), cache=cache, progress=InterruptBefore(epochs_done + 1))
    result = train(data, run, recipe(**QUICK), resume=True, cache=cache)
    assert weights_of(result) == weights_of(finished)
    assert weights_of(result, "best.safetensors") == weights_of(finished, "best.safetensors")


def test_a_run_folder_is_never_overwritten(finished, data):
    before = weights_of(finished)
    with pytest.raises(UsageError, match="is there already and is not empty"):
        train(data, finished.run, recipe(**QUICK))
    assert weights_of(finished) == before


def test_resuming_with_other_data_is_refused(finished, tmp_path):
    write_dataset(tmp_path / "other", train=3, val=1, test=0, size=(64, 64), seed=9)
    run = shutil.copytree(finished.run, tmp_path / "run")
    with pytest.raises(DataError, match="are not those with which the run"):
        train(Dataset.open(tmp_path / "other"), run, recipe(**QUICK), resume=True)


def test_a_checkpoint_of_another_run_is_refused(finished, data, cache, tmp_path):
    run = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt):
        train(data, run, recipe(**QUICK, seed=7), cache=cache, progress=InterruptBefore(2))
    shutil.rmtree(run / "checkpoint")
    shutil.copytree(finished.run / "checkpoint", run / "checkpoint")
    with pytest.raises(UsageError, match="is of another run"):
        train(data, run, recipe(**QUICK, seed=7), resume=True, cache=cache)


def test_resuming_with_other_classes_is_refused(finished, data, cache, tmp_path):
    run = shutil.copytree(finished.run, tmp_path / "run")
    table = dataclasses.replace(
        data.class_table,
        classes=tuple(dataclasses.replace(entry, name=f"{entry.name}2") for entry in data.class_table.classes),
    )
    with pytest.raises(UsageError, match="is of another run"):
        train(dataclasses.replace(data, class_table=table), run, recipe(**QUICK), resume=True, cache=cache)


def test_a_killed_run_without_an_epoch_leaves_its_folder_usable(data, cache, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("")
    assert train(data, tmp_path / "run", recipe(**{**QUICK, "epochs": 1}), cache=cache).model.exists()


def test_without_a_val_split_a_seeded_one_is_made_and_kept(tmp_path, cache):
    write_dataset(tmp_path / "data", train=5, val=0, test=0, size=(64, 64), seed=2)
    result = train(Dataset.open(tmp_path / "data"), tmp_path / "run", recipe(**QUICK), cache=cache)
    splits = (result.run / "split.csv").read_text().split()
    assert sum(line.startswith(chr(34) + "val") for line in splits) == 1


def test_started_from_another_model_the_shared_decoder_weights_are_taken_over(data, cache, tmp_path):
    coarse = recipe(**{**QUICK_MAPS, "decoder": "fcn", "stride": 32})
    first = train(data, tmp_path / "32s", coarse, cache=cache)
    finer = dataclasses.replace(coarse, stride=16)
    second = train(data, tmp_path / "16s", finer, cache=cache, start_from=first.model)
    assert "tensors taken over" in (second.run / "log.txt").read_text()


def test_what_a_run_started_from_survives_a_kill_before_its_first_epoch(data, cache, tmp_path, finished):
    config = recipe(**QUICK, seed=5)
    whole = train(data, tmp_path / "whole", config, cache=cache, start_from=finished.model)
    with contextlib.suppress(KeyboardInterrupt):
        train(data, tmp_path / "cut", config, cache=cache, start_from=finished.model, progress=InterruptBefore(1))
    cut = train(data, tmp_path / "cut", config, resume=True, cache=cache)
    assert weights_of(cut) == weights_of(whole)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best_model(data, cache, tmp_path, monkeypatch):
    calls = []

    def broken(*args, **options):
        calls.append(args)
        loss = step_loss(*args, **options)
        return loss * math.nan if len(calls) > 6 else loss

    monkeypatch.setattr(sys.modules["fullyconv.phase"], "step_loss", broken)
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(data, tmp_path / "run", recipe(**QUICK), cache=cache)
    assert load_model(tmp_path / "run" / "best.safetensors").class_table.num_classes == 5


def test_early_stopping_ends_a_run_whose_val_does_not_rise(data, cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules["fullyconv.phase"].SCHEDULES, "one_cycle", lambda position: 0.0)
    result = train(data, tmp_path / "run", recipe(**{**QUICK, "epochs": 9, "patience": 2}), cache=cache)
    assert len(result.history) < 9
    assert "stopping early" in (result.run / "log.txt").read_text()


@pytest.mark.parametrize(
    "settings",
    [
        {**QUICK_MAPS, "decoder": "fcn", "stride": 8},
        {**QUICK_MAPS, "decoder": "fcn_at_once", "stride": 8},
        pytest.param(
            {**QUICK_MAPS, "decoder": "fcn", "stride": 16, "upsampling": "learned"}, marks=pytest.mark.slow
        ),
        {**QUICK_MAPS, "decoder": "lecture", "width": 16},
        pytest.param({**QUICK, "train_on": "maps", "pixels": 0}, marks=pytest.mark.slow),
        {**QUICK, "train_on": "maps", "pixels": 0, "loss": "dice+cross_entropy"},
        pytest.param(
            {**QUICK_MAPS, "decoder": "fcn", "stride": 8, "pixels": 0, "loss": "dice"}, marks=pytest.mark.slow
        ),
        {**QUICK, "loss": "focal"},
        {**QUICK, "balance": 0.5, "colour_views": 1, "view_scales": (0.5, 1.0)},
    ],
)
def test_every_kind_of_run_trains_and_round_trips(settings, data, cache, tmp_path):
    result = train(data, tmp_path / "run", recipe(**{**settings, "epochs": 1}), cache=cache)
    assert evaluate(result.model, data.split("val")).mean_iou == result.report.mean_iou


def test_an_instant_run_with_other_views_trains_and_round_trips(data, cache, tmp_path):
    config = dataclasses.replace(INSTANT, colour_views=1, view_scales=(0.5, 1.0))
    result = train(data, tmp_path / "run", config, cache=cache)
    assert evaluate(result.model, data.split("val")).mean_iou == result.report.mean_iou


@pytest.fixture(scope="module")
def instant(data, cache, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("instant") / "run", INSTANT, cache=cache)


def test_an_instant_run_leaves_the_files_of_a_run_and_its_sums(instant, finished):
    names = {path.name for path in finished.run.iterdir()}
    assert {path.name for path in instant.run.iterdir()} == names | {"sums.safetensors"}
    assert weights_of(instant) == weights_of(instant, "best.safetensors")
    assert [row["epoch"] for row in instant.history] == [1]


def test_an_instant_model_is_solved_from_the_sums_of_all_points(instant, data, cache):
    model = load_model(instant.model)
    model.encoder.set_precision(choose_precision("auto", torch.device("cpu")))
    reader = FeatureReader(model.encoder, data.split("train"), cache)
    items = [(sample, view) for sample in data.split("train") for view in make_views(True, (1.0,), 0)]
    read = reader.all_points(items, 4, 128, POINTS_SEED)
    parts = [model_sums(model, *drawn) for drawn in read]
    sums = Sums.load(instant.run / "sums.safetensors")
    assert torch.equal(sum(parts[1:], parts[0]).gram, sums.gram)
    biases = model.decoder.bias.clone()
    fit_decoder(model.decoder, sums)
    assert torch.equal(model.decoder.bias, biases)


def test_an_instant_model_beats_a_few_steps_of_training(instant, finished):
    assert instant.report.mean_iou > finished.report.mean_iou
    assert 0 < instant.history[0]["loss"] < math.log(5)
    assert instant.history[0]["lr"] == 0


def test_an_instant_run_ends_in_the_same_bits_whatever_its_seed_and_cache(instant, data, tmp_path):
    again = train(data, tmp_path / "run", dataclasses.replace(INSTANT, seed=8), use_cache=False)
    mine, theirs = (load_model(result.model).state_dict() for result in (again, instant))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("killed_before", [True, False])
def test_an_instant_run_can_be_resumed(killed_before, instant, data, cache, tmp_path, monkeypatch):
    run = shutil.copytree(instant.run, tmp_path / "run")
    if killed_before:
        for name in ("best.safetensors", "last.safetensors", "sums.safetensors", "metrics.csv", "checkpoint"):
            shutil.rmtree(run / name) if name == "checkpoint" else (run / name).unlink()
    result = train(data, run, INSTANT, resume=True, cache=cache)
    assert weights_of(result) == weights_of(instant)


def test_an_instant_run_starts_from_nothing(instant, data, tmp_path):
    with pytest.raises(UsageError, match="the closed form starts from nothing"):
        train(data, tmp_path / "run", INSTANT, start_from=instant.model)
    assert not (tmp_path / "run").exists()


def test_an_instant_model_is_a_start_for_training(instant, data, cache, tmp_path):
    config = recipe(**{**QUICK, "hidden": 0, "epochs": 1, "lr": 1e-7})
    result = train(data, tmp_path / "run", config, cache=cache, start_from=instant.model)
    assert result.report.mean_iou == pytest.approx(instant.report.mean_iou, abs=0.05)


def test_one_wrong_mask_ends_the_run_before_the_first_epoch(tmp_path, cache):
    write_dataset(tmp_path / "data", train=2, val=1, test=0, size=(64, 64), seed=2)
    path = tmp_path / "data" / "masks" / "train" / "0001.png"
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(path)
    with pytest.raises(FullyConvError, match="77") as caught:
        train(Dataset.open(tmp_path / "data"), tmp_path / "run", recipe(**QUICK), cache=cache)
    assert "0001.png" in str(caught.value)
    assert not list((tmp_path / "run").iterdir())
