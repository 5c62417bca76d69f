"""A network by bands of rows gives the bits of the whole, computes nothing twice and keeps few rows."""

import random

import numpy as np
import pytest
import torch
from test_verify import photo, predictor_of
from tiny_decoders import FORMS, encoder_for, randomised
from torch import nn

from fullyconv.class_table import ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.encoders import bare_network, build_network
from fullyconv.encoders.cae import CAE, PRESETS
from fullyconv.memory import peak_bytes
from fullyconv.model import FCN
from fullyconv.predict import WAITING_ROWS, Predictor
from fullyconv.streaming import RowStream
from fullyconv.verify import CLOSE
from fullyconv.weights import initialise

TABLE = ClassTable.from_names("abc")


def assert_rows_give_the_whole(predictor, image, rows, *, bits):
    """The logits by rows: those of the whole image, bit for bit or within rounding."""
    whole = predictor.logits(image)
    stream = predictor.row_stream(image.shape[:2])
    bands = (torch.from_numpy(image[top : top + rows]) for top in range(0, len(image), rows))
    found = torch.cat(list(stream.run(band.permute(2, 0, 1)[None] for band in bands)), dim=-2)
    assert (found - whole).abs().max() < CLOSE * (whole.max() - whole.min())
    assert torch.equal(found, whole) or not bits


EVERY = [(form, 50) for form in FORMS] + [("practical, hidden", 1), ("FCN-8s", 1), ("lecture", 64)]


@pytest.mark.parametrize(("form", "rows"), EVERY)
def test_every_decoder_works_by_rows(form, rows):
    transposed = any(isinstance(module, nn.ConvTranspose2d) for module in predictor_of(form).model.modules())
    assert_rows_give_the_whole(predictor_of(form), photo(203, 331), rows, bits=not transposed)


@pytest.mark.parametrize(
    "seed", [seed if seed < 10 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(20)]
)
def test_forms_scales_sizes_and_bands_drawn_at_random_work_by_rows(seed):
    draw = random.Random(seed)
    form = draw.choice(list(FORMS))
    scales = draw.choice([(1.0,), (1.5,), (0.5, 1.0), (1.0, 1.1), (0.3, 1.0), (2.0, 1.0)])
    predictor = predictor_of(form, scales if form.startswith("practical") else (1.0,))
    image = photo(draw.randint(1, 260), draw.randint(1, 420), seed)
    assert_rows_give_the_whole(predictor, image, draw.randint(1, 100), bits=False)


@pytest.mark.parametrize(
    ("name", "decoder", "precision"),
    [
        ("efficientnet_lite0", "practical", "float32"),
        ("resnet18", "fcn", "float32"),
        ("resnet50_d8", "torchvision", "bfloat16"),
        ("vgg16", "fcn", "bfloat16"),
        pytest.param("efficientnet_lite0", "practical", "bfloat16", marks=pytest.mark.slow),
        pytest.param("resnet18", "fcn", "bfloat16", marks=pytest.mark.slow),
        pytest.param("resnet50_d8", "torchvision", "float32", marks=pytest.mark.slow),
        pytest.param("vgg16", "fcn", "float32", marks=pytest.mark.slow),
    ],
)
def test_every_family_of_encoders_works_by_rows_in_every_bit(name, decoder, precision):
    network = build_network(name) if name == "efficientnet_lite0" else bare_network(name)
    if name != "efficientnet_lite0":
        initialise(network)
    scales = (1.0, 1.5) if decoder == "practical" else (1.0,)
    encoder = encoder_for(decoder, network, 8, scales)
    torch.manual_seed(0)
    trained = randomised(build_decoder(decoder, encoder.specs, 3, **({"fc": False} if decoder == "fcn" else {})))
    predictor = Predictor(FCN(encoder, trained, TABLE), precision=precision)
    assert_rows_give_the_whole(predictor, photo(300, 290), 64, bits=True)


def test_an_autoencoder_turned_into_an_fcn_works_by_rows():
    cae = CAE(PRESETS["photo"])
    cae.initialise()
    model = FCN.from_cae(cae, TABLE)
    randomised(model.decoder)
    assert_rows_give_the_whole(Predictor(model, precision="float32"), photo(133, 300), 32, bits=False)


def test_each_row_of_each_map_is_computed_once():
    stream = predictor_of("practical, hidden").row_stream((300, 200))
    computed = [0] * len(stream._steps)
    for number, step in enumerate(stream._steps):
        plain = step.rule.compute

        def counted(maps, top, bottom, number=number, plain=plain):
            computed[number] += bottom - top
            return plain(maps, top, bottom)

        object.__setattr__(step.rule, "compute", counted)
    image = torch.zeros((1, 3, 300, 200), dtype=torch.uint8)
    list(stream.run(image.split(17, dim=2)))
    assert computed == [step.rows for step in stream._steps]


def test_memory_does_not_grow_with_the_height_and_what_is_kept_is_known():
    network = build_network("efficientnet_lite0")
    encoder = encoder_for("practical", network, 8)
    predictor = Predictor(FCN(encoder, build_decoder("practical", encoder.specs, 3), TABLE), precision="float32")
    peaks = []
    for height in (1500, 3000):
        stream = predictor.row_stream((height, 256))
        band = torch.zeros((1, 3, 50, 256), dtype=torch.uint8)
        peaks.append(peak_bytes(lambda: sum(rows.shape[2] for rows in stream.run([band] * (height // 50)))))  # noqa: B023
        kept = stream.kept_bytes(50)
    assert peaks[1] <= peaks[0] * 1.05
    assert kept < peaks[1] < kept + (50 + WAITING_ROWS) * 256 * predictor.bytes_per_pixel
    assert kept > predictor.row_stream((3000, 128)).kept_bytes(50) * 1.9


def test_an_operation_that_writes_over_its_input_spoils_it_for_nobody():
    class Writes(nn.Module):
        def forward(self, maps):
            before = nn.functional.avg_pool2d(maps, 3, 1)
            return before[:, :, 20:] + maps.relu_()[:, :, 22:, 1:-1]

    maps = torch.randn(1, 2, 60, 30)
    whole = Writes()(maps.clone())
    stream = RowStream(Writes(), maps)
    assert torch.equal(torch.cat(list(stream.run(maps.clone().split(5, dim=2))), dim=2), whole)


@pytest.fixture
def small(monkeypatch):
    """Limits at which images of tests count as large."""
    monkeypatch.setattr("fullyconv.predict.FREE_PIXELS", 1_000)
    monkeypatch.setattr("fullyconv.predict.WHOLE_PIXELS", 10_000)
    monkeypatch.setattr("fullyconv.predict.BAND_BYTES", 1_000_000)


@pytest.mark.parametrize("form", ["practical, hidden", "FCN-8s", "lecture"])
@pytest.mark.parametrize("size", [(211, 307), (33, 2000), (2000, 33)])
def test_large_images_are_predicted_by_rows(small, form, size):
    predictor, image = predictor_of(form), photo(*size)
    read = []
    covered, mask = np.zeros(size, int), np.zeros(size, int)
    for area, part in predictor.mask_parts(size, lambda box: read.append(box) or image[box.slices]):
        covered[area.slices] += 1
        mask[area.slices] = part
    assert (covered == 1).all()
    assert all(box.size[1] == size[1] for box in read)
    assert sum(box.size[0] for box in read) == size[0]
    assert max(box.size[0] for box in read) < max(size[0] // 2, 34)
    assert np.array_equal(mask, predictor.predict(image))
    probabilities = predictor.probabilities(image)
    predictor.tile = 10_000
    assert np.array_equal(mask, predictor.predict(image))
    np.testing.assert_allclose(probabilities, predictor.probabilities(image), atol=2e-4)


def test_where_memory_is_short_fewer_rows_are_computed_and_then_tiles(small):
    predictor, image = predictor_of("practical, hidden"), photo(400, 200)
    mask = predictor.predict(image)
    stream = predictor.row_stream((400, 200))
    usual = predictor.rows_at_a_time(stream)
    predictor.memory = int(stream.kept_bytes(usual) + (10 + WAITING_ROWS) * 200 * predictor.bytes_per_pixel)
    assert 0 < predictor.rows_at_a_time(stream) <= 10 < usual
    assert np.array_equal(mask, predictor.predict(image))
    predictor.memory = int(192 * 192 * predictor.bytes_per_pixel)
    predictor.row_stream = lambda size: None
    assert len(predictor.tiles((400, 200))) > 1
    assert np.array_equal(mask, predictor.predict(image))


def test_other_weights_are_not_taken_for_those_that_were_traced(small):
    predictor, image = predictor_of("practical, hidden"), photo(211, 307)
    before = predictor.predict(image)
    randomised(predictor.model.decoder)
    after = predictor.predict(image)
    predictor.tile = 1000
    assert not np.array_equal(before, after)
    assert np.array_equal(after, predictor.predict(image))
