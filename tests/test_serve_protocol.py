"""Deadlines and bodies that are not read, on bare sockets."""

import contextlib
import re
import socket
import time

import httpx
import pytest
from service import make_pixels, make_predictor, png, running

from fullyconv.serve.limits import Limits
from fullyconv.serve.protocol import HEADERS, Connection

HEAD = "POST /predict HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    limits = Limits(body_bytes=100_000, header_seconds=0.5, body_seconds=0.8, connections=20)
    with running({"m": make_predictor()}, tmp_path_factory.mktemp("files"), limits=limits) as address:
        yield address


def answer_of(client):
    """What the server says until it closes the connection."""
    said = b""
    client.settimeout(10)
    while part := client.recv(65536):
        said += part
    return said.decode()


def status_of(said):
    found = re.match(r"HTTP/1\.1 (\d+)", said)
    return found and int(found[1])


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        ("Content-Length: 100001\r\n", b"x" * 100_001, 413),
        ("Content-Length: 99999999999\r\n", b"x" * 1_000_000, 413),
        ("Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n" * 100_000, 411),
        ("Content-Length: 10\r\nContent-Encoding: gzip\r\n", b"x" * 10, 415),
        ("Content-Length: ten\r\n", b"x" * 10, 400),
        ("Content-Length: 10\r\nContent-Length: 11\r\n", b"x" * 10, 400),
    ],
)
def test_bodies_that_are_refused_are_not_read_and_the_connection_is_closed(address, head, body, status):
    with socket.create_connection(address) as client:
        client.sendall((HEAD + head + "\r\n").encode() + body)
        assert status_of(answer_of(client)) == status


@pytest.mark.parametrize(
    "begin",
    ["", "GET / HT", HEAD, HEAD + "Content-Type: image/png\r\nContent-Length: 10\r\n\r\nabc"],
    ids=["nothing", "line", "head", "body"],
)
def test_who_is_too_slow_is_closed(address, begin):
    began = time.monotonic()
    with socket.create_connection(address) as client:
        client.sendall(begin.encode())
        assert status_of(answer_of(client)) == 408
    assert time.monotonic() - began < 5


def test_refusals_have_the_strict_headers_as_well(address):
    for said in (b"GARBAGE\r\n\r\n", (HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\n").encode(), b"GET / HT"):
        with socket.create_connection(address) as client:
            client.sendall(said)
            answer = answer_of(client)
        assert status_of(answer) in (400, 408)
        assert answer.count("HTTP/1.1 4") == 1
        for name, value in HEADERS.items():
            assert f"\r\n{name}: {value}\r\n" in answer


def test_a_body_that_is_refused_when_its_turn_comes_is_not_read(address):
    first = "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(address) as client:
        client.sendall((first + HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode() + b"1\r\nx\r\n" * 1000)
        began = time.monotonic()
        said = answer_of(client)  # ends: the connection is closed before the body is due
    assert re.findall(r"HTTP/1\.1 (\d+)", said) == ["200", "411"]
    assert "\r\nzz" not in said
    assert time.monotonic() - began < 5


def test_who_sends_slowly_takes_no_place(tmp_path):
    with contextlib.ExitStack() as slow:
        address = slow.enter_context(running({"m": make_predictor()}, tmp_path, limits=Limits(waiting=1)))
        for _ in range(5):
            client = slow.enter_context(socket.create_connection(address))
            client.sendall((HEAD + "Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n").encode() + b"abc")
        time.sleep(0.1)
        url = "http://{}:{}/predict".format(*address)
        assert httpx.post(url, files={"image": png(make_pixels())}).status_code == 200


def test_a_byte_now_and_then_is_too_slow_as_well(address):
    with socket.create_connection(address) as client:
        client.settimeout(0.1)
        for sign in "GET /health HTTP/1.1 and so on, but never an end of it, a byte now and then":
            client.sendall(sign.encode())
            try:
                said = client.recv(1000)
            except TimeoutError:
                continue
            break
        else:
            pytest.fail("it was not closed")
    assert status_of(said.decode()) == 408


def test_a_connection_is_used_again(address):
    with httpx.Client(base_url="http://{}:{}".format(*address)) as client:
        for _ in range(3):
            assert client.post("/predict", files={"image": png(make_pixels())}).status_code == 200
            time.sleep(0.6)  # longer than a head may take: nothing is expected now


def test_answers_do_not_wait_for_receipts(address, monkeypatch):
    made, found = Connection.connection_made, []

    def connection_made(self, transport):
        made(self, transport)
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Connection, "connection_made", connection_made)
    httpx.get("http://{}:{}/health".format(*address))
    assert found
    assert all(found)


def test_there_are_so_many_connections(address):
    clients = [socket.create_connection(address) for _ in range(40)]
    try:
        closed = 0
        for client in clients:
            client.settimeout(0.05)
            try:
                closed += client.recv(10) == b""
            except ConnectionResetError:
                closed += 1
            except TimeoutError:
                continue
        assert closed >= 20
    finally:
        for client in clients:
            client.close()
    time.sleep(0.1)
    assert httpx.get("http://{}:{}/health".format(*address)).status_code == 200
