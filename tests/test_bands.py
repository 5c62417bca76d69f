"""Bands of a huge image: each predicted from its own window, together the mask of the whole."""

import numpy as np
import pytest
import tifffile
import torch
from tiny_networks import make_thin

from fullyconv.bands import Joined, band_name, cut_bands, predict_band
from fullyconv.class_table import ClassTable
from fullyconv.folders import open_folder
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.tiles import Box


@pytest.fixture
def predictor(monkeypatch):
    make_thin(monkeypatch, 8)
    torch.manual_seed(1)
    model = FCN.build(
        ClassTable.from_names("abc"), encoder_weights="none", decoder="practical", stride=8, hidden=4
    )
    torch.nn.init.normal_(model.decoder.score.weight)
    return Predictor(model)


def test_bands_cover_an_image_with_as_many_for_each_worker(predictor):
    halo = predictor.halo.before + predictor.halo.after
    for height, workers in ((20_000, 2), (20_000, 4), (5_000, 100)):
        areas = cut_bands(predictor, (height, 300), workers)
        assert [area.top for area in areas[1:]] == [area.bottom for area in areas[:-1]]
        assert (areas[0].top, areas[-1].bottom) == (0, height)
        assert all(area.left == 0 and area.right == 300 for area in areas)
        assert all(area.bottom - area.top >= 2 * halo for area in areas[:-1])
    assert len(cut_bands(predictor, (20_000, 300), 2)) == 4


def test_a_network_that_may_see_the_whole_image_is_not_cut(predictor):
    predictor.halo = None
    assert cut_bands(predictor, (20_000, 300), 2) == []


def test_bands_put_together_are_the_whole(predictor, tmp_path):
    size = 1300, 40
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb")
    folder, areas = open_folder(tmp_path / "out"), [Box(0, 0, 640, 40), Box(640, 0, *size)]
    for area in reversed(areas):
        with folder.scratch() as scratch:
            predict_band(predictor, tmp_path / "a.tif", area, ["margin"], scratch / "band.npz")
            folder.publish(scratch / "band.npz", band_name("a", area))
    seen = []
    joined = Joined(predictor, folder, "a", areas, look=True)
    mask, margin = np.empty(size, np.uint8), np.empty(size, np.float32)
    for box, classes, measured in joined.measured_parts(size, lambda box: seen.append(box), ["margin"]):
        mask[box.slices], margin[box.slices] = classes, measured["margin"]
    wanted, wanted_margin = predictor.predict_with_margin(pixels)
    assert np.array_equal(mask, wanted)
    assert len(np.unique(mask)) > 1
    assert np.array_equal(margin, wanted_margin)
    assert [box.top for box in seen] == [0, 512, 640, 1152]
    assert joined.is_exact(size)
