"""Polygons, runs and outlines, against testing every pixel by itself and against COCO's own library."""

import numpy as np
import pycocotools.mask
import pytest

from fullyconv.errors import DataError
from fullyconv.regions import Annotation, Polygon, Runs, circle, keyhole, rectangle, trace


def drawn(area, size):
    values = np.zeros(size, np.uint8)
    area.draw(values, 1)
    return values == 1


def inside_by_rays(polygon, size):
    """The slow twin: from each pixel's centre a ray to the left; how many edges does it cross?"""
    bits = np.zeros(size, np.bool_)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = column + 0.5, row + 0.5
            crossed = 0
            for ring in polygon.rings:
                for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                    if (ay <= y) != (by <= y) and ax + (y - ay) * (bx - ax) / (by - ay) <= x:
                        crossed += 1
            bits[row, column] = crossed % 2
    return bits


@pytest.mark.parametrize("seed", range(20))
def test_a_pixel_is_inside_if_its_centre_is(seed):
    draw = np.random.default_rng(seed)
    size = tuple(draw.integers(1, 12, 2))
    # Corners beyond the image, crossing lines and a second ring included.
    rings = tuple(draw.uniform(-4, 16, (count, 2)) for count in draw.integers(3, 9, draw.integers(1, 3)))
    polygon = Polygon(rings)
    assert (drawn(polygon, size) == inside_by_rays(polygon, size)).all()


def test_areas_side_by_side_neither_overlap_nor_leave_gaps():
    halves = [Polygon((np.array(ring, float),)) for ring in ([(0, 0), (7, 0), (0, 7)], [(7, 0), (7, 7), (0, 7)])]
    first, second = (drawn(half, (7, 7)) for half in halves)
    assert (first ^ second).all()


@pytest.mark.parametrize("seed", range(60))
def test_outlines_are_drawn_as_the_pixels_they_were_traced_from(seed):
    draw = np.random.default_rng(seed)
    bits = draw.random(draw.integers(1, 14, 2)) < draw.random()
    together = np.zeros(bits.shape, np.int64)
    for polygon in trace(bits):
        area = drawn(polygon, bits.shape)
        together += area
        assert area.sum() == polygon.pixels()
        assert (drawn(Polygon((keyhole(polygon),)), bits.shape) == area).all()
        rows, columns = np.nonzero(area)
        assert polygon.box() == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (together == bits).all()


def test_an_area_has_its_holes_and_what_lies_in_a_hole_is_another_area():
    bits = np.ones((9, 9), np.bool_)
    bits[2:7, 2:7] = False
    bits[4, 4] = True
    bits[0, 8] = bits[7, 1] = bits[8, 4] = False
    # The pixel at the lower left touches the large hole at a corner: as areas part there, the holes join.
    assert sorted(len(polygon.rings) for polygon in trace(bits)) == [1, 2]


def test_pixels_that_touch_at_a_corner_are_areas_of_their_own_but_one_hole():
    assert [len(polygon.rings) for polygon in trace(np.eye(3, dtype=np.bool_))] == [1, 1, 1]
    assert [len(polygon.rings) for polygon in trace(np.pad(~np.eye(2, dtype=np.bool_), 1))] == [1, 1]
    assert [len(polygon.rings) for polygon in trace(~np.pad(np.eye(2, dtype=np.bool_), 1))] == [2]


def test_nothing_has_no_outline():
    assert trace(np.zeros((4, 5), np.bool_)) == []


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("by_columns", [False, True])
def test_runs_give_their_pixels_back(seed, by_columns):
    draw = np.random.default_rng(seed)
    bits = draw.random(draw.integers(1, 9, 2)) < 0.5
    runs = Runs.of(bits, by_columns=by_columns)
    assert runs.lengths.sum() == bits.size
    assert (runs.bits() == bits).all()


def test_runs_down_columns_are_those_of_coco():
    bits = np.random.default_rng(0).random((7, 5)) < 0.5
    encoded = pycocotools.mask.encode(np.asfortranarray(bits.astype(np.uint8)))
    whole = pycocotools.mask.frPyObjects(
        {"size": [7, 5], "counts": Runs.of(bits, by_columns=True).lengths.tolist()}, 7, 5
    )
    assert whole["counts"] == encoded["counts"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("seed", range(10))
def test_outlines_mean_the_same_pixels_to_coco(seed):
    bits = np.random.default_rng(seed).random((12, 17)) < 0.6
    for polygon in trace(bits):
        if len(polygon.rings) == 1:
            theirs = pycocotools.mask.frPyObjects([polygon.rings[0].ravel().tolist()], *bits.shape)
            assert (pycocotools.mask.decode(theirs)[:, :, 0] == drawn(polygon, bits.shape)).all()


def test_rectangles_and_circles():
    assert drawn(rectangle(3, 4, 1, 2), (6, 6)).nonzero()[0].tolist() == [2, 2, 3, 3]
    assert drawn(circle(50, 50, 40), (100, 100)).sum() == pytest.approx(np.pi * 40**2, rel=0.002)


# ---- annotations ----


def annotation(*areas, **options):
    return Annotation("somewhere/a.json", areas, **options)


def test_later_areas_cover_earlier_ones_and_the_rest_is_background():
    mask = annotation((1, rectangle(0, 0, 3, 1)), (2, rectangle(1, 0, 2, 1)), background=7).draw((1, 4))
    assert mask.tolist() == [[1, 2, 1, 7]]


def test_annotations_of_an_image_of_another_size_are_refused():
    runs = Runs.of(np.ones((2, 3), np.bool_))
    for wrong in (annotation(size=(2, 3)), annotation((1, runs))):
        with pytest.raises(
            DataError, match=r"a\.json: expected annotations of an image of 3 x 2 pixels .*, got 2 x 3"
        ):
            wrong.draw((3, 2))


def test_a_digest_tells_annotations_apart():
    masks = [
        annotation((1, rectangle(0, 0, 3, 1))),
        annotation((2, rectangle(0, 0, 3, 1))),
        annotation((1, rectangle(0, 0, 3, 2))),
        annotation((1, rectangle(0, 0, 3, 1)), background=1),
        annotation((1, Runs.of(np.ones((1, 3), np.bool_)))),
        annotation((1, Runs.of(np.ones((1, 3), np.bool_), by_columns=True))),
    ]
    assert len({mask.digest() for mask in masks}) == len(masks)
    assert annotation((1, rectangle(0, 0, 3, 1))).digest() == masks[0].digest()
