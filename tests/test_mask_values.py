"""What masks hold, in words and in one channel."""

import numpy as np
import pytest

from fullyconv.errors import DataError
from fullyconv.mask_values import first_where, one_channel, packed, value_text


def test_colours_are_numbers():
    assert packed(np.array([[1, 2, 3]], np.uint8)).tolist() == [0x010203]


def test_the_first_wrong_value_is_found_in_reading_order():
    values = np.array([[1, 7], [9, 7]])
    assert first_where(values > 5, values) == (7, "2 pixels, first at row 0, column 1")


def test_grey_saved_as_rgb_is_one_channel():
    grey = np.array([[4, 5]], np.uint8)
    assert np.array_equal(one_channel(np.repeat(grey[..., None], 3, axis=2), "m"), grey)


def test_an_rgb_mask_without_colours_in_the_table_is_refused():
    colors = np.array([[[1, 1, 1], [3, 2, 1]]], np.uint8)
    with pytest.raises(DataError, match=r"m: expected a mask with a class value.* 3,2,1 ") as caught:
        one_channel(colors, "m")
    assert "classes.txt" in caught.value.hint


def test_values_are_shortened_only_where_nothing_is_lost():
    assert value_text(range(11)) == "0..10"
    assert value_text([0, 1]) == "0, 1"
    assert value_text([0, 1, 3]) == "0, 1, 3"
    assert value_text([0, 1, 2, 4, 6, 7, 8, 9, 11, 12]) == "0..2, 4, 6..9, 11, 12"
