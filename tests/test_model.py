"""The FCN as a whole: any size in, the same size out; described, and built again from the description."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_networks import make_thin

from fullyconv.class_table import ClassTable
from fullyconv.config import recipe
from fullyconv.encoders import build_network, vgg
from fullyconv.errors import UsageError, WeightsError
from fullyconv.model import FCN, build_model, describe
from fullyconv.model_file import save_model

TABLE = ClassTable.from_names(["road", "tree", "sky"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = FCN.build(TABLE, decoder="practical", stride=8, scales=(1.0, 1.5), hidden=8)
    torch.nn.init.normal_(model.decoder.score.weight)
    return model.eval()


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (31, 33), (32, 32), (97, 41)])
def test_output_size_equals_input_size(model, size):
    with torch.no_grad():
        assert model(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)).shape == (1, 3, *size)


@pytest.mark.parametrize(("decoder", "options"), [("fcn", {"upsampling": "learned"}), ("lecture", {"width": 8})])
def test_output_size_equals_input_size_where_upsampling_is_learned(decoder, options):
    model = FCN.build(TABLE, decoder=decoder, **options).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 45, 67)).shape == (1, 3, 45, 67)


def test_training_mode_leaves_the_encoder_fixed(model):
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    model.eval()
    before = model.encoder(images)
    model.train()
    assert not model.encoder.network.training
    assert all(torch.equal(*pair) for pair in zip(before, model.encoder(images), strict=True))
    model.eval()


def test_only_the_decoder_gets_gradients(model):
    model(torch.zeros(1, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())
    model.zero_grad()


def test_a_model_is_built_again_from_its_description(model):
    again = FCN.from_description(json.loads(json.dumps(model.description())))
    again.encoder.network.load_state_dict(model.encoder.network.state_dict())
    again.decoder.load_state_dict(model.decoder.state_dict())
    images = torch.randint(0, 256, (1, 3, 50, 60), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), model(images))


def test_a_dilated_encoder_is_described_by_the_taps_that_are_read(monkeypatch):
    make_thin(monkeypatch)
    options = {"encoder": "resnet50_d8", "encoder_weights": "none", "decoder": "torchvision", "auxiliary": True}
    encoder = FCN.build(TABLE, **options).description()["encoder"]
    assert encoder["strides"] == [8, 8]
    assert encoder["receptive_fields"] == [267, 427]  # of layer3 and layer4, not of layer2


def test_an_unknown_decoder_is_refused_with_the_choices():
    with pytest.raises(UsageError, match="fcn_at_once"):
        FCN.build(TABLE, decoder="unet")


def test_the_text_for_people_names_classes_and_receptive_fields(model):
    text = describe({**model.description(), "digest": "abc"})
    assert "road (0), tree (1), sky (2)" in text
    assert "339 px at stride 16" in text


def test_fc6_and_fc7_start_from_the_classifier_that_vgg16_was(tmp_path, monkeypatch):
    make_thin(monkeypatch, 2)
    shapes = [("fc6", "classifier.0", (4096, 98), (4096, 2, 7, 7)), vgg.FC_LAYERS[1]]
    monkeypatch.setattr(vgg, "FC_LAYERS", shapes)
    network = build_network("vgg16", "none")
    layers = {f"{theirs}.weight": torch.full(shape, 0.5) for _, theirs, shape, _ in shapes}
    layers |= {f"{theirs}.bias": torch.full(shape[:1], 0.25) for _, theirs, shape, _ in shapes}
    torch.save({**network.state_dict(), **layers}, tmp_path / "vgg16.pth")
    config = recipe(encoder="vgg16", encoder_weights=str(tmp_path / "vgg16.pth"), decoder="fcn", fc=True)
    model = build_model(config, ClassTable.from_values(range(3)))
    assert (model.decoder.fc6.weight == 0.5).all()
    assert (model.decoder.fc7.bias == 0.25).all()
    torch.save(network.state_dict(), tmp_path / "features.pth")
    with pytest.raises(
        WeightsError, match=r"features.pth has no classifier, which fc6 and fc7 start from \(leave"
    ):
        build_model(
            replace(config, encoder_weights=str(tmp_path / "features.pth")), ClassTable.from_values([0, 1])
        )
    random = build_model(replace(config, encoder_weights="none"), ClassTable.from_values(range(3)))
    assert not (random.decoder.fc6.weight == 0.5).any()
    # A model file has the encoder alone: its decoder comes by --from.
    save_model(model, tmp_path / "model.safetensors")
    again = build_model(
        replace(config, encoder_weights=str(tmp_path / "model.safetensors")), ClassTable.from_values(range(3))
    )
    assert torch.equal(again.encoder.network.features[0].weight, model.encoder.network.features[0].weight)
