"""Overlapping tiles averaged."""

import pytest
import torch

from fullyconv.blending import blended
from fullyconv.tiles import Box, overlapping


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (8, 8)])
def test_tiles_of_one_map_give_it_back(size):
    stride, side = 8, 32
    whole = torch.randn(1, 3, *(-(-length // stride) for length in size))
    parts = []
    for window in overlapping(size, side, stride):
        rows, columns = (slice(start // stride, -(-end // stride)) for start, end in window.ranges)
        parts.append((window, whole[..., rows, columns]))
    assert torch.allclose(blended(parts, size, stride), whole, atol=1e-6)


def test_a_tile_counts_the_less_the_nearer_to_its_border():
    one, other = (torch.full((1, 1, 1, 4), value) for value in (0.0, 1.0))
    found = blended([(Box(0, 0, 8, 32), one), (Box(0, 16, 8, 48), other)], (8, 48), 8)[0, 0, 0]
    assert found[:2].tolist() == [0, 0]
    assert found[4:].tolist() == [1, 1]
    assert found[2].item() == pytest.approx(1 / 3)  # weights 2 and 1
    assert found[3].item() == pytest.approx(2 / 3)
