from itertools import product

import pytest
import torch
from tiny_decoders import features_of, randomised, specs_of

from fullyconv.decoder import (
    BatchNorm,
    Decoder,
    bilinear_read,
    output_cells,
    positions_of_strides,
    read_points,
    resample,
    take_over,
)
from fullyconv.decoders import build_decoder
from fullyconv.errors import UsageError
from fullyconv.taps import FeatureSpec, Tap
from fullyconv.upsample import upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def spec(stride, channels=2, scale=1.0):
    return FeatureSpec(Tap(f"tap{stride}", stride, channels, receptive_field=stride), scale)


def slow_read(plane, y, x):
    """One value of an h x w plane at a fractional position, by the definition."""
    height, width = plane.shape
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    return sum(
        float(plane[i, j]) * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
        for i, j in product(range(height), range(width))
    )


@pytest.mark.parametrize(
    ("stride", "output_stride", "cells"),
    [
        (8, 8, (3, 4)),
        (32, 8, (12, 16)),
        (8, 32, (1, 1)),
        (32 / 1.5, 8, (8, 9)),
        (8 / 1.5, 8, (3, 4)),  # as many cells as the map has, elsewhere
        (8, 3, (8, 10)),
        (8, 8, (5, 4)),  # beyond the map
    ],
)
def test_resampled_maps_follow_the_definition_at_every_cell(stride, output_stride, cells):
    maps = torch.randn(1, 1, 3, 4)
    resampled = resample(maps, stride, output_stride, cells)
    assert resampled.shape[-2:] == cells
    for i, j in product(range(cells[0]), range(cells[1])):
        y, x = ((k + 0.5) * output_stride / stride - 0.5 for k in (i, j))
        assert resampled[0, 0, i, j].item() == pytest.approx(slow_read(maps[0, 0], y, x), abs=1e-5)


def test_maps_on_the_output_grid_are_not_copied():
    maps = torch.randn(1, 2, 3, 4)
    assert resample(maps, 8, 8, (3, 4)) is maps


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_maps_are_read_at_fractional_cells_in_float32(precision):
    maps = torch.randn(2, 3, 4, 5).to(precision)
    rows, columns = torch.rand(2, 20) * 6 - 1, torch.rand(2, 20) * 7 - 1
    read = bilinear_read(maps, rows, columns)
    assert (read.shape, read.dtype) == ((2, 20, 3), torch.float32)
    for n, p, k in product(range(2), range(20), range(3)):
        expected = slow_read(maps[n, k], float(rows[n, p]), float(columns[n, p]))
        assert read[n, p, k].item() == pytest.approx(expected, abs=1e-5)


def read_whole(features, specs, output_stride, rows, columns, size):
    """The slow twin of `read_points`: builds every resampled and upsampled map."""
    cells = output_cells(specs, output_stride, size)
    points = []
    for entry, maps in zip(specs, features, strict=True):
        resampled = resample(maps, entry.stride, output_stride, cells)
        points.append(upsample_logits(resampled, output_stride, size)[0, :, rows, columns].T)
    return points


@pytest.mark.parametrize("scales", [(1.0,), (1.5,), (1.0, 0.75)])
@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize("size", [(1, 33), (47, 32), (64, 70)])
def test_points_are_read_as_from_upsampled_maps(scales, output_stride, size):
    specs = [spec(stride, scale=scale) for scale in scales for stride in (4, 8, 16, 32)]
    features = features_of(specs, size)
    rows, columns = torch.randint(0, size[0], (50,)), torch.randint(0, size[1], (50,))
    fast = read_points(features, specs, output_stride, rows, columns, size)
    slow = read_whole(features, specs, output_stride, rows, columns, size)
    for read, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)


def test_points_of_half_precision_maps_are_read_in_float32():
    specs = [spec(8), spec(32)]
    features = [maps.half() for maps in features_of(specs, (40, 40))]
    pixels = torch.arange(40)
    read = read_points(features, specs, 8, pixels, pixels, (40, 40))
    expected = read_points([maps.float() for maps in features], specs, 8, pixels, pixels, (40, 40))
    assert all(torch.equal(a, b) for a, b in zip(read, expected, strict=True))


@pytest.mark.parametrize(
    ("size", "output_stride", "cells"),
    [((1, 32), 8, (4, 4)), ((33, 64), 8, (8, 8)), ((33, 1), 12, (6, 3)), ((1, 1), 32, (1, 1))],
)
def test_the_output_grid_covers_the_padded_image(size, output_stride, cells):
    assert output_cells([spec(8), spec(32, scale=1.5)], output_stride, size) == cells


def test_features_are_found_by_their_stride():
    assert positions_of_strides("fcn", [spec(4), spec(8), spec(32)], (32, 8)) == [2, 1]


def test_of_several_features_at_a_stride_the_deepest_is_found():
    assert positions_of_strides("d2l", [spec(4), spec(8), spec(8)], (8, 4)) == [2, 0]


def test_a_missing_stride_is_refused_naming_what_is_there():
    with pytest.raises(UsageError, match="decoder fcn needs features at strides 32, 16, the encoder gives 8, 32"):
        positions_of_strides("fcn", [spec(8), spec(32)], (32, 16))


def test_another_scale_is_refused_where_the_decoder_knows_only_one():
    with pytest.raises(UsageError, match=r"decoder lecture reads features at scale 1 only, got scale 0.5, 1.5"):
        positions_of_strides("lecture", [spec(8, scale=1.5), spec(8), spec(8, scale=0.5)], (8,))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 1, 2), (7, 3, 1, 1)])
def test_the_batch_norm_is_torchs(shape):
    ours, theirs, values = BatchNorm(3), torch.nn.BatchNorm2d(3), torch.randn(shape)
    assert torch.equal(ours(values), theirs(values))
    assert torch.equal(ours.running_var, theirs.running_var)
    assert torch.equal(ours.eval()(values), theirs.eval()(values))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3)])
def test_a_single_value_is_normalised_by_the_running_statistics(shape):
    norm, values = BatchNorm(3), torch.randn(shape)
    norm.running_mean.fill_(2)
    torch.testing.assert_close(norm(values), values - 2, atol=1e-4, rtol=1e-4)
    assert (norm.running_mean == 2).all()


def test_an_abstract_decoder_says_so():
    with pytest.raises(NotImplementedError, match="Decoder is abstract"):
        Decoder()([], (1, 1))
    with pytest.raises(NotImplementedError, match="Decoder has no point logits"):
        Decoder().point_logits([])
    with pytest.raises(NotImplementedError, match="Decoder is abstract"):
        Decoder().config()


def test_weights_of_another_decoder_are_taken_over_where_they_fit():
    coarse, fine = (build_decoder("fcn", specs_of(*strides), 3) for strides in ((32,), (16, 32)))
    randomised(coarse), randomised(fine)
    before = {name: value.clone() for name, value in fine.state_dict().items()}
    taken, total = take_over(fine, coarse)
    shared = coarse.state_dict().keys() & before.keys()
    assert (taken, total) == (len(shared), len(before))
    for name, value in fine.state_dict().items():
        assert torch.equal(value, coarse.state_dict()[name] if name in shared else before[name])
    with pytest.raises(UsageError, match="shares no decoder weights"):
        take_over(fine, build_decoder("practical", specs_of(4, 8), 5))
