"""POST /predict: the bytes that the command line writes, for each who asks."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from service import make_pixels, make_predictor, png, running

from fullyconv.choose_engine import open_predictor
from fullyconv.export import export_model
from fullyconv.image_files import find_images
from fullyconv.predict import Predictor
from fullyconv.predict_files import predict_files


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture(scope="module")
def client(predictor, tmp_path_factory):
    models = {"first": predictor, "second": make_predictor()}
    with (
        running(models, tmp_path_factory.mktemp("files")) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def written(predictor, tmp_path_factory):
    """What the command line writes of an image."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "image.png").write_bytes(png(make_pixels()))
    predict_files(predictor, find_images([folder / "image.png"]), folder / "out")
    return folder / "out"


def test_the_mask_is_the_file_that_predict_writes(client, written):
    answer = client.post("/predict", files={"image": png(make_pixels())})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (written / "image.png").read_bytes()


def test_an_image_as_body_is_as_good_as_a_form(client, written):
    answer = client.post("/predict", content=png(make_pixels()), headers={"content-type": "image/png"})
    assert answer.content == (written / "image.png").read_bytes()


def test_the_overlay_is_the_one_that_predict_writes(client, written):
    answer = client.post("/predict?format=overlay", files={"file": png(make_pixels())})
    with Image.open(written / "image_overlay.png") as ours:
        assert np.array_equal(np.asarray(Image.open(answer)), np.asarray(ours))


def test_areas_add_up(client, predictor):
    mask = predictor.predict(make_pixels())
    found = client.post("/predict", files={"image": png(make_pixels())}, data={"format": "json"}).json()
    assert (found["model"], found["height"], found["width"]) == ("first", 40, 52)
    assert [entry["name"] for entry in found["classes"]] == ["background", "a", "b"]
    assert [entry["pixels"] for entry in found["classes"]] == np.bincount(mask.ravel(), minlength=3).tolist()
    assert sum(entry["share"] for entry in found["classes"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("application/geo+json", "application/geo+json"),
        ("text/html, image/png;q=0.9", "image/png"),
        ("*/*", "image/png"),
    ],
)
def test_accept_chooses_the_answer(client, accept, kind):
    answer = client.post("/predict", files={"image": png(make_pixels())}, headers={"accept": accept})
    assert answer.headers["content-type"] == kind
    if kind == "application/geo+json":
        assert json.loads(answer.content)["type"] == "FeatureCollection"


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("/predict?format=pdf", 400, "format is mask, overlay, json, geojson, got pdf"),
        ("/predict?model=third", 404, "there is no model 'third' (there are first, second)"),
    ],
)
def test_what_there_is_not_is_refused(client, address, status, words):
    answer = client.post(address, files={"image": png(make_pixels())})
    assert (answer.status_code, answer.json()["error"]) == (status, words)


def test_each_of_many_gets_its_own_mask(client, predictor):
    """Images of several sizes, many at a time: in batches, and none is mixed up."""
    images = [make_pixels(40 + 8 * (seed % 3), 52, seed) for seed in range(40)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda image: client.post("/predict", files={"image": png(image)}), images))
    for image, answer in zip(images, answers, strict=True):
        assert answer.status_code == 200
        values = np.asarray(Image.open(answer))
        assert np.array_equal(values, predictor.class_table.encode(predictor.predict(image)))


@pytest.mark.slow
def test_an_exported_model_answers_as_it_predicts(tmp_path):
    pytest.importorskip("onnxruntime")
    export_model(Predictor(make_predictor().model, precision="float32"), tmp_path / "model.onnx")
    exported = open_predictor(tmp_path / "model.onnx")
    with running({"exported": exported}, tmp_path / "files") as (host, port):
        found = [
            httpx.post(f"http://{host}:{port}/predict", files={"image": png(make_pixels(seed=seed))}, timeout=60)
            for seed in range(3)
        ]
    for seed, answer in enumerate(found):
        values = exported.class_table.encode(exported.predict(make_pixels(seed=seed)))
        assert np.array_equal(np.asarray(Image.open(answer)), values)
