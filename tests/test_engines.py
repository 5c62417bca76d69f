"""Exported files that are damaged, foreign or missing, and what engines are told."""

import json
import zipfile

import onnx
import pytest
from test_export import exported  # noqa: F401 - a fixture

from fullyconv.engines import Facts, is_installed, open_exported
from fullyconv.errors import ModelFileError, UsageError


def test_facts_survive_their_file():
    facts = Facts({"classes": []}, 8, 32, (10, 20), 99.5, "int8", {"training": {}}, {"torch": "2"}, {})
    text = facts.to_json()
    assert json.loads(text)["format_version"] == 1
    with pytest.raises(ModelFileError, match=r"a\.onnx"):
        Facts.from_json(text, "a.onnx")  # no classes


@pytest.mark.parametrize("suffix", [".onnx", ".openvino"])
def test_a_damaged_file_is_refused(exported, tmp_path, suffix):  # noqa: F811
    data = (exported / f"model{suffix}").read_bytes()
    for number, broken in enumerate([b"", b"no model", data[: len(data) // 2]]):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(broken)
        with pytest.raises(ModelFileError, match=rf"{number}{suffix}"):
            open_exported(path)
    with pytest.raises(ModelFileError, match="cannot read the model: No such file"):
        open_exported(tmp_path / f"nowhere{suffix}")


def test_a_network_of_somebody_else_is_refused(exported, tmp_path):  # noqa: F811
    graph = onnx.load(exported / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "foreign.onnx")
    with pytest.raises(ModelFileError, match="does not hold what fullyconv exported"):
        open_exported(tmp_path / "foreign.onnx")
    with zipfile.ZipFile(tmp_path / "foreign.openvino", "w") as archive:
        archive.writestr("model.xml", "")
    with pytest.raises(ModelFileError, match="is no exported model"):
        open_exported(tmp_path / "foreign.openvino")


def test_a_later_version_is_refused(exported, tmp_path):  # noqa: F811
    graph = onnx.load(exported / "model.onnx")
    facts = json.loads(graph.metadata_props[0].value)
    graph.metadata_props[0].value = json.dumps({**facts, "format_version": 2})
    onnx.save(graph, tmp_path / "later.onnx")
    with pytest.raises(ModelFileError, match="expected an exported model of version 1, got 2"):
        open_exported(tmp_path / "later.onnx")


def test_what_an_engine_cannot_run_is_refused(exported, tmp_path):  # noqa: F811
    with pytest.raises(UsageError, match=r"cannot be run by onnx \(leave --engine out"):
        open_exported(exported / "model.openvino", engine="onnx")
    with pytest.raises(UsageError, match="cannot be run by torch"):
        open_exported(exported / "model.onnx", engine="torch")
    with pytest.raises(UsageError, match=r"ends in \.onnx or \.openvino"):
        open_exported(tmp_path / "model.safetensors")


def test_torch_is_always_there():
    assert is_installed("torch")
    assert is_installed("onnx")
    assert not is_installed("an_engine_that_is_not_there")


@pytest.mark.parametrize(
    "form", [{}, {"channels": 0, "value_range": None}, {"channels": 2, "value_range": [3.0, 2.0]}]
)
def test_a_form_of_images_that_cannot_be_is_refused(exported, tmp_path, form):  # noqa: F811
    graph = onnx.load(exported / "model.onnx")
    facts = json.loads(graph.metadata_props[0].value)
    facts["description"]["encoder"]["image_form"] = form
    graph.metadata_props[0].value = json.dumps(facts)
    onnx.save(graph, tmp_path / "odd.onnx")
    with pytest.raises(ModelFileError, match="does not hold what fullyconv exported"):
        open_exported(tmp_path / "odd.onnx")
