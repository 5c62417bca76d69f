"""Pictures put together."""

import numpy as np

from fullyconv.sheets import GAP, LINE, PAPER, box_of, fitted, font_of, in_rows, shortened, stacked, zoom_of


def picture(height, width, grey):
    return np.full((height, width, 3), grey, np.uint8)


def test_small_pictures_grow_in_whole_steps_and_large_ones_shrink_as_they_have_to():
    assert (zoom_of((100, 50), 250), zoom_of((500, 400), 250)) == (2.0, 0.5)
    assert fitted(picture(3, 2, 9), 2.0).shape == (6, 4, 3)
    assert fitted(picture(30, 20, 9), 0.5).shape == (15, 10, 3)
    assert box_of(1) > box_of(10)


def test_pictures_in_rows_have_frames_and_room_between_them():
    sheet = in_rows(
        [[("a", picture(100, 100, 0)), ("b", picture(100, 100, 90))], [("", picture(100, 100, 200))] * 2]
    )
    for grey in (0, 90, 200):
        assert (sheet == grey).all(axis=2).sum() >= 100 * 100
    assert (sheet[:GAP] == PAPER).all()
    assert (sheet == LINE).all(axis=2).sum() >= 4 * 4 * 100


def test_pictures_below_each_other_are_centred():
    both = stacked([picture(2, 6, 0), picture(3, 2, 50)])
    assert both.shape == (5, 6, 3)
    assert (both[2:, 2:4] == 50).all()
    assert (both[2:, :2] == PAPER).all()


def test_text_that_is_too_long_ends_in_dots():
    font = font_of(14)
    assert shortened("road", font, 200) == "road"
    short = shortened("a very long name of a class", font, 60)
    assert short.endswith("…")
    assert font.getlength(short) <= 60
