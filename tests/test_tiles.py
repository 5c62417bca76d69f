"""Geometry: every pixel once, windows as large as needed and on the grid, tiles as large as affordable."""

import itertools

import numpy as np
import pytest

from fullyconv.errors import UsageError
from fullyconv.tiles import Box, Halo, cut, largest_sides, overlapping, share_computed, window_of

SIZES = [(1, 1), (1, 97), (32, 64), (64, 32), (101, 53), (96, 96)]
HALOS = [Halo(0, 0), Halo(5, 40), Halo(33, 0)]


@pytest.mark.parametrize(("size", "halo", "side"), list(itertools.product(SIZES, HALOS, [1, 32, 40, 1000])))
def test_tiles_cover_every_pixel_once_and_windows_all_that_they_need(size, halo, side):
    covered = np.zeros(size, int)
    for tile in cut(size, (side, side), halo, 32):
        covered[tile.area.slices] += 1
        area, window = tile.area, tile.window
        assert area.top % 32 == area.left % 32 == window.top % 32 == window.left % 32 == 0
        assert window.top <= max(0, area.top - halo.before)
        assert window.left <= max(0, area.left - halo.before)
        for end, needed, limit in zip(
            (window.bottom, window.right), (area.bottom + halo.after, area.right + halo.after), size, strict=True
        ):
            assert min(needed, limit) <= end <= limit
            assert end == limit or end % 32 == 0
    assert (covered == 1).all()


def test_a_window_is_no_larger_than_the_grid_makes_it():
    assert window_of(Box(64, 96, 96, 128), (1000, 1000), Halo(33, 1), 32) == Box(0, 32, 128, 160)
    assert window_of(Box(64, 96, 96, 128), (1000, 1000), Halo(32, 0), 32) == Box(32, 64, 96, 128)
    assert window_of(Box(64, 96, 96, 128), (100, 1000), Halo(0, 9), 32) == Box(64, 96, 100, 160)


def test_a_box_is_counted_from_the_corner_of_another():
    box = Box(10, 20, 30, 50)
    assert box.size == (20, 30)
    assert box.within(Box(5, 5, 99, 99)) == Box(5, 15, 25, 45)
    assert np.arange(10000).reshape(100, 100)[box.slices].shape == (20, 30)


@pytest.mark.parametrize("pixels", [96 * 96, 20_000, 50_000, 10**6])
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (40, 2000)])
def test_the_tiles_that_are_chosen_are_affordable_and_no_others_compute_less(size, pixels):
    halo, grid = Halo(30, 20), 32
    sides = largest_sides(size, pixels, halo, grid)
    tiles = cut(size, sides, halo, grid)
    assert all(tile.window.size[0] * tile.window.size[1] <= pixels for tile in tiles)
    # Windows at the edges are smaller than the choice supposes: others may be better by these alone.
    for others in itertools.product(range(32, size[0] + 32, 32), range(32, size[1] + 32, 32)):
        found = cut(size, others, halo, grid)
        if all(tile.window.size[0] * tile.window.size[1] <= pixels for tile in found):
            assert share_computed(tiles) < 1.35 * share_computed(found)


def test_where_no_tile_is_affordable_there_is_none():
    assert largest_sides((500, 500), 1000, Halo(30, 20), 32) is None


def test_a_tile_without_a_pixel_is_refused():
    with pytest.raises(UsageError, match="a tile has to be 1 pixel wide or more, got 0"):
        cut((5, 5), (0, 4), Halo(0, 0), 32)


@pytest.mark.parametrize("size", [(1, 1), (97, 131), (64, 64), (33, 400)])
@pytest.mark.parametrize("side", [1, 64, 1000])
def test_overlapping_squares_cover_every_pixel_and_begin_on_the_grid(size, side):
    covered = np.zeros(size, int)
    for box in overlapping(size, side, 32):
        covered[box.slices] += 1
        assert box.top % 32 == box.left % 32 == 0
        assert min(box.size) > 0
    assert covered.min() >= 1
    assert covered.max() <= 4
