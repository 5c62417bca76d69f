"""Sizes: enlarged as a slow twin does it, and the same bits wherever a part was cut out."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn import functional

from fullyconv.sizes import pad_to_multiple, padded_size, read_between, resize_by, scaled_size


def slow_resize(values, scale):
    """One axis: read at (i + 0.5) / scale - 0.5, clamped."""
    size = math.ceil(len(values) * Fraction(str(scale)))
    positions = np.clip((np.arange(size) + 0.5) / scale - 0.5, 0, len(values) - 1)
    return np.interp(positions, np.arange(len(values)), values)


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.0, 1.1, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (10, 33)])
def test_resizing_equals_its_slow_twin_at_every_size(size, scale):
    image = np.random.default_rng(0).uniform(0, 255, size)
    rows = np.stack([slow_resize(row, scale) for row in image])
    expected = np.stack([slow_resize(column, scale) for column in rows.T]).T
    resized = resize_by(torch.tensor(image, dtype=torch.float32)[None, None], scale)
    np.testing.assert_allclose(resized[0, 0].numpy(), expected, rtol=1e-4, atol=1e-2)


def test_padding_goes_to_the_bottom_and_right_only():
    padded = pad_to_multiple(torch.ones(1, 1, 3, 5), 4)
    assert padded.shape == (1, 1, 4, 8)
    assert padded[..., :3, :5].sum() == padded.sum() == 15


@pytest.mark.parametrize("scale", [0.75, 1.1, 1.5, 1.7])
def test_a_part_of_an_image_is_resized_to_the_bits_of_the_whole(scale):
    ratio = Fraction(str(scale))
    image = torch.rand(1, 3, 4000, 2)
    whole = resize_by(image, scale)
    for part in (1, 17, 350):
        start, first = part * ratio.denominator, part * ratio.numerator
        own = resize_by(image[:, :, start : start + 40], scale)
        inner = slice(ratio.numerator, 20)  # the edges of the part are clamped
        assert torch.equal(own[:, :, inner], whole[:, :, first:][:, :, inner])


def test_interpolation_of_the_library_is_not_that_exact():
    image = torch.rand(1, 1, 4000, 2)
    whole = functional.interpolate(image, scale_factor=1.5, mode="bilinear")
    part = functional.interpolate(image[:, :, 3000:3040], scale_factor=1.5, mode="bilinear")
    assert not torch.equal(part[:, :, 3:20], whole[:, :, 4503:4520])


@pytest.mark.parametrize("factor", [Fraction(1, 2), Fraction(3, 2), Fraction(16, 3)])
def test_reading_between_cells_agrees_with_the_library(factor):
    maps = torch.rand(2, 3, 12, 6)
    count = int(6 * factor)
    expected = functional.interpolate(maps, (12, count), mode="bilinear")
    torch.testing.assert_close(read_between(maps, -1, factor, count), expected, atol=1e-5, rtol=1e-5)


def test_sizes_are_rounded_up():
    assert padded_size((1, 33), 32) == (32, 64)
    assert scaled_size((1, 33), 1.5) == (2, 50)
