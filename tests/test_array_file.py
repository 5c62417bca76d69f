"""Items of arrays: what they become, and what is refused."""

import pickle

import numpy as np
import pytest

from fullyconv.array_file import (
    image_items,
    is_item,
    item_digest,
    item_size,
    mask_channels,
    open_images,
    open_masks,
    read_image_item,
    read_mask_item,
)
from fullyconv.errors import DataError
from fullyconv.images import image_size, mask_mode, read_image, read_mask_array, verify_image

EVERY_BYTE = np.arange(256 * 3, dtype=np.uint16).reshape(1, 16, 16, 3).astype(np.uint8)


def saved(root, array, name="a.npy"):
    np.save(root / name, array)
    return root / name


def test_an_item_is_a_path_within_the_array(tmp_path):
    path = saved(tmp_path, np.zeros((2, 4, 5, 3), np.uint8))
    assert image_items(path) == [path / "0", path / "1"]
    assert is_item(path / "0")
    assert not any(is_item(other) for other in (path, path / "0.png", tmp_path / "0", path / "-1"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_that_came_from_8_bits_come_back_exactly(tmp_path, dtype):
    path = saved(tmp_path, (EVERY_BYTE / 255).astype(dtype))
    image = read_image_item(path / "0")
    assert (image.dtype, image.flags.owndata) == (np.uint8, True)
    assert np.array_equal(image, EVERY_BYTE[0])


def test_other_floats_are_rounded_to_the_nearest(tmp_path):
    values = np.random.default_rng(0).random((1, 9, 7, 3))
    image = read_image_item(saved(tmp_path, values) / "0")
    assert np.abs(image / 255 - values[0]).max() <= 1 / 510 + 1e-9


@pytest.mark.parametrize("value", [1.0000001, -0.001, float("nan"), float("inf"), 254.0])
def test_floats_outside_0_to_1_are_refused_with_their_place(tmp_path, value):
    array = np.zeros((2, 3, 4, 3))
    array[1, 2, 3, 1] = value
    path = saved(tmp_path, array)
    read_image_item(path / "0")
    with pytest.raises(DataError, match=r"a\.npy/1: expected floats .* row 2, column 3, channel 1") as caught:
        read_image_item(path / "1")
    assert "255" in caught.value.hint


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_hot_masks_become_channels(tmp_path, dtype, order):
    mask = np.random.default_rng(0).integers(0, 5, (2, 6, 7))
    path = saved(tmp_path, np.asarray(np.eye(5, dtype=dtype)[mask], order=order))
    assert mask_channels(path) == 5
    assert np.array_equal(read_mask_item(path / "1"), mask[1])


@pytest.mark.parametrize("pixel", [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [2, 0, 0], [np.nan, 1, 0], [-1, 1, 1]])
def test_a_pixel_that_is_not_one_hot_is_refused_with_its_place(tmp_path, pixel):
    array = np.eye(3)[np.zeros((1, 4, 4), int)]
    array[0, 1, 2] = pixel
    with pytest.raises(
        DataError, match=r"a\.npy/0: expected one 1 and zeros .*\(1 pixels, first at row 1, column 2"
    ):
        read_mask_item(saved(tmp_path, array) / "0")


@pytest.mark.parametrize("value", [-1, 256])
def test_a_mask_value_that_is_no_byte_is_refused_with_its_place(tmp_path, value):
    array = np.zeros((1, 3, 3), np.int32)
    array[0, 2, 0] = value
    with pytest.raises(DataError, match=rf"0\.\.255, got {value} \(1 pixels, first at row 2, column 0\)"):
        read_mask_item(saved(tmp_path, array) / "0")


def test_images_asks_for_items(tmp_path):
    path = saved(tmp_path, EVERY_BYTE)
    masks = saved(tmp_path, EVERY_BYTE[..., 0], "m.npy")
    assert np.array_equal(read_image(path / "0"), EVERY_BYTE[0])
    assert np.array_equal(read_mask_array(masks / "0"), EVERY_BYTE[0, ..., 0])
    assert image_size(path / "0") == image_size(masks / "0") == verify_image(path / "0") == item_size(path / "0")
    assert mask_mode(masks / "0") == "L"


def test_verifying_an_item_reads_its_values(tmp_path):
    with pytest.raises(DataError, match=r"0\.\.1, got 7"):
        verify_image(saved(tmp_path, np.full((1, 2, 2, 3), 7.0)) / "0")


def test_a_digest_is_of_dtype_shape_and_bytes(tmp_path):
    arrays = [
        np.zeros((1, 2, 3), np.uint8),
        np.zeros((1, 3, 2), np.uint8),
        np.zeros((1, 2, 3), np.int8),
        np.array([[[0, 0, 0], [0, 0, 1]]], np.uint8),
    ]
    digests = [item_digest(saved(tmp_path, array) / "0") for array in arrays]
    assert len(set(digests)) == 4
    # The same bytes in another place are the same item.
    assert item_digest(saved(tmp_path, np.concatenate([arrays[3], arrays[0]]), "b.npy") / "1") == digests[0]


@pytest.mark.parametrize("kind", ["pickle", "objects", "npz", "text", "empty", "cut"])
def test_what_is_no_array_of_numbers_is_refused_and_nothing_is_unpickled(tmp_path, kind):
    path = tmp_path / "a.npy"
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, EVERY_BYTE)
    elif kind == "objects":
        np.save(path, np.array([{}, Canary()], object), allow_pickle=True)
    elif kind == "cut":
        content = saved(tmp_path, EVERY_BYTE).read_bytes()
        path.write_bytes(content[:-100])
    else:
        path.write_bytes({"pickle": pickle.dumps(Canary()), "text": b"1 2 3\n", "empty": b""}[kind])
    for read in (open_images, open_masks, lambda path: item_digest(path / "0")):
        with pytest.raises(DataError, match=r"a\.npy: cannot read the array: "):
            read(path)
    assert Canary.opened == 0


class Canary:
    """Counts how often it is unpickled."""

    opened = 0

    def __reduce__(self):
        return Canary.open, ()

    @staticmethod
    def open():
        Canary.opened += 1
        return Canary()


def test_an_item_beyond_the_array_is_refused(tmp_path):
    path = saved(tmp_path, EVERY_BYTE)
    with pytest.raises(DataError, match=r"a\.npy/1: expected an item 0\.\.0, got 1"):
        read_image_item(path / "1")
    with pytest.raises(DataError, match="cannot read the array: No such file"):
        read_image_item(tmp_path / "nowhere.npy" / "0")
