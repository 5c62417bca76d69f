"""Intervals and comparisons, against the metrics themselves and against drawing by hand."""

import itertools
import json

import numpy as np
import pytest
from command_line import answer
from tiny_data import tiny_dataset

from fullyconv.bootstrap import METRICS, compare, groups_of, intervals, metrics_of
from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.evaluate import evaluate, evaluate_images
from fullyconv.metrics import ConfusionMatrix


class Noisy:
    """Predicts the red channel, cut into classes: as good as chance."""

    class_table = ClassTable.from_names(["a", "b", "c"])

    def predict(self, image):
        return (image[..., 0] // 86).astype(np.uint8)


def matrices(seed, count=30, classes=4, right=0.7):
    """Confusion matrices of images that differ; the last class never occurs."""
    draw = np.random.default_rng(seed)
    found = draw.poisson(20, (count, classes, classes)) * draw.integers(1, 9, (count, 1, 1))
    found[:, range(classes), range(classes)] = (
        found.sum(axis=2) * right * draw.uniform(0.8, 1.2, (count, 1))
    ).astype(int)
    found[:, -1, :] = found[:, :, -1] = 0
    return found.astype(np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_are_those_of_a_report(seed):
    many = matrices(seed)
    many[0] = 0
    many[1, 1, :] = 0  # a class that is predicted, but in no target
    found = metrics_of(many)
    for place, counts in enumerate(many):
        matrix = ConfusionMatrix(4)
        matrix.counts = counts
        report = matrix.report()
        for name in METRICS:
            expected = getattr(report, name)
            assert found[name][place] == pytest.approx(np.nan if expected is None else expected, nan_ok=True)


def test_each_image_is_counted_by_itself(tmp_path):
    dataset = tiny_dataset(tmp_path, [(20, 30), (7, 9), (16, 16)])
    report, counts = evaluate_images(Noisy(), dataset)
    assert report == evaluate(Noisy(), dataset)
    assert counts.sum(axis=0).tolist() == [list(row) for row in evaluate(Noisy(), dataset).counts]
    assert counts[1].sum() < 7 * 9


def test_intervals_are_quantiles_of_all_ways_to_draw():
    many = matrices(3, count=4)
    exact = [
        metrics_of(many[list(ways)].sum(axis=0)[None])["mean_iou"][0]
        for ways in itertools.product(range(4), repeat=4)
    ]
    found = intervals(many, draws=20000)["mean_iou"]
    low, high = np.quantile(exact, [0.025, 0.975])
    assert found.value == pytest.approx(metrics_of(many.sum(axis=0)[None])["mean_iou"][0])
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))
    assert intervals(many, draws=100) == intervals(many, draws=100)


def test_intervals_cover_the_truth_as_often_as_they_say():
    truth = metrics_of(matrices(0, count=20000).sum(axis=0)[None])["pixel_accuracy"][0]
    hits = 0
    for seed in range(1, 201):
        found = intervals(matrices(seed, count=60), draws=300)["pixel_accuracy"]
        hits += found.low <= truth <= found.high
    assert 175 <= hits <= 200


def test_frames_that_belong_together_give_wider_intervals():
    frames = np.repeat(matrices(1, count=12), 10, axis=0)
    ids = [f"video{number // 10}_{number:03}" for number in range(120)]
    alone = intervals(frames)["mean_iou"]
    together = intervals(frames, groups_of(ids, r"^(video\d+)"))["mean_iou"]
    assert alone.value == pytest.approx(together.value)
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_one_group_has_no_interval():
    found = intervals(matrices(1), ["all"] * 30)["mean_iou"]
    assert (found.low, found.high) == (None, None)
    assert str(found).endswith("(no interval: one image or group)")
    words = compare(matrices(1), matrices(2), ["all"] * 30)["mean_iou"].words()
    assert words.startswith("mean IoU: no difference can be told from one image or group (A 0.")


def test_a_better_model_is_called_better_whichever_comes_first():
    worse, better = matrices(1, right=0.6), matrices(1, right=0.9)
    found = compare(worse, better)["mean_iou"]
    assert found.difference.low > 0
    assert found.words("old", "new").startswith("mean IoU: new is better (old 0.")
    assert "in 100.0% of the draws" in found.words()
    other = compare(better, worse)["mean_iou"]
    assert other.words().startswith("mean IoU: A is better")
    assert other.difference.value == pytest.approx(-found.difference.value)


def test_where_nothing_can_be_told_it_is_said():
    one = matrices(1)
    assert compare(one, one)["mean_iou"].words().startswith("mean IoU: no difference can be told")
    few = compare(one[:5], matrices(2)[:5])["mean_iou"].words()
    assert "with fewer than 10 of them it says little" in few
    nothing = np.zeros((3, 4, 4), np.int64)
    assert compare(nothing, nothing)["mean_iou"].words() == "mean IoU: nothing to compare"


def test_models_of_other_classes_are_refused():
    with pytest.raises(UsageError, match="expected two models on the same images and classes"):
        compare(matrices(1), matrices(1, classes=5))


@pytest.mark.parametrize(
    ("pattern", "expected"), [(None, ["a/x_1", "b/x_2"]), ("^[^/]+", ["a", "b"]), (r"([a-z])_\d", ["x", "x"])]
)
def test_groups_are_what_a_pattern_finds(pattern, expected):
    assert groups_of(["a/x_1", "b/x_2"], pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "regular expression, got none"), ("a", "got none in 'b/x_2'")]
)
def test_patterns_that_do_not_work(pattern, message):
    with pytest.raises(UsageError, match=message):
        groups_of(["a/x_1", "b/x_2"], pattern)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set, and a model of a few steps."""
    from fullyconv.config import recipe
    from fullyconv.synthetic import write_dataset
    from fullyconv.train import train

    root = tmp_path_factory.mktemp("compare")
    write_dataset(root / "data", train=4, val=4, test=0, size=(96, 128), seed=0)
    from fullyconv.dataset import Dataset

    config = recipe("fast", epochs=1, steps=1, device="cpu")
    return root / "data", train(Dataset.open(root / "data"), root / "run", config).model


def test_the_commands(trained, monkeypatch):
    data, model = trained

    def run(*arguments):
        return answer(monkeypatch, *arguments)

    done = run("compare", model, model, data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no difference can be told") == 4
    document = json.loads(run("compare", model, model, data, "--json").stdout)
    assert document["mean_iou"]["difference"]["value"] == 0
    assert document["mean_iou"]["groups"] == 4
    found = json.loads(run("evaluate", model, data, "--intervals", "--json").stdout)
    low, high = found["intervals"]["pixel_accuracy"]
    assert low <= found["pixel_accuracy"] <= high
    refused = run("compare", model, model, data, "--group", "x(")
    assert (refused.returncode, "regular expression" in refused.stderr) == (2, True)
