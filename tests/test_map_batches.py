"""Steps of crops of feature maps: where a pixel counts, its logits are those of the whole image."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_data import draw_pair, tiny_dataset, tiny_encoder, write_pair
from tiny_decoders import TinyNetwork, randomised

from fullyconv import map_batches as module
from fullyconv.dataset import Dataset
from fullyconv.decoders import build_decoder, needed_strides
from fullyconv.device import generator_of
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.losses import map_loss, pixel_loss
from fullyconv.map_batches import MapBatches
from fullyconv.progress import Silent
from fullyconv.transforms import PLAIN, View, make_views
from fullyconv.upsample import pixel_logits, upsample_logits

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


@pytest.fixture
def data(tmp_path):
    return tiny_dataset(tmp_path / "data", [(40, 33), (30, 50), (64, 35)])


class Recording(MapBatches):
    """Crops that remember where they were cut: (top, bottom), (left, right) of each."""

    def _draw(self, features, target, draw):
        self.sides = []
        crop = super()._draw(features, target, draw)
        self.windows.append(self.sides)
        return crop

    def _window(self, side, crop, draw):
        window = super()._window(side, crop, draw)
        self.sides.append(window)
        return window


def map_batches(data, decoder=None, views=(PLAIN,), cache=None, encoder=None, kind=Recording, **changes):
    encoder = encoder or tiny_encoder()
    decoder = decoder or build_decoder("practical", encoder.specs, 3)
    sizes = [data.read_image(sample).shape[:2] for sample in data]
    options = {"decoder": decoder, "sizes": sizes, "crop": 128, "count": 0, "batch": 4, "seed": 0}
    found = kind(FeatureReader(encoder, data, cache), data, views, **{**options, **changes})
    found.windows = []
    return found


def crops_of(batches, epochs):
    """Each crop of a few epochs as (item, window, features, targets)."""
    for epoch in epochs:
        batches.windows.clear()
        order = torch.randperm(len(batches.items), generator=generator_of(batches.seed, epoch))
        items = [batches.items[index] for index in order.tolist()]
        crops = [
            ([maps[n : n + 1] for maps in batch.features], batch.targets[n])
            for batch in batches.epoch(epoch)
            for n in range(len(batch.targets))
        ]
        assert len(crops) == len(items)
        for item, window, (features, targets) in zip(items, batches.windows, crops, strict=True):
            yield item, window, features, targets


def largest_difference(batches, decoder, epochs):
    """Between logits of crops, at pixels that count, and logits of the whole image there; and how many count."""
    worst, counted = 0.0, 0
    for item, ((top, bottom), (left, right)), features, targets in crops_of(batches, epochs):
        maps = [values.float() for values in batches.reader.maps(*item)]
        target = torch.from_numpy(batches.reader.target(*item).copy())
        with torch.no_grad():
            whole = upsample_logits(decoder(maps, target.shape), decoder.output_stride, target.shape)[0]
            logits = upsample_logits(decoder(features, batches.crop), decoder.output_stride, batches.crop)[0]
        inside = (slice(0, bottom - top), slice(0, right - left))
        counts = targets[inside] != 255
        assert torch.equal(targets[inside][counts], target[top:bottom, left:right][counts].long())
        assert (targets != 255).sum() == counts.sum()
        difference = (logits[:, *inside] - whole[:, top:bottom, left:right])[:, counts]
        worst = max(worst, difference.abs().max().item() / whole.std().item()) if counts.any() else worst
        counted += int(counts.sum())
    return worst, counted


INTERPOLATING = {
    "practical": ("practical", 4, (1.0,), {}),
    "practical, coarse": ("practical", 8, (1.0,), {"output_stride": 16}),
    "practical, two scales": ("practical", 4, (1.0, 1.5), {}),
    "practical, small scales": ("practical", 8, (0.5, 0.75), {}),
    "practical, hidden": ("practical", 8, (1.0, 1.5), {"hidden": 6}),
    "FCN-32s": ("fcn", 32, (1.0,), {}),
    "FCN-16s": ("fcn", 16, (1.0,), {}),
    "FCN-8s": ("fcn", 8, (1.0,), {}),
    "FCN-8s at once": ("fcn_at_once", 8, (1.0,), {}),
}
ZERO_PADDED = {
    "FCN-8s, learned": ("fcn", 8, (1.0,), {"upsampling": "learned"}),
    "FCN-16s, fc6": ("fcn", 16, (1.0,), {"fc": True, "width": 9}),
    "lecture": ("lecture", 8, (1.0,), {"width": 9}),
    "d2l": ("d2l", 32, (1.0,), {}),
    "torchvision": ("torchvision", 16, (1.0,), {}),
}
SIZES = [(200, 330), (96, 160), (33, 300), (320, 64), (70, 65), (1, 1)]


def made(form):
    name, stride, scales, options = form
    encoder = tiny_encoder(needed_strides(name, TinyNetwork.taps, stride), scales)
    return encoder, randomised(build_decoder(name, encoder.specs, 3, **options))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("sizes"), SIZES)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("large"), [(560, 700), (640, 576)])


@pytest.mark.parametrize("form", INTERPOLATING)
def test_where_a_pixel_counts_the_logits_of_a_crop_are_those_of_the_whole_image(sizes, form):
    encoder, decoder = made(INTERPOLATING[form])
    worst, counted = largest_difference(map_batches(sizes, decoder, encoder=encoder), decoder, range(4))
    assert worst < 1e-4
    assert counted > 60_000


@pytest.mark.parametrize("form", ZERO_PADDED)
def test_where_a_pixel_counts_decoders_with_zero_padding_agree_too(large, form):
    encoder, decoder = made(ZERO_PADDED[form])
    found = map_batches(large, decoder, encoder=encoder, crop=512)
    worst, counted = largest_difference(found, decoder, range(4))
    assert worst < 1e-4
    assert counted > 100_000


@pytest.mark.parametrize("form", [*INTERPOLATING, *ZERO_PADDED])
def test_without_a_halo_logits_would_depend_on_cells_beyond_the_cut(large, form):
    encoder, decoder = made({**INTERPOLATING, **ZERO_PADDED}[form])
    found = map_batches(large, decoder, encoder=encoder, crop=512)
    found.halo = 0
    assert largest_difference(found, decoder, range(2))[0] > 0.01


@pytest.mark.parametrize("form", ["practical, coarse", "practical, two scales", "practical, small scales"])
def test_the_ends_of_small_images_are_left_out_where_a_map_says_more_beyond_them(sizes, form):
    encoder, decoder = made(INTERPOLATING[form])
    found = map_batches(sizes, decoder, encoder=encoder)
    found._ends_agree = True
    assert largest_difference(found, decoder, range(4))[0] > 0.003


@pytest.mark.parametrize("form", ["practical", "practical, two scales", "FCN-8s"])
def test_crops_are_whole_cells_of_every_map(sizes, form):
    encoder, decoder = made(INTERPOLATING[form])
    found = map_batches(sizes, decoder, encoder=encoder)
    tops = set()
    for item, ((top, _), (left, _)), features, _ in crops_of(found, range(3)):
        tops.add(top)
        for spec, cut, maps in zip(encoder.specs, features, found.reader.maps(*item), strict=True):
            row, column = top / spec.stride, left / spec.stride
            assert row == round(row)
            assert column == round(column)
            expected = maps[..., round(row) :, round(column) :][..., : cut.shape[-2], : cut.shape[-1]].float()
            assert torch.equal(cut[..., : expected.shape[-2], : expected.shape[-1]], expected)
    assert len(tops) > 1


def test_images_of_all_sizes_make_one_batch(sizes):
    (batch,) = map_batches(sizes, batch=6).epoch(0)
    assert batch.size == (128, 128)
    assert batch.targets.shape == (6, 128, 128)
    assert [tuple(maps.shape) for maps in batch.features] == [
        (6, channels, 128 // stride, 128 // stride) for stride, channels in ((4, 3), (8, 5), (16, 6), (32, 7))
    ]
    assert {maps.dtype for maps in batch.features} == {torch.float32}


def test_an_image_smaller_than_the_crop_is_continued_by_the_edges_of_its_maps(tmp_path):
    data = tiny_dataset(tmp_path, [(40, 70), (128, 128)])
    found = map_batches(data)
    (maps, cut, targets) = next(
        (found.reader.maps(*item), features, targets)
        for item, _, features, targets in crops_of(found, [0])
        if item[0] is data[0]
    )
    for whole, values in zip(maps, cut, strict=True):
        height, width = whole.shape[-2:]
        assert torch.equal(values[..., :height, :width], whole.float())
        assert (values[..., height:, :] == values[..., height - 1 : height, :]).all()
        assert (values[..., width:] == values[..., width - 1 : width]).all()
    assert (targets[40:] == 255).all()
    assert (targets[:, 70:] == 255).all()
    assert (targets[:40, :70] != 255).any()


def test_with_images_of_one_size_a_crop_is_the_whole_image(tmp_path):
    data = tiny_dataset(tmp_path, [(150, 170), (150, 170)])
    found = map_batches(data, crop=0)
    assert found.crop == (160, 192)
    for item, window, _, targets in crops_of(found, range(3)):
        assert window == [(0, 150), (0, 170)]
        expected = torch.from_numpy(found.reader.target(*item).copy()).long()
        assert torch.equal(targets[:150, :170], expected)


@pytest.mark.parametrize(
    ("form", "images", "crop", "expected"),
    [
        ("practical", [(200, 330), (300, 300)], 0, (224, 320)),
        ("practical", [(200, 330), (300, 300)], 260, (288, 288)),
        ("practical", [(200, 330), (300, 300)], 10, (128, 128)),
        ("practical", [(200, 330), (300, 300)], 999, (320, 352)),
        ("practical", [(20, 330), (300, 20)], 0, (128, 128)),
        ("practical", [(20, 33)], 0, (32, 64)),
        ("practical, two scales", [(200, 330), (300, 300)], 0, (256, 320)),
        ("practical, small scales", [(600, 600), (700, 700)], 10, (256, 256)),
        ("lecture", [(600, 600), (700, 700)], 10, (512, 512)),
    ],
)
def test_crops_are_as_large_as_asked_on_the_grid_and_between_four_halos_and_the_largest(
    form, images, crop, expected
):
    encoder, decoder = made({**INTERPOLATING, **ZERO_PADDED}[form])
    reader = FeatureReader(encoder, Dataset(None, None, ()))
    options = {"sizes": images, "crop": crop, "count": 0, "batch": 1, "seed": 0}
    assert MapBatches(reader, reader.dataset, (PLAIN,), decoder=decoder, **options).crop == expected


def test_every_image_and_view_comes_once_an_epoch_and_crops_move(large):
    found = map_batches(large, views=MIRRORED, crop=256)
    windows = []
    for epoch in range(3):
        items = [item for item, *_ in crops_of(found, [epoch])]
        assert Counter(items) == Counter(found.items)
        windows.append(list(found.windows))
    assert all(a != b for a, b in pairwise(windows))


@pytest.mark.parametrize(("items", "batch", "steps"), [(6, 4, 2), (6, 6, 1), (6, 1, 6)])
def test_steps_have_their_size_whatever_the_images(sizes, items, batch, steps):
    found = map_batches(sizes, batch=batch)
    counts = [len(step.targets) for step in found.epoch(0)]
    assert len(found) == len(counts) == steps
    assert sum(counts) == items


def drawn_of(batches, epoch):
    return [
        (
            batch.rows.tolist(),
            batch.columns.tolist(),
            batch.targets.tolist(),
            [m.sum().item() for m in batch.features],
        )
        for batch in batches.epoch(epoch)
    ]


def test_an_epoch_depends_on_seed_and_epoch_alone(sizes, tmp_path):
    first = map_batches(sizes, count=9, cache=FeatureCache(tmp_path))
    drawn_of(first, 0)
    expected = drawn_of(first, 1)
    assert drawn_of(map_batches(sizes, count=9), 1) == expected
    assert drawn_of(map_batches(sizes, count=9), 2) != expected
    assert drawn_of(map_batches(sizes, count=9, seed=1), 1) != expected


# Drawn with replacement


def test_an_epoch_of_so_many_steps_draws_images_with_replacement(data):
    found = map_batches(data, views=MIRRORED, batch=5, steps=40, seed=3)
    drawn = [step for epoch in range(2) for step in found.epoch(epoch)]
    assert (len(found), len(drawn), {len(step.targets) for step in drawn}) == (40, 80, {5})
    counts = Counter(crop.tobytes() for step in drawn for crop in step.targets.numpy())
    assert len(counts) == 6
    assert sum((count - 400 / 6) ** 2 / (400 / 6) for count in counts.values()) < 20.5  # chi squared, p = 0.001
    assert max(Counter(crop.tobytes() for crop in step.targets.numpy()).most_common(1)[0][1] for step in drawn) > 1


@pytest.mark.parametrize("memory", [0, 4000, 10**9])
def test_an_image_that_comes_twice_has_its_own_features_both_times(data, tmp_path, monkeypatch, memory):
    options = {"views": MIRRORED, "batch": 7, "steps": 3}
    expected = drawn_of(map_batches(data, **options), 0)
    monkeypatch.setattr(module, "MEMORY", memory)
    found = map_batches(data, cache=FeatureCache(tmp_path / "cache"), **options)
    assert drawn_of(found, 0) == expected
    assert drawn_of(found, 0) == expected
    held = sum(maps.nbytes for features, _ in found._held.values() for maps in features)
    assert held < max(1, found._held_bytes) <= max(1, memory)


# Drawn pixels


@pytest.mark.parametrize("images", [SIZES, [(150, 170), (150, 170)]], ids=["many sizes", "one size"])
def test_drawn_pixels_are_labelled_ones_and_have_their_classes(tmp_path, images):
    for batch in map_batches(tiny_dataset(tmp_path, images), crop=0, count=40).epoch(0):
        assert batch.rows.shape == batch.columns.shape == (len(batch.targets), 40)
        for n, targets in enumerate(batch.targets):
            expected = [targets[r, c].item() for r, c in zip(batch.rows[n], batch.columns[n], strict=True)]
            assert batch.drawn_targets[n].tolist() == expected
            assert 255 not in expected


def test_where_fewer_pixels_are_labelled_each_is_drawn_once_and_counts_as_much_as_they_all_would(tmp_path):
    mask = np.full((32, 32), 255, np.uint8)
    mask[3, 4:9], mask[30, 20:25] = 0, 1
    write_pair(tmp_path, "0", draw_pair((32, 32), 0)[0], mask)
    found = map_batches(Dataset.open(tmp_path), count=40)
    (batch,) = found.epoch(0)
    counting = batch.shares[0] > 0
    places = zip(batch.rows[0][counting].tolist(), batch.columns[0][counting].tolist(), strict=True)
    assert sorted(places) == [*((3, c) for c in range(4, 9)), *((30, c) for c in range(20, 25))]
    assert batch.shares[0][counting].tolist() == pytest.approx([4] * 10)
    assert batch.shares.shape == batch.rows.shape == (1, 40)


def test_without_drawing_there_are_no_drawn_pixels(sizes):
    for batch in map_batches(sizes, count=0).epoch(0):
        assert batch.rows.shape == batch.columns.shape == batch.drawn_targets.shape == (len(batch.targets), 0)


def test_the_sampled_loss_of_crops_is_their_full_loss_on_average(tmp_path):
    data = tiny_dataset(tmp_path, [(64, 64), (64, 64)], ignored=0.5)
    encoder, decoder = made(INTERPOLATING["FCN-8s"])
    weights = torch.tensor([0.5, 1.7, 0.9])
    found = map_batches(data, decoder, encoder=encoder, crop=0, count=20)
    estimates = []
    for epoch in range(150):
        (batch,) = found.epoch(epoch)
        with torch.no_grad():
            logits = decoder(batch.features, batch.size)
            read = pixel_logits(logits, 8, batch.rows, batch.columns).flatten(0, 1)
        shares = batch.shares.flatten()
        estimates.append(pixel_loss(read, batch.drawn_targets.flatten(), weights, shares=shares))
    full = map_loss(upsample_logits(logits, 8, batch.size), batch.targets, weights)
    estimates = torch.stack(estimates)
    assert abs(estimates.mean() - full) < 3 * estimates.std() / math.sqrt(len(estimates))


# Ignored crops, memory


def test_crops_without_labels_are_left_out_and_counted(tmp_path):
    for name in range(5):
        image, mask = draw_pair((32, 32), name)
        write_pair(tmp_path, str(name), image, np.full_like(mask, 255) if name < 3 else mask)
    found = map_batches(Dataset.open(tmp_path), batch=2, count=7)
    batches = [batch for epoch in range(4) for batch in found.epoch(epoch)]
    assert sum(len(batch.targets) for batch in batches) == 4 * 2
    assert found.skipped == 4 * 3
    assert all((batch.drawn_targets != 255).all() for batch in batches)


def test_with_nothing_but_crops_without_labels_there_are_no_steps(tmp_path):
    write_pair(tmp_path, "0", *draw_pair((32, 32), 0))
    data = Dataset.open(tmp_path)
    write_pair(tmp_path, "0", draw_pair((32, 32), 0)[0], np.full((32, 32), 255, np.uint8))
    found = map_batches(data)
    assert list(found.epoch(0)) == []
    assert found.skipped == 1


def computed(monkeypatch, batches, epochs):
    """How many images the encoder sees in each of a few epochs."""
    calls, compute = [], batches.reader._compute
    monkeypatch.setattr(batches.reader, "_compute", lambda *item: calls.append(item) or compute(*item))
    counts = []
    for epoch in range(epochs):
        list(batches.epoch(epoch))
        counts.append(len(calls))
        calls.clear()
    return counts


def test_without_a_cache_the_encoder_is_in_the_loop_and_nothing_is_held(data, monkeypatch):
    found = map_batches(data, views=MIRRORED)
    assert computed(monkeypatch, found, 3) == [6, 6, 6]
    assert found._held == {}


def test_with_a_cache_features_are_computed_once_and_held(data, tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path / "cache")
    found = map_batches(data, views=MIRRORED, cache=cache)
    assert computed(monkeypatch, found, 2) == [6, 0]
    cache.clear()
    assert computed(monkeypatch, found, 1) == [0]


def test_maps_can_be_read_before_the_first_epoch(data, tmp_path, monkeypatch):
    found = map_batches(data, views=MIRRORED, cache=FeatureCache(tmp_path / "cache"))
    expected = drawn_of(map_batches(data, views=MIRRORED), 0)
    listener = Listener()
    found.read_ahead(listener)
    assert (listener.steps, listener.total) == (6, 6)
    assert computed(monkeypatch, found, 1) == [0]
    assert drawn_of(found, 0) == expected


def test_without_a_cache_nothing_is_read_before_the_first_epoch(data, monkeypatch):
    found = map_batches(data)
    read = []
    monkeypatch.setattr(found.reader, "_compute", lambda *item: read.append(item))
    found.read_ahead(Silent())
    assert read == []


def test_what_memory_does_not_hold_comes_from_the_cache(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MEMORY", 4000)
    found = map_batches(data, views=MIRRORED, cache=FeatureCache(tmp_path / "cache"))
    expected = drawn_of(map_batches(data, views=MIRRORED), 1)
    assert computed(monkeypatch, found, 1) == [6]
    assert drawn_of(found, 1) == expected
    assert 0 < len(found._held) < 6
    held = sum(maps.nbytes for features, _ in found._held.values() for maps in features)
    assert held < found._held_bytes <= 4000


def test_views_are_cut_like_images(tmp_path):
    data = tiny_dataset(tmp_path, [(100, 90)])
    view = View(mirror=True, scale=1.5)
    found = map_batches(data, views=(view,), crop=64)
    _, decoder = made(INTERPOLATING["practical"])
    worst, counted = largest_difference(found, decoder, range(3))
    assert worst < 1e-4
    assert counted > 1000
