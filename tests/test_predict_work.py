"""A worker of a cluster; the rest of it is tested through `predict_cluster`."""

import json

import numpy as np
import pytest
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.manifest import BATCHES
from fullyconv.model import FCN
from fullyconv.model_file import save_model
from fullyconv.predict_work import PredictWorker


@pytest.fixture
def worker(tmp_path):
    model = FCN.build(ClassTable.from_names("abc"), decoder="practical", stride=8, hidden=4)
    (tmp_path / "out").mkdir()
    save_model(model, tmp_path / "out" / "m.safetensors")
    return PredictWorker(str(tmp_path / "out"), "m.safetensors", {"threads": 1, "overlay": False})


def test_a_worker_that_died_after_it_wrote_an_output_is_followed_by_one_that_finds_it(worker, tmp_path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    batch = {"id": "1", "items": [{"key": "x/a", "input": str(tmp_path / "a.png"), "kind": "image"}]}
    worker.work(batch["items"][0])
    written = (tmp_path / "out" / "x" / "a.png").stat()
    found = json.loads(worker({"batch": [json.dumps(batch)]})["found"][0])
    assert found == {"statuses": {"x/a": "done"}}
    assert (tmp_path / "out" / "x" / "a.png").stat().st_mtime_ns == written.st_mtime_ns
    record = json.loads((tmp_path / "out" / BATCHES / "1.json").read_text())["records"]["x/a"]
    assert list(record["outputs"]) == ["x/a.png"]
    assert record["threads"] == 1


def test_a_folder_that_cannot_be_written_is_said_to_the_driver(worker, tmp_path):
    (tmp_path / "out" / ".fullyconv").write_text("in the way")
    found = json.loads(worker({"batch": [json.dumps({"id": "1", "items": []})]})["found"][0])
    assert ".fullyconv" in found["error"]
