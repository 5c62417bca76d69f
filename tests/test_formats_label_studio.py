"""Label Studio's export as it writes it; what `convert` writes is read back in test_convert.py."""

import json

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.formats.label_studio import pack_strokes, unpack_strokes

RING = [0, 0, 0, 140, 57, 27, 254, 35, 0, 191, 255, 108, 2, 63, 248, 192, 39, 255, 182, 1, 127, 255, 15, 128, 0]
"""What Label Studio's own converter (label-studio-sdk 2.0, `brush.encode_rle`) makes of the mask below."""

RING_MASK = [[0] * 7, [0, 0, 1, 1, 1, 1, 0], [0, 0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0], [0] * 7]


def region(kind, value, size=(5, 7)):
    return {"type": kind, "original_height": size[0], "original_width": size[1], "value": value}


def brush(label, rle):
    return region("brushlabels", {"format": "rle", "rle": rle, "brushlabels": [label]})


def polygon(label, points):
    return region("polygonlabels", {"points": points, "polygonlabels": [label]})


def task(*results, image="/data/upload/3/0a1b2c3d-größe 1.png", **data):
    annotation = {"was_cancelled": False, "result": list(results)}
    return {"id": 1, "data": {"image": image} | data, "annotations": [annotation]}


def export(root, *tasks, config=None, name="größe 1.png"):
    (root / "images").mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (7, 5)).save(root / "images" / name)
    (root / "project-1-at-2026.json").write_text(json.dumps(tasks), encoding="utf-8")
    if config:
        (root / "config.xml").write_text(config, encoding="utf-8")
    return root


def target(root, index=0):
    dataset = Dataset.open(root)
    return dataset.read_target(dataset[index]).tolist()


def test_strokes_are_unpacked_as_label_studio_packs_them(tmp_path):
    rgba = unpack_strokes(RING).reshape(5, 7, 4)
    assert (rgba[..., 3] == 255 * np.array(RING_MASK)).all()
    assert target(export(tmp_path, task(brush("ring", RING)))) == RING_MASK


@pytest.mark.parametrize("seed", range(10))
def test_strokes_come_back(seed):
    draw = np.random.default_rng(seed)
    words = np.repeat((draw.random(draw.integers(1, 3000)) < draw.random() ** 3).astype(np.uint8) * 255, 60)
    assert (unpack_strokes(pack_strokes(words)) == words).all()


@pytest.mark.parametrize("data", [[], RING[:-9], [255] * 9])
def test_strokes_that_end_early_are_refused(tmp_path, data):
    with pytest.raises(DataError, match=r"task 0, result 0: expected .*, got something else"):
        Dataset.open(export(tmp_path, task(brush("a", data))))


def test_polygons_are_in_percent_and_later_regions_cover_earlier_ones(tmp_path):
    whole = [[0, 0], [100, 0], [100, 100], [0, 100]]
    left = [[0, 0], [300 / 7, 0], [300 / 7, 100], [0, 100]]
    export(tmp_path, task(polygon("b", whole), polygon("a", left)))
    assert Dataset.open(tmp_path).class_table.names == ("background", "a", "b")
    assert target(tmp_path) == [[1, 1, 1, 2, 2, 2, 2]] * 5


def test_rectangles_may_be_turned_about_their_corner(tmp_path):
    value = {"x": 600 / 7, "y": 0, "width": 300 / 7, "height": 20, "rotation": 90, "rectanglelabels": ["a"]}
    export(tmp_path, task(region("rectanglelabels", value)))
    assert np.array(target(tmp_path)).nonzero()[0].tolist() == [0, 1, 2]
    assert set(np.array(target(tmp_path)).nonzero()[1].tolist()) == {5}


def test_the_configuration_gives_order_and_colours(tmp_path):
    labels = '<Label value="b" background="#102030"/><Label value="ignored"/><Label value="a" background="red"/>'
    config = (
        f'<View><Image name="i" value="$image"/><BrushLabels name="l" toName="i">{labels}</BrushLabels></View>'
    )
    export(tmp_path, task(brush("a", RING)), config=config)
    table = Dataset.open(tmp_path).class_table
    assert table.names == ("background", "b", "a")
    assert [entry.color for entry in table.classes[1:]] == [(16, 32, 48), (255, 0, 0)]
    assert np.unique(target(tmp_path)).tolist() == [0, 2]


def test_the_last_annotation_counts_and_tasks_without_one_are_left_out(tmp_path):
    done = task(brush("a", RING))
    done["annotations"] += [{"was_cancelled": True, "result": []}]
    none = {"data": {"image": "x.png"}, "annotations": []}
    export(tmp_path, none, done)
    assert target(tmp_path) == RING_MASK
    assert "Left out: 1 tasks without an annotation." in Dataset.open(tmp_path).notes


def test_results_of_other_types_are_left_out_and_said(tmp_path):
    other = {"type": "choices", "value": {"choices": ["good"]}}
    export(tmp_path, task(brush("a", RING), other))
    assert "Left out: 1 results of type choices." in Dataset.open(tmp_path).notes


@pytest.mark.parametrize(
    "image",
    [
        "/data/upload/3/0a1b2c3d-größe 1.png",
        "/data/local-files/?d=images/gr%C3%B6%C3%9Fe%201.png",
        "s3://bucket/some/folder/größe 1.png",
        "https://example.org/a/gr%C3%B6%C3%9Fe%201.png?token=x",
        "größe 1.png",
    ],
)
def test_however_the_server_called_the_image_it_is_found_by_name(tmp_path, image):
    assert Dataset.open(export(tmp_path, task(brush("a", RING), image=image)))[0].id == "größe 1"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "task 0: expected a list of annotations, each with results, got no 'annotations'"),
        (task(image="b.png"), r"task 0: expected the image b\.png in .*images, got nothing there"),
        (task(image="notes.txt"), "task 0: expected data with the name of an image, got none"),
        (task(image="../../größe 2.png"), "expected the image"),
        (task({"type": "brushlabels", "value": {}}), "task 0: expected results of brushes"),
        (task(polygon("a", [[0, 0], [float("nan"), 1], [1, 1]])), "result 0: expected finite coordinates"),
        (task(region("brushlabels", brush("a", RING)["value"], (7, 7))), "strokes on 7 x 7 pixels, got 35 pixels"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, broken, message):
    if broken == {}:
        broken = {"data": {}}
    with pytest.raises(DataError, match=message):
        Dataset.open(export(tmp_path, broken))


def test_a_configuration_that_is_none(tmp_path):
    with pytest.raises(DataError, match=r"config\.xml: expected a labelling configuration"):
        Dataset.open(export(tmp_path, task(brush("a", RING)), config="<View>"))
