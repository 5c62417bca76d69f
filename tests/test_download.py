"""Downloads from a server on this machine: whole or not at all, and not a byte twice."""

import contextlib
import hashlib
import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from weights_server import Fault, serving

from fullyconv import download as module
from fullyconv import locks
from fullyconv.download import digest_of, download
from fullyconv.errors import DownloadError
from fullyconv.progress import Console, Silent

CONTENT = random.Random(0).randbytes(3_300_000)
HALF = 1_500_000
HINT = "copy the file"


class Lines(Silent):
    """Keeps what is said, and of each tracker its label, its total and how many steps it took."""

    def __init__(self):
        self.lines, self.tracked = [], []

    def say(self, line):
        self.lines.append(line)

    @contextlib.contextmanager
    def track(self, label, total):
        tracker = [label, total, 0]
        self.tracked.append(tracker)

        def step():
            tracker[2] += 1

        yield step


@pytest.fixture(autouse=True)
def short_waits_and_no_proxy(monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def path(server, tmp_path):
    return tmp_path / "hub" / "checkpoints" / server.name


def fetch(server, path, *, progress=None, timeout=10.0, url=None, start=None):
    download(
        url or f"{server.url}/{server.name}",
        path,
        hashlib.sha256(server.content).hexdigest()[:8] if start is None else start,
        hint=HINT,
        progress=progress or Silent(),
        timeout=timeout,
    )


def refusal(server, path, **changes):
    """The one line of a download that fails, its address cut out."""
    with pytest.raises(DownloadError) as caught:
        fetch(server, path, **changes)
    assert not path.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{server.url}/{server.name}", "URL")


def nothing_else_is_beside(path):
    return [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_comes_whole_into_a_folder_that_is_made(server, path):
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert nothing_else_is_beside(path)
    assert [request[0] for request in server.requests] == [f"/{server.name}"]
    assert server.ranges == [None]


def test_what_is_said_names_address_size_and_folder(server, path):
    progress = Lines()
    fetch(server, path, progress=progress)
    assert progress.lines == [f"downloading {server.url}/{server.name} (3.3 MB) to {path.parent}"]
    assert progress.tracked == [[f"downloading {server.name}, MB", 4, 4]]


@pytest.mark.parametrize(("size", "steps"), [(1, 1), (10**6, 1), (10**6 + 1, 2)])
def test_each_begun_megabyte_is_a_step(size, steps, tmp_path):
    progress = Lines()
    with serving(CONTENT[:size]) as server:
        fetch(server, tmp_path / server.name, progress=progress)
    assert progress.tracked == [[f"downloading {server.name}, MB", steps, steps]]


def test_bytes_that_come_together_are_as_many_steps(server, path, monkeypatch):
    monkeypatch.setattr(module, "MEGABYTE", 100)
    progress = Lines()
    fetch(server, path, progress=progress)
    assert progress.tracked == [[f"downloading {server.name}, MB", 33_000, 33_000]]


def test_on_a_terminal_there_is_a_bar(server, path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    fetch(server, path, progress=Console())
    assert "4/4" in capsys.readouterr().err


def test_a_file_that_is_there_is_neither_asked_for_nor_touched(server, path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    fetch(server, path)
    assert path.read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_after_a_broken_connection_only_the_missing_bytes_are_asked_for(ending, server, path):
    server.faults = [Fault(keep=HALF, ending="close"), Fault(keep=1000, ending=ending)]
    progress = Lines()
    fetch(server, path, progress=progress)
    assert path.read_bytes() == CONTENT
    first, second, third = server.ranges
    assert (first, second) == (None, f"bytes={HALF}-")
    # A reset may destroy bytes on their way.
    assert HALF <= int(third.removeprefix("bytes=").removesuffix("-")) <= HALF + 1000
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"1"', '"1"']
    if ending == "close":
        assert third == f"bytes={HALF + 1000}-"
        assert server.sent == len(CONTENT)
    assert progress.lines[1] == (
        f"{server.name}: the connection ended after {HALF} of {len(CONTENT)} bytes; trying again in 0 s"
    )
    assert progress.lines[2].startswith(f"downloading {server.url}/{server.name} (3.3 MB, the last 1.8 MB)")
    assert [tracker[1:] for tracker in progress.tracked][:2] == [[4, 2], [2, 1]]
    assert nothing_else_is_beside(path)


def test_after_four_broken_connections_it_gives_up_and_the_next_call_goes_on(server, path):
    server.faults = [Fault(keep=1000)] * 4
    assert refusal(server, path) == (
        f"cannot download URL: the connection ended after 4000 of {len(CONTENT)} bytes; 0.0 MB are kept for the "
        "next try (copy the file)"
    )
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"]
    assert server.sent == len(CONTENT)


PROGRAM = """
import sys
from pathlib import Path
from fullyconv.download import digest_of, download
from fullyconv.progress import Console
url, path, start = sys.argv[1:]
download(url, Path(path), start, hint="", progress=Console())
"""


def process(server, path, before=""):
    start = server.name[-12:-4]
    command = [sys.executable, "-c", before + PROGRAM, f"{server.url}/{server.name}", str(path), start]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_after_a_killed_process_only_the_missing_bytes_are_asked_for(server, path):
    server.faults = [Fault(keep=HALF, ending="silence")]
    part = path.with_name(f".{path.name}.part")
    with process(server, path) as killed:
        until(lambda: part.exists() and part.stat().st_size > HALF - 10_000)
        killed.kill()
    assert not path.exists()
    kept = part.stat().st_size
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]
    assert nothing_else_is_beside(path)


def test_two_processes_download_once(server, path):
    server.faults = [Fault(held=True)]
    with process(server, path) as first:
        until(lambda: server.requests)
        with process(server, path) as second:
            assert second.stderr.readline() == f"waiting for another process that downloads {server.name}\n"
            server.released.set()
            assert second.communicate()[1] == ""
        assert first.communicate()[1].startswith("downloading ")
    assert first.returncode == second.returncode == 0
    assert server.ranges == [None]
    assert path.read_bytes() == CONTENT
    assert nothing_else_is_beside(path)


def test_where_one_of_two_is_killed_the_other_goes_on(server, path):
    server.faults = [Fault(keep=HALF, ending="silence")]
    part = path.with_name(f".{path.name}.part")
    with process(server, path) as killed:
        until(lambda: part.exists() and part.stat().st_size > HALF - 10_000)
        with process(server, path) as other:
            assert other.stderr.readline().startswith("waiting")
            killed.kill()
            assert "the last 1.8 MB" in other.communicate()[1]
    assert other.returncode == 0
    first, second = server.ranges
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > HALF - 10_000
    assert path.read_bytes() == CONTENT


def test_many_at_once_leave_one_whole_file(server, path):
    server.faults = [Fault(keep=10_000), Fault(keep=20_000)]
    threads = [threading.Thread(target=fetch, args=(server, path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT
    assert server.sent == len(CONTENT)
    assert nothing_else_is_beside(path)


def interrupted(server, path, keep=HALF, **headers):
    """Leave a partial file: what a process leaves that was stopped there."""
    server.faults = [Fault(keep=keep, headers=headers)]
    before, module.WAITS = module.WAITS, ()
    try:
        refusal(server, path)
    finally:
        module.WAITS = before


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, path):
    interrupted(server, path)
    server.faults = [Fault(status=200)]
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


def test_a_file_that_has_changed_on_the_server_is_read_from_the_start(server, path):
    interrupted(server, path)
    server.content, server.etag = CONTENT[::-1], '"2"'
    path = path.with_name(server.name)
    for ending in ("part", "mark"):
        old = next(entry for entry in path.parent.iterdir() if entry.suffix == f".{ending}")
        old.rename(path.with_name(f".{server.name}.{ending}"))
    fetch(server, path)
    assert path.read_bytes() == server.content
    assert server.requests[1][1]["If-Range"] == '"1"'
    assert server.sent == HALF + len(CONTENT)


@pytest.mark.parametrize(
    ("headers", "mark"),
    [
        ({"ETag": 'W/"1"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, "Tue, 24 Nov 2026 10:00:00 GMT"),
        ({"ETag": None, "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, "Tue, 24 Nov 2026 10:00:00 GMT"),
        ({"ETag": '"1"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}, '"1"'),
    ],
)
def test_a_version_is_known_by_its_strong_etag_else_by_its_date(headers, mark, server, path):
    interrupted(server, path, **headers)
    fetch(server, path)
    assert server.requests[1][1]["If-Range"] == mark


def test_without_any_mark_of_the_version_nothing_is_resumed(server, path):
    interrupted(server, path, ETag=None)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, None]


@pytest.mark.parametrize("mark", ["", "x\r\nCookie: y", "\xff", "\x00"])
def test_a_damaged_mark_is_no_mark(mark, server, path):
    interrupted(server, path)
    path.with_name(f".{path.name}.mark").write_text(mark, encoding="latin-1")
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, None]


def test_a_partial_file_that_is_complete_is_not_asked_for_again(server, path):
    interrupted(server, path)
    path.with_name(f".{path.name}.part").write_bytes(CONTENT)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.sent == HALF


def test_a_partial_file_longer_than_the_file_is_given_up(server, path):
    interrupted(server, path)
    path.with_name(f".{path.name}.part").write_bytes(CONTENT + b"!")
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) + 1}-", None]


@pytest.mark.parametrize("part", ["bytes 7-9/3300000", "bytes */3300000", "", f"bytes {HALF}-9/*"])
def test_another_part_than_was_asked_for_is_given_up(part, server, path):
    interrupted(server, path)
    server.faults = [Fault(status=206, headers={"Content-Range": part})]
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-", None]


def test_a_part_that_nobody_asked_for_does_not_follow_on_old_bytes(server, path):
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.part").write_bytes(b"old")
    server.faults = [Fault(status=206, headers={"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"})]
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_file_with_another_digest_is_removed(server, path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert refusal(server, path, start="397923af") == (
        f"cannot download URL: the SHA-256 has to start with 397923af, it starts with {digest[:8]}; what came was "
        "removed (copy the file)"
    )
    assert list(path.parent.iterdir()) == []
    assert len(server.requests) == 1


def test_a_damaged_partial_file_is_found_by_the_digest_and_removed(server, path):
    interrupted(server, path)
    path.with_name(f".{path.name}.part").write_bytes(bytes(HALF))
    assert "the SHA-256 has to start with" in refusal(server, path)
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_file_that_the_server_does_not_have_is_not_asked_for_again(server, path):
    server.faults = [Fault(status=404)]
    assert refusal(server, path) == "cannot download URL: the server answers 404 Not Found (copy the file)"
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", sorted(module.PASSING))
def test_problems_of_the_server_may_pass(status, server, path):
    server.faults = [Fault(status=status)] * 3
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 4


def test_problems_of_the_server_that_stay_are_named(server, path):
    server.faults = [Fault(status=500)] * 9
    assert refusal(server, path) == (
        "cannot download URL: the server answers 500 Internal Server Error (copy the file)"
    )
    assert len(server.requests) == 4


def test_waits_between_the_tries_grow(server, path, monkeypatch):
    waited = []
    monkeypatch.setattr(module, "WAITS", (1.0, 2.0, 4.0))
    monkeypatch.setattr(module.time, "sleep", waited.append)
    server.faults = [Fault(status=503)] * 4
    refusal(server, path)
    assert waited == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("length", [None, "", "-1", "1e3", "9" * 30])
def test_an_answer_without_a_length_is_refused(length, server, path):
    server.faults = [Fault(headers={"Content-Length": length})]
    assert "the server answers 200 OK, Content-Length" in refusal(server, path)


def test_an_answer_without_content_is_refused(server, path):
    server.faults = [Fault(status=204)]
    assert "the server answers 204 No Content" in refusal(server, path)


def test_files_of_absurd_length_are_refused_before_they_come(server, path):
    server.faults = [Fault(headers={"Content-Length": 2 * 10**9 + 1})]
    assert refusal(server, path) == "cannot download URL: it has 2000.0 MB, more than 2000.0 MB (copy the file)"
    assert not path.with_name(f".{path.name}.part").exists()


def test_a_body_longer_than_announced_is_cut_at_its_length(server, path):
    server.faults = [Fault(extra=b"and more")]
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_part_longer_than_announced_is_refused(server, path):
    interrupted(server, path)
    body = len(CONTENT) - HALF
    part = f"bytes {HALF}-{len(CONTENT) - 2}/{len(CONTENT) - 1}"
    server.faults = [Fault(headers={"Content-Range": part, "Content-Length": body})]
    assert refusal(server, path) == (
        f"cannot download URL: the server sends more than the {len(CONTENT) - 1} bytes that it announced "
        "(copy the file)"
    )
    assert [entry.name for entry in path.parent.iterdir()] == []


def test_a_full_disk_is_found_before_anything_is_written(server, path, monkeypatch):
    free = shutil.disk_usage(path.parents[2])._replace(free=2_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: free)
    assert refusal(server, path) == (
        f"{path.parent} has 2.0 MB free, the download needs 3.3 MB "
        "(make room, or let TORCH_HOME name a folder that can be written)"
    )
    assert path.with_name(f".{path.name}.part").stat().st_size == 0
    monkeypatch.undo()


def test_the_rest_of_a_file_needs_room_for_the_rest_only(server, path, monkeypatch):
    interrupted(server, path)
    free = shutil.disk_usage(path.parents[2])._replace(free=2_000_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: free)
    fetch(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("keep", [0, HALF])
def test_a_server_that_falls_silent_is_given_up_in_time(keep, server, path, monkeypatch):
    monkeypatch.setattr(module, "WAITS", (0.0,))
    server.faults = [Fault(keep=keep, ending="silence")] * 2
    assert "the connection broke: timed out" in refusal(server, path, timeout=0.3)
    assert len(server.requests) == 2
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_server_that_never_answers_is_given_up_in_time(server, path, monkeypatch):
    monkeypatch.setattr(module, "WAITS", ())
    server.faults = [Fault(held=True)]
    assert refusal(server, path, timeout=0.2) == (
        "cannot download URL: the connection broke: timed out (copy the file)"
    )


def test_where_no_server_is_it_is_asked_once(server, path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/{server.name}"
        progress = Lines()
        assert refusal(server, path, url=url, progress=progress) == (
            f"cannot download {url}: the server cannot be reached: Connection refused (copy the file)"
        )
    assert progress.lines == []


def test_a_name_that_nobody_knows_is_asked_for_once(server, path, monkeypatch):
    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert refusal(server, path, url="http://weights.invalid/net.pth") == (
        "cannot download http://weights.invalid/net.pth: the server cannot be reached: Name or service not known "
        "(copy the file)"
    )


def test_a_server_that_goes_away_in_the_middle_is_waited_for(server, path, monkeypatch):
    server.faults = [Fault(keep=HALF)]
    real, failures = urllib.request.urlopen, [None, ConnectionRefusedError(111, "Connection refused")]

    def flaky(*arguments, **options):
        if failures and (failure := failures.pop(0)):
            raise urllib.request.URLError(failure)
        return real(*arguments, **options)

    monkeypatch.setattr(module, "urlopen", flaky)
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:port/x", "http://127.0.0.1/a b", "http://.weights/x", "net.pth"]
)
def test_what_is_no_address_is_refused(url, server, path):
    assert refusal(server, path, url=url).startswith(f"cannot download {url}: ")


def test_an_answer_that_is_no_http_is_refused(server, path, monkeypatch):
    monkeypatch.setattr(http.client.HTTPResponse, "_read_status", lambda response: ("SSH-2.0", "x", "y"))
    monkeypatch.setattr(module, "WAITS", ())
    assert "cannot download URL: the connection broke: SSH-2.0" in refusal(server, path)


def test_nothing_leads_from_https_to_http(server, path, monkeypatch):
    real = urllib.request.urlopen
    secure = f"https://127.0.0.1/{server.name}"
    # As if the server at the https address had redirected here.
    monkeypatch.setattr(module, "urlopen", lambda request, timeout: real(f"{server.url}/{server.name}"))
    assert refusal(server, path, url=secure) == (
        f"cannot download {secure}: it leads to URL, which is not https (copy the file)"
    )


def test_the_request_goes_through_the_proxy_of_the_environment(server, path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.setattr(urllib.request, "_opener", None)  # It keeps the proxies that it was made with.
    monkeypatch.setenv("http_proxy", server.url)
    fetch(server, path, url=f"http://weights.invalid/{server.name}")
    assert path.read_bytes() == CONTENT
    assert server.requests[0][0] == f"http://weights.invalid/{server.name}"


def test_a_folder_that_cannot_be_made_is_named(server, path):
    path.parents[1].write_text("a file in the place of a folder")
    message = refusal(server, path)
    assert message.startswith(f"cannot write {path}: ")
    assert message.endswith("(make room, or let TORCH_HOME name a folder that can be written)")
    assert server.requests == []


def test_a_folder_that_cannot_be_written_is_named(server, path):
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        pytest.skip("root may write everywhere, and Windows has other permissions")
    try:
        assert refusal(server, path).startswith(f"cannot write {path}: Permission denied (make room, or let")
    finally:
        path.parent.chmod(0o700)
    assert server.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX")
def test_a_disk_that_takes_no_more_keeps_what_came(server, path):
    # A limit on the size of files is the full disk that a test can make.
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({HALF}, {HALF}))\n"
    with process(server, path, before=limited) as full:
        error = full.communicate()[1].splitlines()[-1]
    assert error == (
        f"fullyconv.errors.DownloadError: cannot write {path}: File too large "
        "(make room, or let TORCH_HOME name a folder that can be written)"
    )
    assert not path.exists()
    fetch(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={HALF}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps files that are open")
def test_a_lock_that_its_holder_has_removed_is_taken_anew(tmp_path, monkeypatch):
    lock, take, calls = tmp_path / ".lock", module.locked, []

    def take_late(descriptor):
        if not calls:
            lock.unlink()  # Between opening and locking it, another process was done.
        calls.append(descriptor)
        return take(descriptor)

    monkeypatch.setattr(module, "locked", take_late)
    with module._alone(lock, lambda: None):
        assert lock.exists()
    assert len(calls) == 2
    assert not lock.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX")
def test_where_a_file_system_has_no_locks_the_download_goes_on(server, path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    fetch(server, path)
    assert path.read_bytes() == CONTENT


def test_a_file_that_another_program_puts_there_meanwhile_is_left_alone(server, path, monkeypatch):
    check = module._Download._check

    def slow_check(self, start):
        check(self, start)
        path.write_bytes(b"of another program")

    monkeypatch.setattr(module._Download, "_check", slow_check)
    fetch(server, path)
    assert path.read_bytes() == b"of another program"
    assert nothing_else_is_beside(path)


def test_an_md5_does_where_nobody_states_another(server, path):
    promised = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    fetch(server, path, start=promised)
    assert digest_of(path, promised) == promised
    assert digest_of(path, "1234") == hashlib.sha256(CONTENT).hexdigest()[:4]
    path.unlink()
    wrong = f"md5:{hashlib.md5(b'another').hexdigest()}"
    assert refusal(server, path, start=wrong) == (
        f"cannot download URL: the MD5 has to start with {wrong[4:12]}, it starts with {promised[4:12]}; "
        "what came was removed (copy the file)"
    )


def test_what_may_be_larger_is_up_to_the_caller(server, path):
    with pytest.raises(DownloadError, match=r"it has 3.3 MB, more than 3.0 MB"):
        download(
            f"{server.url}/x", path, "", hint=HINT, progress=Silent(), largest=3_000_000, disk_hint="elsewhere"
        )
