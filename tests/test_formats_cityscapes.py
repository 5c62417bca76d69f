"""Cityscapes as it is published; what `convert` writes is read back in test_convert.py."""

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

NAME = "aachen/aachen_000000_000019"


def cityscapes(root, splits=("train",), truth="gtFine", **kinds):
    """One image a split, whose masks of several kinds hold these values."""
    for split in splits:
        image = root / "leftImg8bit" / split / f"{NAME}_leftImg8bit.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (3, 1)).save(image)
        for kind, values in kinds.items():
            mask = root / truth / split / f"{NAME}_{truth}_{kind}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([values], np.uint8)).save(mask)
    return root


def target(root):
    dataset = Dataset.open(root)
    return dataset.read_target(dataset[0]).tolist()


def test_of_the_label_ids_19_are_classes_and_the_others_ignored(tmp_path):
    cityscapes(tmp_path, labelIds=[7, 33, 4], instanceIds=[7, 33, 4], color=[(0, 0, 0)] * 3)
    dataset = Dataset.open(tmp_path)
    assert dataset.class_table.num_classes == 19
    assert dataset.class_table.names[0] == "road"
    assert dataset.class_table.names[18] == "bicycle"
    assert target(tmp_path) == [[0, 18, 255]]
    assert dataset[0].id == NAME
    assert "leftImg8bit/train + gtFine (labelIds) of Cityscapes" in dataset.notes[0]


@pytest.mark.parametrize("truth", ["gtFine", "gtCoarse"])
def test_train_ids_come_first(tmp_path, truth):
    cityscapes(tmp_path, truth=truth, labelIds=[7, 33, 4], labelTrainIds=[0, 18, 255])
    assert target(tmp_path) == [[0, 18, 255]]


def test_colours_where_there_is_nothing_else(tmp_path):
    cityscapes(tmp_path, color=[(128, 64, 128), (119, 11, 32), (0, 0, 90)])
    assert target(tmp_path) == [[0, 18, 255]]


def test_a_split_without_masks_is_left_out_and_said(tmp_path):
    cityscapes(tmp_path, ("train", "test"), labelIds=[7, 8, 8])
    next((tmp_path / "gtFine/test").rglob("*.png")).unlink()
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == {"train": 1}
    assert "test/ has no masks and is left out (1 images)." in dataset.notes


def test_an_image_without_a_mask_is_refused(tmp_path):
    cityscapes(tmp_path, labelIds=[7, 8, 8])
    Image.new("RGB", (3, 1)).save(tmp_path / "leftImg8bit/train/aachen/b_leftImg8bit.png")
    with pytest.raises(DataError, match=r"1 of 2 images in .* have no gtFine_labelIds\.png in .*: aachen/b"):
        Dataset.open(tmp_path)


def test_other_files_and_no_files(tmp_path):
    cityscapes(tmp_path, instanceIds=[7, 8, 8])
    with pytest.raises(DataError, match=r"expected files that end in _labelIds\.png, got others"):
        Dataset.open(tmp_path)
    (tmp_path / "gtFine").rename(tmp_path / "gt")
    with pytest.raises(DataError, match="expected gtFine/ beside leftImg8bit/, got none"):
        Dataset.open(tmp_path)
