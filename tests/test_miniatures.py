"""The miniatures are in the forms of the data sets that they stand for: the package reads them as such."""

import miniatures
import pytest

from fullyconv.check import check_dataset
from fullyconv.dataset import Dataset


@pytest.mark.parametrize(
    ("fill", "splits", "classes", "words"),
    [
        (miniatures.voc, {"train": 2, "val": 2}, 21, "PASCAL VOC"),
        (miniatures.camvid_of_segnet, {"train": 2, "val": 1, "test": 1}, 11, "CamVid as SegNet numbers them"),
        (miniatures.ade20k, {"train": 2, "val": 1}, 150, "objectInfo150.txt"),
        (miniatures.road_arrays, {"train": 3}, 2, "images_training.npy"),
    ],
)
def test_a_miniature_is_read_as_what_it_stands_for(fill, splits, classes, words, tmp_path):
    fill(tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    assert {split: len(dataset.split(split)) for split in splits} == splits
    assert len(dataset) == sum(splits.values())
    assert dataset.class_table.num_classes == classes
    assert any(words in note for note in dataset.notes)
    check_dataset(dataset)


def test_the_miniature_of_coco_is_drawn_from_its_polygons(tmp_path):
    miniatures.coco(tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.class_table.names == ("background", "dog")
    assert [len(dataset.split(split)) for split in ("train", "val")] == [2, 1]
    assert (dataset.read_target(dataset[0]) == 1).sum() == 480


def test_the_roads_have_the_size_of_the_lecture(tmp_path):
    miniatures.road_arrays(tmp_path / "data")
    dataset = Dataset.open(tmp_path / "data")
    assert dataset.read_image(dataset[0]).shape == (160, 576, 3)
    assert 0 < (dataset.read_target(dataset[0]) == 1).mean() < 0.5
