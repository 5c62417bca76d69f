"""F6 to F15: what the service must never do: open, run, fetch, tell or mix up what is not asked for."""

import contextlib
import io
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
from machinery import mounted, run
from PIL import Image, PngImagePlugin
from playwright.sync_api import Error, sync_playwright
from served import (
    HOST,
    SCRIPT,
    Served,
    form,
    get,
    good_requests,
    infer,
    inside,
    is_explained,
    pixels,
    png,
    post,
    serving,
    statuses,
    task,
)

from fullyconv.serve.protocol import HEADERS

MARK = "escape-me"
NAMES = [
    *(
        f"{up * 6}{MARK}.png"
        for up in ("../", "..\\", "..%2f", "..%5c", "%2e%2e/", "%252e%252e%252f", "..;/", "....//")
    ),
    *(
        f"{up}/{MARK}.png"
        for up in ("\N{ONE DOT LEADER}" * 2, "\N{FULLWIDTH FULL STOP}" * 2, "~", ".", "", "/", "C:")
    ),
    f"file:///{MARK}.png",
    f"{MARK}.png\0.jpg",
    f"{MARK}.png%00",
    f"/etc/{MARK}.png",
    f"link-{MARK}.png",
    f"folder/{MARK}.png",
    f"//host/{MARK}.png",
    f"CON.{MARK}.png",
    f"-{MARK}",
    f"{MARK}" + "a" * 5000 + ".png",
]


def _traced(log: Path, calls: str) -> tuple[str, ...]:
    return ("strace", "-f", "-qq", "--seccomp-bpf", "-s", "300", "-o", str(log), f"--trace={calls}")


def names_that_lead_out(folder: Path, tries: int) -> Iterator[bool]:
    """F6: names that lead out of folders, on every route and in every field: nothing of that name is opened."""
    secret, images = folder / f"{MARK}.png", folder / "studio"
    (images / "images").mkdir(parents=True)
    secret.write_bytes(png(pixels()))
    (images / f"link-{MARK}.png").symlink_to(secret)
    (images / "images" / "folder").symlink_to(folder)
    log = folder / "calls"
    with serving(
        folder, "--label-studio-images", images, before=_traced(log, "openat,open,creat,rename,unlink")
    ) as served:
        opened = httpx.post(f"{served.url}/images", files={"image": png(pixels())}, timeout=60).json()["id"]
        routes = ("/%s", "/static/%s", "/images/%s", "/images/%s/mask/0/0_0", f"/images/{opened}/%s/0/0_0")
        routes += (
            f"/images/{opened}/mask/0/%s",
            f"/images/{opened}/download/%s",
            "/v2/models/%s",
            "/page/examples/%s",
        )
        for name in NAMES[:tries]:
            path = quote(name, safe="/%\\;:~")
            requests = [get(route % path) for route in routes]
            requests += [
                get(f"/images/{path}", "DELETE"),
                post(f"/v2/models/{path}/infer", b"{}", "application/json"),
            ]
            requests += [
                form("/predict?model=" + path, png(pixels())),
                form("/predict", b"x", model=name, format=name),
            ]
            requests += [task(name), task(f"/data/local-files/?d={path}"), task(f"s3://a/{path}")]
            requests += [
                form("/predict", b"x", quote(name)),
                form("/images", b"x", quote(name)),
                infer([b"x"], id=name),
            ]
            for request in requests:
                said = served.says(request)
                if statuses(said) not in ([400], [404], [405]):
                    print(f"  F6: {request[:100]!r}: {said[:40]!r}")
                yield statuses(said) in ([400], [404], [405])
        yield served.is_well()
    calls = log.read_text(errors="replace").splitlines()
    yield len(calls) > 100
    tried = [line for line in calls if MARK in line]
    print(f"  F6: {len(tried)} such names were tried, opened {sum(' = -1' not in a for a in tried)}")
    yield all(" = -1" in line for line in tried)


def _polyglots() -> list[tuple[str, bytes]]:
    """Files that are an image and a page, or a page that is called an image."""
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", SCRIPT)
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, "PNG", pnginfo=words)
    both = buffer.getvalue() + SCRIPT.encode()
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=\'pwned\'">{SCRIPT}</svg>'.encode()
    names = (
        "a.html",
        "a.svg",
        f"{SCRIPT}.html",
        '"><img src=x onerror=document.title="pwned">.png',
        "a.png\r\nX-Y: z",
    )
    return [(name, content) for name in names for content in (both, svg, b"<html>" + SCRIPT.encode())]


def pages_in_images(folder: Path, tries: int) -> Iterator[bool]:
    """F7: pages in images and names: never given back, strict headers on every answer, no script runs."""
    answers: list[bytes] = []
    with serving(folder) as served:
        seen = ["/", "/docs", f"/{quote(SCRIPT)}", f"/v2/models/{quote(SCRIPT)}", "/v2/models/a", "/openapi.json"]
        for name, content in _polyglots()[:tries]:
            safe = name.replace("\r\n", "%0D%0A").replace('"', "%22")
            answers += [served.says(form(path, content, safe)) for path in ("/predict?format=json", "/images")]
            answers += [
                served.says(form("/predict", content, format=SCRIPT)),
                served.says(infer([content], id=SCRIPT)),
            ]
            if found := re.search(rb'"id":"([0-9a-f]{32})"', answers[-3]):
                image = f"/images/{found[1].decode()}"
                seen += [f"{image}{rest}" for rest in ("", "/image/0/0_0", "/download/overlay", "/download/mask")]
                time.sleep(0.5)
        answers += [served.says(get(path)) for path in seen]
        answers += [served.says(request) for request in good_requests()]
        answers += [
            served.says(data, 15) for data in (b"\0\r\n\r\n", b"GET / HT", get("/", extra=b""), get("/", "TRACE"))
        ]
        strict = [
            f"\r\n{name}: {value}\r\n".encode() for name, value in HEADERS.items() if name != "cache-control"
        ]
        for said in answers:
            head, _, body = said.partition(b"\r\n\r\n")
            kind = re.search(rb"content-type: ([^\r;]+)", head)
            page = kind is not None and kind[1] not in (
                b"application/json",
                b"image/png",
                b"image/jpeg",
                b"text/plain",
            )
            mixed = SCRIPT.encode() in body and (kind is None or kind[1] != b"application/json")
            own = kind is not None and kind[1] in (b"text/html", b"text/javascript", b"application/octet-stream")
            good = (
                all(line in head + b"\r\n" for line in strict)
                and not mixed
                and (own or not page)
                and b"\r\nX-Y" not in head
            )
            if not good:
                print(f"  F7: {head[:300]!r}")
            yield good
        print(f"  F7: strict headers on {len(answers)} answers; looked at in a browser: {len(seen)}")
        yield from _looked_at(served, seen)


def _looked_at(served: Served, paths: list[str]) -> Iterator[bool]:
    """Open addresses in a browser; whether no script of ours ran."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        for path in paths:
            with contextlib.suppress(Error):  # a download
                page.goto(served.url + path, timeout=20_000)
                page.wait_for_timeout(50)
            yield page.title() != "pwned"
        browser.close()


ADDRESSES = [
    "http://127.0.0.1:9/a.png",
    "http://192.0.2.1/a.png",
    "https://evil.example/a.png",
    "ftp://192.0.2.1/a.png",
]
ADDRESSES += [
    "file:///etc/hostname.png",
    "\\\\192.0.2.1\\a.png",
    "s3://evil/a.png",
    "data:text/html,http://evil.example/",
]


def addresses(folder: Path, tries: int) -> Iterator[bool]:
    """F8: addresses in every field and header: no connection is made, as the system's calls show."""
    log = folder / "calls"
    with serving(folder, before=_traced(log, "connect,sendto,sendmmsg")) as served:
        start = len(log.read_text(errors="replace").splitlines())
        for address in ADDRESSES[:tries]:
            extra = b"".join(
                b"%s: %s\r\n" % (name, address.encode()) for name in (b"Referer", b"Forwarded", b"X-Original-URL")
            )
            requests = [
                form("/predict", address.encode(), address, image_url=address, url=address),
                get(address),
                task(address),
            ]
            requests += [form("/images", address.encode(), address), infer([address.encode()], id=address)]
            requests += [task(address, label_config=f'<View xmlns:x="{address}"><BrushLabels/></View>')]
            requests += [task(address, label_config=f'<!DOCTYPE x SYSTEM "{address}"><View/>')]
            requests += [post("/setup", json.dumps({"hostname": address}).encode(), "application/json")]
            requests += [post("/webhook", json.dumps({"url": address}).encode(), "application/json")]
            requests += [get(f"/predict?model={quote(address)}", extra=HOST + extra), get("/", extra=HOST + extra)]
            for request in requests:
                yield is_explained(served.says(request))
        yield served.is_well()
    made = log.read_text(errors="replace").splitlines()[start:]
    outside = [line for line in made if "connect(" in line and "AF_UNIX" not in line]
    print(f"  F8: {len(outside)} connections were made")
    yield bool(made) and not outside


def foreign_pages(folder: Path, tries: int) -> Iterator[bool]:
    """F9: hosts and origins of others, with every method on every kind of route: 403 and nothing else."""
    hosts = [
        "evil.example",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost/evil",
        "localhost?",
        "a b",
        "",
        "[",
    ]
    hosts += [
        "localhost.",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "0x7f.1",
        "local\thost",
        "localhost\\x",
        "*",
    ]
    origins = [
        "http://evil.example",
        "null",
        "http://localhost:1",
        "https://localhost.evil.example",
        "http://[",
        "localhost",
    ]
    origins += ["http://localhost@evil.example", "file://", "http://localhost/", "", "chrome-extension://abc"]
    lines = [b"Host: %s\r\n" % host.encode() for host in hosts]
    lines += [HOST + b"Origin: %s\r\n" % origin.encode() for origin in origins]
    lines += [HOST + b"Origin: http://localhost\r\nOrigin: http://evil.example\r\n"]
    with serving(folder) as served:
        for line in lines[:tries]:
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                for path in ("/", "/predict", "/images/" + "0" * 32, "/health", "/metrics"):
                    said = served.says(get(path, method, line))
                    if statuses(said) not in ([403], [400]):  # 400: no HTTP at all
                        print(f"  F9: {method} {path} {line!r}: {said[:40]!r}")
                    yield statuses(said) in ([403], [400])
        own = f"Origin: {served.url}\r\n".replace("127.0.0.1", "localhost").encode()
        host = f"Host: localhost:{served.address[1]}\r\n".encode()
        yield statuses(served.says(get("/health", extra=host + own))) == [200]


def exposure(folder: Path, tries: int) -> Iterator[bool]:
    """F10: one socket, on this machine only; others need a token; no answer tells a path or a trace."""
    leaks = [str(folder), "site-packages", "/src/", "/usr/", "/home/", "/root/", "/tmp/", "Traceback", ".py"]
    refused = run(folder, "serve", "a.safetensors", "--host", "0.0.0.0")
    yield refused.returncode == 2
    with serving(folder) as served:
        process = psutil.Process(served.pid)
        sockets = [one.laddr.ip for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
        print(f"  F10: {len(sockets)} socket that listens, on {', '.join(sockets)}")
        yield sockets == ["127.0.0.1"]
        broken = png(pixels())[:300]
        for model in "ab":
            for file in (
                b"",
                b"x",
                broken,
                b"II*\0" + bytes(30),
                b"\x93NUMPY" + bytes(30),
                png(pixels(300, 300, 0, 4)),
            ):
                for request in (form("/predict", file, model=model), form("/images", file, model=model)):
                    said = served.says(request)
                    yield not any(word in said.decode("latin-1") for word in leaks) or said.startswith(
                        b"HTTP/1.1 2"
                    )
                for request in (
                    infer([file], model),
                    task(inside(file), model),
                    get(f"/debug/{model}"),
                    get("/redoc"),
                ):
                    yield not any(word in served.says(request).decode("latin-1") for word in leaks)
    with serving(folder, "--host", "0.0.0.0", more={"FULLYCONV_TOKEN": "sesame"}) as served:
        for request in good_requests():
            yield statuses(served.says(request)) == [401]
        for wrong in (
            b"Bearer ",
            b"Bearer sesam",
            b"Bearer sesame1",
            b"Basic !",
            b"Digest sesame",
            b"Basic OnNlc2Ft",
        ):
            yield statuses(served.says(get("/metrics", extra=HOST + b"Authorization: " + wrong + b"\r\n"))) == [
                401
            ]
        yield statuses(served.says(get("/metrics", extra=HOST + b"Authorization: Bearer sesame\r\n"))) == [200]


def many_at_once(folder: Path, tries: int) -> Iterator[bool]:
    """F13: images by 32 clients at once: each gets the bytes that the command line writes for its own one."""
    (folder / "in").mkdir()
    for number in range(tries):
        size = (24 + number % 3 * 8, 40)
        (folder / "in" / f"{number}.png").write_bytes(png(pixels(*size, seed=number)))
    with (
        serving(folder) as served,
        httpx.Client(base_url=served.url, timeout=120) as client,
        ThreadPoolExecutor(32) as threads,
    ):

        def ask(number: int) -> bytes:
            file = (folder / "in" / f"{number}.png").read_bytes()
            while (answer := client.post("/predict", files={"image": file})).status_code == 503:
                time.sleep(0.1)
            return answer.content

        answers = list(threads.map(ask, range(tries)))
    assert run(folder, "predict", "a.safetensors", "in", "-o", "out").returncode == 0
    for number, answer in enumerate(answers):
        yield answer == (folder / "out" / f"{number}.png").read_bytes()


def ends_under_load(folder: Path, tries: int) -> Iterator[bool]:
    """F14: SIGTERM under load: each request is answered, 200 or 503, or not taken; a full disk is 503."""
    longest = 0.0
    for _ in range(tries):
        with serving(folder) as served, ThreadPoolExecutor(8) as threads:
            found: list[object] = []

            def ask(found: list[object] = found, served: Served = served) -> None:
                while True:
                    try:
                        answer = httpx.post(
                            f"{served.url}/predict", files={"image": png(pixels(400, 400))}, timeout=60
                        )
                        found.append(answer.status_code)
                    except (
                        httpx.ConnectError,
                        httpx.RemoteProtocolError,
                        httpx.ReadError,
                        httpx.WriteError,
                    ) as error:
                        found.append(error)
                        return

            futures = [threads.submit(ask) for _ in range(8)]
            time.sleep(2)
            began = time.monotonic()
            os.kill(served.pid, signal.SIGTERM)
            code = served.process.wait(40)
            longest = max(longest, time.monotonic() - began)
            for future in futures:
                future.result()
        cut = [
            one for one in found if isinstance(one, httpx.HTTPError) and not isinstance(one, httpx.ConnectError)
        ]
        good = code == 143 and longest <= 30 and {one for one in found if isinstance(one, int)} <= {200, 503}
        left = [path.name for path in served.files.glob("fullyconv-*")]
        if not good or cut or left:
            print(f"  F14: exit {code}, {cut}, {set(map(str, found))}, left: {left}")
        yield good and not cut and not left
    print(f"  F14: ended after {longest:.1f} s at the latest")
    (folder / "files").mkdir(exist_ok=True)
    with serving(folder, before=mounted(folder / "files", "-t tmpfs -o size=3m")) as served:
        for size in (1200, 2000, 1500) * 3:
            said = served.says(form("/predict", png(pixels(size, size))))
            yield statuses(said) == [503] and is_explained(said)
            said = served.says(form("/images", png(pixels(900, 900))))
            yield statuses(said) == [503] and is_explained(said) and str(folder).encode() not in said
            yield served.is_well()


def stored_images(folder: Path, tries: int) -> Iterator[bool]:
    """F15: images that are open: ids that nobody guesses, no list, the oldest ones go, closed ones are gone."""
    file = png(pixels(8, 8))
    with serving(folder) as served, httpx.Client(base_url=served.url, timeout=60) as client:
        ids = []
        for _ in range(tries):
            while (answer := client.post("/images", files={"image": file})).status_code == 503:
                time.sleep(0.05)
            ids.append(answer.json()["id"])
        yield len(set(ids)) == tries and all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
        time.sleep(2)
        kept = sum(path.is_dir() for path in next(served.files.glob("fullyconv-serve-*")).iterdir())
        print(f"  F15: {kept} images are kept of {tries}")
        yield kept <= 1000
        guesses = [secrets.token_hex(16) for _ in range(500)]
        guesses += [ids[-1][:-1] + digit for digit in "0123456789abcdef" if digit != ids[-1][-1]]
        guesses += [ids[-1].upper() + "x", ids[-1][:-1], ids[-1] + "0", "*", "%", ids[-1] + "%00"]
        for guess in guesses:
            yield client.get(f"/images/{guess}/image/0/0_0").status_code == 404
        yield client.get("/images").status_code == 405
        yield client.get(f"/images/{ids[-1]}").status_code == 200
        yield client.delete(f"/images/{ids[-1]}").status_code == 204
        yield client.get(f"/images/{ids[-1]}").status_code == 404
