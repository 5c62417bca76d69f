"""The benchmarks: they start, and what they compute from measured times is right."""

import importlib
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fullyconv.dataset import Dataset
from fullyconv.discriminant import Sums
from fullyconv.synthetic import write_dataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_a_benchmark_starts_and_says_what_it_does(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_an_epoch_bears_its_share_of_what_a_run_does_once():
    epoch = importlib.import_module("_epoch")
    times = epoch.epoch_times(
        reading=np.array([80.0, 160.0]),
        steps=[np.array([seconds, 2 * seconds]) for seconds in (1.0, 2.0, 3.0, 9.0)],
        validations=[np.array([seconds, 2 * seconds]) for seconds in (44.0, 4.0, 3.0, 5.0)],
    )
    assert {what: pair.tolist() for what, pair in times.items()} == {
        "steps": [2.5, 5.0],
        "steps + extraction": [22.5, 45.0],
        "steps + validation": [6.5, 13.0],
        "steps + validation + extraction of both": [36.5, 73.0],
    }


@pytest.mark.parametrize("reads_points", [True, False])
def test_the_factors_of_the_steps_multiply_to_the_whole(reads_points):
    bench = importlib.import_module("train_epoch")
    seconds = {variant: np.array([2.0**-index, 4.0**-index]) for index, variant in enumerate(bench.CHAIN)}
    if not reads_points:
        del seconds["points"]
    factors = bench.steps(seconds)
    whole = factors.pop("all steps")
    assert list(factors) == list(bench.STEPS[: len(factors)])
    assert whole.tolist() == [2.0 ** (len(seconds) - 1), 4.0 ** (len(seconds) - 1)]
    assert np.array_equal(whole, math.prod(factors.values()))


@pytest.mark.slow  # It loads the toolkit.
def test_the_peer_takes_its_turns_and_is_scaled_to_an_epoch(tmp_path):
    epoch = importlib.import_module("_epoch")
    write_dataset(tmp_path / "data", train=3, val=1, test=0, size=(40, 64))
    split = Dataset.open(tmp_path / "data").split("train")
    with epoch.Peer(Path(sys.executable), split, batches=1, batch=2, folder=tmp_path / "peer") as peer:
        peer.turn()
        peer.turn()
    assert peer.process.returncode == 0
    assert peer.about["padded_size"] == [64, 64]
    assert peer.about["images"] == 2
    for precision, turns in peer.turns.items():
        assert len(turns) == 2
        assert (np.array(turns) > 0).all()
        assert np.allclose(peer.epoch(precision, 30), np.mean(turns, axis=0) * 15)


def test_ridge_regression_from_sums_is_that_on_the_pixels():
    bench = importlib.import_module("instant")
    draw = np.random.default_rng(0)
    values, targets = draw.integers(-9, 10, (200, 4)) / 8 + 1, draw.integers(0, 3, 200)
    sums = Sums.of([torch.from_numpy(values)], torch.from_numpy(targets), num_classes=3)
    fit = bench.ridge(sums, penalty=0.0)
    inputs = np.concatenate([values, np.ones((200, 1))], axis=1)
    expected = np.linalg.lstsq(inputs, np.eye(3)[targets], rcond=None)[0]
    np.testing.assert_allclose(fit.weights, expected[:-1].T, atol=1e-9)
    np.testing.assert_allclose(fit.biases, expected[-1], atol=1e-9)
