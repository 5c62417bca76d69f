"""From image files to mask files: the same mask however the image is given, names that never collide."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.errors import DataError, UsageError
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor, find_images, predict_files

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


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(folder / name)


def test_images_are_found_in_files_folders_and_globs(tmp_path):
    make(tmp_path, "one.png", "more/two.JPG", "more/deep/three.png", "globbed/four.png", "globbed/five.jpg")
    (tmp_path / "more" / "notes.txt").write_text("no image")
    found = find_images([tmp_path / "one.png", tmp_path / "more", str(tmp_path / "globbed" / "*.png")])
    assert list(found) == ["one", "deep/three", "two", "four"]


def test_names_that_would_collide_are_told_apart(tmp_path):
    make(tmp_path, "x/a.png", "x/a.jpg", "y/a.png", "z/A.png")
    found = find_images([tmp_path / "x", tmp_path / "y", tmp_path / "z"])
    assert sorted(found) == ["A_3", "a", "a_2", "a_png"]
    assert len({name.casefold() for name in found}) == len(set(found.values())) == 4


def test_an_overlay_never_takes_the_name_of_another_mask(tmp_path):
    make(tmp_path, "a.png", "a_overlay.png")
    found = find_images([tmp_path])
    outputs = [f"{name}{suffix}" for name in found for suffix in (".png", "_overlay.png", "_probabilities.npz")]
    assert len(set(outputs)) == len(outputs)


def test_the_same_file_given_twice_is_predicted_once(tmp_path):
    make(tmp_path, "a.png")
    assert len(find_images([tmp_path / "a.png", tmp_path])) == 1


def test_an_input_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no image found at .*nowhere"):
        find_images([tmp_path / "nowhere"])
