"""The engine that is asked for, or the fastest that agrees."""

import numpy as np
import pytest
from test_export import exported  # noqa: F401 - a fixture
from test_verify import photo, predictor_of

from fullyconv import choose_engine
from fullyconv.choose_engine import open_predictor
from fullyconv.engines import ExportedPredictor
from fullyconv.errors import UsageError
from fullyconv.export import Comparison
from fullyconv.predict import Predictor


class Lines:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def opened(monkeypatch):
    """Let any path stand for one model."""
    monkeypatch.setattr(choose_engine, "load_model", lambda path: predictor_of("practical, hidden").model)
    monkeypatch.setattr(
        choose_engine,
        "Predictor",
        lambda model, **options: Predictor(
            model if not isinstance(model, str) else predictor_of("practical, hidden").model, **options
        ),
    )


@pytest.mark.parametrize("engine", [None, "torch", "onnx", "openvino"])
def test_a_model_file_is_opened_by_the_engine_that_is_asked_for(opened, engine):
    predictor = open_predictor("m.safetensors", engine=engine, precision="float32", memory=10**9, tile=64)
    assert isinstance(predictor, ExportedPredictor) == (engine in ("onnx", "openvino"))
    assert (predictor.memory, predictor.tile) == (10**9, 64)
    image = photo(97, 131)
    expected = predictor_of("practical, hidden").predict(image)
    assert np.mean(predictor.predict(image) != expected) < 1e-4


def test_an_exported_file_is_opened_by_its_own(exported):  # noqa: F811
    assert isinstance(open_predictor(exported / "model.onnx"), ExportedPredictor)
    assert isinstance(open_predictor(exported / "model.openvino", engine="auto"), ExportedPredictor)


def test_auto_takes_the_fastest_and_says_so(opened, monkeypatch):
    ticks = iter(np.cumsum([1.0] * 7 + [0.01] * 200))
    monkeypatch.setattr(choose_engine.time, "perf_counter", lambda: next(ticks))
    lines = Lines()
    found = open_predictor("m.safetensors", engine="auto", example=photo(64, 64), progress=lines)
    assert lines.lines[-1].startswith("engine ")
    assert "torch" in lines.lines[-1]
    assert "openvino" in lines.lines[-1]
    assert found is not None


def test_auto_does_not_take_what_does_not_agree(opened, monkeypatch):
    monkeypatch.setattr(choose_engine, "compare", lambda *_: Comparison(1, 1, 0.98, 0.0))
    lines = Lines()
    found = open_predictor("m.safetensors", engine="auto", example=photo(64, 64), progress=lines)
    assert not isinstance(found, ExportedPredictor)
    assert "engine onnx has 98.00% of the labels in common with torch: not taken" in lines.lines


def test_another_engine_is_refused(opened):
    with pytest.raises(UsageError, match="an engine is auto, torch, onnx, openvino, got tpu"):
        open_predictor("m.safetensors", engine="tpu")
