"""A service for tests: a real server in a thread, on a free port of this machine."""

import contextlib
import io
import socket
import threading
import time

import numpy as np
import torch
from PIL import Image

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.model import FCN
from fullyconv.predict import Predictor
from fullyconv.serve import create_app, http_server
from fullyconv.serve.limits import Limits

TABLE = ClassTable(
    (ClassEntry("background", 0, (0, 0, 0)), ClassEntry("a", 10, (250, 0, 0)), ClassEntry("b", 20, (0, 250, 0))),
    (),
    "index",
)


def make_predictor():
    """A network of random weights in whose masks all classes are."""
    torch.manual_seed(1)
    model = FCN.build(TABLE, decoder="practical", stride=8, hidden=4)
    torch.nn.init.normal_(model.decoder.score.weight)
    return Predictor(model)


def make_pixels(height=40, width=52, seed=0):
    """An H x W x 3 image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels):
    """An image as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def running(models, folder, *, port=0, limits=None, **options):
    """Serve models by name within the block; yields (host, port)."""
    limits = limits or Limits()
    folder.mkdir(exist_ok=True)
    server = http_server(create_app(models, folder, limits=limits, **options), limits)
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        listener.close()
