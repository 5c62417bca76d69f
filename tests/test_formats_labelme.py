"""LabelMe as it writes its files; what `convert` writes is read back in test_convert.py."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


SQUARE = [[1, 1], [4, 1], [4, 3], [1, 3]]


def labelme(root, *shapes, labels=None, name="größe 1", **document):
    """One image of 4 x 6 pixels with these shapes."""
    root.mkdir(exist_ok=True)
    Image.new("RGB", (6, 4)).save(root / f"{name}.png")
    document = {
        "version": "5.5.0",
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": 4,
        "imageWidth": 6,
    } | document
    (root / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    if labels is not None:
        (root / "labels.txt").write_text("\n".join(labels), encoding="utf-8")
    return root


def target(root):
    dataset = Dataset.open(root)
    return dataset.read_target(dataset[0]).tolist()


def test_labels_are_classes_by_name_and_later_shapes_cover_earlier_ones(tmp_path):
    labelme(tmp_path, shape("dog", SQUARE), shape("cat", [[2, 2], [3, 2], [3, 3], [2, 3]]))
    dataset = Dataset.open(tmp_path)
    assert dataset.class_table.names == ("background", "cat", "dog")
    assert target(tmp_path) == [[0] * 6, [0, 2, 2, 2, 0, 0], [0, 2, 1, 2, 0, 0], [0] * 6]


def test_labels_txt_gives_the_order_the_background_and_what_is_ignored(tmp_path):
    labels = ["__ignore__", "_background_", "dog", "cat"]
    labelme(tmp_path, shape("cat", SQUARE), shape("__ignore__", [[2, 2], [3, 2], [3, 3], [2, 3]]), labels=labels)
    dataset = Dataset.open(tmp_path)
    assert dataset.class_table.names == ("_background_", "dog", "cat")
    assert target(tmp_path)[2] == [0, 2, 255, 2, 0, 0]


def test_without_a_background_in_labels_txt_the_rest_has_no_class(tmp_path):
    labelme(tmp_path, shape("cat", SQUARE), labels=["dog", "cat"])
    assert target(tmp_path)[2] == [255, 1, 1, 1, 255, 255]


def test_rectangles_circles_and_bitmaps(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.array([[255, 0, 255]], np.uint8)).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    labelme(
        tmp_path,
        shape("a", [[0, 0], [2, 1]], "rectangle"),
        shape("b", [[5.5, 0.5], [5.5, 1.2]], "circle"),
        shape("c", [[1, 3], [3, 3]], "mask", mask=png),
    )
    assert target(tmp_path) == [[1, 1, 0, 0, 0, 2], [0] * 6, [0] * 6, [0, 3, 0, 3, 0, 0]]


def test_points_and_lines_are_left_out_and_said(tmp_path):
    labelme(tmp_path, shape("a", SQUARE), shape("a", [[1, 1]], "point"), shape("a", [[1, 1], [2, 2]], "line"))
    assert "Shapes without an area are left out (line: 1, point: 1)." in Dataset.open(tmp_path).notes


def test_images_without_a_file_are_left_out_and_said(tmp_path):
    labelme(tmp_path, shape("a", SQUARE))
    Image.new("RGB", (3, 3)).save(tmp_path / "other.png")
    dataset = Dataset.open(tmp_path)
    assert len(dataset) == 1
    assert "1 images have no JSON file and are left out (other.png)." in dataset.notes


def test_split_folders(tmp_path):
    for split in ("train", "val"):
        labelme(tmp_path / split, shape("a", SQUARE))
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == {"train": 1, "val": 1}
    assert [sample.id for sample in dataset] == ["größe 1"] * 2


def test_an_image_that_was_renamed_with_its_file_is_found(tmp_path):
    labelme(tmp_path, shape("a", SQUARE), imagePath="..\\elsewhere\\old.jpg")
    assert Dataset.open(tmp_path)[0].image == tmp_path / "größe 1.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": None}, "expected LabelMe annotations with a list of shapes, got none"),
        ({"shapes": [{"points": SQUARE}]}, "shape 0: expected a label, got no 'label'"),
        (
            {"shapes": [shape("a", [[1, 2], [3]])]},
            "shape 0: expected label, shape_type and points, got something else",
        ),
        ({"shapes": [shape("a", [[1, 2], [3, float("inf")], [1, 1]])]}, "shape 0: expected finite coordinates"),
        ({"shapes": [shape("a", SQUARE[:2], "mask", mask="####")]}, "shape 0: expected a PNG in base64"),
        ({"shapes": [shape("a", SQUARE[:2], "cube")]}, "expected polygon, rectangle, circle or mask, got 'cube'"),
        ({"imageHeight": None}, "expected imagePath, imageHeight and imageWidth, got something else"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, change, message):
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(labelme(tmp_path, **change))
    assert "größe 1.json" in caught.value.message


def test_a_label_that_labels_txt_has_not_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected a label of labels\.txt, got 'catt'"):
        Dataset.open(labelme(tmp_path, shape("catt", SQUARE), labels=["cat"]))


def test_a_bitmap_beyond_the_image_is_refused(tmp_path):
    file = io.BytesIO()
    Image.new("L", (4, 1), 255).save(file, "PNG")
    png = base64.b64encode(file.getvalue()).decode()
    with pytest.raises(DataError, match="expected a bitmap within 4 x 6 pixels, got one beyond"):
        Dataset.open(labelme(tmp_path, shape("a", [[3, 0], [6, 0]], "mask", mask=png)))
