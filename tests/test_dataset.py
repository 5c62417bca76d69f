import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, UsageError

SHARED = Path(__file__).parents[2] / "shared" / "data"
CLASSES = "0,sky,1,2,3\n1,road,4,5,6\n2,car,7,8,9\n3,unlabelled,0,0,0\n"
COLORS = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]], np.uint8)


def make(root, *masks, split="", classes=None):
    """Write a data set: masks are lists of rows or ready Pillow images; images are grey."""
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    start = len(list((root / "masks").rglob("*.png")))
    for number, mask in enumerate(masks, start=start):
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(np.array(mask, np.uint8))
        mask.save(root / "masks" / split / f"{number}.png")
        Image.new("L", mask.size, 90).save(root / "images" / split / f"{number}.png")
    if classes:
        (root / "classes.txt").write_text(classes, encoding="utf-8")
    return root


def targets(dataset):
    return [dataset.read_target(sample).tolist() for sample in dataset]


# ---- what masks mean ----


def test_classes_txt_in_the_folder_is_found(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]], [[2, 3]], classes=CLASSES), ignore=[3])
    assert dataset.class_table.names == ("sky", "road", "car")
    assert targets(dataset) == [[[0, 1]], [[2, 255]]]
    assert dataset.notes == (
        "2 samples in images + masks; masks are index images of the 3 classes of classes.txt; "
        "values 3 and 255 are ignored.",
    )


def test_classes_txt_beside_a_list_is_found(tmp_path):
    make(tmp_path, [[0, 1, 2]], classes=CLASSES)
    (tmp_path / "pairs.txt").write_text("images/0.png masks/0.png\n", encoding="utf-8")
    dataset = Dataset.open(tmp_path / "pairs.txt")
    assert dataset.class_table.num_classes == 4
    assert dataset.notes[0].startswith("1 samples in the list pairs.txt; ")


def test_an_ignored_value_in_the_middle_is_said_and_not_shifted_in_silence(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2, 3]], classes=CLASSES), ignore=[1])
    assert targets(dataset) == [[[0, 255, 1, 2]]]
    assert "mask values 0, 2, 3 have the class indices 0..2" in dataset.notes[0]


@pytest.mark.parametrize("classes", [["a", "b", "c"], "a,b, c"])
def test_names_are_the_values_0_1_2(tmp_path, classes):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 255]], classes=CLASSES), classes=classes)
    assert dataset.class_table.names == ("a", "b", "c")
    assert "of the names given; value 255 is ignored." in dataset.notes[0]


def test_a_class_file_elsewhere_comes_before_the_one_in_the_folder(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("5,x,1,1,1\n6,y,2,2,2\n", encoding="utf-8")
    dataset = Dataset.open(make(tmp_path / "data", [[5, 6]], classes=CLASSES), classes=other)
    assert dataset.class_table.values == (5, 6)
    assert targets(dataset) == [[[0, 1]]]


def test_values_without_names_are_classes_by_a_map_that_is_said(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[200, 220, 255]], [[210, 7, 7]]), ignore=[7])
    assert dataset.class_table.values == (200, 210, 220)
    assert targets(dataset) == [[[0, 2, 255]], [[1, 255, 255]]]
    assert dataset.notes == (
        "2 samples in images + masks; no classes are declared: the mask values found are the classes; "
        "mask values 200, 210, 220 have the class indices 0..2; values 7 and 255 are ignored.",
    )


def test_values_without_names_that_are_their_own_indices_need_no_map(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2]]))
    assert "; no classes are declared: the mask values found, 0..2, are the classes; value 255" in dataset.notes[0]


def test_very_many_values_are_classes_only_where_declared(tmp_path):
    make(tmp_path, [list(range(65))])
    with pytest.raises(DataError, match=r"at most 64 mask values where no classes .*, got 65") as caught:
        Dataset.open(tmp_path)
    assert "resized or compressed" in caught.value.hint
    assert Dataset.open(tmp_path, classes=[f"c{i}" for i in range(65)]).class_table.num_classes == 65


def test_palette_masks_are_indices_whatever_their_colours(tmp_path):
    mask = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    mask.putpalette(COLORS[[2, 1, 0]].tobytes())
    assert targets(Dataset.open(make(tmp_path, mask, classes=CLASSES))) == [[[0, 1, 2]]]


def test_one_bit_masks_hold_0_and_1(tmp_path):
    mask = Image.fromarray(np.array([[True, False]]))
    dataset = Dataset.open(make(tmp_path, mask))
    assert dataset.class_table.values == (0, 1)
    assert targets(dataset) == [[[1, 0]]]


def test_one_bit_masks_among_others_with_255_are_refused(tmp_path):
    make(tmp_path, [[0, 255]], Image.fromarray(np.array([[True, False]])))
    with pytest.raises(DataError, match=r"1\.png: expected masks of one kind, got one bit .* as .*0\.png"):
        Dataset.open(tmp_path)


# ---- binary ----


def test_masks_of_0_and_255_alone_are_binary(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255]], [[0, 0]]))
    assert dataset.class_table == ClassTable.binary()
    assert targets(dataset) == [[[0, 1]], [[0, 0]]]
    assert dataset.notes == (
        "2 samples in images + masks; masks hold nothing but 0 (background) and 255 (foreground), "
        "so that 255 is a class.",
    )


def test_two_names_are_those_of_0_and_255(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255]]), classes=["tissue", "nucleus"])
    assert (dataset.class_table.names, dataset.class_table.values) == (("tissue", "nucleus"), (0, 255))


@pytest.mark.parametrize("classes", ["0,a,1,1,1\n1,b,2,2,2\n", "0,a,1,1,1\n255,b,2,2,2\n"])
def test_a_class_file_of_two_fits_binary_masks(tmp_path, classes):
    dataset = Dataset.open(make(tmp_path, [[0, 255]], classes=classes))
    assert dataset.class_table.encoding == "binary"
    assert dataset.class_table.colors.tolist() == [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_third_value_in_any_split_means_that_255_is_ignored(tmp_path, split):
    make(tmp_path, [[0, 255]], split="train")
    dataset = Dataset.open(make(tmp_path, [[0, 1]], split=split))
    assert dataset.class_table.values == (0, 1)
    assert targets(dataset)[0] == [[0, 255]]


def test_a_third_value_means_so_though_it_is_ignored(tmp_path):
    make(tmp_path, [[0, 255, 7]])
    with pytest.raises(DataError, match=r'expected two classes or more, got one: "class 0" \(value 0\)'):
        Dataset.open(tmp_path, ignore=[7])


def test_255_by_flag_is_ignored_in_masks_of_0_and_255(tmp_path):
    make(tmp_path, [[0, 255]])
    with pytest.raises(DataError, match="expected two classes or more, got one"):
        Dataset.open(tmp_path, ignore=[255])
    with_names = Dataset.open(tmp_path, classes=["a", "b"], ignore=[255])
    assert targets(with_names) == [[[0, 255]]]


def test_two_classes_that_are_left_of_three_fit_binary_masks(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255]]), classes=["a", "b", "c"], ignore=[2])
    assert (dataset.class_table.names, dataset.class_table.values) == (("a", "b"), (0, 255))


def test_three_declared_classes_are_not_binary(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255]]), classes=["a", "b", "c"])
    assert targets(dataset) == [[[0, 255]]]


# ---- RGB ----


def test_rgb_masks_are_read_by_the_colours_of_classes_txt(tmp_path):
    mask = Image.fromarray(COLORS[[[2, 0], [1, 3]]])
    dataset = Dataset.open(make(tmp_path, mask, [[1, 2]], classes=CLASSES), ignore=[3])
    assert dataset.class_table.encoding == "rgb"
    assert targets(dataset) == [[[2, 0], [1, 255]], [[1, 2]]]
    assert "masks are RGB with the 3 colours of classes.txt; values 3 and 255 are ignored." in dataset.notes[0]


@pytest.mark.parametrize("classes", [None, ["a", "b"]])
def test_rgb_masks_without_colours_are_refused_with_an_example(tmp_path, classes):
    make(tmp_path, [[0, 1]], Image.fromarray(COLORS[[[0, 2]]]))
    with pytest.raises(DataError, match=r"1\.png: .* got an RGB mask with colour 1,2,3 ") as caught:
        Dataset.open(tmp_path, classes=classes)
    assert "classes.txt with a line index,name,r,g,b" in caught.value.hint


def test_black_and_white_saved_as_rgb_is_binary(tmp_path):
    mask = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("RGB")
    dataset = Dataset.open(make(tmp_path, mask))
    assert dataset.class_table.encoding == "binary"
    assert targets(dataset) == [[[0, 1]]]


# ---- refusals ----


def test_a_value_beyond_the_names_is_refused_when_read(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 5, 5]]), classes=["a", "b"])
    with pytest.raises(DataError, match=r"0\.png: mask value 5 \(2 pixels, first at row 0, column 2\)"):
        targets(dataset)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[0, 0]], r'expected two classes or more, got one: "class 0" \(value 0\)'),
        ([[255, 255]], "expected class values in the masks, got nothing but ignored ones"),
    ],
)
def test_one_class_or_none_is_refused(tmp_path, mask, message):
    with pytest.raises(DataError, match=message):
        Dataset.open(make(tmp_path, mask))


def test_jpeg_masks_are_refused_at_once(tmp_path):
    make(tmp_path, [[0, 1]], classes=CLASSES)
    Image.new("L", (2, 1)).save(tmp_path / "masks" / "0.png", "JPEG")
    with pytest.raises(DataError, match=r"0\.png: expected a mask in a lossless format, got JPEG"):
        Dataset.open(tmp_path)


def test_a_class_file_that_contradicts_itself_is_named(tmp_path):
    make(tmp_path, [[0, 1]], classes="0,a,1,1,1\n0,b,1,1,1\n")
    with pytest.raises(DataError, match=r"classes\.txt: expected each mask value once, got 0 twice"):
        Dataset.open(tmp_path)


def test_all_declared_classes_ignored_is_refused(tmp_path):
    make(tmp_path, [[0, 255]], classes="0,a,1,1,1\n")
    with pytest.raises(DataError, match=r"classes\.txt: expected 1 to 255 classes that are not ignored, got 0"):
        Dataset.open(tmp_path, ignore=[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": [256]}, r"expected mask values 0\.\.255 to ignore, got 256"),
        ({"ignore": [-1]}, r"expected mask values 0\.\.255 to ignore, got -1"),
        ({"classes": []}, "expected names of classes, got an empty list"),
        ({"class_table": ClassTable.binary(), "ignore": [1]}, "either a class table, or classes and values"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        Dataset.open(make(tmp_path, [[0, 1]]), **options)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2], [0, 1, 2]]))
    Image.new("L", (4, 5)).save(tmp_path / "images" / "0.png")
    with pytest.raises(DataError, match=r"masks/0\.png: expected the size of .*images/0\.png, 5 x 4 .* got 2 x 3"):
        dataset.read_target(dataset[0])


def test_a_turned_image_is_suspected_where_only_the_sides_are_exchanged(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2], [0, 1, 2]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (3, 2)).save(tmp_path / "images" / "0.png", exif=exif)
    with pytest.raises(DataError, match=r"3 x 2 .* got 2 x 3") as caught:
        dataset.read_target(dataset[0])
    assert "one of the two is turned" in caught.value.hint


# ---- a model's table ----


def test_the_table_of_a_model_comes_before_the_files(tmp_path):
    table = ClassTable.from_values([0, 2], [1, 3])
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2, 3]], classes=CLASSES), class_table=table)
    assert dataset.class_table == table
    assert targets(dataset) == [[[0, 255, 1, 255]]]
    assert "masks are read with the table of 2 classes that was given; mask values 0, 2 have" in dataset.notes[0]


def test_a_model_of_index_masks_does_not_take_255_for_a_class(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 255]]), class_table=ClassTable.from_names(["a", "b"]))
    assert targets(dataset) == [[[0, 255]]]


# ---- splits ----


def test_splits_are_counted_and_taken_apart(tmp_path):
    make(tmp_path, [[0, 1]], split="val")
    dataset = Dataset.open(make(tmp_path, [[0, 1]], [[0, 1]], split="train"))
    assert dataset.splits == {"train": 2, "val": 1}
    assert [sample.split for sample in dataset.split("val")] == ["val"]
    assert len(dataset.split("train")) == 2
    with pytest.raises(DataError, match="expected a test split, got train, val"):
        dataset.split("test")


def test_a_data_set_without_splits_has_none(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]]))
    assert dataset.splits == {}
    with pytest.raises(DataError, match="expected a train split, got none"):
        dataset.split("train")


def test_a_seeded_split_depends_on_ids_and_seed_alone(tmp_path):
    dataset = Dataset.open(make(tmp_path, *[[[0, 1]]] * 20))
    val = {sample.id for sample in dataset.with_seeded_split(0.2, 3).split("val")}
    order = sorted((sample.id for sample in dataset), key=lambda i: hashlib.sha256(f"3:{i}".encode()).digest())
    assert val == set(order[:4])
    assert val != {sample.id for sample in dataset.with_seeded_split(0.2, 4).split("val")}


def test_a_seeded_split_takes_from_train_and_leaves_test(tmp_path):
    make(tmp_path, *[[[0, 1]]] * 5, split="train")
    dataset = Dataset.open(make(tmp_path, *[[[0, 1]]] * 3, split="test")).with_seeded_split(0.4, 0)
    assert dataset.splits == {"train": 3, "val": 2, "test": 3}
    assert dataset.notes[-1] == "2 of the 5 training samples are split off as val (seed 0)."


@pytest.mark.parametrize(("number", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.25, 2)])
def test_a_seeded_split_leaves_a_sample_on_each_side(tmp_path, number, fraction, expected):
    dataset = Dataset.open(make(tmp_path, *[[[0, 1]]] * number)).with_seeded_split(fraction, 0)
    assert dataset.splits == {"train": number - expected, "val": expected}


def test_a_seeded_split_that_cannot_be_is_refused(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1]]))
    with pytest.raises(DataError, match="expected 2 samples or more to split off val from, got 1"):
        dataset.with_seeded_split(0.5, 0)
    with pytest.raises(UsageError, match="expected a val fraction between 0 and 1, got 1"):
        dataset.with_seeded_split(1, 0)


def test_a_seeded_split_beside_a_val_split_or_without_train_is_refused(tmp_path):
    dataset = Dataset.open(make(tmp_path / "a", [[0, 1]], split="val"))
    with pytest.raises(UsageError, match="expected no val split to begin with"):
        dataset.with_seeded_split(0.5, 0)
    dataset = Dataset.open(make(tmp_path / "b", [[0, 1]], [[0, 1]], split="test"))
    with pytest.raises(DataError, match="to split off val from, got 0"):
        dataset.with_seeded_split(0.5, 0)


# ---- reading ----


def test_images_and_targets_have_one_size(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2]]))
    image = dataset.read_image(dataset[0])
    assert (image.shape, image.dtype, image.tolist()[0][0]) == ((1, 3, 3), np.uint8, [90, 90, 90])
    assert dataset.read_target(dataset[0]).shape == (1, 3)


def test_a_data_set_travels_to_other_processes(tmp_path):
    dataset = Dataset.open(make(tmp_path, [[0, 1, 2]]))
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_files_left_out_are_said(tmp_path):
    make(tmp_path, [[0, 1]])
    (tmp_path / "images" / "notes.txt").touch()
    assert Dataset.open(tmp_path).notes[1] == "Files that are no images are left out (.txt: 1)."


def test_a_mask_suffix_is_said(tmp_path):
    make(tmp_path, [[0, 1]])
    (tmp_path / "masks" / "0.png").rename(tmp_path / "masks" / "0_gt.png")
    assert "; mask names end in _gt; " in Dataset.open(tmp_path).notes[0]


def test_the_data_are_never_changed(tmp_path):
    make(tmp_path, [[0, 1]], [[0, 2]], classes=CLASSES)

    def state():
        return {
            path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")
        }

    before = state()
    targets(Dataset.open(tmp_path).with_seeded_split(0.5, 0))
    assert state() == before


@pytest.mark.parametrize(
    ("name", "ignore", "splits", "classes"),
    [
        ("camvid", [11], {"train": 367, "val": 101}, 11),
        ("magnetic_tile", [], {"train": 260, "val": 60}, 6),
        ("dsb2018_nuclei", [], {"train": 160, "val": 40}, 2),
    ],
)
def test_real_sets_open_without_configuration(name, ignore, splits, classes):
    if not (SHARED / name).is_dir():
        pytest.skip("the real data sets are not here")
    dataset = Dataset.open(SHARED / name, ignore=ignore)
    assert (dataset.splits, dataset.class_table.num_classes) == (splits, classes)
    assert dataset.read_target(dataset[0]).shape == dataset.read_image(dataset[0]).shape[:2]


# ---- a model's classes ----


def test_a_model_that_calls_the_values_otherwise_is_warned_of(tmp_path):
    make(tmp_path, [[0, 1, 2]], classes="0,background,0,0,0\n1,crack,1,1,1\n2,Pit,2,2,2\n")
    others = Dataset.open(tmp_path, class_table=ClassTable.from_names(["sky", "road", "pit"]))
    (warning,) = [note for note in others.notes if note.startswith("WARNING")]
    assert warning == (
        'WARNING: the data call mask value 0 "background", the model "sky" (and 1 more): '
        "is it a model of these classes?"
    )
    same = Dataset.open(tmp_path, class_table=ClassTable.from_names(["background", "crack", "pit"]))
    assert not [note for note in same.notes if "WARNING" in note]
