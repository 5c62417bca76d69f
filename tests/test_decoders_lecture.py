import math

import pytest
import torch
from tiny_decoders import FORMS, TinyNetwork, built, count, encoder_for, features_of, randomised, specs_of
from torch.nn import functional

from fullyconv.decoders import build_decoder
from fullyconv.encoders.vgg import VGG16


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_vgg16(num_classes=2):
    encoder = encoder_for("lecture", VGG16())
    return encoder, build_decoder("lecture", encoder.specs, num_classes)


def test_the_lecture_network_has_the_lectures_parameters():
    with torch.device("meta"):
        encoder, decoder = on_vgg16()
    assert {name: count(layer) for name, layer in decoder.named_children()} == {
        "conv6": 102_764_544,
        "fcn4": 16_781_312,
        "fcn3": 8_194,
        "fcn2": 16_896,
        "fcn1": 2_097_408,
        "output": 131_074,
    }
    assert count(decoder) == 121_799_428
    assert count(encoder, decoder) == 136_514_116


def test_the_lecture_network_has_the_lectures_shapes():
    shapes = {}
    with torch.device("meta"):
        encoder, decoder = on_vgg16()
        for name, layer in decoder.named_children():
            layer.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])}))
        features = encoder(torch.zeros(1, 3, 160, 576))
        logits = decoder(features, (160, 576))
    taps = {spec.tap.name: tuple(maps.shape[1:]) for spec, maps in zip(encoder.specs, features, strict=True)}
    assert taps == {"maxp3": (256, 20, 72), "maxp4": (512, 10, 36), "maxp5": (512, 5, 18)}
    assert shapes == {
        "conv6": (4096, 5, 18),
        "fcn4": (4096, 5, 18),
        "fcn3": (2, 5, 18),
        "fcn2": (512, 10, 36),
        "fcn1": (256, 20, 72),
        "output": (2, 160, 576),
    }
    assert logits.shape == (1, 2, 160, 576)


def test_the_lecture_network_sums_raw_features():
    decoder = randomised(built(FORMS["lecture"]))
    maxp3, maxp4, maxp5 = features_of(decoder.specs, (64, 32))
    fcn4 = decoder.fcn4(decoder.conv6(maxp5).relu()).relu()
    fcn2 = decoder.fcn2(decoder.fcn3(fcn4))
    expected = decoder.output(decoder.fcn1(fcn2 + maxp4) + maxp3)
    torch.testing.assert_close(decoder([maxp3, maxp4, maxp5], (64, 32)), expected)


def test_the_lecture_network_starts_from_glorot_uniform_weights_and_zero_biases():
    decoder = build_decoder("lecture", specs_of(8, 16, 32), 2, width=50)
    for layer in decoder.children():
        incoming, outgoing = layer.in_channels, layer.out_channels
        limit = math.sqrt(6 / ((incoming + outgoing) * math.prod(layer.kernel_size)))
        assert 0.9 * limit < layer.weight.abs().max() <= limit
        assert not layer.bias.any()


def test_the_lecture_network_learns_in_its_decoder_only():
    encoder = encoder_for("lecture", TinyNetwork())
    decoder = build_decoder("lecture", encoder.specs, 2, width=9).train()
    logits = decoder(encoder(torch.rand(1, 3, 33, 32) * 255), (33, 32))
    functional.cross_entropy(logits, torch.zeros(1, 33, 32, dtype=torch.long)).backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())
