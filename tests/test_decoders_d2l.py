import pytest
import torch
from tiny_decoders import FORMS, TinyNetwork, built, count, encoder_for, features_of
from torch import nn
from torch.nn import functional

from fullyconv.decoders import build_decoder
from fullyconv.encoders.resnet import ResNet


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def on_resnet(depth, dilated=False, num_classes=21):
    with torch.device("meta"):
        encoder = encoder_for("d2l", ResNet(depth, dilated))
        return encoder, build_decoder("d2l", encoder.specs, num_classes)


def test_on_resnet_18_it_is_the_chapters_network():
    encoder, decoder = on_resnet(18)
    assert [tap.name for tap in encoder.taps] == ["layer4"]
    assert decoder.final_conv.weight.shape == (21, 512, 1, 1)
    layer = decoder.transpose_conv
    assert (layer.kernel_size, layer.stride, layer.padding) == ((64, 64), (32, 32), (16, 16))
    assert layer.bias.shape == (21,)
    assert count(decoder) == 512 * 21 + 21 + 21 * 21 * 64 * 64 + 21


def test_on_a_dilated_encoder_it_starts_from_the_deepest_features_at_stride_8():
    encoder, decoder = on_resnet(50, dilated=True)
    assert [tap.name for tap in encoder.taps] == ["layer4"]
    layer = decoder.transpose_conv
    assert (layer.kernel_size, layer.stride, layer.padding) == ((16, 16), (8, 8), (4, 4))


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_at_multiples_of_32_the_output_is_that_of_the_chapters_layers(size):
    decoder = built(FORMS["d2l"])
    layers = nn.Sequential(nn.Conv2d(7, 3, 1), nn.ConvTranspose2d(3, 3, kernel_size=64, padding=16, stride=32))
    layers.load_state_dict(dict(zip(layers.state_dict(), decoder.state_dict().values(), strict=True)))
    features = features_of(decoder.specs, size, count=2)
    assert decoder(features, size).shape == (2, 3, *size)
    assert torch.equal(decoder(features, size), layers(features[0]))


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (50, 64)])
def test_any_other_size_is_cropped_at_the_bottom_and_right(size):
    decoder = built(FORMS["d2l"])
    features = features_of(decoder.specs, size)
    padded = decoder(features, tuple(32 * side for side in features[0].shape[-2:]))
    assert torch.equal(decoder(features, size), padded[..., : size[0], : size[1]])


def test_at_first_the_scores_are_interpolated():
    decoder = built(FORMS["d2l"])
    features = features_of(decoder.specs, (96, 128))
    scores = decoder.final_conv(features[0])
    expected = functional.interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    found = decoder(features, (96, 128)) - decoder.transpose_conv.bias[:, None, None]
    torch.testing.assert_close(found[..., 16:-16, 16:-16], expected[..., 16:-16, 16:-16])


def test_both_layers_learn_and_the_encoder_does_not():
    encoder = encoder_for("d2l", TinyNetwork())
    decoder = build_decoder("d2l", encoder.specs, 2).train()
    logits = decoder(encoder(torch.rand(1, 3, 33, 32) * 255), (33, 32))
    functional.cross_entropy(logits, torch.zeros(1, 33, 32, dtype=torch.long)).backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())
