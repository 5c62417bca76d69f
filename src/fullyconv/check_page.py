"""What `check` found, as one HTML file that needs no network, and a contact sheet of the data."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image as PillowImage

from fullyconv.errors import show_path
from fullyconv.findings import Examination
from fullyconv.image_form import shown
from fullyconv.page import details, document, escape, heading, paragraph, picture, swatch, table
from fullyconv.pictures import overlay, sheet
from fullyconv.shapes import Image

__all__ = ["check_page", "contact_sheet"]

SHOWN = 24
"""Images on the contact sheet, at most."""

COLUMNS = 6
_SIDE = 160


def contact_sheet(examination: Examination) -> Image | None:
    """Show up to 24 samples, evenly drawn, as overlays in the colours of their classes; None if none is sound."""
    sound, classes = examination.sound, examination.dataset.class_table
    count = min(SHOWN, len(sound))
    if not count:
        return None
    cells: list[tuple[str, Image]] = []
    for sample in (sound[place * len(sound) // count] for place in range(count)):
        seen = overlay(shown(sound.read_image(sample)), sound.read_target(sample), classes)
        scale = _SIDE / max(seen.shape[:2])
        size = (max(1, round(seen.shape[1] * scale)), max(1, round(seen.shape[0] * scale)))
        tile = PillowImage.new("RGB", (_SIDE, _SIDE), "white")
        small = PillowImage.fromarray(seen).resize(size, PillowImage.Resampling.BOX)
        tile.paste(small, ((_SIDE - size[0]) // 2, (_SIDE - size[1]) // 2))
        cells.append((sample.id, np.asarray(tile)))
    columns = min(COLUMNS, count)
    blank = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    cells += [("", blank)] * (math.ceil(count / columns) * columns - count)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return sheet(rows, classes)


def check_page(examination: Examination, extra: Sequence[str] = ()) -> str:
    """Write the page.

    Args:
        examination: What was found.
        extra: More sentences, such as the forecast of the feature cache.
    """
    dataset = examination.dataset
    sheet_of_samples = contact_sheet(examination)
    parts = [paragraph(note) for note in (*dataset.notes, *extra)]
    parts += [heading("Findings"), _findings(examination), heading("Classes"), _classes(examination)]
    parts += [heading("Sizes"), _sizes(examination)]
    if sheet_of_samples is not None:
        parts += [heading("Some samples"), picture(sheet_of_samples, "Overlays of some samples")]
    return document(f"Check of {show_path(dataset.root.name)}", parts)


def _findings(examination: Examination) -> str:
    if not examination.findings:
        return paragraph("Nothing is wrong.")
    parts = []
    for finding in examination.findings:
        files = "".join(f"<li><code>{escape(name)}</code></li>" for name in finding.files)
        folded = details(f"{len(finding.files)} files", f"<ul>{files}</ul>") if files else ""
        words = f"<b>{finding.level}</b>: {escape(finding.text)}"
        parts.append(f'<div class="finding {finding.level}">{words}{folded}</div>')
    return "\n".join(parts)


def _classes(examination: Examination) -> str:
    heads = ["class", "value", "width in px"]
    for name in map(escape, examination.summaries):
        heads += [f"{name}: pixels", "images"]
    rows = []
    for index, entry in enumerate(examination.dataset.class_table.classes):
        width = examination.widths[index]
        row = [f"{swatch(entry.color)}{escape(entry.name)}", str(entry.value)]
        row.append("" if np.isnan(width) else f"{width:.0f}")
        for summary in examination.summaries.values():
            share = summary.pixel_counts[index] / max(int(summary.pixel_counts.sum()), 1)
            row += [f"{share:.2%}", str(int(summary.image_counts[index]))]
        rows.append(row)
    return table(heads, rows)


def _sizes(examination: Examination) -> str:
    lines = (f"<li>{escape(name)}: {summary.lines()[0]}</li>" for name, summary in examination.summaries.items())
    return f"<ul>{''.join(lines)}</ul>"
