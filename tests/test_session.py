"""What a training says before it begins, and its phases. `test_train` has the rest."""

import shutil

import pytest
import torch
from test_trackers import Lines
from test_train import QUICK

from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.encoders import build_network
from fullyconv.errors import UsageError
from fullyconv.evaluate import evaluate
from fullyconv.explain import outline_of
from fullyconv.feature_cache import FeatureCache
from fullyconv.model import build_model, describe
from fullyconv.model_file import load_model, read_description, save_model
from fullyconv.predict import Predictor
from fullyconv.progress import Silent
from fullyconv.synthetic import write_dataset
from fullyconv.train import train


def test_what_check_warns_of_is_said_before_the_first_epoch(tmp_path):
    write_dataset(tmp_path / "data", train=4, val=2, test=0, size=(64, 96), seed=3)
    for kind in ("images", "masks"):
        shutil.copy(tmp_path / f"data/{kind}/train/0000.png", tmp_path / f"data/{kind}/val/0000.png")
    lines = Lines()
    train(Dataset.open(tmp_path / "data"), tmp_path / "run", recipe(**QUICK), use_cache=False, progress=lines)
    leak = [place for place, line in enumerate(lines.lines) if "images are in two splits" in line]
    first = next(place for place, line in enumerate(lines.lines) if line.startswith("epoch 1"))
    assert len(leak) == 1
    assert leak[0] < first
    assert lines.lines[leak[0]].startswith("WARNING: 1 images")


TUNED = {
    **{**QUICK, "epochs": 1, "train_encoder": "all", "tune_epochs": 2, "ema": 0.5, "accumulate": 2, "clip": 1.0},
    "crop": 64,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("session") / "data"
    write_dataset(root, train=5, val=2, test=0, size=(64, 96), seed=3)
    return Dataset.open(root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def tuned(data, cache, tmp_path_factory):
    return train(data, tmp_path_factory.mktemp("tuned") / "run", recipe(**TUNED), cache=cache)


def encoder_of(path):
    return load_model(path).encoder.network.state_dict()


def test_the_encoder_is_trained_after_the_decoder(tuned, data, tmp_path):
    pretrained = build_network("efficientnet_lite0").state_dict()
    assert len(tuned.history) == 3
    last = encoder_of(tuned.run / "last.safetensors")
    changed = {name for name, tensor in last.items() if not torch.equal(tensor, pretrained[name])}
    assert changed == {name for name in last if "running" not in name}
    description = read_description(tuned.run / "last.safetensors")
    assert description["encoder"]["weights_source"].endswith(", fine-tuned")
    assert "encoder (tuned)" in describe(description)
    outline = outline_of(load_model(tuned.run / "last.safetensors"))
    assert outline.encoder_state == outline.to_json()["encoder_state"] == "tuned"
    assert "from now on 2,958,848 weights of the encoder are trained" in (tuned.run / "log.txt").read_text()
    report = evaluate(Predictor(tuned.model), data.split("val"))
    assert report.mean_iou == pytest.approx(tuned.report.mean_iou, abs=0.01)


def test_from_a_stride_on_the_layers_below_stay_as_they_were(data, cache, tmp_path):
    config = recipe(**{**TUNED, "train_encoder": 32, "live_statistics": True})
    result = train(data, tmp_path / "run", config, cache=cache)
    pretrained = build_network("efficientnet_lite0").state_dict()
    last = encoder_of(result.run / "last.safetensors")
    changed = {name for name, tensor in last.items() if not torch.equal(tensor, pretrained[name])}
    assert changed == {name for name in last if name.startswith(("stages.6.", "stages.7."))}


@pytest.mark.parametrize(
    ("train_encoder", "epochs_done"),
    [
        (16, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("all", 1), ("all", 2), (16, 2)]),
    ],
)
def test_a_tuning_run_that_is_resumed_ends_in_the_same_bits(data, cache, tmp_path, epochs_done, train_encoder):
    config = recipe(**{**TUNED, "train_encoder": train_encoder})
    whole = train(data, tmp_path / "whole", config, cache=cache)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", config, cache=cache, progress=InterruptAt(epochs_done + 1))
    resumed = train(data, tmp_path / "run", config, cache=cache, resume=True)
    for name in ("best.safetensors", "last.safetensors"):
        assert (resumed.run / name).read_bytes() == (whole.run / name).read_bytes()
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


class InterruptAt(Silent):
    """Ctrl-C as so many epochs have begun."""

    def __init__(self, epoch):
        self.left = epoch

    def track(self, label, total):
        self.left -= label.startswith("epoch")
        if self.left == 0 and label.startswith("epoch"):
            raise KeyboardInterrupt
        return super().track(label, total)


def test_without_a_warm_up_the_encoder_is_trained_from_the_beginning(data, tmp_path):
    config = recipe(**{**TUNED, "epochs": 0, "ema": 0.0, "tune_epochs": 1})
    result = train(data, tmp_path / "run", config, use_cache=False)
    assert len(result.history) == 1
    assert not (tmp_path / "run" / "features").exists()


def test_a_trained_encoder_serves_another_training(tuned, data, cache, tmp_path):
    model = tuned.run / "last.safetensors"
    config = recipe(**{**QUICK, "epochs": 1})
    lines = Lines()
    train(data, tmp_path / "other", config, cache=cache, start_from=model, progress=lines)
    assert any("its encoder has other weights" in line for line in lines.lines)
    config = recipe(**{**QUICK, "epochs": 1, "encoder_weights": str(model)})
    lines = Lines()
    result = train(data, tmp_path / "run", config, cache=cache, start_from=model, progress=lines)
    assert not any("other weights" in line for line in lines.lines)
    ours, theirs = encoder_of(result.model), encoder_of(model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_summed_loss_with_the_rate_of_a_mean_is_refused_with_its_equivalent(data, tmp_path):
    steep = {**TUNED, "epochs": 0, "optimizer": "sgd", "momentum": 0.99, "summed_loss": True, "tune_lr": 1e-4}
    message = "tune_lr 0.0001 on a loss summed over the 4096 pixels of an image is like 0.4096 on their mean"
    with pytest.raises(UsageError, match=message):
        train(data, tmp_path / "run", recipe(**steep), use_cache=False)


class InterruptReading(Silent):
    """Ctrl-C as features are read: before the first checkpoint."""

    def track(self, label, total):
        if label == "reading features":
            raise KeyboardInterrupt
        return super().track(label, total)


def test_what_a_run_starts_from_survives_a_kill_before_its_first_checkpoint(tuned, data, cache, tmp_path):
    config = recipe(**{**QUICK, "epochs": 1})
    whole = train(data, tmp_path / "whole", config, cache=cache, start_from=tuned.model)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", config, cache=cache, start_from=tuned.model, progress=InterruptReading())
    assert (tmp_path / "run" / "start.safetensors").exists()
    resumed = train(data, tmp_path / "run", config, cache=cache, resume=True)
    assert "started from another model" in (resumed.run / "log.txt").read_text()
    assert resumed.model.read_bytes() == whole.model.read_bytes()
    assert not (tmp_path / "run" / "start.safetensors").exists()


def test_a_trained_encoder_of_other_channels_can_be_gone_on_from(tuned, tmp_path):
    settings = {"channels": 4, "scales": (1.0,), "hidden": 0, "dropout": 0.0}
    table = ClassTable.from_values(range(3))
    model = build_model(recipe(encoder_weights="none", **settings), table)
    model.encoder.network.stem.conv.weight.data.fill_(0.5)
    save_model(model, tmp_path / "model.safetensors")
    again = build_model(recipe(encoder_weights=str(tmp_path / "model.safetensors"), **settings), table)
    assert (again.encoder.network.stem.conv.weight == 0.5).all()
