"""nnU-Net's raw data; what `convert` writes is read back in test_convert.py."""

import json

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

LABELS = {"background": 0, "ring": 1, "ignore": 2}


def nnunet(root, labels=LABELS, cases=("a",), folds=None, kinds=("Tr",)):
    for kind in kinds:
        for folder in (f"images{kind}", f"labels{kind}"):
            (root / folder).mkdir(parents=True)
        for case in cases:
            Image.new("RGB", (3, 1)).save(root / f"images{kind}" / f"{kind}{case}_0000.png")
            Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(root / f"labels{kind}" / f"{kind}{case}.png")
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))
    if folds:
        (root / "splits_final.json").write_text(json.dumps(folds))
    return root


def test_labels_are_the_classes_and_ignore_is_ignored(tmp_path):
    dataset = Dataset.open(nnunet(tmp_path))
    assert dataset.class_table.names == ("background", "ring")
    assert dataset.read_target(dataset[0]).tolist() == [[0, 1, 255]]
    assert [(sample.id, sample.split) for sample in dataset] == [("Tra", "train")]


def test_the_first_fold_is_train_and_val_and_ts_is_test(tmp_path):
    folds = [{"train": ["Tra"], "val": ["Trb"]}, {"train": ["Trb"], "val": ["Tra"]}]
    dataset = Dataset.open(nnunet(tmp_path, cases=("a", "b"), folds=folds, kinds=("Tr", "Ts")))
    assert [(s.id, s.split) for s in dataset] == [
        ("Tra", "train"),
        ("Trb", "val"),
        ("Tsa", "test"),
        ("Tsb", "test"),
    ]


def test_test_images_without_labels_are_no_part(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "imagesTs").mkdir()
    assert len(Dataset.open(tmp_path)) == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, "expected one value for each label, got regions of several"),
        ({"background": "x"}, r"dataset\.json: expected labels with a value for each name, got something else"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        Dataset.open(nnunet(tmp_path, labels))


def test_files_that_are_missing(tmp_path):
    nnunet(tmp_path)
    (tmp_path / "labelsTr/Tra.png").rename(tmp_path / "labelsTr/Trb.png")
    with pytest.raises(DataError, match=r"2 cases have an image or a label map alone .*: Tra, Trb"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read: No such file"):
        Dataset.open(tmp_path)


def test_channels_in_files_of_their_own_are_refused(tmp_path):
    nnunet(tmp_path)
    Image.new("L", (3, 1)).save(tmp_path / "imagesTr/Tra_0001.png")
    with pytest.raises(DataError, match=r"Tra_0001\.png: expected images CASE_0000 of one file each"):
        Dataset.open(tmp_path)
