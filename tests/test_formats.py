"""Which format a data set has, and text lists; the other formats have test files of their own."""

import pytest
from test_layout import make

from fullyconv.errors import DataError
from fullyconv.formats import find_samples


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["images/a.png", "trainannot/a.png"], "expected one layout, got both trainannot/ and images/"),
        (["JPEGImages/a.jpg", "masks/a.png"], "expected one layout, got both JPEGImages/ and masks/"),
        (["JPEGImages/a.jpg", "trainannot/a.png"], "expected one layout, got both trainannot/ and JPEGImages/"),
        (["images_training.npy", "images/a.png"], "expected one layout, got both images_training.npy and images/"),
    ],
)
def test_two_formats_at_once_are_refused(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        find_samples(make(tmp_path, *names))


# ---- lists ----


@pytest.mark.parametrize("separator", ["\t", ",", ", ", " ", "   "])
def test_a_list_of_pairs_is_read_whatever_separates_them(tmp_path, separator):
    make(tmp_path, "photos/b.jpg", "photos/a.jpg", "labels/1.png", "labels/2.png")
    lines = [("photos/b.jpg", "labels/1.png", "val"), ("photos/a.jpg", "labels/2.png", "train")]
    text = "# pairs\n\n" + "".join(separator.join(line) + "\n" for line in lines)
    (tmp_path / "pairs.txt").write_text(text, encoding="utf-8-sig")
    samples = find_samples(tmp_path / "pairs.txt").samples
    assert [(s.split, s.id) for s in samples] == [("train", "photos/a"), ("val", "photos/b")]
    assert [s.mask for s in samples] == [tmp_path / "labels/2.png", tmp_path / "labels/1.png"]


def test_a_list_may_have_a_header_no_splits_blanks_and_files_elsewhere(tmp_path):
    make(tmp_path, "data/a b.jpg", "data/m,1.png", "lists/x")
    path = tmp_path / "lists" / "pairs.csv"
    path.write_text(f'image,mask\n../data/a b.jpg,"{tmp_path}/data/m,1.png"\n', encoding="utf-8")
    (sample,) = find_samples(path).samples
    assert sample.split is None
    assert sample.image == tmp_path / "data/a b.jpg"
    assert sample.mask == tmp_path / "data/m,1.png"
    assert ".." not in sample.id
    assert find_samples(path).description == "the list pairs.csv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png\n", r"pairs\.txt, line 1: expected image, mask and perhaps a split, got 1 fields"),
        ("a.png a.png train x\n", "line 1: .* got 4 fields"),
        ("a.png,\n", "line 1: .* got 2 fields"),
        (
            "# c\na.png m.png train\nb.png m.png holdout\n",
            "line 3: expected the split train, val or test, got 'hold",
        ),
        ("a.png nowhere.png\n", r"line 1: expected the file .*nowhere\.png, got nothing there"),
        ("a.png m.png\na.png m.png\n", r"pairs\.txt: lines 1 and 2 both have the image .*a\.png"),
        ("a.png m.png\n./x/../a.png m.png\n", "lines 1 and 2 both have the image"),
        ("a.png m.png\na.jpg m.png\n", r"two images have the stem 'a': a\.png and a\.jpg"),
        ("a.png m.png train\nb.png m.png\n", "expected a split in every line or in none, got none for .*b.png"),
        ("# nothing\n", "expected lines `image mask .split.`, got none"),
    ],
)
def test_a_wrong_list_is_refused_by_line(tmp_path, text, message):
    make(tmp_path, "a.png", "a.jpg", "b.png", "m.png")
    (tmp_path / "pairs.txt").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        find_samples(tmp_path / "pairs.txt")


def test_an_image_given_as_data_set_is_no_list(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(DataError, match=r"a\.png: expected a data folder or a text list of pairs"):
        find_samples(tmp_path / "a.png")
