"""Stages: each goes on from the one before, and an interrupted one is gone on with."""

from dataclasses import replace

import pytest
import torch
from test_session import InterruptAt
from test_train import QUICK_MAPS

from fullyconv.config import recipe
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.model_file import load_model
from fullyconv.staged import train_staged
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

CONFIG = recipe(**{**QUICK_MAPS, "epochs": 1, "decoder": "fcn", "stride": 8})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("staged") / "data"
    write_dataset(root, train=4, val=2, test=0, size=(64, 96), seed=3)
    return Dataset.open(root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return FeatureCache(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def stages(data, cache, tmp_path_factory):
    return train_staged(data, tmp_path_factory.mktemp("runs") / "run", CONFIG, cache=cache)


def test_stages_go_from_stride_32_to_the_finest(stages):
    assert list(stages) == [32, 16, 8]
    for stride, result in stages.items():
        model = load_model(result.model)
        assert model.decoder.output_stride == stride
        assert result.run.name == f"{stride}s"


def test_a_later_stage_begins_with_the_one_before_at_a_tenth_of_its_rate(stages):
    log = (stages[16].run / "log.txt").read_text()
    assert "started from another model: 2 of 4 decoder tensors taken over" in log
    assert max(row["lr"] for row in stages[16].history) <= 0.1 * CONFIG.lr
    first = load_model(stages[32].model).decoder.score_fr.weight
    second = load_model(stages[16].model).decoder.score_fr.weight
    assert 0 < (first - second).abs().max() < 0.1


@pytest.mark.slow
def test_a_trained_encoder_goes_on_to_the_next_stage(data, cache, tmp_path):
    config = replace(CONFIG, stride=16, train_encoder=32, tune_epochs=1, patience=0)
    stages = train_staged(data, tmp_path / "run", config, cache=cache)
    model = str(stages[32].model)
    assert f'encoder_weights = "{model}"' in (stages[16].run / "config.toml").read_text()
    assert "WARNING: its encoder" not in (stages[16].run / "log.txt").read_text()


@pytest.mark.parametrize("epoch", [2, *(pytest.param(epoch, marks=pytest.mark.slow) for epoch in (1, 3))])
def test_an_interrupted_stage_is_gone_on_with(stages, data, cache, tmp_path, epoch):
    with pytest.raises(KeyboardInterrupt):
        train_staged(data, tmp_path / "run", CONFIG, cache=cache, progress=InterruptAt(epoch))
    resumed = train_staged(data, tmp_path / "run", CONFIG, cache=cache, resume=True)
    for stride, result in stages.items():
        ours, theirs = (load_model(found.model).state_dict() for found in (resumed[stride], result))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_decoders_have_no_stages(data, tmp_path):
    with pytest.raises(UsageError, match="stages are those of the paper's FCN, got decoder practical"):
        train_staged(data, tmp_path / "run", recipe())
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_left_alone(stages, data):
    with pytest.raises(UsageError, match="is there already and is not empty"):
        train_staged(data, stages[32].run.parent, CONFIG)


def test_a_training_that_is_refused_at_its_start_leaves_its_folder_usable(data, cache, tmp_path):
    steep = recipe(
        **{**QUICK_MAPS, "epochs": 1, "pixels": 0, "decoder": "fcn", "stride": 32},
        optimizer="sgd",
        summed_loss=True,
        lr=1e-2,
    )
    with pytest.raises(UsageError, match="on a loss summed over"):
        train_staged(data, tmp_path / "run", steep, cache=cache)
    assert list((tmp_path / "run").iterdir()) == []
    train_staged(data, tmp_path / "run", replace(CONFIG, stride=32), cache=cache)
    with pytest.raises(UsageError, match=r"has no run to resume: there is no split.csv in it \(add --staged\)"):
        train(data, tmp_path / "run", CONFIG, resume=True)
