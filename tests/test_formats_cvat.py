"""CVAT's "Segmentation mask 1.1"; what `convert` writes is read back in test_convert.py."""

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

LABELS = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:50,60,70::\nvoid:9,9,9::\n"


def cvat(root, pixels, lists=("default",), labels=LABELS, mode="RGB"):
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in lists:
        (root / f"ImageSets/Segmentation/{name}.txt").write_text(f"{name}\n")
        mask = Image.fromarray(np.array([pixels], np.uint8))
        if mode == "P":
            mask.putpalette([0, 0, 0, 50, 60, 70])
        mask.save(root / f"SegmentationClass/{name}.png")
        Image.new("RGB", mask.size).save(root / f"JPEGImages/{name}.jpg")
    (root / "labelmap.txt").write_text(labels)
    return root


def test_colours_are_those_of_labelmap_txt_and_void_is_ignored(tmp_path):
    dataset = Dataset.open(cvat(tmp_path, [(50, 60, 70), (0, 0, 0), (9, 9, 9)]))
    assert dataset.class_table.names == ("background", "crack")
    assert dataset.read_target(dataset[0]).tolist() == [[1, 0, 255]]
    assert dataset.splits == {}
    assert "masks are RGB with the 2 colours of labelmap.txt" in dataset.notes[0]


def test_palette_masks_hold_the_places_of_the_labels(tmp_path):
    dataset = Dataset.open(cvat(tmp_path, [1, 0], mode="P"))
    assert dataset.read_target(dataset[0]).tolist() == [[1, 0]]


def test_subsets_named_like_splits_are_splits(tmp_path):
    dataset = Dataset.open(cvat(tmp_path, [(0, 0, 0)], ("Train", "Validation")))
    assert dataset.splits == {"train": 1, "val": 1}


def test_a_colour_that_labelmap_txt_has_not_is_refused(tmp_path):
    dataset = Dataset.open(cvat(tmp_path, [(1, 2, 3)]))
    with pytest.raises(DataError, match=r"colour 1,2,3 .* is not in the class table"):
        dataset.read_target(dataset[0])


@pytest.mark.parametrize("labels", ["crack\n", "crack:1,2::\n", "crack:a,b,c::\n", "# nothing\n"])
def test_a_labelmap_that_is_none(tmp_path, labels):
    with pytest.raises(DataError, match=r"labelmap\.txt"):
        Dataset.open(cvat(tmp_path, [(0, 0, 0)], labels=labels))


def test_images_and_masks_that_are_missing(tmp_path):
    cvat(tmp_path, [(0, 0, 0)])
    (tmp_path / "SegmentationClass/default.png").rename(tmp_path / "SegmentationClass/b.png")
    with pytest.raises(DataError, match=r"1 of 1 names have no mask in .*: default"):
        Dataset.open(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "other")
    with pytest.raises(DataError, match="expected JPEGImages/ beside SegmentationClass/") as caught:
        Dataset.open(tmp_path)
    assert 'with "Save images"' in caught.value.hint


def test_a_name_in_two_subsets_is_refused(tmp_path):
    cvat(tmp_path, [(0, 0, 0)], ("a", "b"))
    (tmp_path / "ImageSets/Segmentation/b.txt").write_text("b\na\n")
    with pytest.raises(DataError, match=r"b\.txt, line 2: a is in a\.txt, too"):
        Dataset.open(tmp_path)
