"""Tiles give the mask of the whole image: for every decoder, size and tile; and where they do not, it is said."""

import random

import numpy as np
import pytest
import torch
from tiny_data import tiny_encoder
from tiny_decoders import FORMS, built, encoder_for, randomised

from fullyconv.class_table import ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.encoders import bare_network, build_network
from fullyconv.encoders.cae import CAE, PRESETS
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.tiles import Halo, cut
from fullyconv.verify import CLOSE, Difference, verify_tiling
from fullyconv.weights import initialise

TABLE = ClassTable.from_names("abc")
SIZES = [(1, 1), (1, 131), (127, 1), (97, 103), (128, 192)]


def photo(height, width, seed=0):
    """Smooth colours with some noise."""
    draw = np.random.default_rng(seed)
    coarse = torch.from_numpy(draw.uniform(0, 255, (1, 3, height // 16 + 2, width // 16 + 2)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    return (smooth + draw.normal(0, 12, (height, width, 3))).clip(0, 255).astype(np.uint8)


def predictor_of(form, scales=(1.0,), **options):
    torch.manual_seed(3)
    decoder = randomised(built(FORMS[form], scales=scales))
    encoder = tiny_encoder(sorted({spec.tap.stride for spec in decoder.specs}), scales)
    return Predictor(FCN(encoder, decoder, TABLE), precision="float32", **options)


def assert_tiles_give_the_whole(predictor, image, side, *, bits=False):
    """The same mask, of the same logits: bit for bit, or within rounding where other kernels compute tiny maps."""
    predictor.tile = None
    mask, probabilities, logits = predictor.predict(image), predictor.probabilities(image), predictor.logits(image)
    predictor.tile = side
    for tile in predictor.tiles(image.shape[:2]):
        window = predictor.logits(image[tile.window.slices])
        stride = predictor.model.decoder.output_stride
        own, whole = cells(window, stride, tile.area.within(tile.window)), cells(logits, stride, tile.area)
        assert (own - whole).abs().max() < CLOSE * (logits.max() - logits.min())
        assert torch.equal(own, whole) or not bits
    different = predictor.predict(image) != mask
    second, best = np.sort(probabilities[:, different], axis=0)[-2:]
    assert (best - second < 1e-4).all()
    np.testing.assert_allclose(predictor.probabilities(image), probabilities, atol=1e-4)


def cells(logits, stride, box):
    """The logits at an output stride that stand for pixels of a box."""
    return logits[..., box.top // stride : -(-box.bottom // stride), box.left // stride : -(-box.right // stride)]


@pytest.mark.parametrize("side", [1, 64, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_every_decoder_gives_the_mask_of_the_whole_image(form, side):
    assert_tiles_give_the_whole(predictor_of(form), photo(97, 161), side)


@pytest.mark.parametrize("scales", [(1.5,), (1.0, 1.5), (1.0, 0.75), (1.0, 1.1)])
@pytest.mark.parametrize("form", ["practical, linear", "practical, hidden", "practical, coarse"])
def test_enlarged_images_give_the_mask_of_the_whole_image(form, scales):
    assert_tiles_give_the_whole(predictor_of(form, scales), photo(97, 700), 64)


@pytest.mark.parametrize(
    "seed", [seed if seed < 20 else pytest.param(seed, marks=pytest.mark.slow) for seed in range(40)]
)
def test_forms_scales_sizes_and_tiles_drawn_at_random_give_the_logits_of_the_whole_image(seed):
    draw = random.Random(seed)
    form = draw.choice(list(FORMS))
    scales = draw.choice([(1.0,), (1.5,), (0.5, 1.0), (1.0, 1.1), (0.3, 1.0), (2.0, 1.0)])
    predictor = predictor_of(form, scales if form.startswith("practical") else (1.0,))
    image = photo(draw.randint(1, 260), draw.randint(1, 420), seed)
    assert_tiles_give_the_whole(predictor, image, draw.choice([1, 32, 64, 100, 128]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["practical, hidden", "FCN-8s", "lecture"])
def test_every_size_gives_the_mask_of_the_whole_image(form, size):
    predictor = predictor_of(form, tile=1)
    image = photo(*size)
    tiled = predictor.predict(image)
    predictor.tile = None
    assert np.array_equal(tiled, predictor.predict(image))


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        *(("float32", name) for name in ("efficientnet_lite0", "resnet18")),
        ("bfloat16", "vgg16"),
        *(pytest.param("float32", name, marks=pytest.mark.slow) for name in ("resnet50_d8", "vgg16")),
        *(
            pytest.param("bfloat16", name, marks=pytest.mark.slow)
            for name in ("efficientnet_lite0", "resnet18", "resnet50_d8")
        ),
    ],
)
def test_every_family_of_encoders_gives_the_mask_of_the_whole_image(precision, name):
    network = build_network(name) if name == "efficientnet_lite0" else bare_network(name)
    if name != "efficientnet_lite0":
        initialise(network)
    encoder = encoder_for("practical", network, 8)
    torch.manual_seed(0)
    decoder = randomised(build_decoder("practical", encoder.specs, 3))
    predictor = Predictor(FCN(encoder, decoder, TABLE), precision=precision)
    assert_tiles_give_the_whole(
        predictor, photo(33, {"vgg16": 500, "efficientnet_lite0": 1500}.get(name, 900)), 64
    )


@pytest.mark.parametrize(
    ("decoder", "precision"),
    [
        ("practical", "bfloat16"),
        ("fcn", "float32"),
        ("torchvision", "float32"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("practical", "float32"), ("fcn", "bfloat16"), ("torchvision", "bfloat16")]
        ),
    ],
)
def test_on_maps_of_some_size_every_bit_is_that_of_the_whole_image(decoder, precision):
    torch.manual_seed(0)
    scales = (1.0, 1.5) if decoder == "practical" else (1.0,)
    model = FCN.build(TABLE, decoder=decoder, scales=scales)
    randomised(model.decoder)
    assert_tiles_give_the_whole(Predictor(model, precision=precision), photo(203, 1400), 256, bits=True)


def test_an_autoencoder_turned_into_an_fcn_gives_the_mask_of_the_whole_image():
    cae = CAE(PRESETS["photo"])
    cae.initialise()
    torch.manual_seed(0)
    model = FCN.from_cae(cae, TABLE)
    randomised(model.decoder)
    assert_tiles_give_the_whole(Predictor(model, precision="float32"), photo(33, 700), 64)


@pytest.mark.parametrize("form", FORMS)
def test_beyond_the_halo_nothing_changes_a_bit_and_within_it_something_may(form):
    predictor = predictor_of(form)
    model, image = predictor.model, photo(64, 512)
    halo, grid = model.halo, model.tile_grid
    (tile,) = [tile for tile in cut((64, 512), (64, grid), halo, grid) if tile.area.left == 256]
    mask = predictor.probabilities(image)[(slice(None), *tile.area.slices)]

    def changed(outside):
        other = photo(64, 512, seed=1)
        other[:, outside] = image[:, outside]
        return not np.array_equal(predictor.probabilities(other)[(slice(None), *tile.area.slices)], mask)

    first, last = tile.area.left - halo.before, tile.area.right + halo.after
    assert not changed(slice(first, last))
    assert changed(slice(tile.area.left, tile.area.right)) or halo == Halo(0, 0)


def test_the_tiles_fit_the_memory_and_probabilities_are_the_same(monkeypatch):
    predictor = predictor_of("practical, hidden", scales=(1.0, 1.5))
    image = photo(300, 400)
    monkeypatch.setattr("fullyconv.predict.FREE_PIXELS", 1000)
    assert len(predictor.tiles((300, 400))) == 1
    whole = predictor.probabilities(image)
    predictor.memory = int(192 * 192 * predictor.bytes_per_pixel)
    tiles = predictor.tiles((300, 400))
    assert len(tiles) > 1
    assert all(tile.window.size[0] * tile.window.size[1] <= 192 * 192 for tile in tiles)
    assert np.array_equal(predictor.probabilities(image), whole)
    predictor.memory = 10_000
    with pytest.raises(
        UsageError, match=r"10 kB of memory hold no tile of this model, the smallest one takes .* MB"
    ):
        predictor.predict(image)


def test_the_report_counts_tiles_and_what_is_computed_twice():
    report = verify_tiling(predictor_of("FCN-8s", tile=32), photo(192, 256))
    assert (report.tiles, report.sides, report.rows, report.exact) == (48, (32, 32), 32, True)
    assert report.found == report.found_by_rows == Difference(0, 0)
    assert str(report).startswith("48 tiles of 32 x 32 px, halo 32 px above and left, 32 px below and right, 6")
    assert str(report).endswith(
        "% recomputed: 0 of 49152 pixels differ; 32 rows at a time: 0 of 49152 pixels differ"
    )


def test_by_default_a_third_of_each_side_is_a_tile():
    assert verify_tiling(predictor_of("FCN-8s"), photo(300, 400)).sides == (96, 128)


def test_a_halo_that_is_too_small_is_found_out():
    predictor = predictor_of("lecture")
    predictor.halo = Halo(0, 0)
    report = verify_tiling(predictor, photo(192, 256))
    assert report.found.different > report.found.close
    assert report.found_by_rows == Difference(0, 0)
    assert not report.exact


def test_pixels_at_which_rounding_decides_are_told_apart(monkeypatch):
    predictor = predictor_of("FCN-8s")
    monkeypatch.setattr("fullyconv.verify.CLOSE", 2.0)  # of the range: every pixel is close
    predictor.halo = Halo(0, 0)
    report = verify_tiling(predictor, photo(192, 256))
    assert report.found.different == report.found.close > 0
    assert report.exact
    assert "of them where the two best logits are equal within rounding" in str(report)


@pytest.mark.parametrize(
    ("size", "tile", "message"),
    [
        ((64, 300), None, r"expected at least 3 x 3 tiles, an image of 64 x 300 px has 2 x 4 \(take a larger"),
        ((96, 96), None, r"a tile and its halo of 32 \+ 32 px cover the whole image of 96 x 96 px: nothing"),
        ((300, 300), 160, "expected at least 3 x 3 tiles, an image of 300 x 300 px has 2 x 2"),
    ],
)
def test_where_nothing_would_be_shown_it_is_refused(size, tile, message):
    predictor = predictor_of("FCN-8s", tile=tile)
    with pytest.raises(UsageError, match=message):
        verify_tiling(predictor, photo(*size))
