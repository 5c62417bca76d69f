"""Exported files: the same predictions, the same facts, nothing half done."""

import numpy as np
import onnx
import pytest
import torch
from test_verify import photo, predictor_of
from tiny_data import tiny_encoder
from tiny_decoders import randomised

from fullyconv import engines, export
from fullyconv.dataset import Dataset
from fullyconv.decoders import build_decoder
from fullyconv.engines import ExportedPredictor, open_exported
from fullyconv.errors import FullyConvError, ModelFileError, UsageError
from fullyconv.evaluate import evaluate
from fullyconv.export import compare, export_model
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.synthetic import write_dataset
from fullyconv.verify import verify_tiling

RECORD = {"train_images": 7}


@pytest.fixture
def predictor():
    found = predictor_of("practical, hidden", (1.0, 1.5))
    found.model.training_record.update(RECORD)
    return found


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder, predictor = tmp_path_factory.mktemp("exported"), predictor_of("practical, hidden", (1.0, 1.5))
    predictor.model.training_record.update(RECORD)
    for suffix in (".onnx", ".openvino"):
        export_model(predictor, folder / f"model{suffix}")
    return folder


@pytest.mark.parametrize(
    ("suffix", "engine"),
    [
        (".onnx", "auto"),
        (".openvino", "auto"),
        pytest.param(".onnx", "onnx", marks=pytest.mark.slow),
        pytest.param(".onnx", "openvino", marks=pytest.mark.slow),
    ],
)
def test_an_exported_model_is_a_predictor_like_any_other(predictor, exported, suffix, engine):
    other = open_exported(exported / f"model{suffix}", engine=engine, precision="float32")
    for size in [(97, 131), (1, 1), (200, 64), (97, 131)]:
        image = photo(*size)
        assert (other.predict(image) != predictor.predict(image)).mean() < 1e-4
        np.testing.assert_allclose(other.probabilities(image), predictor.probabilities(image), atol=1e-3)
        found, expected = (one.predict_with_margin(image)[1] for one in (other, predictor))
        np.testing.assert_allclose(found, expected, atol=1e-2)
    assert (other.halo, other.tile_grid, other.output_stride) == (predictor.halo, 64, 8)
    assert other.class_table == predictor.class_table
    assert other.training_record == predictor.training_record == RECORD
    assert other.bytes_per_pixel == predictor.bytes_per_pixel
    report = verify_tiling(other, photo(400, 640))
    assert report.exact
    assert (report.tiles, report.rows) == (16, 0)
    assert "not by rows" in str(report)


def test_the_file_says_what_it_is_and_how_it_compares(exported):
    facts = open_exported(exported / "model.openvino").facts
    assert facts.precision == "float32"
    assert facts.comparison["label_agreement"] > 0.9999
    assert facts.comparison["largest_logit_difference"] < 1e-5
    assert set(facts.versions) == {"fullyconv", "torch", "onnx", "openvino"}
    assert facts.description["decoder"]["name"] == "practical"
    graph = onnx.load(exported / "model.onnx")
    assert [sides.dim_param for sides in graph.graph.input[0].type.tensor_type.shape.dim][:3] == [
        "batch",
        "height",
        "width",
    ]
    assert not list(exported.glob("*.data"))


def test_equal_models_give_equal_files(exported, predictor, tmp_path):
    export_model(predictor, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (exported / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, train=4, val=2, test=0, size=(64, 96), seed=0)
    return folder


@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".openvino", marks=pytest.mark.slow)])
def test_int8_is_calibrated_on_some_images_and_measured_on_others(drawn, tmp_path, suffix):
    data = Dataset.open(drawn)
    torch.manual_seed(0)
    encoder = tiny_encoder([8, 16])
    decoder = randomised(build_decoder("practical", encoder.specs, data.class_table.num_classes, hidden=8))
    predictor = Predictor(FCN(encoder, decoder, data.class_table), precision="float32")
    found = export_model(predictor, tmp_path / f"model{suffix}", int8=True, data=data)
    assert found.images == 2
    assert found.mean_iou[0] == evaluate(predictor, data.split("val")).mean_iou
    other = open_exported(tmp_path / f"model{suffix}", precision="float32")
    assert other.facts.precision == "int8"
    assert evaluate(other, data.split("val")).mean_iou == pytest.approx(found.mean_iou[1], abs=1e-3)
    assert other.facts.comparison["mean_iou"] == list(found.mean_iou)
    assert 1e-4 < found.largest_difference < 0.3


def test_a_network_that_computes_something_else_is_not_written(predictor, tmp_path, monkeypatch):
    plain = export.start
    monkeypatch.setattr(
        export, "start", lambda *args: ((lambda pixels: -plain(*args)[0](pixels)), plain(*args)[1])
    )
    with pytest.raises(FullyConvError, match="nothing is written, since the exported model differs"):
        export_model(predictor, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept(predictor, tmp_path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        export_model(predictor, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_what_is_asked_for_wrongly_is_refused(predictor, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"ends in \.onnx or \.openvino"):
        export_model(predictor, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"int8 needs images.*--calibrate"):
        export_model(predictor, tmp_path / "model.onnx", int8=True)
    monkeypatch.setitem(export.EXTRAS, "onnx", ("a_library_that_is_not_there",))
    with pytest.raises(UsageError, match=r'is not installed.*pip install "fullyconv\[onnx\]"'):
        export_model(predictor, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_predictors_that_agree_in_half_of_the_pixels_say_so(predictor):
    class Half(ExportedPredictor):
        def __init__(self):
            pass

        def logits(self, pixels):
            logits = predictor.logits(pixels).clone()
            logits[..., : logits.shape[-1] // 2] = logits[..., : logits.shape[-1] // 2].flip(1)
            return logits

    found = compare(predictor, Half(), [photo(64, 64)])
    assert 0.4 < found.agreement < 0.9
    assert (found.images, found.pixels) == (1, 64 * 64)
    assert "of 4096 pixels of 1 images have the same class" in str(found)


def test_engines_are_used_from_one_place_only(monkeypatch, exported):
    monkeypatch.setattr(engines, "is_installed", lambda engine: False)
    with pytest.raises(UsageError, match=r'onnx is not installed.*pip install "fullyconv\[onnx\]"'):
        open_exported(exported / "model.onnx")
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="does not hold what fullyconv exported"):
        engines.Facts.from_json("{}", "model.onnx")
