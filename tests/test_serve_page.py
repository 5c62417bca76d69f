"""The page in a browser: what a person does with it; nothing comes from elsewhere, nothing breaks its rules."""

import re
import shutil
import threading
from contextlib import ExitStack, contextmanager
from importlib.resources import files

import httpx
import numpy as np
import pytest
from opened_images import Halting, client, noise
from PIL import Image
from service import png, running

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.image_form import RGB
from fullyconv.serve import Limits
from fullyconv.synthetic import CLASS_COLORS, CLASS_NAMES
from fullyconv.tiles import Box

CHROMIUM = shutil.which("chromium")
STATIC = files("fullyconv.serve") / "static"
WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 390, "height": 844}

FLAG_TABLE = ClassTable(
    (
        ClassEntry("ground", 10, (8, 8, 8)),
        ClassEntry("leaf", 20, (0, 200, 80)),
        ClassEntry("stone", 30, (240, 60, 60)),
    )
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


class Thirds:
    """A predictor of a flag: its left third is ground, the middle one leaf, the right one stone, all 75 % sure."""

    image_form = RGB

    def __init__(self, table=FLAG_TABLE):
        self.class_table = table

    def predict_with_confidence(self, pixels):
        height, width = pixels.shape[:2]
        classes = np.tile((np.arange(width) * 3 // width).astype(np.uint8), (height, 1))
        return classes, np.full((height, width), 0.75, np.float32)


class Server:
    """A service that can be stopped, and started again at the same port."""

    port = 0

    def __init__(self, folder, models, token="", **limits):
        self.folder, self.models, self.token, self.limits = folder, models, token, Limits(**limits)
        self.start()

    def start(self):
        self._running = ExitStack()
        served = running(self.models, self.folder, port=self.port, limits=self.limits, token=self.token)
        host, self.port = self._running.enter_context(served)
        self.address = f"http://{host}:{self.port}"

    def stop(self):
        self._running.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(models=None, **settings):
        servers.append(Server(tmp_path / f"service-{len(servers)}", models or {"flag": Thirds()}, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser, server, path="/", expected=(), **settings):
    """A page on which nothing may go wrong: `expected` are messages of the console that are part of a test."""
    context = browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **settings})
    context.set_default_timeout(20_000)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("request", lambda request: wrong.append(request.url) if not is_own(request.url, server) else None)
    page.goto(server.address + path)
    yield page
    context.close()
    # OpenSeadragon warns of tiles that come after their image was closed.
    expected = [*expected, "Ignoring tile"]
    assert [text for text in wrong if not any(part in text for part in expected)] == []


def is_own(url, server):
    return url.startswith((server.address, "blob:", "data:", "about:"))


def choose(page, *images, field="#first-file"):
    files = [
        {"name": name, "mimeType": "image/png", "buffer": body if isinstance(body, bytes) else png(body)}
        for name, body in images
    ]
    page.set_input_files(field, files)


def wait_until_done(page):
    page.wait_for_selector("#get-mask[href]", state="attached")
    page.wait_for_selector("#notice", state="hidden")


COLOR_AT = """([x, y]) => {
    const canvas = document.getElementById("overlay");
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, -Math.floor(canvas.width * x), -Math.floor(canvas.height * y));
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""


def color_at(page, x, y=0.5, wanted=None):
    """RGBA of the mask over the image at shares of the stage, as soon as it is what is wanted."""
    for _ in range(50):
        color = page.evaluate(COLOR_AT, [x, y])
        if color == wanted:
            break
        page.wait_for_timeout(100)
    return color


def hover(page, x, y=0.5, wanted="sure"):
    """What is said of the pixel at shares of the stage, as soon as it has the word that is wanted."""
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_selector(f"#hover:has-text('{wanted}')")
    return page.inner_text("#hover")


FLAG = noise(300, 420)
LEAF, STONE = [0, 200, 80, 255], [240, 60, 60, 255]


# ---- without a browser ----


def test_the_page_is_there_and_kept_by_browsers_only_as_long_as_it_is_the_same(tmp_path):
    with client(tmp_path, {"flag": Thirds()}) as service:
        answer = service.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["cache-control"] == "no-cache"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        same = service.get("/", headers={"if-none-match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        assert service.get("/static/main.js").headers["content-type"].startswith("text/javascript")
        for path in ("/static/none.js", "/static/../app.py", "/static/%2e%2e/app.py", "/static/"):
            assert service.get(path).status_code == 404


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
def test_all_that_a_page_names_is_there_and_nothing_is_inline(name, tmp_path):
    text = (STATIC / name).read_text("utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)
    with client(tmp_path, {"flag": Thirds()}) as service:
        for address in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert address.startswith("/")
            assert service.get(address).status_code == 200, address


def test_only_known_files_of_others_are_served():
    ours = [entry for entry in STATIC.iterdir() if entry.is_file()]
    for entry in ours:
        assert "http" not in entry.read_text("utf-8").replace("http://www.w3.org/2000/svg", ""), entry.name
        for module in re.findall(r'from "([^"]+)"', entry.read_text("utf-8")):
            assert (STATIC / module).is_file()
    assert {entry.name for entry in (STATIC / "openseadragon").iterdir()} == {
        "LICENSE.txt",
        "NOTICE.txt",
        "openseadragon.min.js",
    }


def test_examples_are_offered_for_the_model_of_the_demo(tmp_path):
    surfaces = ClassTable.from_names(CLASS_NAMES)
    with client(tmp_path, {"flag": Thirds(), "demo": Thirds(surfaces)}) as service:
        flag, demo = service.get("/page/about").json()["models"]
        assert flag["examples"] == []
        assert len({service.get(address).content for address in demo["examples"]}) == 3
        assert service.get("/page/examples/none.png").status_code == 404


# ---- in a browser ----


@needs_browser
def test_an_image_is_chosen_and_its_mask_lies_over_it(browser, serve, tmp_path):
    with page_of(browser, serve()) as page:
        choose(page, ("flag.png", FLAG))
        wait_until_done(page)
        assert page.inner_text("#facts") == "420 \u00d7 300 pixels"
        assert page.locator("#legend .share").all_inner_texts() == ["33.3 %"] * 3
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF
        assert color_at(page, 0.9, 0.5, STONE) == STONE
        assert color_at(page, 0.1, 0.5, [0, 0, 0, 0]) == [0, 0, 0, 0]  # a background leaves the image as it is
        assert re.fullmatch(r"leaf\s+75 % sure\s+x 21\d, y 1[45]\d", hover(page, 0.5))
        page.keyboard.press("3")
        assert color_at(page, 0.9, 0.5, [0, 0, 0, 0]) == [0, 0, 0, 0]
        page.locator("#opacity").fill("30")
        assert page.evaluate("getComputedStyle(document.getElementById('overlay')).opacity") == "0.3"
        with page.expect_download() as download:
            page.click("#get-mask")
        assert download.value.suggested_filename == "flag.png"
        download.value.save_as(tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as mask:
            assert np.array_equal(np.unique(np.asarray(mask)), [10, 20, 30])


@needs_browser
@pytest.mark.slow
def test_who_is_quick_chooses_before_the_page_knows_the_models(browser, serve):
    server, held = serve(), []
    with page_of(browser, server, path="/docs") as page:
        page.route("**/page/about", lambda route: held.append(route))
        page.goto(server.address)
        choose(page, ("flag.png", FLAG))
        page.wait_for_selector("#notice:has-text('Waiting to be sent')")
        held[0].continue_()
        wait_until_done(page)
        assert page.inner_text("#name") == "flag.png"


@needs_browser
@pytest.mark.slow
def test_images_are_dropped_pasted_and_taken_from_examples(browser, serve):
    demo = Thirds(ClassTable.from_names(CLASS_NAMES))
    with page_of(browser, serve({"demo": demo})) as page:
        carried = page.evaluate_handle(
            """(bytes) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
                return data;
            }""",
            list(png(FLAG)),
        )
        page.dispatch_event("body", "dragover", {"dataTransfer": carried})
        assert page.is_visible("#drop-here")
        page.dispatch_event("body", "drop", {"dataTransfer": carried})
        wait_until_done(page)
        assert page.inner_text("#name") == "dropped.png"
        page.click("#close")
        page.evaluate(
            "(clipboardData) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData }))", carried
        )
        wait_until_done(page)
        page.keyboard.press("Delete")
        page.locator(".example").nth(1).click()
        wait_until_done(page)
        assert page.inner_text("#name") == "surface-2.png"
        assert len(CLASS_COLORS) == page.locator("#legend li").count()


@needs_browser
@pytest.mark.slow
def test_classes_opacity_and_swipe_by_pointer_and_by_keys(browser, serve):
    with page_of(browser, serve()) as page:
        choose(page, ("flag.png", FLAG))
        wait_until_done(page)
        page.get_by_role("checkbox", name="leaf").uncheck()
        assert color_at(page, 0.5, 0.5, [0, 0, 0, 0]) == [0, 0, 0, 0]
        page.keyboard.press("a")
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF
        assert color_at(page, 0.1, 0.5, [8, 8, 8, 255]) == [8, 8, 8, 255]
        page.keyboard.press("o")
        assert page.evaluate("document.getElementById('overlay').style.opacity") == "0"
        page.keyboard.press("o")
        page.keyboard.press("]")
        assert page.inner_text("#opacity-value") == "65 %"
        page.keyboard.press("s")
        divider = page.get_by_role("slider", name="Where the mask begins")
        assert divider.get_attribute("aria-valuenow") == "50"
        box = page.locator("#stage").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60)
        page.mouse.up()
        assert divider.get_attribute("aria-valuenow") == "25"
        divider.press("ArrowRight")
        assert page.evaluate("document.getElementById('overlay').style.clipPath") == "inset(0px 0px 0px 27%)"
        page.get_by_role("button", name="Overlay").first.click()
        assert divider.is_hidden()


@needs_browser
@pytest.mark.slow
def test_a_pixel_is_a_pixel(browser, serve):
    with page_of(browser, serve()) as page:
        choose(page, ("flag.png", FLAG))
        wait_until_done(page)
        for _ in range(20):
            page.keyboard.press("+")
        page.wait_for_timeout(300)
        places = {
            re.sub(r".*(x \d+), .*", r"\1", hover(page, x).replace("\n", " ")) for x in np.linspace(0.4, 0.6, 9)
        }
        assert 2 <= len(places) <= 6
        before = hover(page, 0.5)
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert hover(page, 0.5) != before
        page.keyboard.press("0")
        page.wait_for_timeout(300)
        assert color_at(page, 0.9, 0.5, STONE) == STONE
        page.keyboard.press("c")
        page.wait_for_selector("#live:has-text('leaf 75 % sure')", state="attached")
        page.keyboard.press("?")
        assert page.get_by_role("dialog", name="Keys").is_visible()
        page.keyboard.press("Escape")


@needs_browser
@pytest.mark.slow
def test_several_images_in_a_strip_one_of_them_broken(browser, serve):
    with page_of(browser, serve(), expected=["400 (Bad Request)"]) as page:
        choose(page, ("a.png", FLAG), ("broken.png", b"\x89PNG no"), ("c.png", noise(50, 60)))
        page.wait_for_selector("#strip li[data-state=failed]")
        page.wait_for_selector("#strip li:nth-child(3)[data-state=done]")
        page.keyboard.press(".")
        assert page.inner_text("#name") == "broken.png"
        assert page.inner_text("#notice h2") == "broken.png could not be opened"
        assert "expected an image, got 7 bytes" in page.inner_text("#notice p")
        assert page.get_attribute("#get-mask", "href") is None
        page.get_by_role("button", name="Close broken.png").click()
        assert page.inner_text("#name") == "c.png"
        wait_until_done(page)
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF
        page.get_by_role("button", name="a.png: done").press("Enter")
        assert page.inner_text("#name") == "a.png"
        page.get_by_role("button", name="a.png: done").press("ArrowRight")
        assert page.inner_text("#name") == "c.png"


@needs_browser
@pytest.mark.slow
def test_what_is_too_long_is_not_even_sent_and_a_page_that_is_left_leaves_nothing(browser, serve):
    server = serve(body_bytes=50_000)
    with page_of(browser, server) as page:
        noisy = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        choose(page, ("large.png", noisy))
        page.wait_for_selector("#notice.error")
        assert page.inner_text("#notice p") == "expected a file of at most 0.05 MB, got 0.12 MB"
        choose(page, ("a.png", FLAG), field="#file")
        wait_until_done(page)
        assert list(server.folder.iterdir())
        page.goto("about:blank")
        for _ in range(100):
            if not list(server.folder.iterdir()):
                break
            page.wait_for_timeout(50)
        assert not list(server.folder.iterdir())


class Gated(Thirds):
    """Thirds, by bands of 1,000 rows, each after `go` was released."""

    def __init__(self, go):
        super().__init__()
        self.go = go

    def measured_parts(self, size, read, measures):
        for top in range(0, size[0], 1000):
            self.go.acquire(timeout=60)
            box = Box(top, 0, min(top + 1000, size[0]), size[1])
            classes, confidence = self.predict_with_confidence(np.empty((*box.size, 3), np.uint8))
            yield box, classes, {"confidence": confidence}


@needs_browser
@pytest.mark.slow
def test_a_hundred_megapixels_fill_in_from_the_top(browser, serve, tmp_path):
    small = Image.fromarray(noise(625, 625))
    small.resize((10_000, 10_000), Image.Resampling.NEAREST).save(tmp_path / "large.jpg", quality=80)
    go = threading.Semaphore(0)
    with page_of(browser, serve({"flag": Gated(go)})) as page:
        page.set_input_files("#first-file", tmp_path / "large.jpg")
        page.wait_for_selector("#facts:has-text('not predicted yet')", timeout=60_000)
        for _ in range(5):
            go.release()
        page.wait_for_selector("#facts:has-text('50 % predicted')")
        assert page.get_attribute("#progress", "aria-valuenow") == "50"
        assert color_at(page, 0.5, 0.25, LEAF) == LEAF
        assert color_at(page, 0.5, 0.75, [0, 0, 0, 0]) == [0, 0, 0, 0]
        hover(page, 0.5, 0.75, "not predicted yet")
        for _ in range(5):
            go.release()
        wait_until_done(page)
        assert color_at(page, 0.5, 0.75, LEAF) == LEAF
        for _ in range(16):
            page.keyboard.press("+")
        page.wait_for_timeout(1500)  # it moves
        assert "leaf" in hover(page, 0.5)
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF
        assert page.locator("#legend .pixels").first.inner_text() == "33,340,000 px"


@needs_browser
@pytest.mark.slow
def test_a_service_that_goes_away_and_comes_back(browser, serve):
    server = serve()
    with page_of(browser, server, expected=["ERR_", "404 (Not Found)"]) as page:
        choose(page, ("a.png", FLAG))
        wait_until_done(page)
        server.stop()
        choose(page, ("b.png", noise(60, 90)), field="#file")
        page.wait_for_selector("#banner:has-text('not reachable')")
        page.wait_for_timeout(1500)
        assert page.inner_text("#name") == "b.png"
        server.start()
        page.wait_for_selector("#banner", state="hidden")
        page.wait_for_selector("#strip li:nth-child(1)[data-state=done]")
        page.wait_for_selector("#strip li:nth-child(2)[data-state=done]")
        page.keyboard.press(",")
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF
        with page.expect_download():
            page.click("#get-overlay")


@needs_browser
@pytest.mark.slow
def test_tiles_that_did_not_come_are_asked_for_again(browser, serve):
    with page_of(browser, serve(), expected=["ERR_FAILED", "failed to load"]) as page:
        asked = []
        page.route(
            "**/image/0/0_4",
            lambda route: (asked.append(1), route.abort() if len(asked) < 3 else route.continue_()),
        )
        choose(page, ("tall.png", noise(5000, 190)))
        wait_until_done(page)
        with page.expect_response("**/image/0/0_4"):
            for _ in range(6):
                page.keyboard.press("+")
        assert len(asked) == 3


@needs_browser
@pytest.mark.slow
def test_what_the_service_has_forgotten_is_sent_again_when_it_is_looked_at(browser, serve):
    server = serve()
    with page_of(browser, server, expected=["404 (Not Found)", "failed to load"]) as page:
        choose(page, ("tall.png", noise(5000, 190)))
        wait_until_done(page)
        before = page.get_attribute("#get-mask", "href")
        assert httpx.delete(server.address + before.removesuffix("/download/mask")).status_code == 204
        for _ in range(10):
            page.keyboard.press("+")
        page.wait_for_selector(f"#get-mask[href]:not([href='{before}'])", state="attached")
        assert color_at(page, 0.5, 0.5, LEAF) == LEAF


@needs_browser
@pytest.mark.slow
def test_another_model_and_a_token(browser, serve):
    server = serve({"flag": Thirds(), "noise": Halting(None)}, token="secret")
    with page_of(browser, server, http_credentials={"username": "anybody", "password": "secret"}) as page:
        choose(page, ("a.png", FLAG))
        wait_until_done(page)
        page.select_option("#model", "noise")
        page.wait_for_selector("#legend li:nth-child(2) .share:has-text('100.0 %')")
        wait_until_done(page)
        assert color_at(page, 0.9, 0.5, [250, 0, 0, 255]) == [250, 0, 0, 255]


@needs_browser
@pytest.mark.slow
def test_a_phone_has_a_sheet_and_a_camera(browser, serve):
    settings = {"viewport": NARROW, "has_touch": True, "is_mobile": True}
    with page_of(browser, serve(), **settings) as page:
        assert page.is_visible("#camera")
        assert page.get_attribute("#photo", "capture") == "environment"
        choose(page, ("a.png", FLAG), field="#photo")
        wait_until_done(page)
        assert not page.is_visible("#legend")
        assert page.inner_text("#summary").split() == [
            "ground",
            "33.3",
            "%",
            "leaf",
            "33.3",
            "%",
            "stone",
            "33.3",
            "%",
        ]
        page.touchscreen.tap(195, 400)
        page.wait_for_selector("#hover:has-text('75 % sure')")
        assert "leaf" in page.inner_text("#hover")
        page.tap("#sheet")
        assert page.get_attribute("#sheet", "aria-expanded") == "true"
        assert page.is_visible("#legend")
        page.locator("#get-geojson").scroll_into_view_if_needed()
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_have_no_barriers(browser, serve, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    server = serve({"a": Thirds(), "b": Thirds()})
    for viewport in (WIDE, NARROW):
        with page_of(browser, server, color_scheme=scheme, viewport=viewport) as page:
            found = axe.run(page)
            assert found.violations_count == 0, found.generate_report()
            choose(page, ("a.png", FLAG), ("b.png", noise(40, 40)))
            wait_until_done(page)
            page.wait_for_selector("#strip li:nth-child(2)[data-state=done]")
            page.keyboard.press("s")
            if viewport is NARROW:
                page.click("#sheet")
            found = axe.run(page)
            assert found.violations_count == 0, found.generate_report()
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 18, 21)"
            assert dark == (scheme == "dark")


@needs_browser
@pytest.mark.slow
def test_the_routes_are_described_offline(browser, serve):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with page_of(browser, serve(), path="/docs") as page:
        page.wait_for_selector("main[aria-busy=false]")
        route = page.locator("details", has_text="/predict").first
        route.locator("summary").click()
        assert "curl -F image=@photo.jpg http://127.0.0.1:" in route.locator("pre").inner_text()
        assert page.locator("details").count() >= 6
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()
