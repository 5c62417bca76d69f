"""YOLO polygons as others write them; what `convert` writes is read back in test_convert.py."""

import builtins
import importlib

import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, UsageError

HALF = "0 0 0 0.5 0 0.5 1 0 1"


def yolo(
    root, *lines, yaml="path: .\ntrain: images/train\nnames:\n  0: cat\n  1: dog\n", split="train/", name="größe"
):
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2)).save(root / "images" / split / f"{name}.jpg")
    (root / "labels" / split / f"{name}.txt").write_text("\n".join(lines) + "\n")
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def target(root):
    dataset = Dataset.open(root)
    return dataset.read_target(dataset[0]).tolist()


def test_polygons_are_shares_and_later_lines_cover_earlier_ones(tmp_path):
    yolo(tmp_path, HALF, "1 0 0 0.25 0 0.25 0.5 0 0.5")
    dataset = Dataset.open(tmp_path)
    assert dataset.class_table.names == ("background", "cat", "dog")
    assert dataset.splits == {"train": 1}
    assert target(tmp_path) == [[2, 1, 0, 0], [1, 1, 0, 0]]


def test_names_may_be_a_list_and_splits_may_be_missing(tmp_path):
    assert Dataset.open(yolo(tmp_path, HALF, yaml="names: [cat, dog]\n", split="")).splits == {}


def test_the_rest_may_have_no_class(tmp_path):
    yolo(tmp_path, HALF, yaml="names: [cat, dog]\nunlabelled: ignored\n")
    assert target(tmp_path) == [[0, 0, 255, 255]] * 2


def test_an_image_without_lines_is_background(tmp_path):
    yolo(tmp_path, HALF)
    Image.new("RGB", (4, 2)).save(tmp_path / "images/train/a.jpg")
    assert target(tmp_path) == [[0] * 4] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "expected a polygon of three corners or more, got a box"),
        ("7 0 0 1 0 1 1", "expected a class index and corners x y, got no '7'"),
        ("0 0 0 1 0 1", "expected a class index and corners x y, got something else"),
        ("0 0 0 1 0 1 x", "expected a class index and corners x y, got something else"),
        ("0 0 0 1 0 1 nan", "expected three corners or more, finite"),
        ("0 0 0", "expected three corners or more, finite, got 1"),
    ],
)
def test_lines_that_are_no_polygon(tmp_path, line, message):
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(yolo(tmp_path, HALF, line))
    assert "größe.txt, line 2" in caught.value.message


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (None, r"expected data\.yaml with the names of the classes, got none"),
        ("names: [a", r"data\.yaml: expected YAML with names, got a file that is none"),
        ("train: x\n", r"data\.yaml: expected `names` as a list or by number, got no 'names'"),
        ("names: {1: a, 2: b}\n", "expected `names` as a list or by number, got no 0"),
        ("names: !!python/object/apply:os.system [ls]\n", "expected YAML with names, got a file that is none"),
    ],
)
def test_what_is_wrong_with_the_names(tmp_path, yaml, message):
    with pytest.raises(DataError, match=message):
        Dataset.open(yolo(tmp_path, HALF, yaml=yaml))


def test_lines_without_an_image_are_refused(tmp_path):
    yolo(tmp_path, HALF)
    (tmp_path / "labels/train/b.txt").write_text(HALF)
    with pytest.raises(DataError, match=r"1 of 2 text files in .* have no image: b"):
        Dataset.open(tmp_path)


def test_without_yaml_the_extra_is_named(tmp_path, monkeypatch):
    def refuse(name, *arguments):
        if name == "yaml":
            raise ImportError(name)
        return builtins.__import__(name, *arguments)

    yolo(tmp_path, HALF)
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UsageError, match="needs PyYAML") as caught:
        Dataset.open(tmp_path)
    assert caught.value.hint == 'install it with: pip install "fullyconv[yolo]"'
