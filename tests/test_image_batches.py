"""Crops of images: the pixels and targets of a view, the same for the same seed and epoch."""

import numpy as np
import pytest
import torch

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset
from fullyconv.encoder import Encoder
from fullyconv.encoders import build_network
from fullyconv.features import FeatureReader
from fullyconv.image_batches import ImageBatches
from fullyconv.synthetic import write_dataset

PLAINLY = {"mirror": False, "scales": (1.0, 1.0), "colours": False, "crop": 32, "batch": 2, "seed": 0}
VARIED = {**PLAINLY, "mirror": True, "scales": (0.5, 2.0), "colours": True}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, train=5, val=1, test=0, size=(48, 64), seed=3)
    return Dataset.open(folder).split("train")


@pytest.fixture(scope="module")
def reader(dataset):
    return FeatureReader(Encoder(build_network("efficientnet_lite0", "none")), dataset)


def batches(reader, dataset, **changes):
    return ImageBatches(reader, dataset, [(48, 64)] * len(dataset), **{**PLAINLY, **changes})


def same(one, other):
    return torch.equal(one.features[0], other.features[0]) and torch.equal(one.targets, other.targets)


def test_crops_are_windows_of_the_image_and_of_its_target(reader, dataset):
    plain = [(dataset.read_image(sample), dataset.read_target(sample)) for sample in dataset]
    for batch in batches(reader, dataset).epoch(0):
        assert batch.size == (32, 32)
        for image, target in zip(batch.features[0], batch.targets, strict=True):
            pixels = image.permute(1, 2, 0).numpy()
            assert any(
                np.array_equal(whole[top : top + 32, left : left + 32], pixels)
                and np.array_equal(mask[top : top + 32, left : left + 32], target.numpy())
                for whole, mask in plain
                for top in range(17)
                for left in range(33)
            )


def test_an_epoch_shows_each_image_once_and_is_the_same_again(reader, dataset):
    for changes in ({}, VARIED):
        first = list(batches(reader, dataset, **changes).epoch(3))
        again = list(batches(reader, dataset, **changes).epoch(3))
        assert sum(len(batch.targets) for batch in first) == len(dataset)
        assert all(same(*pair) for pair in zip(first, again, strict=True))
    other = list(batches(reader, dataset, **VARIED).epoch(4))
    assert not all(same(*pair) for pair in zip(first, other, strict=True))


def test_one_image_a_step_is_shown_as_it_is(reader, dataset):
    for batch in batches(reader, dataset, crop=10**6, batch=1).epoch(0):
        assert batch.size == (48, 64)
        assert (batch.targets != IGNORE_INDEX).all()


def test_smaller_images_are_continued_and_ignored_there(reader, dataset):
    sizes = set()
    for batch in batches(reader, dataset, **{**VARIED, "crop": 10**6, "batch": 5}).epoch(0):
        assert batch.features[0].shape[-2:] == batch.targets.shape[-2:] == batch.size
        labelled = (batch.targets != IGNORE_INDEX).flatten(1).sum(dim=1)
        assert labelled.max() <= batch.size[0] * batch.size[1]
        assert len(set(labelled.tolist())) > 1
        sizes.add(batch.size)
    assert sizes != {(48, 64)}


def test_steps_draw_with_replacement(reader, dataset):
    drawn = batches(reader, dataset, steps=7)
    assert len(drawn) == len(list(drawn.epoch(0))) == 7


def test_crops_without_a_label_are_left_out_and_counted(reader, dataset, monkeypatch):
    monkeypatch.setattr(reader, "target", lambda sample: np.full((48, 64), IGNORE_INDEX, np.uint8))
    empty = batches(reader, dataset)
    assert list(empty.epoch(0)) == []
    assert empty.skipped == len(dataset)
