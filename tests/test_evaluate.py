"""Evaluation knows a model only as something that predicts masks."""

import shutil

import numpy as np
import pytest

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.evaluate import choose_split, evaluate
from fullyconv.synthetic import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate") / "data"
    write_dataset(root, train=2, val=2, test=1, size=(48, 56), seed=5)
    return Dataset.open(root)


class Oracle:
    """Predicts the target, shifted down by some rows."""

    def __init__(self, data, rows=0):
        self.class_table = data.class_table
        self.rows = rows
        self.answers = {data.read_image(sample).tobytes(): data.read_target(sample) for sample in data}

    def predict(self, image):
        return np.roll(self.answers[image.tobytes()], self.rows, axis=0)


def test_the_targets_themselves_score_one(data):
    report = evaluate(Oracle(data), data)
    assert report.mean_iou == report.pixel_accuracy == report.mean_image_iou == 1


def test_a_shifted_prediction_scores_what_a_double_loop_counts(data):
    oracle = Oracle(data, rows=3)
    counts = np.zeros((5, 5), np.int64)
    for sample in data:
        target, prediction = data.read_target(sample), oracle.predict(data.read_image(sample))
        for row in range(target.shape[0]):
            for column in range(target.shape[1]):
                counts[target[row, column], prediction[row, column]] += 1
    report = evaluate(oracle, data)
    assert np.array_equal(report.counts, counts)
    assert report.pixel_accuracy == pytest.approx(np.trace(counts) / counts.sum())


def test_the_split_is_test_then_val_then_everything(data):
    assert len(choose_split(data)) == 1
    assert len(choose_split(data, "val")) == 2


def test_where_there_is_no_test_split_val_is_taken(tmp_path):
    write_dataset(tmp_path / "data", train=3, val=2, test=0, size=(32, 32), seed=1)
    assert len(choose_split(Dataset.open(tmp_path / "data"))) == 2


@pytest.fixture
def unsplit(data, tmp_path):
    """The same samples in one folder, without splits."""
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number, path in enumerate(sorted((data.root / kind).glob("*/*.*"))):
            shutil.copy(path, tmp_path / "data" / kind / f"{number}{path.suffix}")
    return Dataset.open(tmp_path / "data")


def record(config, train, val):
    return {"config": {"val_fraction": config[0], "seed": config[1]}, "train_images": train, "val_images": val}


@pytest.mark.parametrize("seed", [0, 5])
def test_what_training_held_out_is_drawn_again_where_there_are_no_splits(unsplit, seed):
    drawn = unsplit.with_seeded_split(0.4, seed)
    for name, count in (("val", 2), ("train", 3)):
        found = choose_split(unsplit, name, record((0.4, seed), 3, 2))
        assert found.samples == drawn.split(name).samples
        assert len(found) == count


def test_what_was_held_out_of_other_samples_cannot_be_drawn_again(unsplit):
    with pytest.raises(DataError, match=r"expected the 40 samples that the model's training split .*, got 5"):
        choose_split(unsplit, "val", record((0.2, 0), 32, 8))


@pytest.mark.parametrize("training", [{}, {"note": "mine"}])
def test_without_splits_and_without_a_training_there_is_no_val(training, unsplit):
    with pytest.raises(DataError, match="expected a val split, got none"):
        choose_split(unsplit, "val", training)
    assert len(choose_split(unsplit)) == len(choose_split(unsplit, "all")) == 5


@pytest.fixture(params=["train", "train and test"])
def without_val(tmp_path, request):
    """Samples with splits, but no val: training splits it off the train samples."""
    write_dataset(tmp_path / "data", train=6, val=1, test=2, size=(32, 40), seed=6)
    for kind in ("images", "masks"):
        shutil.rmtree(tmp_path / "data" / kind / "val")
        if request.param == "train":
            shutil.rmtree(tmp_path / "data" / kind / "test")
    return Dataset.open(tmp_path / "data")


def test_what_training_held_out_of_the_train_split_is_drawn_again(without_val):
    drawn = without_val.with_seeded_split(1 / 3, 0)
    found = {name: choose_split(without_val, name, record((1 / 3, 0), 4, 2)) for name in ("train", "val")}
    assert [len(dataset) for dataset in found.values()] == [4, 2]
    assert all(dataset.samples == drawn.split(name).samples for name, dataset in found.items())


def test_the_train_split_of_other_data_is_all_of_it(without_val):
    assert len(choose_split(without_val, "train", record((0.2, 0), 32, 8))) == 6
    with pytest.raises(DataError, match=r"expected the 40 samples that the model's training split .*, got 6"):
        choose_split(without_val, "val", record((0.2, 0), 32, 8))


@pytest.mark.parametrize("training", [{"note": "mine"}, {"config": {}, "train_images": 4, "val_images": 2}])
def test_a_training_record_of_another_kind_says_nothing_of_splits(training, without_val):
    assert len(choose_split(without_val, "train", training)) == 6
    with pytest.raises(DataError, match="expected a val split, got train"):
        choose_split(without_val, "val", training)


def test_of_test_samples_nothing_was_held_out(tmp_path):
    write_dataset(tmp_path / "data", train=1, val=1, test=3, size=(32, 40), seed=6)
    for kind in ("images", "masks"):
        for name in ("train", "val"):
            shutil.rmtree(tmp_path / "data" / kind / name)
    with pytest.raises(DataError, match="expected a val split, got test"):
        choose_split(Dataset.open(tmp_path / "data"), "val", record((0.2, 0), 32, 8))
