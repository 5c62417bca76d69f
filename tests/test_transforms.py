"""Views: image and mask stay together, and the same view is the same again."""

from itertools import product

import numpy as np
import pytest

from fullyconv.transforms import PLAIN, View, make_views

VIEWS = make_views(mirror=True, scales=(0.5, 1.0, 1.5), colours=1)


def two_halves(height, width, edge):
    """An image and its mask that agree: dark and class 1 left of a column, bright and class 2 beyond it."""
    mask = np.where(np.arange(width) < edge, 1, 2).astype(np.uint8)[None].repeat(height, axis=0)
    return np.where(mask == 1, 60, 180).astype(np.uint8)[..., None].repeat(3, axis=2), mask


def noise(*shape, high=256):
    return np.random.default_rng(0).integers(0, high, shape, dtype=np.uint8)


def test_the_plain_view_is_the_image_and_mask_themselves():
    image, mask = noise(5, 7, 3), noise(5, 7)
    np.testing.assert_array_equal(PLAIN.apply(image), image)
    np.testing.assert_array_equal(PLAIN.apply_mask(mask), mask)


def test_a_mirrored_view_moves_every_pixel_of_image_and_mask_to_the_same_place():
    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)
    image = np.stack([mask, mask + 100, 200 - mask], axis=2)
    seen, target = View(mirror=True).apply(image), View(mirror=True).apply_mask(mask)
    for row, column in product(range(5), range(7)):
        assert target[row, column] == mask[row, 6 - column]
        assert seen[row, column].tolist() == image[row, 6 - column].tolist()


@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("edge", [4, 11, 24])
def test_the_edge_of_a_class_stays_where_it_is_seen(view, edge):
    image, mask = two_halves(20, 33, edge)
    seen, target = view.apply(image, seed=3), view.apply_mask(mask)
    assert seen.shape[:2] == target.shape
    bright = (seen[..., 0] > seen[..., 0].mean(axis=1, keepdims=True)) + 1
    differ = (bright != target).sum(axis=1)
    assert differ.max() <= 1  # The column on the edge of a resized image is in between.


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_no_view_invents_a_class(view):
    mask = np.random.default_rng(0).choice(np.array([0, 7, 254, 255], np.uint8), (31, 17))
    assert set(np.unique(view.apply_mask(mask))) <= {0, 7, 254, 255}


@pytest.mark.parametrize(
    ("size", "scale", "expected"), [((10, 20), 1.5, (15, 30)), ((1, 1), 0.25, (1, 1)), ((3, 5), 0.5, (2, 2))]
)
def test_a_scaled_view_has_the_rounded_size_and_at_least_a_pixel(size, scale, expected):
    view = View(scale=scale)
    assert view.apply(noise(*size, 3)).shape == (*expected, 3)
    assert view.apply_mask(noise(*size)).shape == expected
    assert view.size(size) == expected


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_view_leaves_what_it_is_given_alone(view):
    image, mask = noise(8, 9, 3), noise(8, 9)
    before = image.copy(), mask.copy()
    seen, target = view.apply(image), view.apply_mask(mask)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])
    assert (seen.dtype, target.dtype) == (np.uint8, np.uint8)


def test_the_colours_of_a_view_are_the_same_every_time_and_on_every_machine():
    view, image = View(colour=1), noise(6, 6, 3)
    np.testing.assert_array_equal(view.apply(image, seed=5), view.apply(image, seed=5))
    assert view.apply(np.full((1, 1, 3), (200, 100, 50), np.uint8), seed=5).tolist() == [[[255, 110, 28]]]


def test_images_and_colour_views_differ_in_their_colours():
    image = noise(6, 6, 3)
    seen = [View(colour=colour).apply(image, seed=seed).tobytes() for colour, seed in product((0, 1, 2), (3, 4))]
    assert len(set(seen)) == 5  # Colour 0 leaves the image alone, whatever the seed.


def test_a_mirrored_view_has_the_colours_of_the_unmirrored():
    image = noise(6, 6, 3)
    seen = View(colour=1).apply(image, seed=3)
    np.testing.assert_array_equal(View(mirror=True, colour=1).apply(image, seed=3), seen[:, ::-1])


def test_views_are_all_scales_colours_and_both_sides():
    views = make_views(mirror=True, scales=(1.0, 0.5), colours=1)
    assert views[:4] == (View(), View(True), View(colour=1), View(True, colour=1))
    assert [view.scale for view in views] == [1.0] * 4 + [0.5] * 4
    assert make_views(mirror=False, scales=(1.0,), colours=0) == (PLAIN,)
