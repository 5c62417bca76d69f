"""PASCAL VOC: folders, lists and classes."""

import numpy as np
import pytest
from PIL import Image
from test_layout import make

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.formats import find_samples
from fullyconv.formats.voc import VOC_CLASSES
from fullyconv.images import write_mask

PALETTE = {entry.value: entry.color for entry in VOC_CLASSES.entries}


def voc(root, lists, masks=("a", "b", "c"), images=("a", "b", "c", "no_mask")):
    """An empty-handed VOC: names in lists, files without content."""
    make(
        root, *(f"JPEGImages/{name}.jpg" for name in images), *(f"SegmentationClass/{name}.png" for name in masks)
    )
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in text.split(" ")), encoding="utf-8")
    return root


def real_voc(root, *values):
    """A VOC with a mask, in its palette, of each row of values; all in train.txt."""
    names = [f"2007_{number:06}" for number in range(len(values))]
    voc(root, {"train": " ".join(names)}, names, names)
    for name, row in zip(names, values, strict=True):
        array = np.array([row], np.uint8)
        write_mask(root / f"SegmentationClass/{name}.png", array, PALETTE, overwrite=True)
        Image.new("RGB", array.shape[::-1]).save(root / f"JPEGImages/{name}.jpg")
    return root


def found(root):
    return [(sample.split, sample.id) for sample in find_samples(root).samples]


# ---- lists ----


def test_boxes_beside_the_masks_are_vocs_too(tmp_path):
    real_voc(tmp_path, [0, 1, 255])
    make(tmp_path, "Annotations/2007_000000.xml")
    assert found(tmp_path) == [("train", "2007_000000")]


def test_the_lists_say_which_images_count_and_in_which_split(tmp_path):
    voc(tmp_path, {"train": "c a", "val": "b", "trainval": "a b c"})
    layout = find_samples(tmp_path)
    assert found(tmp_path) == [("train", "a"), ("train", "c"), ("val", "b")]
    assert layout.samples[0].image == tmp_path / "JPEGImages/a.jpg"
    assert layout.samples[0].mask == tmp_path / "SegmentationClass/a.png"
    assert layout.description == "JPEGImages + SegmentationClass by ImageSets/Segmentation/{train,val}.txt"
    assert layout.notes == []


def test_trainval_alone_is_for_training(tmp_path):
    voc(tmp_path, {"trainval": "a b", "test": "c"})
    assert found(tmp_path) == [("train", "a"), ("train", "b"), ("test", "c")]
    assert find_samples(tmp_path).description.endswith("/{trainval,test}.txt")


def test_the_year_in_a_vocdevkit_is_found(tmp_path):
    voc(tmp_path / "VOC2012", {"train": "a"})
    assert found(tmp_path) == [("train", "a")]
    assert find_samples(tmp_path).description.startswith("VOC2012/JPEGImages + SegmentationClass")


def test_two_years_in_a_vocdevkit_are_refused(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / year, {"train": "a"})
    with pytest.raises(DataError, match="expected one year of PASCAL VOC, got VOC2007, VOC2012") as caught:
        find_samples(tmp_path)
    assert "VOC2012" in caught.value.hint


def test_masks_and_lists_that_are_not_used_are_said(tmp_path):
    voc(tmp_path, {"train": "a", "val": "b", "trainaug": "a c"})
    assert find_samples(tmp_path).notes == [
        "Lists of other names are not read (trainaug.txt).",
        "1 masks are in no list and left out (c).",
    ]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train": "a x", "val": "y"},
            r"2 of 3 names in the lists \(train, val\) have no image in .*JPEG.*: x, y",
        ),
        ({"test": "no_mask a"}, r"1 of 2 names in the lists \(test\) have no mask in .*Class: no_mask"),
        ({"train": "a.jpg"}, r"1 of 1 names .* have no image .*: a\.jpg"),
        ({"train": "a b", "val": "b c"}, r"val\.txt, line 1: b is in train\.txt, too"),
        ({"trainval": "a b", "test": "b"}, r"test\.txt, line 1: b is in trainval\.txt, too"),
        ({"train": "a b a"}, r"train\.txt, line 3: expected a new name, got that of line 1: 'a'"),
        ({"train": "a\t1"}, r"train\.txt, line 1: expected a new name, got 2 fields: "),
        ({"train": ""}, r"train\.txt: expected names, got none"),
        ({"train": "a", "trainval": "a b"}, r"trainval\.txt: expected the names of train.* it has b, which they"),
        ({"train": "a", "val": "b", "trainval": "a"}, r"trainval\.txt: .* it has not b, which they have"),
        ({"default": "a"}, r"Segmentation: expected train\.txt, .* or test\.txt, got default\.txt"),
        ({}, r"Segmentation: expected train\.txt, .* got none"),
    ],
)
def test_lists_that_are_wrong_or_contradict_each_other_are_refused_by_name(tmp_path, lists, message):
    with pytest.raises(DataError, match=message):
        find_samples(voc(tmp_path, lists))


def test_folders_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match="expected JPEGImages/ and SegmentationClass/, got one of them alone"):
        find_samples(make(tmp_path, "JPEGImages/a.jpg"))
    with pytest.raises(DataError, match=r"images and masks missing, got a\.jpg") as caught:
        find_samples(tmp_path / "JPEGImages")
    assert "the folder above" in caught.value.hint


# ---- classes ----


def test_the_classes_are_the_21_of_voc_and_the_border_is_ignored(tmp_path):
    dataset = Dataset.open(real_voc(tmp_path, [0, 15, 255], [0, 20, 255]))
    assert dataset.class_table.num_classes == 21
    assert (dataset.class_table.names[15], dataset.class_table.names[20]) == ("person", "tvmonitor")
    assert dataset.read_target(dataset[0]).tolist() == [[0, 15, 255]]
    assert "masks are index images of the 21 classes of PASCAL VOC; value 255 is ignored." in dataset.notes[0]


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 21, 255]], ids=["no border", "a 22nd value"])
def test_masks_of_others_in_this_layout_do_not_get_its_names(tmp_path, values):
    dataset = Dataset.open(real_voc(tmp_path, values))
    assert dataset.class_table.names[:2] == ("class 0", f"class {values[1]}")
    assert "not those of PASCAL VOC, which hold 0..20 and always some 255: the" in dataset.notes[0]


def test_a_file_that_names_other_classes_is_a_reason_not_to_take_vocs(tmp_path):
    real_voc(tmp_path, [0, 1, 255])
    (tmp_path / "class_names.txt").touch()
    assert Dataset.open(tmp_path).class_table.names == ("class 0", "class 1")


def test_masks_of_0_and_255_alone_are_binary_in_this_layout_too(tmp_path):
    assert Dataset.open(real_voc(tmp_path, [0, 255])).class_table.encoding == "binary"


def test_declared_classes_come_before_vocs(tmp_path):
    real_voc(tmp_path / "VOC2012", [0, 1, 255])
    assert Dataset.open(tmp_path, classes=["a", "b"]).class_table.names == ("a", "b")
    (tmp_path / "VOC2012" / "classes.txt").write_text("0,c,1,1,1\n1,d,2,2,2\n", encoding="utf-8")
    assert Dataset.open(tmp_path).class_table.names == ("c", "d")
    (tmp_path / "classes.txt").write_text("0,e,1,1,1\n1,f,2,2,2\n", encoding="utf-8")
    assert Dataset.open(tmp_path).class_table.names == ("e", "f")


def test_rgb_masks_in_this_layout_need_a_table_of_colours(tmp_path):
    real_voc(tmp_path, [0, 1, 255])
    Image.fromarray(np.array([[PALETTE[0], PALETTE[1]]], np.uint8)).save(
        tmp_path / "SegmentationClass/2007_000000.png"
    )
    with pytest.raises(DataError, match="got an RGB mask with colour 128,0,0"):
        Dataset.open(tmp_path)
