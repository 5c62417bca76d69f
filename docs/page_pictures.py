"""Takes the pictures of the page for docs/pictures: `make serve` in one terminal, this in another.

    .venv/bin/python docs/page_pictures.py http://127.0.0.1:8000/

They show the data set and the model of `fullyconv demo`; Chromium has to be installed.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
TAKEN = ("0002", "0001", "0003", "0004", "0005", "0006", "0007")


def main(address, data):
    """Take a wide picture, and two narrow ones side by side."""
    images = [data / f"{name}.png" for name in TAKEN]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = opened(browser, address, images, viewport={"width": 1180, "height": 740})
        page.mouse.move(590, 420)
        page.wait_for_timeout(500)
        write(taken(page), "page-wide.png")
        phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
        left = opened(browser, address, images[:3], **phone)
        left.touchscreen.tap(200, 420)
        left.wait_for_timeout(500)
        right = opened(browser, address, images[3:4], color_scheme="dark", **phone)
        right.tap("#sheet")
        right.tap("#mode-swipe")
        right.wait_for_timeout(800)
        pair = Image.new("RGB", (2 * 390 + 20, 844), "white")
        for number, page in enumerate((left, right)):
            pair.paste(taken(page), (number * 410, 0))
        write(pair, "page-narrow.png")
        browser.close()


def opened(browser, address, images, **settings):
    """A page with images, predicted."""
    page = browser.new_context(**settings).new_page()
    page.goto(address)
    page.set_input_files("#first-file", images)
    page.wait_for_selector(f"#strip li:nth-child({len(images)})[data-state=done]", state="attached")
    page.wait_for_timeout(1000)
    return page


def taken(page):
    """What a page shows. Playwright would add a style to hide the caret, which the page refuses."""
    return Image.open(io.BytesIO(page.screenshot(caret="initial"))).convert("RGB")


def write(picture, name):
    """Write a picture in 256 colours."""
    path = ROOT / "docs" / "pictures" / name
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "runs/demo-data/images/test"))
