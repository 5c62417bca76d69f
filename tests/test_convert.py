"""Every format, there and back: holes, several areas, ignored pixels, unicode names, folders, turned images."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.convert import convert
from fullyconv.dataset import Dataset
from fullyconv.embedded import open_binary
from fullyconv.errors import DataError, FullyConvError, UsageError
from fullyconv.formats import WRITERS
from fullyconv.formats.folders import write_folders

ONE_FOLDER = {"voc", "cvat", "nnunet"}
"""Formats that keep all images in one folder: names lose their folders there."""

NAMED_BY_FILE = {"folders", "voc", "camvid", "cityscapes", "hugging-face"}
"""Formats that leave the names of classes to classes.txt."""

AS_PNG = {"cityscapes", "nnunet"}
"""Formats that want images of one kind."""


def difficult_mask(size, seed, classes, ignored):
    """Rings with something in their holes, areas that touch at corners, several areas a class."""
    draw = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    rows, columns = np.indices(size)
    for index in range(1, classes):
        row, column = (draw.integers(0, extent) for extent in size)
        distance = np.hypot(rows - row, columns - column)
        mask[(distance < 9) & (distance > 4)] = index
        mask[distance < 2] = index
    mask[draw.random(size) < 0.05] = 1
    if ignored:
        mask[(rows // 5 + columns // 7) % 6 == 0] = 255
    return mask


def make(root, names, splits=("train", "val"), ignored=True):
    """Write a data set whose classes have these names, and open it."""
    for number, split in enumerate(splits):
        for place, stem in enumerate(("a", "linie 2/größe", "日本-" + (split or "x"))):
            size = (23 + number, 31 + place)
            mask = difficult_mask(size, 10 * number + place, len(names), ignored)
            if split == "test" or not split:
                stem = f"{stem}{number}"
            path = root / "images" / split / f"{stem}.jpg"
            target = root / "masks" / split / f"{stem}.png"
            for file in (path, target):
                file.parent.mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(place).integers(0, 256, (*size, 3), dtype=np.uint8)
            exif = Image.Exif()
            if place == 1:  # The image lies on its side in the file.
                image, exif[0x0112] = image.swapaxes(0, 1)[::-1], 8
                image = np.ascontiguousarray(np.rot90(np.rot90(image)))
            Image.fromarray(image).save(path, exif=exif)
            Image.fromarray(mask).save(target)
    lines = [f"{index},{name},{10 * index},{255 - index},{index}\n" for index, name in enumerate(names)]
    (root / "classes.txt").write_text("".join(lines), encoding="utf-8")
    return Dataset.open(root)


def by_name(dataset, sample):
    """A target in the names of its classes."""
    names = np.array([*dataset.class_table.names, *[""] * (256 - dataset.class_table.num_classes)])
    return names[dataset.read_target(sample)]


def stem(sample, kind):
    """What a sample is called in a format."""
    return sample.id.replace("/", "_").replace(" ", "_") if kind in ONE_FOLDER else sample.id


WITH_BACKGROUND = ("background", "kratzer ü", "hole, big")
WITHOUT = ("sky", "road", "car")


@pytest.mark.parametrize(
    ("kind", "ignored", "names"),
    [
        # Hugging Face's library takes seconds each time.
        pytest.param(*case, marks=[pytest.mark.slow] * (case[0] == "hugging-face" and case[1:] != (True, WITHOUT)))
        for case in itertools.product(
            [kind for kind in WRITERS if kind != "npy"], [False, True], [WITH_BACKGROUND, WITHOUT]
        )
    ],
    ids=lambda value: {
        WITH_BACKGROUND: "background",
        WITHOUT: "no background",
        False: "whole",
        True: "ignored",
    }.get(value, value),
)
def test_every_format_there_and_back(tmp_path, kind, names, ignored):
    if "," in names[-1]:
        names = (*names[:-1], "hole")
    (tmp_path / "from").mkdir()
    dataset = make(tmp_path / "from", names, ignored=ignored)
    # Names that are the same in two splits have no place in formats with one folder.
    if kind in ONE_FOLDER:
        dataset = Dataset.open(rename(tmp_path / "from"))
    done = convert(dataset, tmp_path / "to", kind)
    assert done.samples == 6
    if (tmp_path / "to" / "classes.txt").is_file() and kind not in NAMED_BY_FILE:
        (tmp_path / "to" / "classes.txt").unlink()  # The format itself says what the classes are.
    found = Dataset.open(tmp_path / "to")
    assert sorted(found.class_table.names) == sorted(names)
    there = {(sample.split, stem(sample, kind)): sample for sample in found}
    for sample in dataset:
        name = stem(sample, kind)
        other = there[sample.split, f"all/{name}" if kind == "cityscapes" and "/" not in name else name]
        assert (by_name(found, other) == by_name(dataset, sample)).all()
        assert (found.read_image(other) == dataset.read_image(sample)).all()
        if kind not in AS_PNG:
            with open_binary(other.image) as file:
                assert file.read() == sample.image.read_bytes()


def rename(root):
    """Give every sample a name of its own."""
    for kind in ("images", "masks"):
        for file in [*(root / kind / "val").rglob("*.*")]:
            file.rename(file.with_name(f"v{file.name}"))
    return root


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"camvid", "cityscapes", "npy", "voc"}))
def test_data_without_splits_have_none_afterwards(tmp_path, kind):
    (tmp_path / "from").mkdir()
    dataset = make(tmp_path / "from", WITHOUT, splits=("",))
    convert(dataset, tmp_path / "to", kind)
    expected = "train" if kind == "nnunet" else None
    assert {sample.split for sample in Dataset.open(tmp_path / "to")} == {expected}


@pytest.mark.parametrize("kind", sorted(set(WRITERS) - {"yolo"}))
def test_values_of_the_masks_may_be_any(tmp_path, kind):
    for place, values in enumerate(([0, 200, 210], [210, 0, 200])):
        for folder in ("images", "masks"):
            (tmp_path / "from" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / f"from/masks/{place}.png")
        Image.new("RGB", (3, 1)).save(tmp_path / f"from/images/{place}.png")
    convert(Dataset.open(tmp_path / "from"), tmp_path / "to", kind)
    found = Dataset.open(tmp_path / "to")
    assert [by_name(found, sample).tolist() for sample in found] == [
        [["class 0", "class 200", "class 210"]],
        [["class 210", "class 0", "class 200"]],
    ]


def test_masks_of_0_and_255_become_two_classes(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / "from" / folder).mkdir(parents=True)
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "from/masks/a.png")
    Image.new("RGB", (2, 1)).save(tmp_path / "from/images/a.png")
    for kind in WRITERS:
        convert(Dataset.open(tmp_path / "from"), tmp_path / kind, kind)
        found = Dataset.open(tmp_path / kind)
        assert by_name(found, found[0]).tolist() == [["background", "foreground"]], kind


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "from").mkdir()
    dataset = make(tmp_path / "from", WITHOUT)
    (tmp_path / "to").mkdir()
    with pytest.raises(UsageError, match="to exists already"):
        convert(dataset, tmp_path / "to")
    assert not [*(tmp_path / "to").iterdir()]


def test_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "from").mkdir()
    with pytest.raises(UsageError, match=r"one of folders, coco, .*, got pascal"):
        convert(make(tmp_path / "from", WITHOUT), tmp_path / "to", "pascal")


@pytest.mark.parametrize("wrong", ["pixel", "split", "lost"])
def test_what_is_read_back_differently_is_not_kept(tmp_path, monkeypatch, wrong):
    def write(folder, table, items):
        changed = []
        for sample, target in items:
            target = target.copy()
            if wrong == "pixel":
                target[3, 5] = (target[3, 5] + 1) % 3
            changed.append((sample, target))
        images = write_folders(folder, table, changed)
        for kind in ("images", "masks"):
            if wrong == "split":
                (folder / kind / "val").rename(folder / kind / "test")
        if wrong == "split":
            images = [Path(str(path).replace(f"images{os.sep}val", f"images{os.sep}test")) for path in images]
        return images[:-1] if wrong == "lost" else images

    (tmp_path / "from").mkdir()
    dataset = make(tmp_path / "from", WITHOUT, ignored=False)
    monkeypatch.setitem(WRITERS, "folders", write)
    message = {"pixel": r"read differently \(1 pixels\)", "split": "split test", "lost": "6 samples were written"}
    with pytest.raises(FullyConvError, match=message[wrong]):
        convert(dataset, tmp_path / "to")
    assert {path.name for path in tmp_path.iterdir()} == {"from"}


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def write(folder, table, items):
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    (tmp_path / "from").mkdir()
    dataset = make(tmp_path / "from", WITHOUT)
    monkeypatch.setitem(WRITERS, "folders", write)
    with pytest.raises(FullyConvError, match="to: cannot be written: No space left on device"):
        convert(dataset, tmp_path / "to")
    assert {path.name for path in tmp_path.iterdir()} == {"from"}


def test_two_samples_with_one_name_are_refused_where_there_is_one_folder(tmp_path):
    (tmp_path / "from").mkdir()
    with pytest.raises(DataError, match=r"val/a\.jpg: expected a name of its own in a format with one folder"):
        convert(make(tmp_path / "from", WITHOUT), tmp_path / "to", "voc")


@pytest.mark.parametrize("kind", ["coco", "labelme", "yolo", "label-studio"])
def test_a_class_that_would_be_read_as_none_is_refused(tmp_path, kind):
    (tmp_path / "from").mkdir()
    with pytest.raises(DataError, match='class "void" would be read as pixels without a class'):
        convert(make(tmp_path / "from", ("sky", "road", "void")), tmp_path / "to", kind)
