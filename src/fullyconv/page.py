"""HTML pages that are one file and need no network: what all of them are made of."""

import base64
import html
import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image as PillowImage

from fullyconv import __version__
from fullyconv.shapes import Image

__all__ = ["details", "document", "escape", "figure", "heading", "paragraph", "picture", "swatch", "table"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00; --note: #3367aa; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border: 1px solid var(--line); }
.finding { border-left: .3rem solid var(--note); padding: .3rem .8rem; margin: .6rem 0; }
.error { border-color: var(--error); } .warning { border-color: var(--warning); }
.finding b { text-transform: capitalize; } code, pre { overflow-wrap: anywhere; white-space: pre-wrap; }
img { max-width: 100%; height: auto; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .8; }
figure.chart img { background: white; }
"""

escape = html.escape


def document(title: str, parts: Iterable[str]) -> str:
    """Put a page together.

    Args:
        title: Plain text.
        parts: HTML.
    """
    title = escape(title)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join([f"<h1>{title}</h1>", *parts, f"<p><small>fullyconv {__version__}</small></p>"])
    head = f"<head>{head}<style>{_STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def heading(text: str) -> str:
    """A heading of plain text."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells in HTML, the first column to the left."""
    lines = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def swatch(color: Sequence[int]) -> str:
    """A square in an RGB colour."""
    return f'<span class="swatch" style="background:#{"".join(f"{part:02x}" for part in color)}"></span>'


def details(summary: str, inside: str) -> str:
    """Something that is folded away: plain text to click on, HTML inside."""
    return f"<details><summary>{escape(summary)}</summary>{inside}</details>"


def picture(image: Image, text: str, *, lossy: bool = False, caption: str = "") -> str:
    """An image within the page.

    Args:
        image: H x W x 3 uint8 RGB.
        text: What it shows, for those who cannot see it.
        lossy: As JPEG, for photographs.
        caption: Plain text below.
    """
    file = io.BytesIO()
    kind = "jpeg" if lossy else "png"
    PillowImage.fromarray(np.ascontiguousarray(image)).save(file, kind.upper())
    return _embedded(file.getvalue(), f"image/{kind}", text, caption)


def figure(chart: Figure, text: str, caption: str = "") -> str:
    """A chart within the page, as vectors."""
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "fullyconv"}):  # names of clips, drawn at random otherwise
        chart.savefig(file, format="svg", metadata={"Date": None})
    return _embedded(file.getvalue(), "image/svg+xml", text, caption, "chart")


def _embedded(data: bytes, kind: str, text: str, caption: str, of: str = "picture") -> str:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{of}"><img alt="{escape(text)}" src="{source}">{below}</figure>'
