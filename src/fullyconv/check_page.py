"""What `check` found, as one HTML file that needs no network, and a contact sheet of the data."""

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage

from fullyconv import __version__
from fullyconv.class_table import ClassTable
from fullyconv.errors import show_path
from fullyconv.findings import Examination
from fullyconv.pictures import overlay, sheet
from fullyconv.shapes import Image

__all__ = ["check_page", "contact_sheet"]

SHOWN = 24
"""Images on the contact sheet, at most."""

COLUMNS = 6
_SIDE = 160

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00; --note: #3367aa; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.swatch { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border: 1px solid var(--line); }
.finding { border-left: .3rem solid var(--note); padding: .3rem .8rem; margin: .6rem 0; }
.error { border-color: var(--error); } .warning { border-color: var(--warning); }
.finding b { text-transform: capitalize; } code { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
"""


def contact_sheet(examination: Examination) -> Image | None:
    """Show up to 24 samples, evenly drawn, as overlays in the colours of their classes; None if none is sound."""
    sound, table = examination.sound, examination.dataset.class_table
    count = min(SHOWN, len(sound))
    if not count:
        return None
    cells: list[tuple[str, Image]] = []
    for sample in (sound[place * len(sound) // count] for place in range(count)):
        picture = overlay(sound.read_image(sample), sound.read_target(sample), table)
        scale = _SIDE / max(picture.shape[:2])
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        tile = PillowImage.new("RGB", (_SIDE, _SIDE), "white")
        small = PillowImage.fromarray(picture).resize(size, PillowImage.Resampling.BOX)
        tile.paste(small, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
        cells.append((sample.id, np.asarray(tile)))
    columns = min(COLUMNS, count)
    blank = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    cells += [("", blank)] * (math.ceil(count / columns) * columns - count)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return sheet(rows, table)


def check_page(examination: Examination, extra: Sequence[str] = ()) -> str:
    """Write the page.

    Args:
        examination: What was found.
        extra: More sentences, such as the forecast of the feature cache.
    """
    dataset, table = examination.dataset, examination.dataset.class_table
    title = f"Check of {html.escape(show_path(dataset.root.name))}"
    picture = contact_sheet(examination)
    parts = [f"<h1>{title}</h1>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in (*dataset.notes, *extra)]
    parts.append(f"<h2>Findings</h2>{_findings(examination)}")
    parts.append(f'<h2>Classes</h2><div class="wide">{_classes(examination, table)}</div>')
    parts.append(f"<h2>Sizes</h2>{_sizes(examination)}")
    if picture is not None:
        file = io.BytesIO()
        PillowImage.fromarray(picture).save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        parts.append(
            f'<h2>Some samples</h2><img alt="Overlays of some samples" src="data:image/png;base64,{data}">'
        )
    parts.append(f"<p><small>fullyconv {__version__}</small></p>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    head = f"<head>{head}<style>{_STYLE}</style></head>"
    return f'<!doctype html>\n<html lang="en">{head}\n<body>\n{body}\n</body></html>\n'


def _findings(examination: Examination) -> str:
    if not examination.findings:
        return "<p>Nothing is wrong.</p>"
    parts = []
    for finding in examination.findings:
        files = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in finding.files)
        files = (
            f"<details><summary>{len(finding.files)} files</summary><ul>{files}</ul></details>" if files else ""
        )
        text = html.escape(finding.text)
        parts.append(f'<div class="finding {finding.level}"><b>{finding.level}</b>: {text}{files}</div>')
    return "\n".join(parts)


def _classes(examination: Examination, table: ClassTable) -> str:
    heads = [f"<th>{name}: pixels</th><th>images</th>" for name in map(html.escape, examination.summaries)]
    rows = [f"<tr><th>class</th><th>value</th><th>width in px</th>{''.join(heads)}</tr>"]
    for index, entry in enumerate(table.classes):
        color = "#" + "".join(f"{part:02x}" for part in entry.color)
        width = examination.widths[index]
        cells = [
            f'<td><span class="swatch" style="background:{color}"></span>{html.escape(entry.name)}</td>',
            f"<td>{entry.value}</td><td>{'' if np.isnan(width) else f'{width:.0f}'}</td>",
        ]
        for summary in examination.summaries.values():
            share = summary.pixel_counts[index] / max(int(summary.pixel_counts.sum()), 1)
            cells.append(f"<td>{share:.2%}</td><td>{int(summary.image_counts[index])}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _sizes(examination: Examination) -> str:
    lines = (
        f"<li>{html.escape(name)}: {summary.lines()[0]}</li>" for name, summary in examination.summaries.items()
    )
    return f"<ul>{''.join(lines)}</ul>"
