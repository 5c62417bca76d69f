"""F1 to F5: requests to the service that nobody can have wanted: too long, damaged, slow, with hostile images."""

import contextlib
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from a_data import bombs
from machinery import mutations
from PIL import Image
from served import (
    FORM,
    HOST,
    Served,
    Watch,
    form,
    get,
    good_requests,
    infer,
    inside,
    is_explained,
    part,
    pixels,
    png,
    post,
    serving,
    statuses,
    task,
)

MIB = 2**20
STALL = 100
"""Milliseconds that others may have to wait for."""


def _flood(served: Served, head: bytes, piece: bytes, pieces: int) -> tuple[list[int], int]:
    """Send a body until it is over or the connection is closed; the answers, and how many bytes were taken."""
    taken, said = 0, b""
    with socket.create_connection(served.address) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\n" + HOST + head + b"\r\n")
        client.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(pieces):
                client.sendall(piece)
                taken += len(piece)
        with contextlib.suppress(OSError):
            while found := client.recv(65536):
                said += found
    return statuses(said), taken


def long_bodies(folder: Path, tries: int) -> Iterator[bool]:
    """F1: bodies over the limit, of honest, lying and no length, in a million chunks, encoded: refused unread."""
    chunk = b"1\r\nx\r\n"
    kinds = [
        (b"Content-Length: 64000000\r\n", bytes(64_000), 1000, 413),
        (b"Content-Length: 999999999999999\r\n", bytes(64_000), 1000, 413),
        (b"Transfer-Encoding: chunked\r\n", chunk * 10_000, 100, 411),
        (b"Transfer-Encoding: chunked\r\n", chunk, 65_537, 411),
        (b"Content-Length: 1000\r\nContent-Encoding: gzip\r\n", bytes(1000), 1, 415),
    ]
    with serving(folder, "--max-body", "1MB") as served:
        for kind in kinds:
            _flood(served, *kind[:3])
        before, most = served.memory(), 0
        for number in range(tries):
            head, piece, pieces, expected = kinds[number % len(kinds)]
            found, taken = _flood(served, head, piece, pieces)
            most = max(most, taken)
            yield found == [expected]
        grown = served.memory() - before
        print(f"  F1: memory grew by {grown / MIB:.2f} MiB; {most / MIB:.1f} MiB of a body were taken at most")
        yield grown < MIB
        yield served.is_well()


def _forms() -> Iterator[bytes]:
    """Bodies of forms that are odd or broken."""
    image, end = png(pixels()), b"--B--\r\n"
    good = part("image", image)
    yield from (b"", b"--B", b"--B--", image, good, good + end + b"behind" * MIB, b"before\r\n" * MIB + good + end)
    yield b"".join(part(f"f{number}", b"x", None) for number in range(1001)) + good + end
    yield part("f", b"x", None) * 100_000 + good + end
    yield good * 1001 + end
    yield part("f", bytes(50 * MIB), None) + good + end
    yield from (part("image", text * (20 * MIB)) + end for text in (b"\r\n", b"\r", b"\n--B", b"\r\n--", b"-"))
    yield from (part("image", image, "a" * length) + end for length in (255, 3000, 9000, 5 * MIB))
    yield part("image", image, "a").replace(b'filename="a"', b"filename*=UTF-8''%2e%2e%2fa%00") + end
    yield part("image", image, extra=b"X: y\r\n" * 100_000) + end
    yield part("image", image, extra=b"X: " + b"y" * (20 * MIB) + b"\r\n") + end
    yield part("image", good + end, extra=b"Content-Type: multipart/mixed; boundary=B\r\n") + end
    yield good.replace(b"form-data", b"form-data; name=x" * 1000) + end
    yield good.replace(b'name="image"', b"name=" + b'\\"' * 2000) + end
    yield good.replace(b'name="image"', b"") + end
    yield good.replace(b"\r\n", b"\n") + end


def odd_forms(folder: Path, tries: int) -> Iterator[bool]:
    """F2: forms that are odd, broken or dense, boundaries that cannot be, JSON that costs: others never wait."""
    bodies = [post("/predict", body, FORM) for body in _forms()]
    image = part("image", png(pixels())) + b"--B--\r\n"
    kinds = (
        "",
        "; boundary=",
        "; boundary=" + "B" * 257,
        '; boundary="',
        "; boundary=B" * 5000,
        "; boundary=\0",
        ";" * 60_000,
    )
    bodies += [post("/predict", image, f"multipart/form-data{kind}") for kind in kinds]
    documents = (
        b'{"tasks": [' + b"[]," * 10 * MIB + b"[]]}",
        b'{"tasks": [' + b"[]," * 99_000 + b"[]]}",
        b'{"tasks": [{"data": {"image": "' + b"x" * (15 * MIB) + b'"}}]}',
        b'{"tasks": [{"data": {"image": "data:image/png;base64,' + b"AAAA" * (15 * MIB // 4) + b'"}}]}',
        b'{"tasks": [{' + b",".join(b'"%d":0' % number for number in range(19_000)) + b"}]}",
        json.dumps({"tasks": [{"data": {}}], "label_config": "<a>" * 20_000}).encode(),
    )
    bodies += [post("/predict", document, "application/json") for document in documents]
    values = json.dumps({"name": "image", "datatype": "UINT8", "shape": [1, 512, 512, 3], "data": [7] * 786_432})
    bodies.append(post("/v2/models/a/infer", b'{"inputs": [' + values.encode() + b"]}", "application/json"))
    with serving(folder) as served:
        served.says(form("/predict", png(pixels())))
        with Watch(served) as alone:
            time.sleep(3)
        slowest = 0.0
        for number in range(tries):
            with Watch(served) as others:
                said = served.says(bodies[number % len(bodies)], 60)
                time.sleep(0.02)
            stall = others.percentile(100)
            slowest = max(slowest, stall)
            good = bool(statuses(said)) and is_explained(said) and not others.failed
            if not good or stall > STALL:
                print(f"  F2: request {number % len(bodies)}: {statuses(said)}, others waited {stall:.0f} ms")
            yield good and stall <= STALL + alone.percentile(100)
        print(
            f"  F2: others waited {slowest:.0f} ms at most, {alone.percentile(100):.0f} ms when nothing happened"
        )
        yield served.is_well()


ODD = (
    [get(path, method) for path in ("*", "/", "/predict", "//evil", "/%00") for method in ("HEAD", "TRACE", "PRI")]
    + [
        get(path)
        for path in ("http://evil/", "/" + "a" * 60_000, "/" + "%2e/" * 9000, "/predict?" + "a=1&" * 9000)
    ]
    + [
        get("/", extra=HOST + line + b"\r\n")
        for line in (b"A" * 70_000, b": x", b"X: \0", b"X : y", b" folded", b"X: \xff")
    ]
    + [get("/", extra=HOST * 2), get("/", extra=b""), b"GET / HTTP/9.9\r\n\r\n", b"\0" * 9000, b"\x16\x03\x01\x02"]
    + [
        post("/predict", b"", "image/png").replace(b"Length: 0", b"Length: " + length)
        for length in (b"-1", b"+1", b"1_0", b"9" * 5000, b"0x1", b"1, 2", b"")
    ]
    + [
        post(path, document, "application/json")
        for path in ("/predict", "/v2/models/a/infer")
        for document in (
            b"[" * 101 + b"]" * 101,
            b"[" * 100_000,
            b'{"inputs": [NaN]}',
            b'{"inputs": [1e999], "tasks": [1e999]}',
            b'{"inputs": [{"name": "\\ud800"}], "tasks": [{"\\ud800": 1}]}',
            b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [' + b"1," * 2 + b"9" * 4000 + b",3], "
            b'"data": [1e999]}], "tasks": [{"data": {"image": "\\u0000.png"}}]}',
            b"\xff\xfe\0",
            b"9" * 5000,
        )
    ]
    + [
        get("/health", extra=HOST + b"Origin: " + origin + b"\r\n")
        for origin in (b"http://[", b"\xff", b"", b"a" * 9000)
    ]
    + [get("/health") + b"\0garbage\r\n\r\n", good_requests()[0].replace(b"Connection: close\r\n", b"") * 3]
)
"""Requests that are odd each in their own way."""


def damaged_requests(folder: Path, tries: int) -> Iterator[bool]:
    """F3: requests of every kind, damaged at random, and odd ones: answered in the right words, or hung up on."""
    damaged = [mutations(request, tries, random.Random(number)) for number, request in enumerate(good_requests())]
    wanted = [*ODD, *(next(damaged[number % len(damaged)]) for number in range(tries))]
    with serving(folder) as served, ThreadPoolExecutor(16) as threads:
        served.says(form("/predict", png(pixels())))
        answers = list(threads.map(lambda request: served.says(request, 2), wanted))
        for request, said in zip(wanted, answers, strict=True):
            if not is_explained(said):
                print(f"  F3: {request[:200]!r}: {said[:40]!r}")
            yield is_explained(said)
        print(f"  F3: {sum(bool(statuses(said)) for said in answers)} of {len(answers)} were answered")
        traces = served.log.read_text(errors="replace").count("Traceback")
        if traces:
            print(f"  F3: {traces} tracebacks in the log")
        yield not traces
        yield served.is_well()


def _trickle(served: Served, begin: bytes, most: float) -> float:
    """Send a byte a second behind a beginning; seconds until the connection is closed."""
    began = time.monotonic()
    with socket.create_connection(served.address) as client:
        client.sendall(begin)
        client.settimeout(1)
        while time.monotonic() - began < most:
            try:
                client.sendall(b"x")
                while client.recv(65536):
                    pass
                break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began


def _unread(served: Served, request: bytes, most: float) -> float:
    """Ask for something and take a byte a second; seconds until the connection is closed."""
    began = time.monotonic()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(served.address)
        client.sendall(request)
        with contextlib.suppress(OSError):
            while time.monotonic() - began < most and client.recv(1):
                time.sleep(1)
                client.sendall(b"x")  # fails where it is closed
    return time.monotonic() - began


def slow_clients(folder: Path, tries: int) -> Iterator[bool]:
    """F4: connections at a byte a second in head, body and answer: closed in time, others do not notice."""
    head = b"GET /health HTTP/1.1\r\n" + HOST + b"X: "
    body = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\nContent-Length: 100000\r\n\r\n"
    with serving(folder) as served, ThreadPoolExecutor(tries) as threads:
        opened = httpx.post(f"{served.url}/images", files={"image": png(pixels(1500, 1500))}, timeout=60).json()
        while not httpx.get(f"{served.url}/images/{opened['id']}").json()["done"]:
            time.sleep(0.1)
        ask = get(f"/images/{opened['id']}/download/overlay")
        with Watch(served) as alone:
            time.sleep(5)
        plans = [(_trickle, head, 10.0), (_trickle, body, 60.0)]
        asked = [(*plans[number % 2], number) for number in range(max(2, tries - 8))]
        asked += [(_unread, ask, 60.0, number) for number in range(min(8, tries // 8))]
        with Watch(served) as others:
            futures = [(threads.submit(how, served, begin, 90), limit) for how, begin, limit, _ in asked]
            time.sleep(2)
            yield all(served.is_well() for _ in range(10))  # there is a place in the queue
            found = [(future.result(), limit) for future, limit in futures]
        for seconds, limit in found:
            if seconds > limit + 12:
                print(f"  F4: {seconds:.0f} s of {limit:.0f}")
            yield seconds <= limit + 12  # and while the answer is made
        latest = {limit: max(seconds for seconds, one in found if one == limit) for limit in (10.0, 60.0)}
        print(
            f"  F4: closed after {latest[10.0]:.1f} s (head), {latest[60.0]:.1f} s (body, answer); others "
            f"waited {others.percentile(99):.1f} ms (99 %), {alone.percentile(99):.1f} ms when nothing happened"
        )
        yield not others.failed and others.percentile(99) <= 2 * alone.percentile(99) + 20


def text_behind(width: int = 40_000) -> bytes:
    """A PNG of many pixels with a word behind them, where some readers decode them to get there."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(width // 8 + 1) * 1000) for _ in range(width // 1000)) + squeeze.flush()
    found = b"\x89PNG\r\n\x1a\n"
    size = struct.pack(">IIBBBBB", width, width, 1, 0, 0, 0, 0)
    for kind, data in ((b"IHDR", size), (b"IDAT", rows), (b"tEXt", b"a\0b"), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


def hostile_images(folder: Path, tries: int) -> Iterator[bool]:
    """F5: bombs of all formats and broken images by every way into the service: refused, little memory."""
    files = [*bombs().values(), text_behind()]
    for kind in ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm"):
        Image.fromarray(pixels()).save(folder / f"whole.{kind}")
        files += mutations((folder / f"whole.{kind}").read_bytes(), tries // 7, random.Random(kind))
    with serving(folder) as served:
        for model in "ab":
            served.says(form("/predict", png(pixels()), model=model))
        before = served.memory("VmHWM")
        for file in files:
            for model in "ab":
                for request in (
                    form("/predict", file, model=model),
                    form("/images", file, model=model),
                    infer([file], model),
                    task(inside(file), model),
                ):
                    said = served.says(request, 60)
                    good = bool(statuses(said)) and statuses(said)[0] in (200, 201, 400, 413)
                    if not good:
                        print(f"  F5: {file[:20]!r}: {said[:40]!r} {request[:40]!r}")
                    yield good
        grown = served.memory("VmHWM") - before
        print(f"  F5: memory grew by {grown / MIB:.0f} MiB at most")
        yield grown < 300 * MIB
        yield served.is_well()
