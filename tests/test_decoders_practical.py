import copy

import pytest
import torch
from tiny_decoders import count, encoder_for, features_of, randomised, specs_of
from torch import nn
from torch.nn import functional

from fullyconv.decoder import read_points
from fullyconv.decoders import build_decoder
from fullyconv.encoders.efficientnet_lite import EfficientNetLite
from fullyconv.upsample import upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.5)])
@pytest.mark.parametrize("output_stride", [4, 8, 12])
def test_linear_point_logits_are_the_upsampled_logits_there(scales, output_stride):
    specs = specs_of(4, 8, 16, 32, scales=scales)
    decoder = randomised(build_decoder("practical", specs, 3, output_stride=output_stride))
    size = (47, 70)
    features = features_of(specs, size)
    rows, columns = torch.randint(0, 47, (80,)), torch.randint(0, 70, (80,))
    points = decoder.point_logits(read_points(features, specs, output_stride, rows, columns, size))
    whole = upsample_logits(decoder(features, size), output_stride, size)[0, :, rows, columns].T
    torch.testing.assert_close(points, whole, atol=1e-5, rtol=1e-5)


def test_hidden_point_logits_are_the_same_function_of_the_features():
    specs = specs_of(8)
    decoder = randomised(build_decoder("practical", specs, 3, hidden=6))
    maps = torch.randn(1, 5, 4, 4)
    points = decoder.point_logits([maps[0].flatten(1).T])
    torch.testing.assert_close(points, decoder([maps], (32, 32))[0].flatten(1).T)


def test_a_linear_decoder_scores_the_concatenated_features():
    specs = specs_of(8, 16)
    decoder = randomised(build_decoder("practical", specs, 3))
    fine, coarse = features_of(specs, (32, 64))
    upsampled = functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    one = nn.BatchNorm2d(11)
    for name in ("weight", "bias", "running_mean", "running_var"):
        both = torch.cat([getattr(skip.norm, name).detach() for skip in decoder.skips])
        getattr(one, name).data.copy_(both)
    weight = torch.cat([skip.projection.weight for skip in decoder.skips], dim=1)
    expected = functional.conv2d(one.eval()(torch.cat([fine, upsampled], dim=1)), weight, decoder.bias)
    torch.testing.assert_close(decoder([fine, coarse], (32, 64)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden", [0, 4])
def test_a_single_cell_is_normalised_with_the_running_statistics(hidden):
    decoder = build_decoder("practical", specs_of(32), 3, hidden=hidden).train()
    before = decoder.skips[0].norm.running_mean.clone()
    assert decoder([torch.randn(1, 7, 1, 1)], (20, 20)).shape == (1, 3, 1, 1)
    assert decoder.point_logits([torch.randn(1, 7)]).shape == (1, 3)
    assert torch.equal(decoder.skips[0].norm.running_mean, before)


def test_points_and_maps_share_one_batch_norm():
    maps = torch.randn(2, 7, 3, 3)
    by_maps, by_points = (build_decoder("practical", specs_of(32), 3).train() for _ in range(2))
    by_maps([maps], (96, 96))
    by_points.point_logits([maps.permute(0, 2, 3, 1).reshape(-1, 7)])
    for name in ("running_mean", "running_var"):
        ours, theirs = (getattr(decoder.skips[0].norm, name) for decoder in (by_maps, by_points))
        torch.testing.assert_close(ours, theirs)
        assert ours.std() > 0


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_folded_norms_learn_as_norms_and_projections_do(hidden, training, offset):
    specs = specs_of(4, 8, 16, scales=(1.0, 1.5))
    folded = randomised(build_decoder("practical", specs, 3, hidden=hidden)).train(training)
    plain = copy.deepcopy(folded)
    points = [torch.randn(50, spec.channels) * (1 + index) + offset for index, spec in enumerate(specs)]
    gradient = torch.randn(50, 3)
    for decoder, needs_gradient in ((folded, False), (plain, True)):
        logits = decoder.point_logits([values.clone().requires_grad_(needs_gradient) for values in points])
        logits.backward(gradient)
        decoder.logits = logits.detach()
    torch.testing.assert_close(folded.logits, plain.logits, atol=1e-3, rtol=1e-3)
    for (name, ours), theirs in zip(folded.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    for ours, theirs in zip(folded.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_acts_in_training_only():
    decoder = randomised(build_decoder("practical", specs_of(8), 3, hidden=64, dropout=0.5))
    maps = [torch.randn(1, 5, 4, 4)]
    assert torch.equal(decoder(maps, (32, 32)), decoder(maps, (32, 32)))
    decoder.dropout.train()
    assert not torch.equal(decoder(maps, (32, 32)), decoder(maps, (32, 32)))
    points = [torch.randn(9, 5)]
    assert not torch.equal(decoder.point_logits(points), decoder.point_logits(points))


def test_the_output_stride_is_the_finest_at_scale_1():
    assert build_decoder("practical", specs_of(8, 32), 3).output_stride == 8
    mixed = [*specs_of(16, 32), *specs_of(4, scales=(2.0,))]
    assert build_decoder("practical", mixed, 3).output_stride == 16
    assert build_decoder("practical", specs_of(4, 8, scales=(1.5,)), 3).output_stride == 4


def test_the_linear_fcn_8s_has_about_6000_trained_numbers():
    with torch.device("meta"):
        encoder = encoder_for("practical", EfficientNetLite(), 8)
        assert count(build_decoder("practical", encoder.specs, 11)) == 11 * (40 + 112 + 320) + 2 * 472 + 11
