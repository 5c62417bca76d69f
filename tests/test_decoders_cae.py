"""From CAE to FCN: the same layers, classes in place of pixels, skips."""

import pytest
import torch
from tiny_decoders import FORMS, built, features_of, randomised, specs_of
from torch.nn import functional

from fullyconv.class_table import ClassTable
from fullyconv.decoders import build_decoder
from fullyconv.encoders.cae import CAE, PRESETS, Architecture, save_cae
from fullyconv.errors import UsageError
from fullyconv.explain import outline_of
from fullyconv.model import FCN
from fullyconv.model_file import load_model, save_model

SMALL = Architecture(3, (4, 5, 6, 7, 8), kernel=4)


@pytest.fixture
def cae():
    cae = CAE(SMALL)
    cae.initialise()
    return cae


@pytest.fixture
def path(cae, tmp_path):
    save_cae(cae, tmp_path / "cae.safetensors")
    return tmp_path / "cae.safetensors"


def image(*size):
    return torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)


def test_the_decoder_doubles_and_adds_skips():
    decoder = randomised(built(FORMS["autoencoder's, stride 8"]))
    eighth, sixteenth, code = features_of(decoder.specs, (64, 32))

    def up(number, maps):
        layer = decoder.up[number]
        return functional.conv_transpose2d(maps, layer.weight, layer.bias, stride=2, padding=1)

    maps = up(4, code).relu() + sixteenth
    maps = up(3, maps).relu() + eighth
    expected = up(0, up(1, up(2, maps).relu()).relu())
    torch.testing.assert_close(decoder([eighth, sixteenth, code], (64, 32)), expected)


def test_every_skip_reaches_the_logits():
    decoder = randomised(built(FORMS["autoencoder's, stride 2"]))
    features = [maps.requires_grad_() for maps in features_of(decoder.specs, (32, 32))]
    decoder(features, (32, 32)).square().sum().backward()
    assert all(maps.grad.abs().max() > 0 for maps in features)


def test_the_paths_are_those_of_the_autoencoder_under_known_names(cae):
    model = FCN.from_cae(cae, 3)
    mine, theirs = model.state_dict(), cae.state_dict()
    copied = {"encoder.network." + name.removeprefix("down."): name for name in theirs if name.startswith("down.")}
    copied |= {f"decoder.up.{n}.{part}": f"up.{n}.{part}" for n in range(1, 5) for part in ("weight", "bias")}
    assert set(mine) - set(copied) == {"decoder.up.0.weight", "decoder.up.0.bias"}
    assert set(theirs) - set(copied.values()) == {"up.0.weight", "up.0.bias"}
    for name, other in copied.items():
        assert torch.equal(mine[name], theirs[other])
        assert mine[name].data_ptr() != theirs[other].data_ptr()


def test_without_skips_it_is_the_autoencoder_up_to_its_last_layer(cae):
    """The same maps in front of the last layer: with that layer, too, the FCN would draw the image."""
    model = FCN.from_cae(cae, 3, stride=32)
    with torch.no_grad():
        model.decoder.up[0].weight.copy_(cae.up[0].weight)
        model.decoder.up[0].bias.copy_(cae.up[0].bias)
        pixels = image(64, 96)
        torch.testing.assert_close((model(pixels) + 1) / 2, cae(pixels / 255), atol=1e-5, rtol=1e-4)


def test_all_classes_are_equally_probable_at_first(cae):
    assert torch.equal(FCN.from_cae(cae, 4)(image(33, 47)), torch.zeros(1, 4, 33, 47))


@pytest.mark.parametrize(("stride", "strides"), [(2, (2, 4, 8, 16, 32)), (None, (4, 8, 16, 32)), (32, (32,))])
def test_the_stride_says_where_the_finest_skip_is(cae, stride, strides):
    assert FCN.from_cae(cae, 2, stride=stride).encoder.strides == strides


def test_a_shallow_autoencoder_has_its_own_default_and_reads_grey():
    digits = CAE(PRESETS["digits"])
    digits.initialise()
    model = FCN.from_cae(digits, ClassTable.from_names(["paper", "ink"]))
    assert model.encoder.strides == (4,)
    assert FCN.from_cae(digits, 2, stride=2).encoder.strides == (2, 4)
    assert model(image(8, 9)).shape == (1, 2, 8, 9)


def test_only_the_upsampling_path_learns(cae):
    model = FCN.from_cae(cae, 2).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = model.encoder.digest()
    for _ in range(2):  # The last layer starts at zero: the others learn from the second step on.
        loss = functional.cross_entropy(model(image(32, 32)), torch.ones(1, 32, 32, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.encoder.digest() == before
    assert not torch.equal(model.decoder.up[4].weight, cae.up[4].weight)


@pytest.mark.parametrize(("decoder", "options"), [("cae", {}), ("practical", {"hidden": 3})])
def test_a_model_file_needs_no_autoencoder_and_names_no_file(path, tmp_path, decoder, options):
    model = FCN.build(ClassTable.from_values(range(3)), encoder=f"cae:{path}", decoder=decoder, **options).eval()
    save_model(model, tmp_path / "model.safetensors")
    path.unlink()
    loaded = load_model(tmp_path / "model.safetensors")
    pixels = image(50, 40)
    assert torch.equal(loaded(pixels), model(pixels))
    assert loaded.description() == model.description()
    assert b"/" not in (tmp_path / "model.safetensors").read_bytes()[:2000]
    assert loaded.description()["encoder"]["architecture"] == SMALL.to_json()


def test_random_weights_start_both_paths_at_random(path, cae):
    model = FCN.build(
        ClassTable.from_values(range(3)), encoder=f"cae:{path}", encoder_weights="none", decoder="cae"
    )
    again = FCN.build(
        ClassTable.from_values(range(3)), encoder=f"cae:{path}", encoder_weights="none", decoder="cae"
    )
    assert model.description()["encoder"]["weights_source"] == "random"
    assert torch.equal(model.decoder.up[3].weight, again.decoder.up[3].weight)


def test_a_shallow_encoder_serves_the_practical_decoder_as_deep_as_it_goes(tmp_path):
    cae = CAE(Architecture(3, (3, 4, 5), kernel=3))
    cae.initialise()
    save_cae(cae, tmp_path / "cae.safetensors")
    model = FCN.build(ClassTable.from_values(range(2)), encoder=f"cae:{tmp_path / 'cae.safetensors'}")
    assert model.encoder.strides == (4, 8)
    with pytest.raises(UsageError, match=r"features at strides 2, 4, 8, not at 16"):
        FCN.build(ClassTable.from_values([0, 1]), encoder=f"cae:{tmp_path / 'cae.safetensors'}", decoder="fcn")


def test_an_autoencoder_of_another_form_is_not_taken_over(cae):
    decoder = build_decoder("cae", specs_of(8, 16, 32), 3)
    with pytest.raises(UsageError, match=r"the autoencoder has no up\.1\.weight of the form"):
        decoder.take_over(cae)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda cae, path: FCN.from_cae(cae, 2, stride=3),
            "decoder cae has stride 2 or 4 or 8 or 16 or 32, not 3",
        ),
        (
            lambda cae, path: FCN.from_cae(CAE(PRESETS["digits"]), 2, stride=8),
            "encoder cae has features at strides 2, 4, not at 8",
        ),
        (
            lambda cae, path: FCN.from_cae(CAE(Architecture(4, (3,))), 2),
            "encoder cae reads images of 4 channels, got 3",
        ),
        (
            lambda cae, path: FCN.build(ClassTable.from_values([0, 1]), encoder=f"cae:{path}", rgb_0_to_1=True),
            "an autoencoder is fed what it was trained on, not RGB 0..1",
        ),
        (
            lambda cae, path: FCN.build(
                ClassTable.from_values([0, 1]), encoder=f"cae:{path}", decoder="cae", kernel=3
            ),
            "the form of decoder cae is its autoencoder's: it takes no options and no scales",
        ),
    ],
)
def test_what_cannot_be_made_is_refused(make, message, cae, path):
    with pytest.raises(UsageError, match=message):
        make(cae, path)


@pytest.mark.parametrize("preset", PRESETS)
def test_explain_knows_the_network_that_came_of_it(preset):
    cae = CAE(PRESETS[preset])
    cae.initialise()
    outline = outline_of(FCN.from_cae(cae, 3, stride=2))
    weights = [sum(parameter.numel() for parameter in stage.parameters()) for stage in cae.down.stages]
    assert [found.parameters for found in outline.fixed] == weights
    assert [stage.stride for stage in outline.main_path if stage.kind == "transposed conv"][-1] == 1
