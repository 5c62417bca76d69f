"""The routes of a Label Studio ML backend."""

import base64

import httpx
import numpy as np
import pytest
from service import make_pixels, make_predictor, png, running

from fullyconv.formats.label_studio import unpack_strokes

CONFIG = """<View><Image name="photo" value="$image"/>
<BrushLabels name="brush" toName="photo"><Label value="a"/><Label value="other"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Label Studio's folder of uploads, and a secret beside it."""
    root = tmp_path_factory.mktemp("studio")
    (root / "upload").mkdir()
    (root / "upload" / "0a1b2c3d-cells.png").write_bytes(png(make_pixels()))
    (root / "secret.png").write_bytes(png(make_pixels(seed=1)))
    (root / "upload" / "link.png").symlink_to(root / "secret.png")
    return root / "upload"


@pytest.fixture(scope="module")
def client(predictor, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with (
        running({"cells": predictor}, folder, label_studio_images=images) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=60) as client,
    ):
        yield client


def inside(pixels):
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def ask(client, *data, config=CONFIG):
    tasks = [{"id": number, "data": one} for number, one in enumerate(data)]
    return client.post("/predict", json={"tasks": tasks, "label_config": config, "project": "1.2"})


def test_a_project_sets_the_backend_up(client):
    assert client.get("/health").json() == {"status": "UP", "model_class": "fullyconv"}
    setup = {"project": "1.2", "schema": CONFIG, "hostname": "http://studio:8080", "access_token": "x"}
    assert client.post("/setup", json=setup).json() == {"model_version": "cells"}
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201


@pytest.mark.parametrize(
    "address", ["/data/upload/1/0a1b2c3d-cells.png", "/data/local-files/?d=upload/0a1b2c3d-cells.png", None]
)
def test_a_task_gets_a_stroke_for_each_label(client, predictor, address):
    (found,) = ask(client, {"image": address or inside(make_pixels())}).json()["results"]
    mask, confidence = predictor.predict_with_confidence(make_pixels())
    (region,) = found["result"]  # b is no label of the project, background neither
    assert (region["from_name"], region["to_name"], region["type"]) == ("brush", "photo", "brushlabels")
    assert (region["original_height"], region["original_width"]) == (40, 52)
    assert region["value"]["brushlabels"] == ["a"]
    strokes = unpack_strokes(region["value"]["rle"]).reshape(40, 52, 4)
    assert np.array_equal(strokes[:, :, 3] > 0, mask == 1)
    assert region["score"] == pytest.approx(confidence[mask == 1].mean(), abs=1e-6)
    assert found["score"] == pytest.approx(confidence.mean(), abs=1e-6)
    assert found["model_version"] == "cells"


def test_without_a_configuration_all_but_the_background_is_labelled(client):
    (found,) = ask(client, {"image": inside(make_pixels())}, config=None).json()["results"]
    assert [region["value"]["brushlabels"] for region in found["result"]] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1/cells2.png", "task 0: its image is not in the folder of images"),
        ("/data/local-files/?d=../secret.png", "not in the folder of images"),
        ("/data/local-files/?d=link.png", "not in the folder of images"),
        ("/etc/passwd.png", "not in the folder of images"),
        ("zero\0byte.png", "not in the folder of images"),
        ("a/" * 100_000 + "a.png", "not in the folder of images"),
        ("a" * 300 + ".png", "not in the folder of images"),  # longer than a disk takes
        ("http://[.png", "not in the folder of images"),
        ("data:image/png;base64,%%%", "followed by base64"),
        ("data:image/png;base64,AAAA", "the image: expected an image, got 3 bytes that are none"),
        (7, "not in the folder of images"),
    ],
)
def test_images_that_cannot_be_had_are_refused(client, images, address, words):
    answer = ask(client, {"image": address})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert str(images) not in answer.text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("<View/>", "expected a BrushLabels, got none"),
        ("<View", "got no XML"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "got a document type"),
        ("x" * 300_000, "label_config: String should have at most"),
    ],
)
def test_another_configuration_is_refused(client, config, words):
    answer = ask(client, {"image": inside(make_pixels())}, config=config)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
