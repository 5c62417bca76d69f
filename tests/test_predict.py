"""From an image to its mask: the same however the image is given."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor

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


def test_a_path_a_pil_image_and_an_array_give_the_same_mask(predictor, pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    masks = [predictor.predict(given) for given in (pixels, Image.fromarray(pixels), tmp_path / "image.png")]
    assert masks[0].shape == (40, 52)
    assert masks[0].dtype == np.uint8
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_the_mask_is_the_argmax_of_the_probabilities(predictor, pixels):
    probabilities = predictor.probabilities(pixels)
    assert probabilities.shape == (2, 40, 52)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(axis=0), predictor.predict(pixels))


@pytest.mark.parametrize(
    ("array", "words"), [(np.zeros((4, 4)), "4 x 4 float64"), (np.zeros((4, 4, 4), np.uint8), "4 x 4 x 4 uint8")]
)
def test_another_array_is_refused_with_its_shape(predictor, array, words):
    with pytest.raises(UsageError, match=words):
        predictor.predict(array)


def test_a_saved_model_predicts_the_same(predictor, pixels, tmp_path):
    save_model(predictor.model, tmp_path / "model.safetensors")
    again = Predictor(tmp_path / "model.safetensors")
    assert np.array_equal(again.probabilities(pixels), predictor.probabilities(pixels))
