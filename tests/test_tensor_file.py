"""A sealed file comes back exactly, or not at all: damage, other files and hostile headers are refused."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullyconv import tensor_file
from fullyconv.errors import ModelFileError, UsageError
from fullyconv.tensor_file import canonical_json, read_tensor_file, write_tensor_file

KIND = "test_kind"
TENSORS = {
    "weight": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "counter": torch.tensor(3),
    "state": torch.arange(5, dtype=torch.uint8),
    "nothing": torch.empty(0, 4),
    "half": torch.tensor([1.5], dtype=torch.bfloat16),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def write(path, document=None, tensors=TENSORS, kind=KIND, version=1):
    write_tensor_file(path, kind, version, document or {"name": "mesh"}, tensors)
    return path


def read(path, version=1):
    return read_tensor_file(path, KIND, version)


def raw(path, header, body=b""):
    """Write a safetensors file by hand: the header as it is, so that it can be wrong."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    return path


def with_description(path, text):
    return raw(path, {"__metadata__": {KIND: text}})


class Canary:
    """Makes a file if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_tensors_and_document_come_back_exactly(tmp_path):
    document, tensors = read(write(tmp_path / "file.safetensors", {"name": "mésh", "rate": 0.1, "n": None}))
    assert document.pop("digest")
    assert document == {"name": "mésh", "rate": 0.1, "n": None, "format_version": 1}
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert torch.equal(tensors[name], tensor)


@settings(max_examples=15)
@given(document=JSON)
def test_every_json_value_comes_back_exactly(tmp_path_factory, document):
    path = write(tmp_path_factory.getbasetemp() / "json.safetensors", {"value": document})
    assert canonical_json(read(path)[0]["value"]) == canonical_json(document)


def test_equal_content_gives_equal_bytes(tmp_path):
    one = write(tmp_path / "1", {"a": 1, "b": {"c": 2, "d": 3}})
    backwards = dict(reversed(list(TENSORS.items())))
    two = write(tmp_path / "2", {"b": {"d": 3, "c": 2}, "a": 1}, backwards)
    assert one.read_bytes() == two.read_bytes()


def test_the_file_is_the_one_that_the_library_writes(tmp_path):
    path = write(tmp_path / "file")
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in TENSORS.items())
    assert path.read_bytes() == safetensors.torch.save(TENSORS, metadata)


@pytest.mark.parametrize("dtype", tensor_file._DTYPES)
def test_every_dtype_comes_back(tmp_path, dtype):
    tensors = {"odd": torch.tensor([1], dtype=torch.uint8), "values": torch.tensor([0, 1, 1]).to(dtype)}
    found = read(write(tmp_path / "file", tensors=tensors))[1]["values"]
    assert found.dtype == dtype
    assert torch.equal(found, tensors["values"])


def test_a_dtype_that_the_format_has_not_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot hold wave: it is torch\.complex64"):
        write(tmp_path / "file", tensors={"wave": torch.zeros(1, dtype=torch.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_others_may_read_the_file_as_any_other(tmp_path):
    (tmp_path / "any").touch()
    assert write(tmp_path / "file").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_tensors_may_share_memory_and_lie_in_any_order(tmp_path):
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    given = {"a": image, "b": image, "c": image.to(memory_format=torch.channels_last), "d": image[..., 1:3]}
    _, tensors = read(write(tmp_path / "file", tensors=given))
    assert all(torch.equal(tensors[name], given[name]) for name in given)


def test_a_header_whose_length_begins_like_a_pickle_or_zip_is_read(tmp_path):
    firsts = set()
    for length in range(0, 256, 8):
        path = write(tmp_path / "file", {"filling": "x" * length})
        firsts.add(path.read_bytes()[:1])
        assert read(path)[0]["filling"] == "x" * length
    assert {b"\x80", b"P"} <= firsts


def test_every_truncation_is_refused(tmp_path):
    path = write(tmp_path / "file")
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError):
            read(path)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = write(tmp_path / "file")
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 300):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read(path)


def test_trailing_bytes_are_refused(tmp_path):
    path = write(tmp_path / "file")
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    with pytest.raises(ModelFileError, match="file is not a whole safetensors file"):
        read(path)


def test_a_changed_number_is_named_as_damage(tmp_path):
    path = write(tmp_path / "file")
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ModelFileError, match=r"file is damaged: .* \(copy it again\)"):
        read(path)


@pytest.mark.parametrize("kind", ["pickle", "zip", "torch", "npy", "npz", "text", "empty", "short"])
def test_other_files_are_refused_and_nothing_is_unpickled(tmp_path, kind):
    path, canary, stream = tmp_path / "file.safetensors", tmp_path / "canary", io.BytesIO()
    if kind == "pickle":
        pickle.dump(Canary(canary), stream)
    elif kind == "zip":
        zipfile.ZipFile(stream, "w").close()
    elif kind == "torch":
        torch.save({"weight": Canary(canary)}, stream)
    elif kind == "npy":
        np.save(stream, np.array([Canary(canary)], dtype=object))
    elif kind == "npz":
        np.savez(stream, weight=np.zeros(3))
    else:
        stream.write({"text": b"index,name,r,g,b\n" * 9, "empty": b"", "short": b"\1\0\0"}[kind])
    path.write_bytes(stream.getvalue())
    with pytest.raises(ModelFileError, match=r"file.safetensors is (a|not a whole) "):
        read(path)
    assert not canary.exists()


def test_a_pickle_is_named_as_one(tmp_path):
    path = tmp_path / "best.safetensors"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(
        ModelFileError, match=r"is a zip file, such as torch.save writes, not .*nothing in it was run"
    ):
        read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"none\.safetensors cannot be read: No such file"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="is a folder, not a safetensors file"):
        read(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="pipe is a device, not a safetensors file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_an_impossible_header_length_is_refused(tmp_path, length):
    path = write(tmp_path / "file")
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(ModelFileError, match="no header fits in its"):
        read(path)


def test_a_huge_header_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "file", {"filling": "x" * 1000})
    monkeypatch.setattr(tensor_file, "_MAX_HEADER", 1000)
    with pytest.raises(ModelFileError, match="no header fits"):
        read(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"[]      ",
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"test_kind": 3}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 16], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [0, 4611686018427387904], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "X99", "shape": [], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b"\xff\xfe{}    ",
    ],
    ids=range(11),
)
def test_hostile_headers_are_refused(tmp_path, header):
    path = raw(tmp_path / "file", header, bytes(8))
    with pytest.raises(ModelFileError):
        read(path)


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        (None, "no metadata"),
        ({"fullyconv": "{}"}, "'fullyconv'"),
        ({KIND: "{}", "other": ""}, "'other', 'test_kind'"),
    ],
)
def test_other_metadata_is_refused(tmp_path, metadata, found):
    path = tmp_path / "file"
    safetensors.torch.save_file(TENSORS, path, metadata)
    with pytest.raises(
        ModelFileError, match=f'expected a safetensors file with the metadata "test_kind", it has {found}'
    ):
        read(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        '"text"',
        '{"a": 1}',
        '{"b":1,"a":2}',
        '{"a":1,"a":2}',
        '{"a":NaN}',
        '{"a":1e999}',
        '{"a":1' + "0" * 5000 + "}",
        "[" * 100_000,
        '{"a":"\\u00e9"}',
    ],
    ids=range(12),
)
def test_a_description_that_fullyconv_would_not_write_is_refused(tmp_path, text):
    path = with_description(tmp_path / "file", text)
    with pytest.raises(ModelFileError, match=r"its description is not (JSON|the canonical JSON)"):
        read(path)


def test_a_newer_file_is_named_as_newer(tmp_path):
    path = write(tmp_path / "file", version=2)
    with pytest.raises(
        ModelFileError, match=r"was written by a newer fullyconv: format version 2, known are 1..1"
    ):
        read(path)
    assert read(path, version=2)


@pytest.mark.parametrize("version", [None, 0, -1, "1", 1.0, True, [1]])
def test_an_unknown_format_version_is_refused(tmp_path, version):
    path = with_description(tmp_path / "file", canonical_json({"format_version": version}))
    with pytest.raises(ModelFileError, match=r"expected a format version 1\.\.1, got "):
        read(path)


@pytest.mark.parametrize("digest", [None, "", "0" * 64, 3])
def test_a_wrong_digest_is_refused(tmp_path, digest):
    path = with_description(tmp_path / "file", canonical_json({"digest": digest, "format_version": 1}))
    with pytest.raises(ModelFileError, match="is damaged"):
        read(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, "\udcff"])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    with pytest.raises(ModelFileError, match="expected values that JSON can hold"):
        write(tmp_path / "file", {"value": value})
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_where_asked(tmp_path):
    path = write(tmp_path / "file")
    with pytest.raises(UsageError, match="file exists already"):
        write_tensor_file(path, KIND, 1, {}, {}, overwrite=False)
    assert read(path)[0]["name"] == "mesh"


def test_a_full_disk_is_one_line_with_the_room_and_keeps_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "file", {"name": "old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ModelFileError, match=r"cannot be written: No space left on device \(it takes 0.0 MB, .* free"
    ):
        write(path, {"name": "new"})
    assert read(path)[0]["name"] == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ModelFileError, match=r"cannot be written: .* \(make the folder .*none first\)"):
        write(tmp_path / "none" / "file")
