"""Hugging Face datasets: those that the library itself writes, and what is wrong with others."""

import io
import json
import warnings

import numpy as np
import pyarrow
import pytest
from PIL import Image

from fullyconv.convert import convert
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, UsageError
from fullyconv.features import _sha256
from fullyconv.formats import hugging_face

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import datasets

datasets.disable_progress_bars()


def pictures(count, seed=0):
    draw = np.random.default_rng(seed)
    images = [Image.fromarray(draw.integers(0, 256, (6, 9, 3), np.uint8)) for _ in range(count)]
    masks = [Image.fromarray(draw.integers(0, 3, (6, 9), np.uint8)) for _ in range(count)]
    return images, masks


def save(folder, columns, splits=("train", "validation")):
    """What a user of the library does; images go in as Pillow has them."""
    kinds = {
        name: datasets.Image() if isinstance(items[0], Image.Image) else None for name, items in columns.items()
    }
    features = datasets.Features({n: kind or datasets.Value("int64") for n, kind in kinds.items()})
    whole = datasets.Dataset.from_dict(columns, features=features)
    parts = datasets.DatasetDict(dict.fromkeys(splits, whole)) if splits else whole
    parts.save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize(
    "names", [("image", "annotation"), ("pixel_values", "label"), ("photo", "mask"), ("img", "x")]
)
def test_what_the_library_writes_is_read(tmp_path, names):
    images, masks = pictures(3)
    data = Dataset.open(save(tmp_path / "d", dict(zip(names, (images, masks), strict=True))))
    assert data.splits == {"train": 3, "val": 3}
    assert [sample.id for sample in data.split("val")] == ["000000", "000001", "000002"]
    for sample, image, mask in zip(data.split("train"), images, masks, strict=True):
        assert np.array_equal(data.read_image(sample), np.asarray(image))
        assert np.array_equal(data.read_target(sample), np.asarray(mask))
    assert len({_sha256(sample.image) for sample in data}) == 3


def test_one_data_set_without_splits_with_other_columns(tmp_path):
    images, masks = pictures(2)
    folder = save(tmp_path / "d", {"image": images, "mask": masks, "number": [1, 2]}, splits=())
    assert [sample.split for sample in Dataset.open(folder)] == [None, None]


def test_images_that_lie_beside_the_table_are_read_there(tmp_path):
    images, masks = pictures(2)
    folder = tmp_path / "d"
    folder.mkdir()
    paths = [folder / "a.png", folder / "b.png"]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    rows = {"image": [str(path) for path in paths], "mask": masks}
    whole = datasets.Dataset.from_dict(rows, features=features)
    file = tmp_path / "rows.arrow"
    writer = datasets.arrow_writer.ArrowWriter(features=features, path=str(file))
    for row in _rows(whole):
        writer.write(row)
    writer.finalize()
    file.rename(folder / "rows.arrow")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "rows.arrow"}]}))
    data = Dataset.open(folder)
    assert [(sample.id, sample.image) for sample in data] == [("a", paths[0]), ("b", paths[1])]
    assert np.array_equal(data.read_image(data[1]), np.asarray(images[1]))


def _rows(whole):
    plain = whole.cast_column("image", datasets.Image(decode=False)).cast_column(
        "mask", datasets.Image(decode=False)
    )
    return [{"image": row["image"]["path"], "mask": row["mask"]} for row in plain]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("image",), "expected a column of images and one of masks, got image"),
        (
            ("image", "annotation", "mask"),
            "expected a column of images and one of masks, got image, annotation, mask",
        ),
        (("left", "right"), "call them image and annotation"),
    ],
)
def test_columns_that_are_not_clear_are_refused(tmp_path, columns, message):
    images, _ = pictures(2)
    with pytest.raises(DataError, match=message):
        Dataset.open(save(tmp_path / "d", dict.fromkeys(columns, images)))


def test_an_unknown_split_and_damaged_files_are_refused(tmp_path):
    images, masks = pictures(2)
    folder = save(tmp_path / "d", {"image": images, "mask": masks}, splits=("train", "extra"))
    with pytest.raises(DataError, match="expected splits train, validation, test, got extra"):
        Dataset.open(folder)
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    table = next((folder / "train").glob("*.arrow"))
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(DataError, match=r"\.arrow: cannot read the table"):
        Dataset.open(folder)
    table.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Dataset.open(folder)
    (folder / "train" / "state.json").write_text("[]")
    with pytest.raises(DataError, match=r"state\.json"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b.png", "a/b"), ("../../etc/x.png", "x"), ("/tmp/y.jpg", "y"), ("c:\\z\\w.png", "c:/z/w"), ("", "")],
)
def test_a_name_never_leads_out_of_a_folder(name, expected):
    assert hugging_face._id(name) == expected


def test_writing_without_the_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "fullyconv\[datasets\]"'):
        hugging_face.write_hugging_face(tmp_path, None, [])


def write_rows(folder, rows):
    """A table of rows as another program may write them."""
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    whole = datasets.Dataset.from_dict({"image": [], "mask": []}, features=features)
    folder.mkdir()
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {name: pyarrow.array([row[name] for row in rows], kind) for name in ("image", "mask")}
    table = pyarrow.table(columns).replace_schema_metadata(whole.features.arrow_schema.metadata)
    with (
        pyarrow.OSFile(str(folder / "rows.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "rows.arrow"}]}))
    return folder


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


PICTURE = {"bytes": png(np.zeros((4, 5, 3), np.uint8)), "path": "a.png"}
LABEL = {"bytes": png(np.arange(20, dtype=np.uint8).reshape(4, 5) % 2), "path": None}


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.png", "nul\0.png", None])
def test_a_table_names_no_file_outside_its_folder(tmp_path, name):
    Image.new("RGB", (5, 4)).save(tmp_path / "secret.png")
    folder = write_rows(tmp_path / "d", [{"image": {"bytes": None, "path": name}, "mask": LABEL}])
    with pytest.raises(DataError, match=r"rows\.arrow, row 0, column image: expected the bytes of an image"):
        Dataset.open(folder)


def test_a_table_is_a_file_beside_its_state(tmp_path):
    folder = write_rows(tmp_path / "d", [{"image": PICTURE, "mask": LABEL}])
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../d/rows.arrow"}]}))
    with pytest.raises(DataError, match="expected names of files beside it"):
        Dataset.open(folder)


@pytest.mark.parametrize("names", [[None], ["a.png", "b.png", None], ["a\0b.png", "c\n.png"]])
def test_rows_without_a_name_or_with_an_odd_one_can_be_converted(tmp_path, names):
    rows = [{"image": {**PICTURE, "path": name}, "mask": LABEL} for name in names]
    data = Dataset.open(write_rows(tmp_path / "d", rows))
    assert convert(data, tmp_path / "out").samples == len(names)
