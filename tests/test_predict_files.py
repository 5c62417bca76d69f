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
