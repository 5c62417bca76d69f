"""Pieces of HTML pages."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
from PIL import Image

from fullyconv import __version__
from fullyconv.charts import curves
from fullyconv.page import details, document, figure, heading, paragraph, picture, swatch, table


def test_plain_text_is_escaped_and_cells_are_not():
    for piece in (heading("<a> & b"), paragraph("<a> & b"), details("<a> & b", "")):
        assert "&lt;a&gt; &amp; b" in piece
    assert "<td><b>x</b></td>" in table(["y"], [["<b>x</b>"]])


def test_a_page_has_its_title_style_and_version():
    page = document("A < B", ["<p>inside</p>"])
    assert page.startswith("<!doctype html>")
    assert "<title>A &lt; B</title>" in page
    assert "<h1>A &lt; B</h1>\n<p>inside</p>" in page
    assert __version__ in page
    assert not re.search(r"https?://", page)


def test_a_picture_comes_back(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    piece = picture(image, 'of "x"', caption="<below>")
    data = re.search(r"data:image/png;base64,([^\"]+)", piece)[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as found:
        assert (np.asarray(found) == image).all()
    assert 'alt="of &quot;x&quot;"' in piece
    assert "<figcaption>&lt;below&gt;</figcaption>" in piece
    assert "data:image/jpeg;base64," in picture(image, "x", lossy=True)


def test_a_chart_is_vectors_and_the_same_every_time():
    history = [{"epoch": 1, "loss": 1.0, "mean_iou": 0.5}, {"epoch": 2, "loss": 0.5, "mean_iou": 0.6}]
    pieces = [figure(curves(history), "curves") for _ in range(2)]
    data = re.search(r"data:image/svg\+xml;base64,([^\"]+)", pieces[0])[1]
    assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    assert pieces[0] == pieces[1]


def test_a_swatch_has_the_colour():
    assert "background:#0a0b0c" in swatch((10, 11, 12))
