"""Files inside Arrow tables: opened as others are, refused by name where they are none."""

import io
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image

from fullyconv import embedded
from fullyconv.embedded import is_embedded, open_binary, open_table
from fullyconv.errors import DataError, UsageError
from fullyconv.images import image_size, read_image, read_mask_array, verify_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_table(path, rows):
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "number": list(range(len(rows)))})
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return path


@pytest.fixture
def table(tmp_path):
    rows = [
        {"bytes": png(PIXELS), "path": "a.png"},
        {"bytes": b"no image", "path": None},
        {"bytes": None, "path": "b"},
    ]
    return write_table(tmp_path / "data.arrow", rows)


def test_an_image_in_a_table_is_read_as_any_other(table):
    path = table / "0" / "image"
    assert is_embedded(path)
    assert np.array_equal(read_image(path), PIXELS)
    assert image_size(path) == verify_image(path) == (5, 7)
    assert read_mask_array(path).shape == (5, 7, 3)
    with open_binary(path) as file:
        assert file.read() == png(PIXELS)


def test_a_plain_file_is_a_plain_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    assert not is_embedded(tmp_path / "a.png")
    with open_binary(tmp_path / "a.png") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("1/image", "1/image: expected an image, got 8 bytes that are none"),
        ("2/image", "expected the bytes of an image, got none"),
        ("3/image", "expected a row and a column of the table"),
        ("0/other", "expected a row and a column of the table"),
        ("0/number", "expected the bytes of an image, got none"),
    ],
)
def test_what_is_no_image_is_refused_by_its_place(table, item, message):
    with pytest.raises(DataError, match=message):
        read_image(table / item)


@pytest.mark.parametrize("data", [b"", b"ARROW1", bytes(100), b"\xff" * 100])
def test_a_damaged_table_is_refused(tmp_path, data):
    (tmp_path / "x.arrow").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.arrow: cannot read the table"):
        open_table(tmp_path / "x.arrow")


def test_a_table_that_was_exchanged_is_read_anew(table):
    assert np.array_equal(read_image(table / "0" / "image"), PIXELS)
    write_table(table, [{"bytes": png(PIXELS[::-1].copy()), "path": "a.png"}])
    assert np.array_equal(read_image(table / "0" / "image"), PIXELS[::-1])


def test_without_the_library_the_extra_is_named(table, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(embedded, "import_module", missing)
    embedded._table.cache_clear()
    with pytest.raises(UsageError, match=r'needs pyarrow \(install it with: pip install "fullyconv\[datasets\]"'):
        open_table(table)


READ = """
import sys
from pathlib import Path
from fullyconv.embedded import open_binary, open_table
from fullyconv.errors import DataError
data, found = Path(sys.argv[1]).read_bytes(), 0
import random
for seed in range(400):
    draw, changed = random.Random(seed), bytearray(data)
    for _ in range(3):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    path = Path(sys.argv[2], f"{seed}.arrow")
    path.write_bytes(changed)
    try:
        table = open_table(path)
        for row in range(table.num_rows):
            open_binary(path / str(row) / "image").read()
    except DataError:
        found += 1
print(found)
"""


def test_no_table_that_was_changed_ends_the_process(table, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", READ, table, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-300:]
    assert int(done.stdout) > 20
