"""Images that are opened at a service within this process, and predictors that wait to be told to go on."""

import io
import time

import numpy as np
from PIL import Image
from service import TABLE, png
from starlette.testclient import TestClient

from fullyconv.image_form import RGB
from fullyconv.serve import Limits, create_app
from fullyconv.tiles import Box


class Halting:
    """A predictor that stops before each 512 rows of a large mask until `go` is released: class 0, 1, 2, 0, ..."""

    class_table = TABLE

    def __init__(self, go, form=RGB, patience=20):
        self.go, self.image_form, self.patience = go, form, patience
        self.seen = []

    def measured_parts(self, size, read, measures):
        for top in range(0, size[0], 512):
            self.go.acquire(timeout=self.patience)
            box = Box(top, 0, min(top + 512, size[0]), size[1])
            self.seen.append(read(box))
            classes = np.full(box.size, top // 512 % 3, np.uint8)
            yield box, classes, {"confidence": np.ones(box.size, np.float32)}

    def predict_with_confidence(self, pixels):
        self.seen.append(pixels)
        return np.ones(pixels.shape[:2], np.uint8), np.ones(pixels.shape[:2], np.float32)


def client(folder, models, **limits):
    """A client of a service, to be used in a `with` block."""
    app = create_app(models, folder, limits=Limits(**limits))
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def noise(height, width, seed=0):
    """An image of blots, so that a network sees more than one class."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return small.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]


def opened(service, pixels, name="image.png", **form):
    """Open an image; its state."""
    answer = service.post("/images", files={"image": (name, png(pixels))}, data=form)
    assert answer.status_code == 201, answer.text
    return answer.json()


def settled(service, state, enough=lambda state: state["done"] or state["error"]):
    """The state of an image when it is predicted, or when it is enough."""
    for _ in range(1000):
        state = service.get(f"/images/{state['id']}").json()
        if enough(state):
            return state
        time.sleep(0.02)
    raise AssertionError(state)


def tile(service, state, layer, level=0, column=0, row=0):
    """The pixels of a tile."""
    answer = service.get(f"/images/{state['id']}/{layer}/{level}/{column}_{row}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))
