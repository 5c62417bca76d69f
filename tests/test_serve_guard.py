"""What a request has to pass, and what every answer carries."""

import base64
import errno

import httpx
import pytest
from opened_images import client
from service import make_pixels, make_predictor, png, running

from fullyconv.serve.protocol import HEADERS

TOKEN = "sésame"


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture(scope="module")
def address(predictor, tmp_path_factory):
    with running({"m": predictor}, tmp_path_factory.mktemp("files"), hosts=["seg.example"]) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture(scope="module")
def closed(predictor, tmp_path_factory):
    """A service with a token."""
    with running({"m": predictor}, tmp_path_factory.mktemp("files"), token=TOKEN) as (host, port):
        yield f"http://{host}:{port}"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:9", 200),
        ("192.168.1.7", 200),
        ("seg.example:80", 200),
        ("evil.example", 403),
        ("seg.example.evil.example", 403),
        ("localhost.evil.example", 403),
        ("", 403),
        ("[", 403),
        ("evil.example@localhost", 403),
        ("localhost/evil.example", 403),
        ("localhost?evil.example", 403),
        ("local\thost", 403),
    ],
)
def test_the_service_is_called_by_its_names_only(address, host, status):
    assert httpx.get(f"{address}/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost.evil.example", "http://["]
)
def test_pages_of_other_sites_are_refused(address, method, origin):
    answer = httpx.request(method, f"{address}/predict", headers={"origin": origin})
    assert answer.status_code == 403
    assert "other sites" in answer.json()["error"]


def test_its_own_page_is_not(address):
    files = {"image": png(make_pixels())}
    assert httpx.post(f"{address}/predict", files=files, headers={"origin": address}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/predict", "/nothing", "/v2/models/none", "/metrics"])
def test_every_answer_has_the_strict_headers(address, path):
    headers = httpx.get(address + path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert "server" not in headers


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("/secret/place"), 500, "the service failed; its log says how"),
        (OSError(errno.EIO, "/secret/place"), 500, "the service failed; its log says how"),
        (OSError(errno.ENOSPC, "/secret/place"), 503, "the disk of the service is full"),
    ],
)
def test_so_have_answers_of_a_service_that_fails(tmp_path, monkeypatch, caplog, error, status, words):
    def fail(form, data):
        raise error

    monkeypatch.setattr("fullyconv.serve.received.Form.feed", fail)
    with client(tmp_path, {"m": None}) as service:
        answer = service.post("/predict", files={"image": png(make_pixels())})
        assert (answer.status_code, answer.json()) == (status, {"error": words})
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
        assert f'route="/predict",status="{status}"' in service.get("/metrics").text
    assert ("a request failed" in caplog.text) == (status == 500)
    assert list(tmp_path.iterdir()) == []


def basic(password):
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (TOKEN, 401),
        (basic(TOKEN), 200),
        (basic("wrong"), 401),
        ("Basic %%%", 401),
        (basic(""), 401),
    ],
)
def test_who_does_not_know_the_token_gets_nothing(closed, authorization, status):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    answer = httpx.get(f"{closed}/v2/models/m", headers=headers)
    assert answer.status_code == status
    assert (answer.headers.get("www-authenticate") == 'Basic realm="fullyconv"') is (status == 401)


def test_probes_need_no_token(closed):
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert httpx.get(closed + path).status_code == 200


def test_answers_are_counted_by_route_and_not_by_what_was_asked(address):
    httpx.get(f"{address}/made-up-7")
    httpx.get(f"{address}/v2/models/made-up-8")
    text = httpx.get(f"{address}/metrics").text
    assert "made-up" not in text
    assert 'fullyconv_requests_total{route="/v2/models/{name}",status="404"}' in text
