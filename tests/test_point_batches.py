"""Steps of drawn pixels: every one of them, in an order of its own, in half precision."""

from collections import Counter

import numpy as np
import pytest
import torch
from tiny_data import draw_pair, tiny_dataset, tiny_encoder, write_pair

from fullyconv import point_batches as module
from fullyconv.dataset import Dataset
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.point_batches import PointBatches
from fullyconv.progress import Silent
from fullyconv.transforms import PLAIN, make_views

MIRRORED = make_views(mirror=True, scales=(1.0,), colours=0)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Listener(Silent):
    """Keep what is said and count the steps."""

    def __init__(self):
        self.lines, self.steps, self.total = [], 0, 0

    def say(self, line):
        self.lines.append(line)

    def track(self, label, total):
        self.total = total
        return self

    def __enter__(self):
        return self.step

    def __exit__(self, *error):
        pass

    def step(self):
        self.steps += 1


def point_batches(data, views=MIRRORED, cache=None, **changes):
    options = {"output_stride": 4, "count": 30, "size": 50, "seed": 0, "progress": Silent()}
    reader = FeatureReader(tiny_encoder(), data, cache)
    return PointBatches(reader, data, views, **{**options, **changes})


def rows_of(batch):
    """Each point as one tuple of its features and class."""
    table = torch.cat([*batch.points, batch.targets[:, None]], dim=1)
    return [tuple(row) for row in table.tolist()]


@pytest.fixture
def data(tmp_path):
    return tiny_dataset(tmp_path / "data", [(40, 33), (30, 50), (64, 35)])


def test_every_point_comes_exactly_once_an_epoch(data):
    found = point_batches(data)
    expected = Counter()
    for sample in data:
        for view in MIRRORED:
            points, classes, _ = next(FeatureReader(tiny_encoder(), data).all_points([(sample, view)], 4, 30, 0))
            table = torch.cat([*(values.float() for values in points), classes[:, None]], dim=1)
            expected.update(tuple(row) for row in table.tolist())
    for epoch in range(2):
        assert Counter(row for batch in found.epoch(epoch) for row in rows_of(batch)) == expected
    assert expected.total() == 6 * 30


def test_the_order_of_points_depends_on_seed_and_epoch_alone(data):
    first, again, other = point_batches(data), point_batches(data), point_batches(data)
    other.seed = 1
    list(first.epoch(0))
    orders = [[row for batch in b.epoch(e) for row in rows_of(batch)] for b, e in ((first, 1), (again, 1))]
    assert orders[0] == orders[1]
    assert orders[0] != [row for batch in first.epoch(0) for row in rows_of(batch)]
    assert orders[0] != [row for batch in other.epoch(1) for row in rows_of(batch)]


def test_every_seed_finds_the_same_points_in_the_cache(data, tmp_path):
    first, other = (point_batches(data, cache=FeatureCache(tmp_path / "cache"), seed=seed) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.points, other.points, strict=True))
    assert FeatureCache(tmp_path / "cache").info().entries == 6


def test_the_points_of_a_step_come_from_many_images(tmp_path):
    for name in range(3):
        image, _ = draw_pair((20, 20), name)
        write_pair(tmp_path, str(name), image, np.full((20, 20), name, np.uint8))
    batch = next(point_batches(Dataset.open(tmp_path), (PLAIN,)).epoch(0))
    assert set(batch.targets.tolist()) == {0, 1, 2}


def test_steps_have_their_size_and_the_last_one_what_is_left(data):
    found = point_batches(data, size=50)
    sizes = [len(batch.targets) for batch in found.epoch(0)]
    assert sizes == [50, 50, 50, 30]
    assert len(found) == 4


def test_points_are_given_in_float32_and_held_in_half_precision(data):
    found = point_batches(data)
    batch = next(found.epoch(0))
    assert {values.dtype for values in batch.points} == {torch.float32}
    assert {values.dtype for values in found.points} == {torch.float16}
    assert batch.targets.dtype == torch.int64


def test_fewer_pixels_are_drawn_where_memory_would_not_hold_them(data, monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 2 * (3 + 5 + 6 + 7) * 6 * 10)
    listener = Listener()
    found = point_batches(data, progress=listener)
    assert len(found.targets) == 6 * 10
    assert sum(values.nbytes for values in found.points) == module.MEMORY
    assert listener.lines == ["points: 10 pixels an image and view instead of 30, to stay below 2 GB"]


def test_reading_points_is_reported_step_by_step(data):
    listener = Listener()
    point_batches(data, progress=listener)
    assert (listener.steps, listener.total, listener.lines) == (6, 6, [])


def test_images_without_labels_give_no_points(tmp_path):
    write_pair(tmp_path, "a", *draw_pair((20, 20), 0))
    write_pair(tmp_path, "b", draw_pair((20, 20), 1)[0], np.full((20, 20), 255, np.uint8))
    assert len(point_batches(Dataset.open(tmp_path), (PLAIN,)).targets) == 30
