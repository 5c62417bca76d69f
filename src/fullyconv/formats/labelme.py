"""LabelMe: a JSON file beside each image, with polygons, rectangles, circles or bitmaps.

The format of github.com/wkentaro/labelme (GPL-3.0, of which nothing is used): `labels.txt` may list the labels, of
which `_background_` is what no shape covers and `__ignore__` what has no class. Later shapes cover earlier ones.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import DataError
from fullyconv.formats.documents import read_json, understood, write_json
from fullyconv.formats.labels import Labels, is_background, values_of, write_classes
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.written import Labelled, copy_image
from fullyconv.images import IMAGE_SUFFIXES, show_path
from fullyconv.layout import Layout, Sample, braces, entries, ordered, some, split_folders
from fullyconv.regions import Annotation, Area, Polygon, Runs, circle, rectangle, trace
from fullyconv.shapes import Size

__all__ = ["find_labelme", "read_labelme", "write_labelme"]

_WHAT = "LabelMe annotations"
_LABELS_FILE = "labels.txt"
_BACKGROUND, _IGNORE = "_background_", "__ignore__"
_NO_AREA = ("point", "points", "line", "linestrip")


def find_labelme(root: Path) -> Path | None:
    """The first JSON file that lies beside an image of its name, in a folder or its split folders."""
    for folder in (root, *split_folders(root).values()):
        for entry in entries(folder):
            if entry.suffix == ".json" and _image_beside(entry) is not None:
                return entry
    return None


def _image_beside(path: Path) -> Path | None:
    return next(
        (
            i
            for s in sorted(IMAGE_SUFFIXES)
            for i in (path.with_suffix(s), path.with_suffix(s.upper()))
            if i.is_file()
        ),
        None,
    )


def read_labelme(root: Path) -> Layout:
    """Read the JSON files of a folder, or of its split folders, and of the folders in them.

    Raises:
        DataError: A file is damaged, or its image is not there.
    """
    splits: list[tuple[str | None, Path]] = [*split_folders(root).items()] or [(None, root)]
    documents: dict[Path, Any] = {}
    homes: dict[Path, tuple[Path, str | None]] = {}
    for split, folder in splits:
        for path in sorted(folder.rglob("*.json")):
            documents[path] = _document(path)
            homes[path] = (folder, split)
    labels = _labels(root, documents)
    layout = Layout(classes=labels.classes)
    left_out: Counter[str] = Counter()
    samples = []
    for path, document in documents.items():
        folder, split = homes[path]
        samples.append(_sample(path, document, folder, split, labels, left_out))
    layout.samples = ordered(samples)
    names = braces(folder.name for split, folder in splits if split) + "/" * (None not in splits)
    layout.description = f"{names}*.json of LabelMe"
    if left_out:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(left_out.items()))
        layout.notes.append(f"Shapes without an area are left out ({kinds}).")
    used = {sample.image for sample in samples}
    alone = [
        file.name
        for _, folder in splits
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and file not in used
    ]
    if alone:
        layout.notes.append(f"{len(alone)} images have no JSON file and are left out ({some(alone)}).")
    return layout


def _document(path: Path) -> Any:
    document = read_json(path, _WHAT)
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError(
            f"{show_path(path)}: expected {_WHAT} with a list of shapes, got none",
            hint="take JSON files of other kinds out of the folder",
        )
    return document


def _labels(root: Path, documents: dict[Path, Any]) -> Labels:
    """The labels of labels.txt in its order; without it, those found by name."""
    found: dict[str, Path] = {}
    for path, document in documents.items():
        for number, shape in enumerate(document["shapes"]):
            with understood(f"{show_path(path)}, shape {number}", "a label"):
                found.setdefault(str(shape["label"]), path)
    file = root / _LABELS_FILE
    if not file.is_file():
        return Labels.of(sorted(found), "the labels of the JSON files")
    names = list(dict.fromkeys(line for _, line in numbered_lines(file)))
    for name, path in found.items():
        if name not in names:
            raise DataError(
                f"{show_path(path)}: expected a label of {_LABELS_FILE}, got {show_path(name)!r}",
                hint=f"correct the label, or add it to {show_path(file)}",
            )
    return Labels.of(names, _LABELS_FILE, rest_ignored=not any(is_background(name) for name in names))


def _sample(
    path: Path, document: Any, folder: Path, split: str | None, labels: Labels, left_out: Counter[str]
) -> Sample:
    where = show_path(path)
    with understood(where, "imagePath, imageHeight and imageWidth"):
        named = path.parent / str(document["imagePath"]).replace("\\", "/")
        size = (int(document["imageHeight"]), int(document["imageWidth"]))
    image = named if named.is_file() else _image_beside(path)
    if image is None:
        raise DataError(f"{where}: expected its image {show_path(named)}, got nothing there", hint="add the image")
    areas: list[tuple[int, Area]] = []
    for number, shape in enumerate(document["shapes"]):
        with understood(f"{where}, shape {number}", "label, shape_type and points"):
            kind = str(shape.get("shape_type") or "polygon")
            if kind in _NO_AREA:
                left_out[kind] += 1
                continue
            area = _area(kind, shape, size, f"{where}, shape {number}")
            areas.append((labels.value_of[str(shape["label"])], area))
    stem = path.relative_to(folder).with_suffix("").as_posix()
    return Sample(stem, image, Annotation(path, tuple(areas), labels.background, size), split)


def _area(kind: str, shape: Any, size: Size, where: str) -> Area:
    points = np.asarray(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise DataError(f"{where}: expected finite coordinates, got others")
    if kind == "polygon":
        return Polygon((points,))
    (x, y), (to_x, to_y) = points
    if kind == "rectangle":
        return rectangle(x, y, to_x, to_y)
    if kind == "circle":
        return circle(x, y, float(np.hypot(to_x - x, to_y - y)))
    if kind == "mask":
        return _bitmap(shape["mask"], round(min(x, to_x)), round(min(y, to_y)), size, where)
    raise DataError(
        f"{where}: expected polygon, rectangle, circle or mask, got {show_path(kind)!r}",
        hint="draw the shape again as a polygon",
    )


def _bitmap(text: str, left: int, top: int, size: Size, where: str) -> Runs:
    """A PNG in base64 whose upper left pixel is at a place."""
    try:
        with PillowImage.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.width > size[1] - left or image.height > size[0] - top or min(left, top) < 0:
                raise DataError(f"{where}: expected a bitmap within {size[0]} x {size[1]} pixels, got one beyond")
            bits = np.array(image.convert("L")) > 0
    except DataError:
        raise
    except Exception as error:  # Pillow has a dozen kinds
        raise DataError(f"{where}: expected a PNG in base64, got something else ({error})") from error
    whole = np.zeros(size, np.bool_)
    whole[top : top + bits.shape[0], left : left + bits.shape[1]] = bits
    return Runs.of(whole)


def write_labelme(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write `SPLIT/NAME.json` beside each image: a polygon for each area, a bitmap where it has holes."""
    background, values = values_of(table)
    images = []
    for sample, target in items:
        home = folder / (sample.split or "")
        image = copy_image(sample.image, home, sample.id)
        images.append(image)
        shapes = []
        for index in np.unique(target).tolist():
            if index == background or (index == IGNORE_INDEX and background < 0):
                continue
            label = _IGNORE if index == IGNORE_INDEX else table.names[index]
            shapes += [_shape(label, area) for area in trace(target == index)]
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": image.name,
            "imageData": None,
            "imageHeight": target.shape[0],
            "imageWidth": target.shape[1],
        }
        write_json(image.with_suffix(".json"), document)
    names = [_IGNORE, *(table.names[index] for index in sorted(values, key=lambda index: values[index]))]
    (folder / _LABELS_FILE).write_text("\n".join(names) + "\n", encoding="utf-8")
    write_classes(folder, table, values)
    return images


def _shape(label: str, area: Polygon) -> dict[str, Any]:
    shape: dict[str, Any] = {"label": label, "group_id": None, "description": "", "flags": {}}
    if len(area.rings) == 1:
        return {**shape, "shape_type": "polygon", "points": area.rings[0].tolist(), "mask": None}
    left, top, right, bottom = area.box()
    drawn = np.zeros((bottom - top, right - left), np.uint8)
    area.moved(-left, -top).draw(drawn, 255)
    file = io.BytesIO()
    PillowImage.fromarray(drawn).convert("1").save(file, "PNG")
    points = [[left, top], [right - 1, bottom - 1]]
    return {**shape, "shape_type": "mask", "points": points, "mask": base64.b64encode(file.getvalue()).decode()}
