import os

import pytest

from fullyconv.errors import DataError
from fullyconv.formats import find_samples
from fullyconv.layout import ordered, suffix_counts


def make(root, *names):
    """Create empty files; nothing here opens them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(path):
    return [(sample.split, sample.id) for sample in find_samples(path).samples]


# ---- folders ----


def test_images_and_masks_without_splits(tmp_path):
    make(tmp_path, "images/a.jpg", "images/b.JPG", "masks/a.png", "masks/b.png")
    layout = find_samples(tmp_path)
    assert found(tmp_path) == [(None, "a"), (None, "b")]
    assert layout.samples[1].image == tmp_path / "images/b.JPG"
    assert layout.samples[1].mask == tmp_path / "masks/b.png"
    assert layout.description == "images + masks"


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("pattern", ["{kind}/{split}/a.png", "{split}/{kind}/a.png"])
def test_one_split_alone_above_or_below(tmp_path, split, pattern):
    make(tmp_path, *(pattern.format(kind=kind, split=split) for kind in ("images", "masks")))
    assert found(tmp_path) == [(split, "a")]


@pytest.mark.parametrize(
    ("pattern", "description"),
    [
        ("{kind}/{split}/{name}.png", "images/{train,val,test} + masks/{train,val,test}"),
        ("{split}/{kind}/{name}.png", "{train,val,test}/images + {train,val,test}/masks"),
    ],
)
def test_all_splits_above_or_below(tmp_path, pattern, description):
    for split, name in (("test", "c"), ("val", "b"), ("train", "a"), ("train", "sub/a")):
        make(tmp_path, *(pattern.format(kind=kind, split=split, name=name) for kind in ("images", "masks")))
    assert found(tmp_path) == [("train", "a"), ("train", "sub/a"), ("val", "b"), ("test", "c")]
    assert find_samples(tmp_path).description == description


@pytest.mark.parametrize("images", ["images", "image", "imgs", "IMG"])
@pytest.mark.parametrize("masks", ["Masks", "mask", "labels", "annotations"])
def test_other_names_of_folders(tmp_path, images, masks):
    make(tmp_path, f"{images}/a.png", f"{masks}/a.png")
    assert found(tmp_path) == [(None, "a")]
    assert find_samples(tmp_path).description == f"{images} + {masks}"


def test_other_names_of_splits(tmp_path):
    for split in ("training", "Validation", "testing"):
        make(tmp_path, f"images/{split}/{split}.png", f"masks/{split}/{split}.png")
    assert found(tmp_path) == [("train", "training"), ("val", "Validation"), ("test", "testing")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/a.png", "img/a.png", "masks/a.png"], "expected one images folder, got both images/ and img/"),
        (
            ["images/a.png", "labels/a.png", "masks/a.png"],
            "expected one masks folder, got both labels/ and masks/",
        ),
        (
            ["images/val/a.png", "images/valid/a.png", "masks/val/a.png"],
            "one val folder, got both val/ and valid/",
        ),
        (["images/a.png", "masks/a.png", "train/images/b.png"], "one layout, got both images/ and train/"),
        (
            ["images/train/a.png", "images/b.png", "masks/train/a.png"],
            "images/b.png lies beside the split folders",
        ),
        (["images/train/a.png", "images/c/b.png", "masks/train/a.png"], "images/c/b.png lies beside the split"),
        (["images/train/a.png", "images/test/b.png", "masks/train/a.png"], "images has a test folder, but"),
        (["images/train/a.png", "masks/train/a.png", "masks/val/a.png"], "masks has a val folder, but"),
        (["images/a.png"], "masks missing, got images/"),
        (["masks/a.png"], "images missing, got masks/"),
        (
            ["train/a.png", "train/masks/a.png"],
            "train: expected images/ and masks/.* images missing, got a.png, mas",
        ),
        (["a.png", "b.png", "c.png", "d.png"], r"images and masks missing, got a\.png, b\.png, c\.png, \.\.\."),
        (["images/val/x.txt", "masks/val/a.png"], r"images/val: expected image files, got none \(\.txt: 1\)"),
        (
            ["images/a.png", "labels/a.txt", "labels/a.json"],
            r"expected image files, got none \(\.json: 1, \.txt: 1",
        ),
    ],
)
def test_a_layout_that_is_unclear_or_incomplete_is_refused_by_name(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_samples(tmp_path)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="images and masks missing, got an empty folder"):
        find_samples(tmp_path)
    with pytest.raises(DataError, match="nowhere: expected a data folder or a list of pairs, got nothing there"):
        find_samples(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", ["images", "masks/train"])
def test_a_folder_within_the_data_is_answered_with_the_one_above(tmp_path, folder):
    make(tmp_path, "images/a.png", "masks/train/a.png")
    with pytest.raises(DataError, match=r"images and masks missing, got") as caught:
        find_samples(tmp_path / folder)
    assert "the folder above" in caught.value.hint


# ---- pairs ----


@pytest.mark.parametrize("suffix", ["_mask", "_label", "_gt", "_SEG"])
def test_the_suffix_of_a_mask_may_differ(tmp_path, suffix):
    make(tmp_path, "images/s/a.png", f"masks/s/a{suffix}.png")
    assert found(tmp_path) == [(None, "s/a")]
    assert find_samples(tmp_path).stripped == {suffix.lower()}


def test_an_exact_stem_comes_before_a_suffix(tmp_path):
    make(tmp_path, "images/a_mask.png", "images/a.png", "masks/a_mask.png", "masks/a.png")
    layout = find_samples(tmp_path)
    assert [sample.mask.name for sample in layout.samples] == ["a.png", "a_mask.png"]
    assert layout.stripped == set()


def test_numbers_are_not_prefixes(tmp_path):
    make(tmp_path, *(f"{kind}/{i}.png" for kind in ("images", "masks") for i in (1, 10, 11, 2)))
    samples = find_samples(tmp_path).samples
    assert [sample.id for sample in samples] == ["1", "2", "10", "11"]
    assert all(sample.image.name == sample.mask.name for sample in samples)


def test_names_with_dots_are_stems(tmp_path):
    make(tmp_path, "images/a.b.png", "images/a.png", "masks/a.b.png", "masks/a.png")
    assert found(tmp_path) == [(None, "a"), (None, "a.b")]


def test_composed_and_decomposed_accents_are_one_name(tmp_path):
    make(tmp_path, "images/e\u0301.png", "masks/\u00e9.png")
    assert found(tmp_path) == [(None, "\u00e9")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/a.jpg", "images/a.png", "masks/a.png"], "two files have the stem 'a': a.jpg and a.png"),
        (["images/a.jpg", "masks/a.bmp", "masks/a.png"], "masks: two files have the stem 'a': a.bmp and a.png"),
        (["images/e\u0301.png", "images/\u00e9.png", "masks/\u00e9.png"], "two files have the stem"),
        (["images/a.png", "masks/a.png", "masks/a_gt.png"], "one mask in .*, got both a.png and a_gt.png"),
        (["images/a.png", "masks/a_gt.png", "masks/a_mask.png"], "got both a_gt.png and a_mask.png"),
        (["images/a.png", "images/A.png", "masks/a.png"], "1 of 2 images in .* have no mask in .*: A.png"),
        (["images/s/a.png", "masks/a.png"], "1 of 1 images in .* have no mask in .*masks: s/a.png"),
        (["images/a.png", "masks/a.png", "masks/b.png"], "1 of 2 masks in .* have no image in .*: b.png"),
    ],
)
def test_files_without_or_with_two_partners_are_refused_by_name(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        find_samples(tmp_path)


def test_of_many_unpaired_images_the_first_and_the_number_are_named(tmp_path):
    make(tmp_path, "masks/x.png", *(f"images/{i}.png" for i in range(5)))
    with pytest.raises(DataError, match=r"5 of 5 images .*: 0\.png, 1\.png, 2\.png, \.\.\.") as caught:
        find_samples(tmp_path)
    assert "stem" in caught.value.hint


def test_one_stem_in_two_splits_or_folders_is_two_samples(tmp_path):
    for kind in ("images", "masks"):
        make(tmp_path, *(f"{kind}/{name}.png" for name in ("train/a", "train/s/a", "val/a")))
    assert found(tmp_path) == [("train", "a"), ("train", "s/a"), ("val", "a")]


# ---- what is not data ----


def test_hidden_files_are_passed_over_and_others_counted(tmp_path):
    make(tmp_path, "images/a.png", "images/.DS_Store", "images/._a.png", "images/.ipynb_checkpoints/a.png")
    make(tmp_path, "images/Thumbs.db", "images/readme", "masks/a.png", "masks/a.json", "masks/b.JSON")
    layout = find_samples(tmp_path)
    assert len(layout.samples) == 1
    assert suffix_counts(layout.skipped) == ".db: 1, .json: 2, no suffix: 1"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
def test_a_pipe_is_no_image(tmp_path):
    make(tmp_path, "images/a.png", "masks/a.png")
    os.mkfifo(tmp_path / "images" / "b.png")
    assert found(tmp_path) == [(None, "a")]
    assert find_samples(tmp_path).skipped == {".png": 1}


def test_a_folder_named_like_an_image_is_a_folder(tmp_path):
    make(tmp_path, "images/a.png/b.png", "masks/a.png/b.png")
    assert found(tmp_path) == [(None, "a.png/b")]


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "elsewhere/b.png", "images/a.png", "masks/a.png", "masks/s/b.png")
    (tmp_path / "images" / "s").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "self").symlink_to(tmp_path / "images" / "self")
    assert found(tmp_path) == [(None, "a"), (None, "s/b")]


# ---- order ----


def test_the_order_does_not_depend_on_the_file_system(tmp_path):
    make(tmp_path, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in ("b2", "b10", "B1", "a")))
    samples = find_samples(tmp_path).samples
    assert ordered(reversed(samples)) == samples
    assert [sample.id for sample in samples] == ["B1", "a", "b2", "b10"]
