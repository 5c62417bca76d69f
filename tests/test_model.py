"""The FCN as a whole: any size in, the same size out; described, and built again from the description."""

import json

import pytest
import torch
from tiny_networks import make_thin

from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.model import FCN, describe

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
