"""The drawn data set: labels and pixels agree, and equal seeds give equal bytes."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import UsageError
from fullyconv.synthetic import CLASS_COLORS, CLASS_NAMES, draw_sample, write_dataset

SCRATCH, PIT, STAIN, INCLUSION = range(1, 5)


@pytest.fixture(scope="module")
def samples():
    return [draw_sample((128, 128), seed) for seed in range(24)]


def ring(where, width=4):
    """The pixels around an area, within a few pixels."""
    grown = where.copy()
    for _ in range(width):
        padded = np.pad(grown, 1)
        grown = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | grown
    return grown & ~where


def contrast(samples, index):
    """How far the grey inside a class is from the grey around it, on average over images."""
    steps = []
    for image, mask in samples:
        inside, outside = mask == index, ring(mask == index) & (mask == 0)
        if inside.sum() > 20 and outside.any():
            steps.append(abs(image[inside].mean() - image[outside].mean()))
    return np.mean(steps)


@pytest.mark.parametrize("size", [(8, 8), (8, 90), (64, 48), (131, 77)])
def test_any_size_from_eight_pixels_can_be_drawn(size):
    image, mask = draw_sample(size, 3)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == (size, np.uint8)


@pytest.mark.parametrize("size", [(7, 64), (64, 7), (0, 0)])
def test_a_smaller_size_is_refused(size):
    with pytest.raises(UsageError, match=rf"at least 8 x 8 pixels, got {size[0]} x {size[1]}"):
        draw_sample(size, 0)


@pytest.mark.parametrize("seed", [-1, (3, -2)])
def test_a_negative_seed_is_refused(seed):
    with pytest.raises(UsageError, match=r"expected a seed from 0 up, got -"):
        draw_sample((16, 16), seed)


def test_equal_seeds_give_equal_bytes(samples):
    image, mask = draw_sample((128, 128), 5)
    assert image.tobytes() == samples[5][0].tobytes()
    assert mask.tobytes() == samples[5][1].tobytes()


def test_different_seeds_give_different_images(samples):
    assert len({hashlib.sha256(image).digest() for image, _ in samples}) == len(samples)


def test_every_class_occurs(samples):
    found = np.bincount(np.concatenate([mask.ravel() for _, mask in samples]), minlength=len(CLASS_NAMES))
    assert len(found) == len(CLASS_NAMES)
    assert (found > 100).all()


def test_most_of_the_surface_is_sound(samples):
    share = np.mean([(mask == 0).mean() for _, mask in samples])
    assert 0.8 < share < 0.95


def test_few_images_are_without_a_defect():
    sound = [not draw_sample((16, 16), seed)[1].any() for seed in range(60)]
    assert 1 <= sum(sound) <= 10


@pytest.mark.parametrize(("index", "least"), [(SCRATCH, 8), (PIT, 25), (STAIN, 8), (INCLUSION, 25)])
def test_a_defect_differs_from_the_metal_around_it(samples, index, least):
    assert contrast(samples, index) > least


def test_a_label_shifted_by_a_few_pixels_agrees_less(samples):
    shifted = [(image, np.roll(mask, 12, axis=1)) for image, mask in samples]
    assert contrast(samples, PIT) > 1.5 * contrast(shifted, PIT)


def test_scratches_are_thin(samples):
    """Hardly any of their pixels have scratch pixels at a distance of three on all four sides."""
    scratches = np.array([mask == SCRATCH for _, mask in samples])
    middle = scratches[:, 3:-3, 3:-3]
    sides = [scratches[:, :-6, 3:-3], scratches[:, 6:, 3:-3], scratches[:, 3:-3, :-6], scratches[:, 3:-3, 6:]]
    assert np.logical_and.reduce([middle, *sides]).sum() < 0.02 * scratches.sum()


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.*")}


def test_a_data_set_on_disk_opens_without_configuration(tmp_path):
    write_dataset(tmp_path / "set", train=3, val=2, test=1, size=(16, 24))
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.splits == {"train": 3, "val": 2, "test": 1}
    assert dataset.class_table.names == CLASS_NAMES
    assert dataset.class_table.colors.tolist() == [list(color) for color in CLASS_COLORS]


def test_files_hold_what_was_drawn(tmp_path):
    write_dataset(tmp_path, train=1, val=2, test=0, size=(16, 24), seed=7)
    image, mask = draw_sample((16, 24), (7, 1, 1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "images/val/0001.png")), image)
    with Image.open(tmp_path / "masks/val/0001.png") as file:
        assert file.mode == "P"
        assert np.array_equal(np.asarray(file), mask)


def test_equal_seeds_write_equal_files(tmp_path):
    for name in ("a", "b"):
        write_dataset(tmp_path / name, train=2, val=1, test=1, size=(16, 16), seed=4)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    write_dataset(tmp_path / "small", train=1, val=1, test=1, size=(16, 16))
    write_dataset(tmp_path / "large", train=3, val=2, test=2, size=(16, 16))
    assert files(tmp_path / "small").items() <= files(tmp_path / "large").items()


def test_images_can_be_jpeg_files(tmp_path):
    write_dataset(tmp_path, train=1, val=0, test=0, size=(16, 16), image_format="jpg")
    assert sorted(files(tmp_path)) == ["classes.txt", "images/train/0000.jpg", "masks/train/0000.png"]


def test_an_older_data_set_is_not_mixed_with_a_new_one(tmp_path):
    write_dataset(tmp_path, train=1, val=0, test=0, size=(16, 16))
    with pytest.raises(UsageError, match=r"expected a folder without a data set, but .* holds images"):
        write_dataset(tmp_path, train=2, val=0, test=0, size=(16, 16))


def test_a_negative_count_is_refused(tmp_path):
    with pytest.raises(UsageError, match="expected a number of val samples from 0 up, got -1"):
        write_dataset(tmp_path, val=-1)


def test_the_class_file_round_trips(tmp_path):
    write_dataset(tmp_path, train=0, val=0, test=0)
    assert ClassTable.from_file(tmp_path / "classes.txt").names == CLASS_NAMES
