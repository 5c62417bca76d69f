"""Forms and bodies: the one image of a request, and what else may come."""

import httpx
import pytest
from service import make_pixels, make_predictor, png, running

from fullyconv.serve.limits import Limits

IMAGE = png(make_pixels())
CRLF = b"\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def address(folder):
    limits = Limits(pixels=10_000, body_bytes=3_000_000)
    with running({"m": make_predictor()}, folder, limits=limits) as (host, port):
        yield f"http://{host}:{port}/predict"


def part(name, content, extra=b"", file="a.png"):
    named = f'; filename="{file}"' if file is not None else ""
    return (
        f'--B\r\nContent-Disposition: form-data; name="{name}"{named}\r\n'.encode() + extra + CRLF + content + CRLF
    )


END = b"--B--\r\n"

FORMS = {
    "an image": (part("image", IMAGE) + END, 200),
    "under any name": (part("x", IMAGE) + END, 200),
    "with data before": (b"prologue\r\n" + part("image", IMAGE) + END, 400),
    "with data behind": (part("image", IMAGE) + END + b"epilogue", 200),
    "a name of 9,000 signs": (part("image", IMAGE, file="a" * 9000) + END, 400),
    "a name with a path": (part("image", IMAGE, file="../../etc/passwd") + END, 200),
    "an empty file": (part("image", b"") + END, 400),
    "no file": (part("image", b"x", file=None) + END, 400),
    "two files": (part("image", IMAGE) + part("image", IMAGE) + END, 400),
    "1,001 fields": (b"".join(part(f"f{i}", b"x", file=None) for i in range(1001)) + part("i", IMAGE) + END, 400),
    "1,001 fields of a name": (part("f", b"x", file=None) * 1001 + part("i", IMAGE) + END, 400),
    "1,001 files": (part("image", b"x") * 1001 + END, 400),
    "a field of 2 MB": (part("field", b"x" * 2_000_000, file=None) + part("image", IMAGE) + END, 400),
    "line ends alone": (part("image", CRLF * 500_000) + END, 400),
    "no end": (part("image", IMAGE), 400),
    "no boundary": (IMAGE, 400),
    "a form in a form": (
        part("image", part("image", IMAGE) + END, b"Content-Type: multipart/mixed; boundary=B\r\n"),
        400,
    ),
    "nothing": (b"", 400),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(address, folder, name):
    body, status = FORMS[name]
    headers = {"content-type": "multipart/form-data; boundary=B"}
    answer = httpx.post(address, content=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert str(folder) not in answer.text
    assert list(folder.iterdir()) == []  # nothing is left


@pytest.mark.parametrize(
    "kind",
    ["multipart/form-data", "multipart/form-data; boundary=" + "B" * 257, "multipart/form-data; boundary=\xff"],
)
def test_a_boundary_has_to_be_one(address, kind):
    body = FORMS["an image"][0]
    answer = httpx.post(address, content=body, headers={"content-type": kind.encode("latin-1")})
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "image"])
def test_another_body_is_of_no_use(address, kind):
    answer = httpx.post(address, content=IMAGE, headers={"content-type": kind})
    assert answer.status_code == 415
    assert "expected multipart/form-data or an image as body" in answer.json()["error"]


def test_an_image_of_too_many_pixels_is_refused_by_its_head(address):
    answer = httpx.post(address, files={"image": png(make_pixels(101, 100))})
    assert answer.status_code == 413
    assert answer.json()["error"] == "expected at most 10000 pixels, got 101 x 100"


def test_what_is_no_image_is_said_without_its_place(address, folder):
    answer = httpx.post(address, files={"image": b"<svg onload=alert(1)>"})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the image: expected an image, got 21 bytes that are none")
    answer = httpx.post(address, files={"image": IMAGE[: len(IMAGE) // 2]})
    assert answer.status_code == 400
    assert str(folder) not in answer.text
