"""Arrays of images and masks: from a folder or a list to samples, features and predictions."""

import numpy as np
import pytest
import torch
from tiny_data import tiny_dataset, tiny_encoder

from fullyconv.check import check_dataset
from fullyconv.convert import convert
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, UsageError
from fullyconv.feature_cache import FeatureCache
from fullyconv.features import FeatureReader
from fullyconv.formats import find_samples
from fullyconv.image_files import find_images
from fullyconv.image_form import ImageForm

SIZE = (6, 8)


def draw(count=3, channels=2, seed=0):
    """Images of 8 bits and masks of channel indices."""
    drawn = np.random.default_rng(seed)
    return (
        drawn.integers(0, 256, (count, *SIZE, 3), dtype=np.uint8),
        drawn.integers(0, channels, (count, *SIZE), dtype=np.uint8),
    )


def one_hot(masks, channels=2, dtype=np.float32):
    return np.eye(channels, dtype=dtype)[masks]


def save(root, **arrays):
    root.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    return root


# ---- samples ----


def test_the_lectures_arrays_are_samples(tmp_path):
    images, masks = draw()
    save(tmp_path, images_training=images / 255, seg_training=one_hot(masks), images_testing=images[:2])
    dataset = Dataset.open(tmp_path)
    assert dataset.splits == {"train": 3}
    assert [sample.id for sample in dataset] == [f"images_training/{i}" for i in range(3)]
    for index, sample in enumerate(dataset):
        assert np.array_equal(dataset.read_image(sample), images[index])
        assert np.array_equal(dataset.read_target(sample), masks[index])
    assert dataset.notes == (
        "3 samples in images_training.npy + seg_training.npy; masks are index images of the 2 classes of the "
        "channels of seg_training.npy; value 255 is ignored.",
        "images_training.npy: floats 0..1 become 8 bits, times 255 and rounded: exact for images that came from 8 "
        "bits, else to 1/510.",
        "images_testing.npy has no masks: predict its 2 images.",
    )


def test_two_channels_are_background_and_foreground_in_the_lectures_green(tmp_path):
    images, masks = draw()
    table = Dataset.open(save(tmp_path, images_training=images, seg_training=one_hot(masks))).class_table
    assert table.names == ("background", "foreground")
    assert table.colors.tolist() == [[0, 0, 0], [0, 255, 0]]


def test_a_channel_that_never_occurs_is_a_class_all_the_same(tmp_path):
    images, masks = draw(channels=2)
    save(tmp_path, images_training=images, seg_training=one_hot(2 * masks, 4, np.uint8))
    dataset = Dataset.open(tmp_path)
    assert dataset.class_table.values == (0, 1, 2, 3)
    assert np.array_equal(dataset.read_target(dataset[0]), 2 * masks[0])


def test_names_may_be_given_to_channels(tmp_path):
    images, masks = draw()
    save(tmp_path, images_training=images, seg_training=one_hot(masks))
    assert Dataset.open(tmp_path, classes=["rest", "road"]).class_table.names == ("rest", "road")


@pytest.mark.parametrize("last_axis", [False, True])
def test_masks_may_hold_class_values_and_255(tmp_path, last_axis):
    images, masks = draw(channels=3)
    masks[0, 0, 0] = 255
    masks = masks.astype(np.int64)[..., None] if last_axis else masks
    dataset = Dataset.open(save(tmp_path, images_train=images, seg_train=masks))
    assert dataset.class_table.values == (0, 1, 2)
    assert np.array_equal(dataset.read_target(dataset[0]), masks[0].reshape(SIZE))


def test_validation_and_testing_arrays_are_splits(tmp_path):
    images, masks = draw()
    parts = {"training": 3, "validation": 2, "testing": 1}
    save(tmp_path, **{f"images_{name}": images[:count] for name, count in parts.items()})
    save(tmp_path, **{f"seg_{name}": one_hot(masks[:count]) for name, count in parts.items()})
    assert Dataset.open(tmp_path).splits == {"train": 3, "val": 2, "test": 1}


def test_a_list_may_name_arrays_and_files(tmp_path):
    images, masks = draw()
    save(tmp_path / "a", images=images, masks=one_hot(masks))
    save(tmp_path / "b", images=images[:1], masks=one_hot(masks[:1]))
    path = tmp_path / "pairs.txt"
    path.write_text("a/images.npy a/masks.npy train\nb/images.npy b/masks.npy val\n", encoding="utf-8")
    dataset = Dataset.open(path)
    assert [(s.split, s.id) for s in dataset] == [
        *(("train", f"a/images/{i}") for i in range(3)),
        ("val", "b/images/0"),
    ]
    assert dataset.class_table.names == ("background", "foreground")
    assert np.array_equal(dataset.read_target(dataset[1]), masks[1])


# ---- features and predictions ----


def test_features_are_those_of_the_same_images_in_files_and_cached_by_item(tmp_path):
    images, masks = draw()
    save(tmp_path / "a", images_training=images, seg_training=one_hot(masks))
    dataset = Dataset.open(tmp_path / "a")
    cache = FeatureCache(tmp_path / "cache")
    reader = FeatureReader(tiny_encoder(), dataset, cache)
    maps = [reader.maps(sample) for sample in dataset]
    assert cache.info().entries == 3
    for sample, (finest, *_), image in zip(dataset, maps, images, strict=True):
        expected = reader.encoder(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
        assert torch.equal(finest, expected.half())
        assert torch.equal(FeatureReader(tiny_encoder(), dataset, cache).maps(sample)[0], finest)
    assert cache.info().entries == 3


def read_all(dataset, cache):
    reader = FeatureReader(tiny_encoder(), dataset, cache)
    return [reader.maps(sample) for sample in dataset]


def test_an_item_that_changes_has_another_key_and_the_others_keep_theirs(tmp_path):
    images, masks = draw()
    save(tmp_path, images_training=images, seg_training=one_hot(masks))
    dataset = Dataset.open(tmp_path)
    cache = FeatureCache(tmp_path / "cache")
    read_all(dataset, cache)
    images[1, 0, 0, 0] ^= 1
    save(tmp_path, images_training=images)
    read_all(dataset, cache)
    assert cache.info().entries == 4


def test_an_item_that_changes_during_a_run_is_refused(tmp_path):
    images, masks = draw()
    save(tmp_path, images_training=images, seg_training=one_hot(masks))
    dataset = Dataset.open(tmp_path)
    reader = FeatureReader(tiny_encoder(), dataset)
    reader._file_digest(dataset[1].image)
    save(tmp_path, images_training=images[::-1] // 2)
    with pytest.raises(DataError, match=r"images_training\.npy/1 has changed while the run was reading it"):
        reader.maps(dataset[1])


def test_the_images_of_an_array_can_be_predicted(tmp_path):
    save(tmp_path, images_testing=draw(11)[0])
    found = find_images([tmp_path / "images_testing.npy"])
    assert list(found)[:2] == ["images_testing/00", "images_testing/01"]
    assert found["images_testing/10"] == tmp_path / "images_testing.npy" / "10"


def test_checking_names_the_item_that_is_wrong(tmp_path):
    images, masks = draw()
    images = images / 255
    images[2, 1, 3, 0] = 1.5
    save(tmp_path, images_training=images, seg_training=one_hot(masks))
    with pytest.raises(
        DataError, match=r"images_training\.npy/2: expected floats 0\.\.1, got 1\.5 \(1 values, first"
    ):
        check_dataset(Dataset.open(tmp_path))


# ---- refusals ----

IMAGES, MASKS = draw()
FITTING = {"images_training": IMAGES, "seg_training": one_hot(MASKS)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images_training": IMAGES}, r"images_training\.npy: expected seg_training\.npy beside it, got nothing"),
        ({"seg_testing": MASKS}, r"seg_testing\.npy: expected images_testing\.npy beside it, got nothing there"),
        ({**FITTING, "images_validation": IMAGES}, r"expected seg_validation\.npy beside it"),
        ({"images_testing": IMAGES}, "expected arrays with masks, got images alone"),
        (
            {**FITTING, "images_train": IMAGES},
            "one array of train images, got both images_train.npy and images_tr",
        ),
        (
            {**FITTING, "seg_training": one_hot(MASKS[:2])},
            r"expected \[3, 6, 8\] masks .*got \[2, 6, 8, 2\]",
        ),
        ({**FITTING, "seg_training": MASKS.swapaxes(1, 2)}, r"expected \[3, 6, 8\] masks .*got \[3, 8, 6\]"),
        ({**FITTING, "seg_training": MASKS.astype(float)}, r"or \[N, H, W\] integers, got float64 \[3, 6, 8\]"),
        ({**FITTING, "images_training": IMAGES[:0]}, r"expected RGB images .*got uint8 \[0, 6, 8, 3\]"),
        (
            {**FITTING, "images_testing": IMAGES, "seg_testing": one_hot(MASKS, 3)},
            r"seg_testing\.npy: expected masks like those of seg_training\.npy, one-hot with 2 channels, got .* 3",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        find_samples(save(tmp_path, **arrays))


@pytest.mark.parametrize("images", [np.repeat(IMAGES, 2, axis=3), IMAGES.astype(int)])
def test_arrays_of_other_images_are_refused_unless_they_are_asked_for(tmp_path, images):
    save(tmp_path, **{**FITTING, "images_training": images})
    with pytest.raises(DataError, match=r"expected RGB images .*got u?int"):
        Dataset.open(tmp_path)
    data = Dataset.open(tmp_path, image_form=ImageForm(images.shape[3], (0.0, 255.0)))
    assert np.array_equal(data.read_image(data[0]), images[0].astype(np.float32))


def test_a_list_refuses_an_array_beside_a_file(tmp_path):
    save(tmp_path, images=IMAGES)
    (tmp_path / "m.png").touch()
    (tmp_path / "pairs.txt").write_text("images.npy m.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs\.txt, line 1: expected two arrays or two image files, got one of"):
        find_samples(tmp_path / "pairs.txt")


def test_other_arrays_beside_them_are_counted(tmp_path):
    save(tmp_path, **FITTING, weights=np.zeros(3))
    (tmp_path / "classes.txt").touch()
    assert find_samples(tmp_path).skipped == {".npy": 1}


def test_arrays_are_written_and_images_of_other_sizes_refused(tmp_path):
    (tmp_path / "from").mkdir()
    save(tmp_path / "from", **FITTING)
    data = Dataset.open(tmp_path / "from")
    done = convert(data, tmp_path / "out", "npy")
    found = Dataset.open(done.folder)
    for sample, other in zip(data, found, strict=True):
        assert np.array_equal(data.read_image(sample), found.read_image(other))
        assert np.array_equal(data.read_target(sample), found.read_target(other))
    tiny_dataset(tmp_path / "sizes", [(5, 7), (5, 8)])
    with pytest.raises(DataError, match="expected 5 x 7 pixels as others of its array have, got 5 x 8"):
        convert(Dataset.open(tmp_path / "sizes"), tmp_path / "none", "npy")
    assert not (tmp_path / "none").exists()


def test_arrays_of_other_images_are_converted_as_they_are_or_refused(tmp_path):
    (tmp_path / "from").mkdir()
    images = np.random.default_rng(0).integers(0, 65536, (3, *SIZE, 5), np.uint16)
    save(tmp_path / "from", **{**FITTING, "images_training": images})
    data = Dataset.open(tmp_path / "from", image_form=ImageForm(5))
    for kind in ("folders", "coco", "hugging-face"):
        convert(data, tmp_path / kind, kind)
        found = Dataset.open(tmp_path / kind, image_form=ImageForm(5))
        assert np.array_equal(found.read_image(found[1]), data.read_image(data[1]))
    for kind in ("npy", "nnunet", "cityscapes"):
        with pytest.raises(UsageError, match="is written with 8-bit RGB images, got 5 channels"):
            convert(data, tmp_path / kind, kind)


def test_arrays_of_rgb_become_hugging_face_datasets(tmp_path):
    (tmp_path / "from").mkdir()
    save(tmp_path / "from", **FITTING)
    data = Dataset.open(tmp_path / "from")
    found = Dataset.open(convert(data, tmp_path / "to", "hugging-face").folder)
    assert np.array_equal(found.read_image(found[2]), data.read_image(data[2]))
