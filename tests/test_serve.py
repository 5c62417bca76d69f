"""fullyconv serve: what it is given, where it listens, how it ends."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from command_line import answer
from service import make_pixels, make_predictor, png

from fullyconv.errors import UsageError
from fullyconv.model_file import save_model
from fullyconv.serve import create_app, http_server, limits, measures, serve


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_model(make_predictor().model, path)
    return path


@pytest.fixture
def not_served(monkeypatch):
    """What would be served, instead of serving it."""
    found = {}
    monkeypatch.setattr("fullyconv.serve.serve", lambda models, **options: found.update(options, models=models))
    return found


def test_models_are_called_as_said_else_by_their_run(model, not_served, monkeypatch):
    done = answer(monkeypatch, "serve", f"cells={model}", model, "--queue", 7, "--max-body", "1MB", "--port", 0)
    assert done.returncode == 0, done.stderr
    assert list(not_served["models"]) == ["cells", model.parent.name]
    assert (not_served["limits"].waiting, not_served["limits"].body_bytes) == (7, 1_000_000)
    assert not_served["host"] == "127.0.0.1"


def test_an_engine_has_to_be_named(model, not_served, monkeypatch):
    done = answer(monkeypatch, "serve", model, "--engine", "auto")
    assert done.returncode == 2
    assert "--engine auto compares on an image" in done.stderr


def test_two_models_of_one_name_are_refused(model, not_served, monkeypatch):
    done = answer(monkeypatch, "serve", model, model)
    assert done.returncode == 2
    assert f"would both be called {model.parent.name}" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "seg.example"])
def test_other_machines_need_a_token(host):
    with pytest.raises(Exception, match="can be reached from other machines, so a token is needed"):
        serve({}, host=host)


def test_the_token_comes_from_a_file_or_the_environment(model, not_served, monkeypatch, tmp_path):
    monkeypatch.setenv("FULLYCONV_TOKEN", "one")
    answer(monkeypatch, "serve", model)
    assert not_served["token"] == "one"
    (tmp_path / "token").write_text("two\n")
    answer(monkeypatch, "serve", model, "--token-file", tmp_path / "token")
    assert not_served["token"] == "two"
    (tmp_path / "empty").write_text("\n")
    done = answer(monkeypatch, "serve", model, "--token-file", tmp_path / "empty")
    assert done.returncode == 2
    assert "expected a token, the file is empty" in done.stderr


def test_the_extra_is_named_where_it_is_missing(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("fullyconv.serve")]:
        monkeypatch.delitem(sys.modules, name)
    done = answer(monkeypatch, "serve", model)
    assert done.returncode == 2
    assert 'pip install "fullyconv[serve]"' in done.stderr


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"127\.0\.0\.1, port {port}, cannot be listened on: Address already"
        ):
            serve({}, port=port)


def test_limits_are_told_apart_from_none():
    found = limits.Limits()
    assert found.field_bytes < found.body_bytes
    assert found.pixels < found.opened_pixels


def test_measures_are_those_of_one_service():
    one, other = measures.Measures(), measures.Measures()
    one.pixels.inc(7)
    assert b"fullyconv_pixels_total 7.0" in one.shown()
    assert b"fullyconv_pixels_total 0.0" in other.shown()


def test_while_it_ends_it_answers_what_was_asked_and_sends_others_away(tmp_path):
    predictor = make_predictor()
    predict, go = predictor.predict_batch, threading.Event()
    predictor.predict_batch = lambda images: go.wait(20) and predict(images)
    app = create_app({"m": predictor}, tmp_path)
    server, listener = http_server(app, limits.Limits()), socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with ThreadPoolExecutor() as threads:
        running = threads.submit(server.run, [listener])
        files = {"image": png(make_pixels())}
        asked = threads.submit(httpx.post, f"{url}/predict", files=files, timeout=20)
        while not app.state.work or app.state.work.is_idle:
            time.sleep(0.01)
        server.should_exit = True
        while httpx.get(f"{url}/v2/health/ready").status_code == 200:
            time.sleep(0.01)
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
        sent_away = httpx.post(f"{url}/predict", files=files)
        assert (sent_away.status_code, sent_away.headers["retry-after"]) == (503, "1")
        go.set()
        assert asked.result().status_code == 200
        running.result(20)
    listener.close()


@contextlib.contextmanager
def ending(process):
    """Kill a process that is still there after the block."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_told_to_end(model, tmp_path, number, code):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fullyconv", "serve", f"m={model}", "--port", "0"]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process,
        ending(process),
    ):
        address = re.search(r"http://[\d.:]+/", process.stderr.readline())[0]
        found = httpx.post(f"{address}predict", files={"image": png(make_pixels())}, timeout=60)
        assert found.status_code == 200
        assert len(list(tmp_path.glob("fullyconv-*"))) == 1
        process.send_signal(number)
        assert process.wait(30) == code
    assert list(tmp_path.glob("fullyconv-*")) == []  # nothing is left
