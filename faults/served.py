"""A service for the family F: a real process, asked over bare sockets."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from machinery import PROGRAM, environment
from PIL import Image

from fullyconv.class_table import ClassTable
from fullyconv.image_form import ImageForm
from fullyconv.model import FCN
from fullyconv.model_file import save_model

HOST = b"Host: localhost\r\n"
SCRIPT = "<script>document.title='pwned'</script>"


@dataclass
class Served:
    """A service that runs.

    Attributes:
        process: Its process, or that of what runs it.
        pid: Of the service itself.
        address: Where it listens.
        files: Where it keeps files.
        log: What it says.
    """

    process: "subprocess.Popen[bytes]"
    pid: int
    address: tuple[str, int]
    files: Path
    log: Path

    @property
    def url(self) -> str:
        """Of its page, without the last slash."""
        return "http://{}:{}".format(*self.address)

    def memory(self, what: str = "VmRSS") -> int:
        """Bytes in memory; at most so far with VmHWM."""
        return 1024 * int(re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[1])

    def is_well(self) -> bool:
        """Whether it still lives and predicts."""
        return (
            self.process.poll() is None
            and httpx.post(
                f"{self.url}/predict", content=png(pixels()), headers={"content-type": "image/png"}, timeout=60
            ).is_success
        )

    def says(self, data: bytes, seconds: float = 20, most: int = 2**20) -> bytes:
        """What it answers to some bytes until it closes the connection, or says nothing for so long."""
        said = b""
        with socket.create_connection(self.address) as client, contextlib.suppress(OSError):
            client.settimeout(seconds)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
            while len(said) < most and (part := client.recv(65536)):
                said += part
        return said


@contextlib.contextmanager
def serving(
    folder: Path, *options: object, before: Sequence[str] = (), more: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serve model a (RGB, a class named like a script) and b (four channels) within the block."""
    for name, form in (("a", ImageForm()), ("b", ImageForm(4))):
        if not (folder / f"{name}.safetensors").exists():
            torch.manual_seed(1)
            table = ClassTable.from_names(["ground", SCRIPT, "c"])
            model = FCN.build(table, decoder="practical", stride=8, hidden=4, image_form=form)
            torch.nn.init.normal_(model.decoder.score.weight)
            save_model(model, folder / f"{name}.safetensors")
    files, log = folder / "files", folder / "log"
    files.mkdir(exist_ok=True)
    command = [*before, *PROGRAM, "serve", "a=a.safetensors", "b=b.safetensors", "--port", "0", *map(str, options)]
    env = {**environment(folder), "TMPDIR": str(files), **(more or {})}
    with (
        log.open("wb") as said,
        subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=said) as process,
    ):
        try:
            found = None
            while found is None and process.poll() is None:
                time.sleep(0.05)
                found = re.search(r"serving .* at http://([\d.]+):(\d+)/", log.read_text(errors="replace"))
            assert found is not None, log.read_text()
            pid = process.pid
            while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if before else []:
                pid = int(children[0])
            yield Served(process, pid, ("127.0.0.1", int(found[2])), files, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid if found is not None else process.pid, signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


def statuses(said: bytes) -> list[int]:
    """Of the answers in some bytes."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 ([2-5]\d\d)", said)]


def is_explained(said: bytes) -> bool:
    """Whether no answer says that the service failed, but for 503 with Retry-After."""
    failed = [status for status in statuses(said) if status >= 500]
    return not failed or (set(failed) == {503} and b"retry-after" in said)


def pixels(height: int = 40, width: int = 52, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    """An image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def part(name: str, content: bytes, file: str | None = "a.png", extra: bytes = b"") -> bytes:
    """Of a form with the boundary B."""
    named = "" if file is None else f'; filename="{file}"'
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'
    return head.encode() + extra + b"\r\n" + content + b"\r\n"


def post(path: str, body: bytes, kind: str, extra: bytes = b"") -> bytes:
    """A request, after whose answer the connection is closed."""
    head = f"POST {path} HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + HOST + extra + b"\r\n" + body


def get(path: str, method: str = "GET", extra: bytes = HOST) -> bytes:
    """A request, after whose answer the connection is closed."""
    return f"{method} {path} HTTP/1.1\r\nConnection: close\r\n".encode("latin-1") + extra + b"\r\n"


FORM = "multipart/form-data; boundary=B"


def form(path: str, file: bytes, name: str = "a.png", **fields: str) -> bytes:
    """A form with a file and fields, as a request."""
    body = b"".join(part(key, value.encode(), None) for key, value in fields.items())
    return post(path, body + part("image", file, name) + b"--B--\r\n", FORM)


def infer(files: Sequence[bytes], model: str = "a", **others: object) -> bytes:
    """Image files for the Open Inference Protocol, as binary data."""
    data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [len(files)]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(data)}}], **others}).encode()
    extra = f"Inference-Header-Content-Length: {len(head)}\r\n".encode()
    return post(f"/v2/models/{model}/infer", head + data, "application/octet-stream", extra)


def task(image: str, model: str = "a", **others: object) -> bytes:
    """A task of Label Studio, as a request."""
    body = json.dumps({"tasks": [{"data": {"image": image}}], **others}).encode()
    return post(f"/predict?model={model}", body, "application/json")


def inside(file: bytes) -> str:
    """A file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(file).decode()


def good_requests() -> list[bytes]:
    """One of every kind."""
    file = png(pixels())
    values = {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12))}
    tensor = json.dumps({"id": "x", "inputs": [values], "outputs": [{"name": "probabilities"}]}).encode()
    return [
        form("/predict", file, format="json", model="a"),
        post("/predict?format=overlay", file, "image/png"),
        form("/images", file, "leaf.png"),
        post("/v2/models/a/infer", tensor, "application/json"),
        infer([file, file], outputs=[{"name": "png"}]),
        task(
            inside(file),
            label_config='<View><BrushLabels name="a" toName="b"><Label value="c"/></BrushLabels></View>',
        ),
        *(
            get(path)
            for path in ("/", "/static/main.js", "/v2/models/b", "/page/about", "/metrics", "/openapi.json")
        ),
        get("/images/" + "0" * 32 + "/mask/0/0_0"),
    ]


class Watch:
    """A healthy client beside: seconds of each of its requests, within the block."""

    def __init__(self, served: Served, path: str = "/health") -> None:
        self.seconds: list[float] = []
        self.failed = 0
        self._served, self._path, self._end = served, path, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(*self._served.address, timeout=60)
        while not self._end.wait(0.005):
            began = time.perf_counter()
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                self.failed += answer.status != 200
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
            self.seconds.append(time.perf_counter() - began)

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * float(np.percentile(self.seconds or [0.0], share))
