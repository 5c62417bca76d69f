"""COCO as others write it; what `convert` writes is read back in test_convert.py."""

import json

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.formats.coco import decode_counts, encode_counts

SQUARE = [[1, 1, 4, 1, 4, 3, 1, 3]]


def coco(root, *annotations, path="annotations/instances_train2017.json", home="images/train", **document):
    """A COCO whose one image of 4 x 6 pixels has these (category, segmentation, area)."""
    (root / home).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(root / home / "größe.png")
    document = {
        "images": [{"id": 71, "file_name": "größe.png", "height": 4, "width": 6}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"id": i, "image_id": 71, "category_id": category, "segmentation": segmentation, "area": area}
            for i, (category, segmentation, area) in enumerate(annotations)
        ],
    } | document
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return root


def target(dataset):
    (sample,) = dataset
    return dataset.read_target(sample).tolist()


def test_categories_are_classes_by_id_and_the_rest_is_background(tmp_path):
    dataset = Dataset.open(coco(tmp_path, (18, SQUARE, 6)))
    assert dataset.class_table.names == ("background", "car", "dog")
    assert dataset.splits == {"train": 1}
    assert target(dataset) == [[0] * 6, [0, 2, 2, 2, 0, 0], [0, 2, 2, 2, 0, 0], [0] * 6]
    assert "annotations/instances_train2017.json; masks are drawn with the 3 classes of" in dataset.notes[0]


def test_several_polygons_are_one_object_and_smaller_objects_cover_larger_ones(tmp_path):
    whole = [[0, 0, 6, 0, 6, 4, 0, 4]]
    parts = [[0, 0, 1, 0, 1, 1, 0, 1], [5, 3, 6, 3, 6, 4, 5, 4]]
    for order in (((18, parts, 2), (3, whole, 24)), ((3, whole, 24), (18, parts, 2))):
        assert target(Dataset.open(coco(tmp_path, *order))) == [[2, *[1] * 5], [1] * 6, [1] * 6, [*[1] * 5, 2]]


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_are_those_of_cocos_library(tmp_path, compressed):
    bits = np.random.default_rng(1).random((4, 6)) < 0.5
    encoded = pycocotools.mask.encode(np.asfortranarray(bits.astype(np.uint8)))
    counts = encoded["counts"].decode() if compressed else decode_counts(encoded["counts"].decode()).tolist()
    dataset = Dataset.open(coco(tmp_path, (3, {"size": [4, 6], "counts": counts}, 9)))
    assert target(dataset) == bits.astype(int).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_compressed_as_cocos_library_does(seed):
    draw = np.random.default_rng(seed)
    bits = np.zeros((500, 700), np.uint8)
    bits[draw.integers(0, 400) :, : draw.integers(1, 700)] = 1
    bits[draw.random(bits.shape) < draw.choice([0, 0.001, 0.4])] ^= 1
    theirs = pycocotools.mask.encode(np.asfortranarray(bits))["counts"].decode()
    lengths = decode_counts(theirs)
    assert lengths.sum() == bits.size
    assert (bits == np.repeat(np.arange(len(lengths)) % 2, lengths).reshape(700, 500).T).all()
    assert encode_counts(lengths) == theirs


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("annotations/instances_val.json", "val2017"),
        ("annotations/instances_default.json", "images"),
        ("valid/_annotations.coco.json", "valid"),
        ("_annotations.coco.json", "."),
        ("result.json", "images"),
    ],
)
def test_where_others_put_their_files(tmp_path, path, images):
    dataset = Dataset.open(coco(tmp_path, (3, SQUARE, 6), path=path, home=images))
    assert set(dataset.splits) == ({"val"} if "val" in path else set())
    assert dataset[0].id == "größe"


def test_one_annotation_file_can_be_given(tmp_path):
    coco(tmp_path, (3, SQUARE, 6))
    assert len(Dataset.open(tmp_path / "annotations/instances_train2017.json")) == 1
    coco(tmp_path, (3, SQUARE, 6), path="my own.json", home=".")
    assert Dataset.open(tmp_path / "my own.json").splits == {}


def test_an_image_without_annotations_is_background(tmp_path):
    assert target(Dataset.open(coco(tmp_path))) == [[0] * 6] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "expected images, got none"),
        ({"categories": [{"id": 1}]}, "categories: expected id and name of each, got no 'name'"),
        (
            {"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]},
            "each category once, got some id or name",
        ),
        ({"annotations": [{"image_id": 5}]}, "annotation 0: expected image_id, category_id and .*, got no"),
        (
            {"annotations": [{"image_id": 71, "category_id": 9, "segmentation": SQUARE}]},
            "annotation 0: expected .*, got no 9",
        ),
        (
            {"annotations": [{"image_id": 71, "category_id": 3, "segmentation": [[1, 2, 3]]}]},
            "annotation 0: expected .*, got something else",
        ),
        (
            {"annotations": [{"image_id": 71, "category_id": 3, "segmentation": [[1, 2, 3, 4, float("nan"), 6]]}]},
            "annotation 0: expected finite coordinates",
        ),
        (
            {
                "annotations": [
                    {"image_id": 71, "category_id": 3, "segmentation": {"size": [4, 6], "counts": [3, 4]}}
                ]
            },
            "expected run lengths for 4 x 6 pixels, got 7 pixels",
        ),
        (
            {"annotations": [{"image_id": 71, "category_id": 3, "segmentation": {"size": [4, 6], "counts": "Q"}}]},
            "annotation 0: expected .*, got something else .run lengths end within a number",
        ),
        (
            {"images": [{"id": 71, "file_name": "b.png", "height": 4, "width": 6}]},
            r"expected the image b\.png beside",
        ),
        (
            {"images": [{"id": 71, "file_name": "../größe.png", "height": 4, "width": 6}]},
            "names of images within the data folder, got ../größe.png",
        ),
        (
            {
                "images": [
                    {"id": i, "file_name": name, "height": 4, "width": 6}
                    for i, name in enumerate(("größe.png", "b.png"))
                ]
            },
            r"1 of 2 images are not in .*: b\.png",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(coco(tmp_path, **change))
    assert "instances_train2017.json" in caught.value.message


def test_an_image_of_another_size_is_refused(tmp_path):
    change = {"images": [{"id": 71, "file_name": "größe.png", "height": 6, "width": 4}]}
    dataset = Dataset.open(coco(tmp_path, **change))
    with pytest.raises(
        DataError, match=r"json \(größe\): expected annotations of an image of 4 x 6 .*, got 6 x 4"
    ):
        dataset.read_target(dataset[0])


@pytest.mark.parametrize("text", ["", '{"images": [', "[]", '{"images": []}', "[" * 100_000])
def test_files_that_are_no_coco(tmp_path, text):
    coco(tmp_path)
    (tmp_path / "annotations/instances_train2017.json").write_text(text)
    with pytest.raises(DataError, match=r"instances_train2017\.json: expected COCO annotations"):
        Dataset.open(tmp_path)


def test_splits_with_other_categories_are_refused(tmp_path):
    coco(tmp_path)
    other = {"categories": [{"id": 3, "name": "bus"}]}
    coco(tmp_path, path="annotations/instances_val.json", home="images/val", **other)
    with pytest.raises(DataError, match=r"expected the categories of instances_train2017\.json, got others"):
        Dataset.open(tmp_path)
