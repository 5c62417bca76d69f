"""CamVid as it comes with SegNet."""

import numpy as np
import pytest
from PIL import Image
from test_layout import make

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.formats import find_samples
from fullyconv.formats.camvid import CAMVID_CLASSES


def camvid(root, values, splits=("train",)):
    """A tiny CamVid whose one mask a split holds these values."""
    mask = Image.fromarray(np.array([values], np.uint8))
    for split in splits:
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        mask.save(root / f"{split}annot" / f"0001TP_{split}.png")
        Image.new("RGB", mask.size).save(root / split / f"0001TP_{split}.png")
    return root


def test_the_folders_are_the_splits(tmp_path):
    camvid(tmp_path, range(12), ("train", "val", "test"))
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == {"train": 1, "val": 1, "test": 1}
    assert [(sample.image.parent.name, sample.mask.parent.name) for sample in dataset] == [
        ("train", "trainannot"),
        ("val", "valannot"),
        ("test", "testannot"),
    ]
    assert dataset.notes == (
        "3 samples in {train,val,test} + {trainannot,valannot,testannot}; masks are index images of the 11 "
        "classes of CamVid as SegNet numbers them; values 11 and 255 are ignored.",
    )


def test_the_eleven_classes_have_segnets_numbers_and_the_twelfth_is_ignored(tmp_path):
    dataset = Dataset.open(camvid(tmp_path, [0, 3, 10, 11]))
    assert dataset.class_table.names[3] == "road"
    assert dataset.class_table.values == tuple(range(11))
    assert dataset.read_target(dataset[0]).tolist() == [[0, 3, 10, 255]]


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 11, 12]], ids=["nothing unlabelled", "a thirteenth value"])
def test_masks_of_others_in_this_layout_do_not_get_its_names(tmp_path, values):
    dataset = Dataset.open(camvid(tmp_path, values))
    assert dataset.class_table.values == tuple(values)
    assert dataset.class_table.names[0] == "class 0"
    assert "the masks are not those of CamVid as SegNet numbers them, which" in dataset.notes[0]


def test_declared_classes_come_before_those_of_the_format(tmp_path):
    camvid(tmp_path, [0, 1, 11])
    assert Dataset.open(tmp_path, classes=[f"c{i}" for i in range(12)]).class_table.num_classes == 12
    (tmp_path / "classes.txt").write_text("0,a,1,1,1\n1,b,2,2,2\n11,c,3,3,3\n", encoding="utf-8")
    assert Dataset.open(tmp_path).class_table.names == ("a", "b", "c")


def test_a_value_that_is_ignored_beside_stays_so(tmp_path):
    dataset = Dataset.open(camvid(tmp_path, range(12)), ignore=[4, 11])
    assert dataset.class_table.values == (0, 1, 2, 3, 5, 6, 7, 8, 9, 10)
    assert "values 4, 11 and 255 are ignored" in dataset.notes[0]


def test_the_colours_are_those_of_segnet():
    assert CAMVID_CLASSES.entries[8].color == (64, 0, 128)
    assert len({entry.color for entry in CAMVID_CLASSES.entries}) == 11


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/a.png", "trainannot/a.png", "val/b.png"], "has a folder val, but no folder valannot"),
        (["train/a.png", "trainannot/a.png", "testannot/b.png"], "has a folder testannot, but no folder test"),
        (
            ["train/a.png", "train/b.png", "trainannot/a.png"],
            "1 of 2 images in .*train have no mask in .*annot: b",
        ),
        (
            ["train/a.png", "trainannot/a.png", "trainannot/b.png"],
            "1 of 2 masks in .* have no image in .*train: b",
        ),
    ],
)
def test_what_has_no_partner_is_refused_by_name(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        find_samples(make(tmp_path, *names))


# ---- its lists ----


def listed(root, text):
    make(root, *(f"{folder}/{name}.png" for folder in ("train", "trainannot") for name in "abc"))
    (root / "train.txt").write_text(text, encoding="utf-8")
    return find_samples(root)


def test_a_list_decides_which_pairs_count_and_the_others_are_said(tmp_path):
    text = "".join(f"/SegNet/CamVid/train/{n}.png /SegNet/CamVid/trainannot/{n}.png\n" for n in "ca")
    layout = listed(tmp_path, text)
    assert [sample.id for sample in layout.samples] == ["a", "c"]
    assert layout.notes == ["1 pairs are not in train.txt and left out (b)."]


def test_a_list_of_all_pairs_says_nothing(tmp_path):
    layout = listed(tmp_path, "".join(f"C:\\x\\train\\{n}.png C:\\x\\trainannot\\{n}.png\r\n" for n in "abc"))
    assert (len(layout.samples), layout.notes) == (3, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "/S/train/a.png /S/trainannot/b.png",
            "train.txt, line 1: expected .../train/NAME .../trainannot/NAME, got",
        ),
        ("/S/val/a.png /S/valannot/a.png", "train.txt, line 1: expected .../train/NAME"),
        ("/S/train/a.png", "train.txt, line 1: expected"),
        ("\n/S/train/x.png /S/trainannot/x.png", "train.txt, line 2: expected x in .*train, got nothing there"),
        ("train/a.png trainannot/a.png\n" * 2, "train.txt: lines 1 and 2 both name a"),
        ("", r"train\.txt: expected pairs, got none"),
    ],
)
def test_a_list_that_contradicts_the_folders_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        listed(tmp_path, text)
