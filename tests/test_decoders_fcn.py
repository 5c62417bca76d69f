import pytest
import torch
from tiny_decoders import FORMS, TinyNetwork, built, count, encoder_for, features_of, randomised, specs_of
from torch import nn
from torch.nn import functional

from fullyconv.decoders import build_decoder, needed_strides
from fullyconv.decoders.fcn import berkeley_sizes
from fullyconv.encoders.efficientnet_lite import EfficientNetLite
from fullyconv.encoders.vgg import VGG16
from fullyconv.errors import UsageError, WeightsError
from fullyconv.upsample import upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(("stride", "parameters"), [(32, 136_152_917), (16, 134_815_994), (8, 134_489_759)])
def test_fcns_on_vgg16_have_the_papers_parameters(stride, parameters):
    with torch.device("meta"):
        encoder = encoder_for("fcn", VGG16(), stride)
        decoder = build_decoder("fcn", encoder.specs, 21, upsampling="learned")
    assert count(encoder) == 14_714_688
    assert (count(decoder.fc6), count(decoder.fc7)) == (102_764_544, 16_781_312)
    assert count(encoder, decoder) == parameters
    without = count(encoder, *(m for m in decoder.children() if not isinstance(m, nn.ConvTranspose2d)))
    assert without == 134_346_581 + (10_773 if stride <= 16 else 0) + (5_397 if stride <= 8 else 0)


@pytest.mark.parametrize(
    ("stride", "names"),
    [
        (32, ["fc6", "fc7", "dropout", "score_fr", "upscore"]),
        (16, ["fc6", "fc7", "dropout", "score_fr", "score_pool4", "upscore2", "upscore16"]),
        (
            8,
            [
                "fc6",
                "fc7",
                "dropout",
                "score_fr",
                "score_pool4",
                "score_pool3",
                "upscore2",
                "upscore_pool4",
                "upscore8",
            ],
        ),
    ],
)
def test_the_modules_carry_the_papers_names(stride, names):
    specs = specs_of(*needed_strides("fcn", TinyNetwork.taps, stride))
    decoder = build_decoder("fcn", specs, 3, upsampling="learned", fc=True, width=4)
    assert [name for name, _ in decoder.named_children()] == names


def test_half_of_fc7_is_dropped_in_training():
    decoder = build_decoder("fcn", specs_of(32), 3, fc=True, width=1000).train()
    nn.init.zeros_(decoder.fc7.weight)
    nn.init.ones_(decoder.fc7.bias)
    given = []
    decoder.score_fr.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    decoder([torch.randn(1, 7, 1, 1)], (32, 32))
    assert set(given[0].unique().tolist()) == {0.0, 2.0}
    assert (given[0] == 0).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_fc6_and_fc7_are_there_on_vgg16_only():
    with torch.device("meta"):
        encoders = [encoder_for("fcn", network()) for network in (EfficientNetLite, VGG16)]
        by_name = {encoder.network.name: build_decoder("fcn", encoder.specs, 2).fc for encoder in encoders}
        assert by_name == {"efficientnet_lite0": False, "vgg16": True}
        assert build_decoder("fcn", encoders[0].specs, 2, fc=True).fc6.weight.shape == (4096, 320, 7, 7)


def test_fcn_8s_sums_the_scores_on_the_way_up():
    decoder = randomised(built(FORMS["FCN-8s"]))
    pool3, pool4, pool5 = features_of(decoder.specs, (64, 96))

    def doubled(maps):
        return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)

    fused = doubled(decoder.score_fr(pool5)) + decoder.score_pool4(pool4)
    expected = doubled(fused) + decoder.score_pool3(pool3)
    torch.testing.assert_close(decoder([pool3, pool4, pool5], (64, 96)), expected)


def test_at_once_scales_the_features_of_the_skips():
    at_once, plain = built(FORMS["FCN-8s at once"]), built(FORMS["FCN-8s"])
    plain.load_state_dict(randomised(at_once).state_dict())
    pool3, pool4, pool5 = features_of(plain.specs, (64, 64))
    expected = plain([pool3 * 0.0001, pool4 * 0.01, pool5], (64, 64))
    torch.testing.assert_close(at_once([pool3, pool4, pool5], (64, 64)), expected)


def test_learned_upsampling_begins_as_the_fixed_one_but_for_the_border():
    fixed, learned = built(FORMS["FCN-8s"]), built(FORMS["FCN-8s, learned"])
    learned.load_state_dict(randomised(fixed).state_dict(), strict=False)
    features = features_of(fixed.specs, (192, 192))
    expected = upsample_logits(fixed(features, (192, 192)), 8, (192, 192))
    inner = (..., slice(32, -32), slice(32, -32))
    torch.testing.assert_close(learned(features, (192, 192))[inner], expected[inner], atol=1e-4, rtol=1e-4)
    assert all(parameter.requires_grad for parameter in learned.parameters())


def test_fc6_on_a_7_by_7_map_is_the_fully_connected_layer():
    decoder = build_decoder("fcn", specs_of(32), 3, fc=True, width=4).eval()
    linear6, linear7 = nn.Linear(7 * 49, 4), nn.Linear(4, 4)
    decoder.load_fc(linear6.weight, linear6.bias, linear7.weight, linear7.bias)
    maps = torch.randn(1, 7, 7, 7)
    decoder.score_fr.weight.data.copy_(torch.eye(4)[:3, :, None, None])
    classified = linear7(linear6(maps.flatten(1)).relu()).relu()
    torch.testing.assert_close(decoder([maps], (224, 224))[:, :, 3, 3], classified[:, :3])


def test_fc_weights_of_another_network_are_refused():
    decoder = build_decoder("fcn", specs_of(32), 3, fc=True, width=4)
    with pytest.raises(WeightsError, match=r"fc6.weight has shape \(4, 7, 7, 7\), got \(4, 5\)"):
        decoder.load_fc(torch.zeros(4, 5), torch.zeros(4), torch.zeros(4, 4), torch.zeros(4))
    with pytest.raises(WeightsError, match=r"fc6.weight has shape \(4, 7, 7, 7\), got \(343, 4\)"):
        decoder.load_fc(torch.zeros(343, 4), torch.zeros(4), torch.zeros(4, 4), torch.zeros(4))
    with pytest.raises(UsageError, match=r"this decoder fcn has no fc6 and fc7 .*fc=True"):
        build_decoder("fcn", specs_of(32), 3).load_fc(*[torch.zeros(1)] * 4)


@pytest.mark.parametrize(
    ("length", "pools", "fc6", "raw32", "upscore2", "raw16", "raw8"),
    [
        (1, (100, 50, 25, 13, 7), 1, 64, 4, 80, 88),
        (32, (115, 58, 29, 15, 8), 2, 96, 6, 112, 120),
        (224, (211, 106, 53, 27, 14), 8, 288, 18, 304, 312),
        (375, (287, 144, 72, 36, 18), 12, 416, 26, 432, 440),
        (500, (349, 175, 88, 44, 22), 16, 544, 34, 560, 568),
        (512, (355, 178, 89, 45, 23), 17, 576, 36, 592, 600),
    ],
)
def test_the_released_networks_have_these_sizes(length, pools, fc6, raw32, upscore2, raw16, raw8):
    sizes = berkeley_sizes(length)
    assert (sizes.pools, sizes.fc6, sizes.upscore2) == (pools, fc6, upscore2)
    assert sizes.raw == {32: raw32, 16: raw16, 8: raw8}


def test_the_released_networks_crop_at_offsets_that_follow_from_their_layers():
    expected = {32: 19, 16: 27, 8: 31, "score_pool4": 5, "score_pool3": 9}
    assert all(berkeley_sizes(length).crops == expected for length in range(1, 100))


def test_the_released_networks_cover_images_of_every_size():
    for length in range(1, 1500):
        sizes = berkeley_sizes(length)
        assert all(sizes.raw[stride] >= length + sizes.crops[stride] for stride in (32, 16, 8))
        assert sizes.pools[3] >= sizes.upscore2 + sizes.crops["score_pool4"]
        assert sizes.pools[2] >= 2 * sizes.upscore2 + 2 + sizes.crops["score_pool3"]
