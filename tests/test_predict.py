"""From an image to its mask: the same however the image is given."""

import numpy as np
import pytest
import torch
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.encoder import Encoder, EncoderNetwork, InputConvention
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files
from fullyconv.progress import Silent
from fullyconv.taps import Tap
from fullyconv.upsample import predict_mask
from fullyconv.verify import verify_tiling

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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(40, 52), (97, 131)])
def test_a_batch_has_the_bits_of_its_images(predictor, precision, threads, size):
    before = torch.get_num_threads()
    again = Predictor(predictor.model, precision=precision)
    images = [np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8) for seed in range(5)]
    try:
        torch.set_num_threads(threads)
        single = [again.logits(image)[0] for image in images]
        assert torch.equal(again._batch_logits(np.stack(images)), torch.stack(single))
        masks = again.predict_batch(images)
        assert all(np.array_equal(mask, again.predict(image)) for mask, image in zip(masks, images, strict=True))
    finally:
        torch.set_num_threads(before)
        predictor.model.encoder.set_precision(torch.float32)


def test_a_batch_that_is_too_large_is_computed_one_by_one(predictor, monkeypatch):
    images = [np.random.default_rng(seed).integers(0, 256, (40, 52, 3), dtype=np.uint8) for seed in range(3)]
    small = Predictor(predictor.model, memory=1)
    batches, compute = [], small._batch_logits
    monkeypatch.setattr(small, "_batch_logits", lambda pixels: batches.append(len(pixels)) or compute(pixels))
    assert np.array_equal(small.predict_batch(images)[2], predictor.predict(images[2]))
    assert batches[-3:] == [1, 1, 1]
    with pytest.raises(UsageError, match="images of one size, got 2 sizes"):
        small.predict_batch([images[0], images[1][:30]])


class Global(EncoderNetwork):
    """Two maps of which one knows the mean of the whole image."""

    name, weights_licence, sees_all = "global", "CC0-1.0", True
    taps = (Tap("mean", 8, 6, 8),)
    input_convention = InputConvention((127.5,) * 3, (64.0,) * 3)

    def forward(self, images, strides):
        local = torch.nn.functional.avg_pool2d(images, 8)
        return [torch.cat((local, images.mean((2, 3), keepdim=True).expand_as(local)), dim=1)]


@pytest.fixture
def seeing_all(monkeypatch):
    """A model that no tile can be exact of, and limits at which images of tests count as large."""
    for name in ("FREE_PIXELS", "WHOLE_PIXELS"):
        monkeypatch.setattr(f"fullyconv.predict.{name}", 1_000)
    torch.manual_seed(0)
    encoder = Encoder(Global())
    decoder = build_decoder("practical", encoder.specs, 2, hidden=4)
    torch.nn.init.normal_(decoder.score.weight)
    return Predictor(FCN(encoder, decoder, TABLE), precision="float32")


def test_a_network_that_sees_all_is_given_the_whole_image_where_the_memory_allows_it(seeing_all):
    image = np.random.default_rng(0).integers(0, 256, (96, 130, 3), dtype=np.uint8)
    assert seeing_all.halo is None
    assert seeing_all.is_exact((96, 130))
    assert len(seeing_all.tiles((96, 130))) == 1
    whole = seeing_all.logits(image)
    assert np.array_equal(seeing_all.predict(image), predict_mask(whole, 8, (96, 130))[0].numpy())


def test_elsewhere_overlapping_tiles_are_blended_and_it_is_said(seeing_all, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (96, 130, 3), dtype=np.uint8)
    whole = seeing_all.probabilities(image)
    seeing_all.tile = 48
    assert not seeing_all.is_exact((96, 130))
    blended = seeing_all.probabilities(image)
    assert 1e-6 < np.abs(blended - whole).mean() < 0.1
    with pytest.raises(UsageError, match="cannot be cut into tiles exactly"):
        seeing_all.tiles((96, 130))
    with pytest.raises(UsageError, match="may see the whole image"):
        verify_tiling(seeing_all, image)
    Image.fromarray(image).save(tmp_path / "image.png")
    said = []
    progress = Silent()
    progress.say = said.append
    predict_files(seeing_all, {"image": tmp_path / "image.png"}, tmp_path / "out", progress=progress)
    assert any("overlapping tiles of them are blended, which is not exact" in line for line in said)


def test_blending_equal_tiles_changes_nothing(seeing_all):
    image = np.full((96, 128, 3), 77, np.uint8)
    whole = seeing_all.probabilities(image)
    seeing_all.tile = 32
    np.testing.assert_allclose(seeing_all.probabilities(image), whole, atol=1e-5)
