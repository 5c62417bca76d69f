"""Masks of image files: their values, and nothing half done."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.errors import DataError, UsageError
from fullyconv.image_files import find_images
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files

TABLE = ClassTable((ClassEntry("a", 10, (250, 0, 0)), ClassEntry("b", 20, (0, 250, 0))), (), "index")


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(1)
    model = FCN.build(TABLE, decoder="practical", stride=8, hidden=4)
    torch.nn.init.normal_(model.decoder.score.weight)
    return Predictor(model)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)


def test_written_masks_hold_the_values_of_the_class_table(predictor, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    predict_files(predictor, find_images([tmp_path / "image.png"]), tmp_path / "out", probabilities=True)
    with Image.open(tmp_path / "out" / "image.png") as written:
        assert written.mode == "P"
        values = np.asarray(written)
    assert np.array_equal(values, np.array([10, 20])[predictor.predict(pixels)])
    with np.load(tmp_path / "out" / "image_probabilities.npz") as file:
        assert file["probabilities"].dtype == np.float16
    with Image.open(tmp_path / "out" / "image_overlay.png") as overlay:
        assert overlay.size[0] >= 52


def test_nothing_is_written_where_one_output_is_there_already(predictor, pixels, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_text("mine")
    with pytest.raises(UsageError, match=r"b\.png is there already"):
        predict_files(predictor, find_images([tmp_path / "a.png", tmp_path / "b.png"]), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_nothing_is_written_where_one_image_cannot_be_read(predictor, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(DataError, match=r"b\.png"):
        predict_files(predictor, find_images([tmp_path / "a.png", tmp_path / "b.png"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def large(monkeypatch):
    """Limits at which the images of these tests count as large."""
    monkeypatch.setattr("fullyconv.predict_files.LARGE", 2_000)
    monkeypatch.setattr("fullyconv.predict.FREE_PIXELS", 1_000)
    monkeypatch.setattr("fullyconv.predict.WHOLE_PIXELS", 1_000)
    monkeypatch.setattr("fullyconv.predict.BAND_BYTES", 1)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_large_image_is_read_and_written_by_parts(predictor, pixels, tmp_path, large, monkeypatch, suffix):
    Image.fromarray(pixels).save(tmp_path / f"image{suffix}")
    monkeypatch.setattr("fullyconv.image_form.read_image", None)
    options = {"probabilities": True, "confidence": True, "margin": True, "lecture": True}
    assert predict_files(predictor, find_images([tmp_path / f"image{suffix}"]), tmp_path / "out", **options) == 1
    mask, confidence = predictor.predict_with_confidence(pixels)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        f"image{suffix}",
        f"image_confidence{suffix}",
        f"image_margin{suffix}",
        "image_overlay.png",
        "image_probabilities.npz",
    } <= written
    assert len(written) == 8
    values = np.asarray(Image.open(tmp_path / "out" / f"image{suffix}"))
    assert np.array_equal(values, np.array([10, 20])[mask])
    grey = np.asarray(Image.open(tmp_path / "out" / f"image_confidence{suffix}"))
    assert np.array_equal(grey, np.rint(confidence * 255))
    assert grey.min() >= 127
    margin = predictor.predict_with_margin(pixels)[1]
    grey = np.asarray(Image.open(tmp_path / "out" / f"image_margin{suffix}"))
    assert np.array_equal(grey, np.rint((1 - np.exp(-margin.astype(float))) * 255))
    assert grey.min() < 30


@pytest.mark.parametrize("measure", ["confidence", "margin"])
def test_measures_are_written_for_images_that_are_not_large(predictor, pixels, tmp_path, measure):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    out = tmp_path / "out"
    predict_files(predictor, find_images([tmp_path / "image.png"]), out, overlay=False, **{measure: True})
    assert sorted(path.name for path in out.iterdir()) == ["image.png", f"image_{measure}.png"]
    second, best = np.sort(predictor.probabilities(pixels), axis=0)[-2:]
    expected = best if measure == "confidence" else 1 - second / best
    np.testing.assert_allclose(np.asarray(Image.open(out / f"image_{measure}.png")), expected * 255, atol=0.51)


def test_a_large_image_that_is_damaged_leaves_nothing_of_its_own(predictor, pixels, tmp_path, large):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.tif", compression="tiff_deflate")
    data = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(data[:100] + bytes(200) + data[300:])
    with pytest.raises(DataError, match=r"b\.tif"):
        predict_files(predictor, find_images([tmp_path]), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "a_overlay.png"]


def test_a_mask_that_is_there_as_tiff_is_not_overwritten(predictor, pixels, tmp_path, large):
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.tif").write_text("mine")
    with pytest.raises(UsageError, match=r"a\.tif is there already"):
        predict_files(predictor, find_images([tmp_path / "a.tif"]), tmp_path / "out")


def test_probabilities_that_do_not_fit_are_refused_before_anything_is_written(
    predictor, pixels, tmp_path, large, monkeypatch
):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("fullyconv.predict_files.available_bytes", lambda: 1_000)
    with pytest.raises(UsageError, match=r"the probabilities of .*a\.png take 58\.2 kB of memory, there are 1 kB"):
        predict_files(predictor, find_images([tmp_path / "a.png"]), tmp_path / "out", probabilities=True)
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_left_is_removed(predictor, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{2**22 + 1}-{'0' * 16}.tmp").write_text("half a mask")
    predict_files(predictor, find_images([tmp_path / "a.png"]), tmp_path / "out", overlay=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
