"""ADE20K's scene parsing benchmark; what `convert` writes is read back in test_convert.py."""

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

INFO = """Idx\tRatio\tTrain\tVal\tStuff\tName
1\t0.1\t1\t1\t1\twall
2\t0.1\t1\t1\t0\tscreen, display
3\t0.1\t1\t1\t0\tscreen, crt
"""


def ade20k(root, values, info=INFO):
    for folder in ("images", "annotations"):
        (root / folder / "training").mkdir(parents=True)
    Image.fromarray(np.array([values], np.uint8)).save(root / "annotations/training/ADE_train_1.png")
    Image.new("RGB", (len(values), 1)).save(root / "images/training/ADE_train_1.jpg")
    (root / "objectInfo150.txt").write_text(info)
    return root


def test_0_has_no_class_and_a_class_is_called_by_its_first_word(tmp_path):
    dataset = Dataset.open(ade20k(tmp_path, [0, 1, 3, 2]))
    assert dataset.class_table.names == ("wall", "screen", "screen, crt")
    assert dataset.splits == {"train": 1}
    assert dataset.read_target(dataset[0]).tolist() == [[255, 0, 2, 1]]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("Idx\tName\n1\twall\n", r"objectInfo150\.txt, line 2: expected Idx, Ratio"),
        ("Idx\tRatio\tTrain\tVal\tStuff\tName\n", "expected classes, got none"),
        ("x\t0\t0\t0\t0\twall\n", "line 1: expected Idx, Ratio"),
    ],
)
def test_a_list_of_classes_that_is_none(tmp_path, info, message):
    with pytest.raises(DataError, match=message):
        Dataset.open(ade20k(tmp_path, [0, 1], info))
