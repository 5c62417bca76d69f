"""The features that a training will read, computed before it: then it computes none."""

import contextlib
import json

import command_line
import pytest
from tiny_networks import make_thin

from fullyconv.config import TrainConfig
from fullyconv.dataset import Dataset
from fullyconv.distribute import statuses_of
from fullyconv.errors import FullyConvError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.fill_cache import fill_cache
from fullyconv.synthetic import write_dataset
from fullyconv.train import train

FAST = {"encoder_weights": "none", "epochs": 1, "steps": 1, "threads": 1}


class Here:
    """Stands in for Ray: batches are done in this process."""

    def cores(self):
        return 2

    def run(self, worker, arguments, batches, **options):
        made = worker(**arguments)
        for batch in batches:
            found = made({"batch": [json.dumps({"id": batch.id, "items": batch.items})]})
            yield statuses_of(found["found"][0])


@pytest.fixture
def data(tmp_path, monkeypatch):
    make_thin(monkeypatch, 8)
    monkeypatch.setenv("FULLYCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fullyconv.fill_cache.opened_cluster", lambda *arguments: contextlib.nullcontext(Here()))
    write_dataset(tmp_path / "data", train=2, val=1, test=0, size=(64, 96), seed=0)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("cluster", "settings"),
    [
        (None, {}),
        ("local", {}),
        pytest.param(
            "local",
            {"train_on": "maps", "mirror": False, "train_encoder": 32, "tune_epochs": 1, "view_scales": (0.5,)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_training_computes_nothing_afterwards(data, tmp_path, monkeypatch, cluster, settings):
    config = TrainConfig(**FAST, **settings)
    new = fill_cache(data, config, cluster=cluster)
    assert new == FeatureCache().info().entries >= 3
    assert fill_cache(data, config, cluster=cluster) == 0
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["features"]
    stored = []
    monkeypatch.setattr(FeatureCache, "store", lambda cache, key, tensors: stored.append(key))
    misses = []
    compute = FeatureReader._compute

    def counted(reader, sample, view):
        # Of the changed encoder no cache holds the features of val.
        if reader.cache is not None:
            misses.append((sample.id, view))
        return compute(reader, sample, view)

    monkeypatch.setattr(FeatureReader, "_compute", counted)
    train(Dataset.open(data), tmp_path / "run", config)
    assert (misses, stored) == ([], [])


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_there(data):
    config = TrainConfig(**FAST, mirror=False)
    broken = sorted((data / "images" / "train").iterdir())[0]
    broken.write_text("no image")
    with pytest.raises(FullyConvError, match=r"1 of 3 images and views could not be read: .*png"):
        fill_cache(data, config, cluster="local")
    assert FeatureCache().info().entries == 2


def test_features_that_do_not_fit_are_refused_before_one_is_computed(data, monkeypatch):
    monkeypatch.setattr("fullyconv.feature_cache.DEFAULT_LIMIT", 1000)
    with pytest.raises(
        UsageError, match=r"the features take .* kB, the cache may hold 1 kB \(give FULLYCONV_CACHE"
    ):
        fill_cache(data, TrainConfig(**FAST))
    assert FeatureCache().info().entries == 0


def test_the_command_line_takes_the_settings_of_train(data, monkeypatch):
    words = ["--recipe", "fast", "--encoder-weights", "none"]
    done = command_line.answer(monkeypatch, "features", data, *words)
    assert done.returncode == 0, done.stderr
    assert "new entries in the feature cache; next: fullyconv train" in done.stderr
    done = command_line.answer(monkeypatch, "features", data, "--workers", "2")
    assert (done.returncode, "--workers is for --cluster" in done.stderr) == (2, True)
