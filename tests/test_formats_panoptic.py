"""COCO panoptic as others write it; what `convert` writes is read back in test_convert.py."""

import json

import numpy as np
import pytest
from PIL import Image

from fullyconv.dataset import Dataset
from fullyconv.errors import DataError


def panoptic(root, ids, segments, **document):
    """A panoptic set whose one image has these ids, and segments of (id, category)."""
    ids = np.array(ids)
    folder = root / "annotations/panoptic_val2017"
    folder.mkdir(parents=True)
    (root / "val2017").mkdir()
    Image.new("RGB", ids.shape[::-1]).save(root / "val2017/a.jpg")
    colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8)
    Image.fromarray(colors).save(folder / "a.png")
    info = [{"id": identity, "category_id": category} for identity, category in segments]
    document = {
        "images": [{"id": 9, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 9, "file_name": "a.png", "segments_info": info}],
        "categories": [{"id": 200, "name": "sky"}, {"id": 1, "name": "person"}],
    } | document
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(document))
    return root


def test_segments_have_the_class_of_their_category_and_0_has_none(tmp_path):
    ids = [[0, 5, 70000], [3 << 16, 70000, 5]]
    dataset = Dataset.open(panoptic(tmp_path, ids, [(5, 1), (70000, 200), (3 << 16, 1)]))
    assert dataset.class_table.names == ("person", "sky")
    assert dataset.splits == {"val": 1}
    assert dataset.read_target(dataset[0]).tolist() == [[255, 0, 1], [0, 1, 0]]


def test_a_segment_that_nothing_is_said_of_is_refused(tmp_path):
    dataset = Dataset.open(panoptic(tmp_path, [[5, 6]], [(5, 1)]))
    with pytest.raises(DataError, match=r"a\.png: expected the segments of its JSON file, got id 6, too"):
        dataset.read_target(dataset[0])


def test_digests_tell_masks_apart(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    sets = [
        panoptic(folders[0], [[5, 6]], [(5, 1), (6, 200)]),
        panoptic(folders[1], [[6, 5]], [(5, 1), (6, 200)]),
        panoptic(folders[2], [[5, 6]], [(5, 1), (6, 1)]),
    ]
    assert len({Dataset.open(folder)[0].mask.digest() for folder in sets}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, r"expected a PNG of segments for a\.jpg, got none"),
        (
            {"annotations": [{"image_id": 9, "file_name": "b.png", "segments_info": []}]},
            "expected a PNG of segments",
        ),
        ({"annotations": [{"image_id": 9, "file_name": "a.png"}]}, "annotation 0: .* got no 'segments_info'"),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]},
            "each category once, got some name twice",
        ),
        ({"categories": 3}, "expected COCO panoptic annotations"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        Dataset.open(panoptic(tmp_path, [[5]], [(5, 1)], **change))
