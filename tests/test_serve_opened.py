"""Images that are open on the page: tiles, areas, downloads, and how they go."""

import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.responses import StreamingResponse
from opened_images import Halting, client, noise, opened, settled, tile
from PIL import Image
from service import TABLE, make_predictor, png

from fullyconv.errors import UsageError
from fullyconv.image_files import find_images
from fullyconv.image_form import RGB, ImageForm
from fullyconv.predict_files import predict_files
from fullyconv.serve.opened import OpenedImage, _decode
from fullyconv.serve.opened_route import disposition
from fullyconv.serve.pyramid import Pyramid, level_sizes
from fullyconv.serve.work import BusyError
from fullyconv.tiles import Box
from fullyconv.vectors import geojson


@pytest.fixture(scope="module")
def predictor():
    return make_predictor()


@pytest.fixture
def service(predictor, tmp_path):
    with client(tmp_path, {"a": predictor}) as service:
        yield service


def left(folder):
    """Names of what lies in a folder, when what is being removed is gone."""
    for _ in range(200):
        if not list(folder.iterdir()):
            return []
        time.sleep(0.02)
    return [path.name for path in folder.rglob("*")]


def test_an_image_is_opened_predicted_and_given_out_as_tiles(service, predictor, tmp_path):
    pixels = noise(90, 120)
    state = opened(service, pixels, "leaves.png")
    assert len(state["id"]) == 32
    assert (state["name"], state["model"], state["height"], state["width"]) == ("leaves.png", "a", 90, 120)
    state = settled(service, state)
    mask, confidence = predictor.predict_with_confidence(pixels)
    assert len(np.unique(mask)) > 1
    assert np.array_equal(tile(service, state, "image"), pixels)
    assert np.array_equal(tile(service, state, "mask"), mask)
    assert np.array_equal(tile(service, state, "confidence"), np.rint(confidence * 255))
    assert [entry["pixels"] for entry in state["classes"]] == np.bincount(mask.ravel(), minlength=3).tolist()
    assert sum(entry["share"] for entry in state["classes"]) == pytest.approx(1)
    assert (state["share"], state["rows"], state["error"]) == (1, 90, None)
    # Only what was made of the file is kept, and never the file.
    assert {path.name for path in (tmp_path / state["id"]).iterdir()} == {"image", "mask", "confidence"}
    assert [path.name for path in tmp_path.iterdir()] == [state["id"]]


def test_a_large_image_has_levels_and_the_same_mask(service, predictor):
    pixels = noise(1003, 1201)
    state = settled(service, opened(service, pixels))
    mask = predictor.predict(pixels)
    assert (state["levels"], state["tile"]) == (3, 512)
    for level in range(3):
        smaller = mask[:: 2**level, :: 2**level]
        for row in range(-(-smaller.shape[0] // 512)):
            for column in range(-(-smaller.shape[1] // 512)):
                part = smaller[row * 512 : (row + 1) * 512, column * 512 : (column + 1) * 512]
                assert np.array_equal(tile(service, state, "mask", level, column, row), part)
    half = np.asarray(Image.fromarray(pixels).reduce(2))[:512, :512].astype(int)
    assert np.abs(tile(service, state, "image", 1) - half).mean() < 3  # JPEG
    assert np.array_equal(tile(service, state, "image", 0, 2, 1), pixels[512:1024, 1024:])


def test_downloads_are_what_the_command_line_writes(service, predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    pixels = noise(70, 95)
    (folder / "leaf.png").write_bytes(png(pixels))
    predict_files(predictor, find_images([folder / "leaf.png"]), folder / "out")
    state = settled(service, opened(service, pixels, "leaf.png"))
    for kind, name in {"mask": "leaf.png", "overlay": "leaf_overlay.png"}.items():
        answer = service.get(f"/images/{state['id']}/download/{kind}")
        assert answer.content == (folder / "out" / name).read_bytes()
        assert f'attachment; filename="{name}"' in answer.headers["content-disposition"]
    answer = service.get(f"/images/{state['id']}/download/geojson")
    assert answer.json() == json.loads(json.dumps(geojson(predictor.predict(pixels), TABLE)))
    assert service.get(f"/images/{state['id']}/download/pickle").status_code == 404


def test_a_download_that_nobody_takes_is_gone(predictor, tmp_path, monkeypatch):
    async def hung_up(answer, send):
        raise OSError

    with client(tmp_path, {"a": predictor}) as service:
        state = settled(service, opened(service, noise(64, 80)))
        monkeypatch.setattr(StreamingResponse, "stream_response", hung_up)
        assert service.get(f"/images/{state['id']}/download/mask").status_code == 500
        assert {path.name for path in (tmp_path / state["id"]).iterdir()} == {"image", "mask", "confidence"}


def test_of_a_large_image_the_overlay_is_small_and_outlines_have_a_limit(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("fullyconv.serve.opened_route.LARGE", 1000)
    monkeypatch.setattr("fullyconv.sources.reduced.LONGEST", 40)
    with client(tmp_path, {"a": predictor}, pixels=1000) as service:
        state = settled(service, opened(service, noise(200, 220)))
        (tmp_path / "overlay").write_bytes(service.get(f"/images/{state['id']}/download/overlay").content)
        with Image.open(tmp_path / "overlay") as overlay:
            assert overlay.height < 120
        answer = service.get(f"/images/{state['id']}/download/geojson")
        assert (answer.status_code, answer.json()["error"][:28]) == (413, "outlines are drawn of at mos")


def test_a_download_that_cannot_be_written_is_said_without_its_place(service, tmp_path, monkeypatch):
    def full(path, *others):
        raise UsageError(f"{path}: cannot write the image: no space left")

    state = settled(service, opened(service, noise(64, 80)))
    monkeypatch.setattr("fullyconv.serve.opened_route.write_mask", full)
    answer = service.get(f"/images/{state['id']}/download/mask")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert str(tmp_path) not in answer.text
    assert {path.name for path in (tmp_path / state["id"]).iterdir()} == {"image", "mask", "confidence"}


def test_a_mask_fills_in_from_the_top(tmp_path):
    go = threading.Semaphore(0)
    with client(tmp_path, {"a": Halting(go)}) as service:
        state = opened(service, noise(1100, 1000))
        assert np.all(tile(service, state, "mask") == 255)
        assert service.get(f"/images/{state['id']}/download/mask").status_code == 409
        go.release()
        state = settled(service, state, lambda state: state["rows"] == 512)
        assert not state["done"]
        assert state["share"] == pytest.approx(512 / 1100)
        assert np.all(tile(service, state, "mask") == 0)
        assert np.all(tile(service, state, "mask", 0, 0, 1) == 255)
        half = tile(service, state, "mask", 1)
        assert np.all(half[:256] == 0)
        assert np.all(half[256:] == 255)
        assert np.all(tile(service, state, "confidence", 1)[256:] == 0)
        # A small one need not wait for the rest of a large one, only for the part that is computed.
        small = opened(service, noise(40, 40))
        go.release()
        settled(service, small)
        assert settled(service, state, lambda state: state["rows"] == 1024)["revision"] == 2
        go.release()
        settled(service, state)


def test_a_closed_image_is_computed_no_further(tmp_path, caplog):
    go, halting = threading.Semaphore(0), None
    halting = Halting(go)
    with client(tmp_path, {"a": halting}) as service:
        state = opened(service, noise(2100, 600))
        go.release()
        settled(service, state, lambda state: state["rows"] == 512)
        assert service.delete(f"/images/{state['id']}").status_code == 204
        assert service.get(f"/images/{state['id']}").status_code == 404
        go.release(10)
        assert left(tmp_path) == []
        settled(service, opened(service, noise(40, 40)))  # the thread is free again
        assert len(halting.seen) <= 3
        assert service.delete(f"/images/{state['id']}").status_code == 404
    assert not caplog.records


def test_an_image_that_is_dropped_while_its_files_are_made_leaves_none(tmp_path):
    (tmp_path / "image.png").write_bytes(png(noise(20, 30)))
    image = OpenedImage("k", "image.png", "a", TABLE, (20, 30), tmp_path / "k", 0, 0.0, dropped=True)
    _decode(image, tmp_path / "image.png", RGB)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_an_image_that_has_to_make_room_while_it_is_read_is_busy(predictor, tmp_path, monkeypatch):
    copied = OpenedImage._copy

    def dropped(image, path, form):
        image.dropped = True
        copied(image, path, form)

    monkeypatch.setattr(OpenedImage, "_copy", dropped)
    with client(tmp_path, {"a": predictor}) as service:
        answer = service.post("/images", files={"image": png(noise(20, 30))})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "had to make room for later ones" in answer.json()["error"]


def test_many_small_images_do_not_stand_before_those_of_others(predictor, tmp_path):
    class Slow(Halting):
        def predict_with_confidence(self, pixels):
            self.go.acquire(timeout=20)
            return super().predict_with_confidence(pixels)

        def predict_batch(self, images):
            self.seen.append("batch")
            return predictor.predict_batch(images)

    slow = Slow(threading.Semaphore(0))
    with client(tmp_path, {"a": slow}) as service:
        states = [opened(service, noise(16, 16)) for _ in range(4)]
        with ThreadPoolExecutor(1) as thread:
            answer = thread.submit(service.post, "/predict", files={"image": png(noise(24, 24))})
            while service.get("/metrics").text.count("fullyconv_waiting_requests 1.0") == 0:
                time.sleep(0.01)
            time.sleep(0.1)  # it waits for the models
            slow.go.release(4)
            assert answer.result().status_code == 200
        for state in states:
            settled(service, state)
    assert [isinstance(one, str) for one in slow.seen].index(True) <= 2


def test_a_failed_prediction_is_said(tmp_path, caplog):
    class Failing(Halting):
        def predict_with_confidence(self, pixels):
            raise RuntimeError(f"secret of {tmp_path}")

    with client(tmp_path, {"a": Failing(None)}) as service:
        state = settled(service, opened(service, noise(40, 40)))
        assert state["error"] == "the service failed; its log says how"
        assert "secret" in caplog.text
        answer = service.get(f"/images/{state['id']}/download/mask")
        assert (answer.status_code, answer.json()) == (409, {"error": state["error"]})


def test_the_image_that_was_not_asked_for_longest_makes_room(predictor, tmp_path):
    with client(tmp_path, {"a": predictor}, stored_bytes=2 * 5 * 64 * 64) as service:
        first, second = (settled(service, opened(service, noise(64, 64, seed))) for seed in range(2))
        service.get(f"/images/{first['id']}")
        third = opened(service, noise(64, 64))
        answers = {name["id"]: service.get(f"/images/{name['id']}").status_code for name in (first, second, third)}
        assert list(answers.values()) == [200, 404, 200]
        answer = service.post("/images", files={"image": png(noise(128, 128))})
        assert (answer.status_code, "takes at most" in answer.json()["error"]) == (413, True)


def test_however_small_not_more_than_so_many_are_open(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("fullyconv.serve.opened.MOST_OPEN", 2)
    with client(tmp_path, {"a": predictor}) as service:
        states = [opened(service, noise(16, 16)) for _ in range(3)]
        assert [service.get(f"/images/{state['id']}").status_code for state in states] == [404, 200, 200]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux says which files are open")
def test_open_images_are_no_open_files(predictor, tmp_path):
    with client(tmp_path, {"a": predictor}) as service:
        settled(service, opened(service, noise(16, 16)))
        before = len(list(Path("/proc/self/fd").iterdir()))
        states = [settled(service, opened(service, noise(16, 16))) for _ in range(8)]
        assert all(tile(service, state, "mask").shape == (16, 16) for state in states)
        assert len(list(Path("/proc/self/fd").iterdir())) < before + 4


def test_an_image_that_nobody_asks_for_goes(predictor, tmp_path):
    with client(tmp_path, {"a": predictor}, stored_seconds=0.4) as service:
        state = opened(service, noise(32, 32))
        assert left(tmp_path) == []
        assert service.get(f"/images/{state['id']}").status_code == 404


def test_nothing_is_left_when_the_service_ends(predictor, tmp_path):
    with client(tmp_path, {"a": Halting(threading.Semaphore(1), patience=0.3)}) as service:
        opened(service, noise(1100, 1000))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"no image at all", 400, "expected an image"),
        (png(noise(300, 300))[:1000], 400, "damaged"),
        (png(noise(600, 600)), 413, "expected at most 250000 pixels, got 600 x 600"),
    ],
    ids=["text", "cut", "large"],
)
def test_what_cannot_be_opened_is_said_in_a_line_and_leaves_nothing(predictor, tmp_path, body, status, words):
    with client(tmp_path, {"a": predictor}, opened_pixels=250_000) as service:
        answer = service.post("/images", files={"image": ("x.png", body)})
        assert answer.status_code == status
        assert words in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
        assert str(tmp_path) not in answer.text
        assert left(tmp_path) == []


def test_images_cannot_be_listed_or_guessed(service):
    state = opened(service, noise(20, 20))
    assert service.get("/images").status_code in (404, 405)
    assert service.get(f"/images/{state['id'][:-1]}").status_code == 404
    for path in (
        "mask/9/0_0",
        "mask/0/1_0",
        "mask/0/0",
        "mask/-1/0_0",
        "mask/9999999999/0_0",
        "image/0/999999_0",
        "secret/0/0_0",
        "mask/x/0_0",
    ):
        assert service.get(f"/images/{state['id']}/{path}").status_code in (400, 404), path
    answer = service.post("/images", files={"image": png(noise(20, 20))}, data={"model": "b"})
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no model 'b' (there are a)")


def test_a_full_disk_is_no_crash(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(BusyError, match="there is no room for the image: No space left on device"):
        Pyramid(tmp_path / "image", (10, 10))
    assert not list(tmp_path.iterdir())


def test_a_model_reads_its_own_form_while_the_page_shows_bytes(tmp_path):
    halting = Halting(None, ImageForm.of(1, (0, 1000)))
    with client(tmp_path, {"a": halting}) as service:
        state = settled(service, opened(service, np.full((20, 30), 600, np.uint16)))
        assert np.array_equal(halting.seen[0], np.full((20, 30, 1), 153, np.float32))
        assert np.array_equal(tile(service, state, "image"), np.full((20, 30, 3), 153, np.uint8))
        assert not (tmp_path / state["id"] / "values").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo 1.jpg", 'filename="photo_1.png"; '),
        ('../../etc/pass"wd\r\nx: y.png', 'filename="pass_wd_x_y.png"; '),
        ("..", 'filename="image.png"; '),
        ("C:\\scans\\Größe.tif", "filename=\"Gr_e.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.png"),
    ],
)
def test_downloads_have_tame_names(name, expected):
    header = disposition(name, ".png")
    assert expected in header
    assert header.isascii()
    assert header.isprintable()


def test_a_mask_in_parts_has_the_levels_of_the_whole(tmp_path):
    mask = np.random.default_rng(0).integers(0, 255, (1301, 1100), dtype=np.uint8)
    pyramid = Pyramid(tmp_path / "mask", mask.shape)
    for top, bottom in itertools.pairwise((0, 3, 4, 517, 1300, 1301)):
        for left, right in itertools.pairwise((0, 601, 1100)):
            box = Box(top, left, bottom, right)
            pyramid.write_all(box, mask[box.slices])
    assert len(pyramid.sizes) == 3
    for level in range(3):
        assert np.array_equal(pyramid.level(level), mask[:: 2**level, :: 2**level])


def test_halves_end_with_one_tile():
    assert level_sizes((512, 512)) == [(512, 512)]
    assert level_sizes((1, 1100)) == [(1, 1100), (1, 550), (1, 275)]
