import numpy as np
import pytest
from PIL import Image

from fullyconv.check import check_dataset
from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError

NAMES = ["background", "crack", "pit"]


def make(root, *masks, split=""):
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        mask = Image.fromarray(np.array(mask, np.uint8))
        mask.save(root / "masks" / split / f"{number}.png")
        Image.new("RGB", mask.size).save(root / "images" / split / f"{number}.jpg")
    return root


def test_pixels_and_images_are_counted_by_class(tmp_path):
    make(tmp_path, [[0, 1, 1]], [[0, 0, 255]], [[255, 255], [255, 255]])
    summary = check_dataset(Dataset.open(tmp_path, classes=NAMES))
    assert summary.pixel_counts.tolist() == [3, 2, 0]
    assert summary.image_counts.tolist() == [2, 1, 0]
    assert (summary.ignored_pixels, summary.unlabelled_images) == (5, 1)
    assert summary.sizes == ((1, 3), (1, 3), (2, 2))
    assert summary.absent == ("pit",)
    assert summary.pixel_counts.dtype == summary.image_counts.dtype == np.int64


def test_counts_agree_with_a_loop(tmp_path):
    masks = np.random.default_rng(0).choice([0, 1, 2, 255], (7, 5, 6))
    summary = check_dataset(Dataset.open(make(tmp_path, *masks), classes=NAMES))
    for index in range(3):
        assert summary.pixel_counts[index] == sum(int(v) == index for v in masks.flat)
        assert summary.image_counts[index] == sum(any(v == index for v in mask.flat) for mask in masks)


def test_the_summary_is_a_short_table(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 1, 255]], [[255, 255]]), classes=NAMES)
    assert check_dataset(dataset).lines() == [
        "2 images of 2 sizes, 1 to 1 pixels high and 2 to 4 wide; 50.00% of the pixels ignored",
        "class               pixels    share  images",
        "background               1   33.33%       1",
        "crack                    2   66.67%       1",
        "pit                      0    0.00%       0",
        "1 of the images have no labelled pixel",
        "never seen: pit",
    ]


def test_the_size_is_said_where_all_have_one(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 1]], [[0, 1, 1]]))
    assert check_dataset(dataset).lines()[0] == "2 images of 1 x 3 pixels (height x width); nothing ignored"


def test_a_value_out_of_range_is_named_with_file_count_place_and_fix(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]], [[1, 9]]), classes=NAMES)
    expected = r"1\.png: mask value 9 \(1 pixels, first at row 0, column 1\) is not one of the 3 class values"
    with pytest.raises(DataError, match=expected) as caught:
        check_dataset(dataset)
    assert "--ignore 9" in caught.value.hint


def test_the_first_of_several_faults_is_named(tmp_path):
    dataset = Dataset.open(make(tmp_path, *[[[0, 1]]] * 5, [[8, 8]], [[9, 9]]), classes=NAMES)
    for _ in range(5):
        with pytest.raises(DataError, match=r"5\.png: mask value 8"):
            check_dataset(dataset)


def test_an_image_cut_short_is_found_before_training(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]] * 40))
    noise = np.random.default_rng(0).integers(0, 256, (40, 2, 3), dtype=np.uint8)
    path = tmp_path / "images" / "0.jpg"
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"images/0\.jpg: cannot read the image"):
        check_dataset(dataset)


def test_a_damaged_mask_is_named(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]]))
    (tmp_path / "masks" / "0.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"masks/0\.png: expected an image, got 4 bytes that are none"):
        check_dataset(dataset)


def test_sizes_that_differ_are_named(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]]))
    Image.new("RGB", (3, 1)).save(tmp_path / "images" / "0.jpg")
    with pytest.raises(DataError, match=r"masks/0\.png: expected the size of .* 1 x 3 .* got 1 x 2"):
        check_dataset(dataset)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_a_labelled_pixel_is_refused(tmp_path, split):
    dataset = Dataset.open(make(tmp_path, [[255, 255]], split=split), classes=NAMES)
    with pytest.raises(DataError, match=f"all 1 {split} masks: expected labelled pixels, got nothing but ignored"):
        check_dataset(dataset)


@pytest.mark.parametrize("split", ["", "train"])
def test_one_class_alone_cannot_be_trained_on(tmp_path, split):
    dataset = Dataset.open(make(tmp_path, [[1, 255]], [[1, 1]], split=split), classes=NAMES)
    with pytest.raises(DataError, match=r'expected two classes or more to learn, got only "crack" \(value 1\)'):
        check_dataset(dataset)


def test_one_class_alone_can_be_measured_on(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 0]], split="val"), classes=NAMES)
    assert check_dataset(dataset).absent == ("crack", "pit")


def test_a_binary_set_is_counted_by_index(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255, 255]]))
    assert dataset.class_table == ClassTable.binary()
    assert check_dataset(dataset).pixel_counts.tolist() == [1, 2]
