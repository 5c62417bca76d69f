"""The Open Inference Protocol, spoken by Triton's client."""

import json

import httpx
import numpy as np
import opened_images
import pytest
from service import make_pixels, make_predictor, png, running

from fullyconv.image_form import ImageForm

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture(scope="module")
def address(predictor, tmp_path_factory):
    with running({"cells": predictor}, tmp_path_factory.mktemp("files")) as (host, port):
        yield f"{host}:{port}"


@pytest.fixture(scope="module")
def client(address):
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def images_of(*seeds):
    return np.stack([make_pixels(seed=seed) for seed in seeds])


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("cells")
    assert client.is_model_ready("cells", "1")
    assert client.get_server_metadata()["name"] == "fullyconv"
    assert [model["name"] for model in client.get_model_repository_index()] == ["cells"]
    found = client.get_model_metadata("cells")
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in found["inputs"]] == [
        ("image", "UINT8", [-1, -1, -1, 3]),
        ("encoded", "BYTES", [-1]),
    ]
    assert json.loads(found["parameters"]["classes"]) == ["background", "a", "b"]


@pytest.mark.parametrize("binary", [False, True])
def test_arrays_in_masks_out(client, predictor, binary):
    images = images_of(0, 1, 2)
    tensor = triton.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("mask", "probabilities")]
    found = client.infer("cells", [tensor], outputs=wanted, request_id="7")
    assert found.get_response()["id"] == "7"
    assert np.array_equal(found.as_numpy("mask"), np.stack([predictor.predict(image) for image in images]))
    probabilities = np.stack([predictor.probabilities(image) for image in images])
    assert np.allclose(found.as_numpy("probabilities"), probabilities, atol=1e-6)


def test_encoded_images_in_mask_files_out(client, address):
    files = [png(make_pixels()), png(make_pixels(30, 64, 1))]  # of two sizes
    tensor = triton.InferInput("encoded", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=object))
    found = client.infer("cells", [tensor], outputs=[triton.InferRequestedOutput("png")], model_version="1")
    plain = [httpx.post(f"http://{address}/predict", files={"image": file}).content for file in files]
    assert list(found.as_numpy("png")) == plain


def test_two_sizes_have_no_common_tensor(client):
    tensor = triton.InferInput("encoded", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([png(make_pixels()), png(make_pixels(8, 8))], dtype=object))
    with pytest.raises(Exception, match="several sizes have no common tensor"):
        client.infer("cells", [tensor])


def post(address, document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return httpx.post(f"http://{address}/v2/models/cells/infer", content=data)


GOOD = {"name": "image", "datatype": "UINT8", "shape": [1, 1, 2, 3], "data": [[[[0, 1, 2], [3, 4, 255]]]]}


def test_json_alone_is_enough(address, predictor):
    answer = post(address, {"inputs": [GOOD]}).json()
    mask = predictor.predict(np.array(GOOD["data"], np.uint8)[0])
    assert answer["outputs"] == [
        {"name": "mask", "datatype": "UINT8", "shape": [1, 1, 2], "data": mask.ravel().tolist()}
    ]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"{", "the JSON of the request cannot be read"),
        (b'{"inputs": [NaN]}', "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        ({"inputs": []}, "inputs: List should have at least 1 item"),
        ({"inputs": [{**GOOD, "shape": [1, 1, 3, 3]}]}, "expected 9 numbers, got 6"),
        ({"inputs": [{**GOOD, "shape": [1, 0, 2, 3]}]}, "expected a shape of positive numbers"),
        ({"inputs": [{**GOOD, "shape": [10**9, 10**9, 10**9, 3]}]}, "at most 64 images"),
        ({"inputs": [{**GOOD, "shape": [1, 10**4000, 10**4000, 3]}]}, "inputs.0.shape.1: Input should be less"),
        (b'{"inputs": [{"name": "\\ud800"}]}', "cannot be read"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, "expected image, UINT8 N x H x W x 3"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, 256]}]}, "expected whole numbers in 0..255"),
        ({"inputs": [{**GOOD, "data": [1, 2, 3, 4, 5, 0.5]}]}, "expected whole numbers in 0..255"),
        ({"inputs": [{**GOOD, "data": ["a"] * 6}]}, "expected numbers, got others"),
        ({"inputs": [{**GOOD, "data": None}]}, "expected data, got none"),
        ({"inputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": 6}}]}, "expected 0 bytes of data"),
        ({"inputs": [GOOD], "outputs": [{"name": "logits"}]}, "outputs.0.name: Input should be 'mask'"),
        ({"inputs": [{**GOOD, "name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}, "none"),
    ],
)
def test_what_is_wrong_is_said(address, document, words):
    answer = post(address, document)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_json_of_very_many_values_is_not_parsed(address):
    answer = post(address, b'{"inputs": [' + b"[]," * 2_000_000)
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("expected JSON of at most 16777216 bytes")


def test_images_of_too_many_pixels_together_are_refused_before_all_are_decoded(predictor, tmp_path, monkeypatch):
    read, decoded = ImageForm.read, []
    monkeypatch.setattr(ImageForm, "read", lambda form, path: decoded.append(path) or read(form, path))
    data = [png(make_pixels(8, 8)).decode("latin-1")] * 9
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [9], "data": data}
    with opened_images.client(tmp_path, {"cells": predictor}, pixels=100) as service:
        answer = service.post("/v2/models/cells/infer", json={"inputs": [tensor]})
    assert answer.status_code == 413
    assert answer.json()["error"] == "expected at most 100 pixels in a request, got more"
    assert len(decoded) == 2


def test_a_length_of_the_json_that_cannot_be_is_refused(address):
    headers = {"inference-header-content-length": "999"}
    answer = httpx.post(f"http://{address}/v2/models/cells/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "expected 0..2, got '999'" in answer.json()["error"]
