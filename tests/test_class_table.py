import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fullyconv.class_table import (
    IGNORE_INDEX,
    ClassEntry,
    ClassTable,
    default_color,
    read_entries,
)
from fullyconv.errors import DataError

CLASSES = "# index,name,r,g,b\n0,sky,1,2,3\n1,road,4,5,6\n\n2,car,7,8,9\n3,unlabelled,0,0,0\n"


@pytest.fixture
def classes_txt(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(CLASSES, encoding="utf-8")
    return path


def decode_slowly(table, values):
    """What decode means, pixel by pixel; None where it refuses."""
    indices = np.zeros(values.shape, dtype=np.uint8)
    for place, value in np.ndenumerate(values):
        if value in table.values:
            indices[place] = table.values.index(value)
        elif value in table.ignored or value == 255:
            indices[place] = 255
        else:
            return None
    return indices


def test_a_file_gives_names_values_and_colours(classes_txt):
    table = ClassTable.from_file(classes_txt)
    assert table.names == ("sky", "road", "car", "unlabelled")
    assert table.values == (0, 1, 2, 3)
    assert table.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert table.encoding == "index"


def test_an_ignored_value_is_no_class(classes_txt):
    table = ClassTable.from_file(classes_txt, [3])
    assert (table.num_classes, table.ignored) == (3, (3,))
    assert table.decode(np.array([[2, 3, 255]], np.uint8)).tolist() == [[2, 255, 255]]


def test_an_ignored_value_in_the_middle_leaves_contiguous_indices(classes_txt):
    table = ClassTable.from_file(classes_txt, [1])
    values = np.array([[0, 1, 2, 3]], np.uint8)
    indices = table.decode(values)
    assert indices.tolist() == [[0, 255, 1, 2]]
    assert table.encode(indices).tolist() == [[0, 255, 2, 3]]


def test_the_order_of_lines_does_not_matter(classes_txt):
    table = ClassTable.from_file(classes_txt)
    assert ClassTable.from_entries(table.classes[::-1]) == table


def test_a_declared_value_255_is_ignored(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("0,a,1,1,1\n1,b,2,2,2\n255,border,224,224,192\n", encoding="utf-8")
    assert ClassTable.from_file(path).names == ("a", "b")


def test_a_header_and_a_byte_order_mark_are_no_class(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("index,name,r,g,b\n7,Straße,1,2,3\n", encoding="utf-8-sig")
    assert read_entries(path) == (ClassEntry("Straße", 7, (1, 2, 3)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,sky\n", r"classes\.txt, line 1: expected index,name,r,g,b, got '0,sky'"),
        ("# x\nsky,0,1,2,3\n", r"line 2: expected index,name,r,g,b, got 'sky,0,1,2,3'"),
        ("# nothing\n", r"classes\.txt: expected lines index,name,r,g,b, got none"),
        ("0,a,1,1,1\n0,b,2,2,2\n", r"classes\.txt: expected each mask value once, got 0 twice"),
        ("0,a,1,1,1\n1,a,2,2,2\n", r"classes\.txt: expected each class name once, got 'a' twice"),
        ("300,a,1,1,1\n", r'class "a": expected a mask value 0\.\.254, got 300'),
        ("0,a,1,1,256\n", r"expected a colour of three values 0\.\.255, got \(1, 1, 256\)"),
        ("0,,1,1,1\n", "class value 0: expected a printable name, got ''"),
        ("255,border,1,1,1\n", r"expected 1 to 255 classes that are not ignored, got 0"),
    ],
)
def test_a_wrong_class_file_is_refused_by_line_or_rule(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        ClassTable.from_file(path)


def test_a_missing_class_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt: expected a class table.*No such file"):
        ClassTable.from_file(tmp_path / "nowhere.txt")


def test_a_binary_file_is_no_class_table(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match=r"image\.png: expected a class table"):
        ClassTable.from_file(path)


def test_names_take_the_values_0_1_2(classes_txt):
    table = ClassTable.from_names([" background", "crack"], [2])
    assert table.names == ("background", "crack")
    assert (table.values, table.ignored) == ((0, 1), (2,))


def test_more_than_255_classes_are_refused():
    with pytest.raises(DataError, match="expected at most 255 class names, got 256"):
        ClassTable.from_names([str(i) for i in range(256)])


def test_255_classes_are_possible():
    table = ClassTable.from_values(range(256))
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert table.num_classes == 255
    np.testing.assert_array_equal(table.encode(table.decode(values)), values)


def test_values_found_become_classes_in_ascending_order():
    table = ClassTable.from_values({220, 200, 255, 210, 7}, [7])
    assert table.values == (200, 210, 220)
    assert table.names == ("class 200", "class 210", "class 220")
    assert table.decode(np.array([[220, 200, 7]], np.uint8)).tolist() == [[2, 0, 255]]


def test_an_unknown_value_is_named_with_count_first_pixel_and_fix():
    table = ClassTable.from_names(["a", "b", "c"])
    values = np.array([[0, 1, 1], [7, 9, 7]], np.uint8)
    with pytest.raises(DataError) as caught:
        table.decode(values, "m.png")
    assert caught.value.message == (
        "m.png: mask value 7 (2 pixels, first at row 1, column 0) is not one of the 3 class values 0..2"
    )
    assert "--ignore 7" in caught.value.hint


def test_binary_masks_have_the_class_255():
    table = ClassTable.binary()
    assert table.decode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert table.encode(np.array([[0, 1]], np.uint8)).tolist() == [[0, 255]]
    assert table.color_by_value == {0: (0, 0, 0), 255: (255, 255, 255)}


def test_an_ignored_pixel_cannot_be_written_as_binary():
    with pytest.raises(DataError, match=r"class index 255 \(1 pixels, first at row 0, column 1\)"):
        ClassTable.binary().encode(np.array([[0, 255]], np.uint8))


def test_an_index_beyond_the_classes_cannot_be_written():
    with pytest.raises(DataError, match=r"class index 2 .* is not one of the 2 classes"):
        ClassTable.from_names(["a", "b"]).encode(np.array([[2]], np.uint8))


def test_colours_of_rgb_masks_are_looked_up(classes_txt):
    table = ClassTable.from_file(classes_txt, [3], "rgb")
    colors = np.array([[[7, 8, 9], [0, 0, 0], [1, 2, 3]]], np.uint8)
    assert table.decode(colors).tolist() == [[2, 255, 0]]


def test_an_unknown_colour_is_named_with_count_first_pixel_and_fix(classes_txt):
    table = ClassTable.from_file(classes_txt, (), "rgb")
    colors = np.array([[[7, 8, 9], [0, 0, 1]], [[0, 0, 1], [1, 2, 3]]], np.uint8)
    with pytest.raises(DataError, match=r"m\.png: colour 0,0,1 \(2 pixels, first at row 0, column 1\)") as caught:
        table.decode(colors, "m.png")
    assert "write 0,0,1 as the colour of its class into classes.txt" in caught.value.hint


def test_an_rgb_table_reads_masks_with_one_channel_as_values(classes_txt):
    table = ClassTable.from_file(classes_txt, (), "rgb")
    assert table.decode(np.array([[2, 1]], np.uint8)).tolist() == [[2, 1]]


def test_one_colour_for_two_classes_is_refused_in_rgb_only(tmp_path):
    entries = [ClassEntry("a", 0, (1, 1, 1)), ClassEntry("b", 1, (1, 1, 1))]
    assert ClassTable.from_entries(entries).num_classes == 2
    with pytest.raises(DataError, match=r"expected each colour once, got \(1, 1, 1\) twice"):
        ClassTable.from_entries(entries, encoding="rgb")


def test_grey_saved_as_rgb_is_read_as_values():
    grey = np.repeat(np.array([[0, 1, 255]], np.uint8)[..., np.newaxis], 3, axis=2)
    assert ClassTable.from_names(["a", "b"]).decode(grey).tolist() == [[0, 1, 255]]


@given(arrays.arrays(np.uint8, (4, 5)), st.sets(st.integers(0, 254), min_size=1), st.sets(st.integers(0, 254)))
def test_decode_agrees_with_a_loop(values, classes, ignored):
    if not classes - ignored:
        return
    table = ClassTable.from_values(classes, ignored)
    expected = decode_slowly(table, values)
    if expected is None:
        with pytest.raises(DataError, match="is not one of the"):
            table.decode(values)
    else:
        np.testing.assert_array_equal(table.decode(values), expected)


@given(st.sets(st.integers(0, 254), min_size=1), st.sets(st.integers(0, 254)), st.data())
def test_encode_then_decode_is_the_identity(classes, ignored, data):
    table = ClassTable.from_values(classes | {0}, ignored - {0})
    indices = st.sampled_from([*range(table.num_classes), IGNORE_INDEX])
    mask = data.draw(arrays.arrays(np.uint8, (3, 4), elements=indices))
    np.testing.assert_array_equal(table.decode(table.encode(mask)), mask)


@pytest.mark.parametrize("encoding", ["index", "rgb"])
def test_json_round_trip_is_exact(classes_txt, encoding):
    table = ClassTable.from_file(classes_txt, [3, 17], encoding)
    text = json.dumps(table.to_json())
    again = ClassTable.from_json(json.loads(text))
    assert again == table
    assert json.dumps(again.to_json()) == text


def test_json_of_a_binary_table_round_trips():
    table = ClassTable.binary(("no", "yes"))
    assert ClassTable.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    "change",
    [
        {"classes": []},
        {"classes": None},
        {"classes": [{"name": "a", "value": "0", "color": [0, 0, 0]}]},
        {"classes": [{"name": "a", "value": 0, "color": [0, 0]}]},
        {"classes": [{"name": "a", "value": True, "color": [0, 0, 0]}]},
        {"classes": [{"name": "a", "value": -1, "color": [0, 0, 0]}]},
        {"encoding": "palette"},
        {"encoding": ["index"]},
        {"ignored": [0]},
        {"ignored": [999]},
        {"ignored_colors": [[1, 2, 300]]},
        {"surprise": 1},
    ],
)
def test_json_that_is_no_table_is_refused(change):
    data = ClassTable.from_names(["a", "b"]).to_json() | change
    with pytest.raises(DataError, match="expected"):
        ClassTable.from_json(data)


def test_no_json_object_at_all_is_refused():
    for data in (None, [], "table", {}):
        with pytest.raises(DataError, match="expected a class table in JSON"):
            ClassTable.from_json(data)


def test_default_colours_are_those_of_voc_and_all_differ():
    assert [default_color(i) for i in range(5)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
    ]
    assert default_color(255) == (224, 224, 192)
    assert len({default_color(i) for i in range(256)}) == 256


def test_a_table_can_be_compared_and_hashed_after_use():
    table = ClassTable.from_names(["a", "b"])
    table.decode(np.zeros((1, 1), np.uint8))
    assert {table} == {ClassTable.from_names(["a", "b"])}


def test_ignored_values_are_kept_in_one_order_without_255():
    assert ClassTable.from_names(["a", "b"], [9, 255, 3, 9]).ignored == (3, 9)
