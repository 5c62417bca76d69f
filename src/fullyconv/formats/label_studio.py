"""Label Studio: its JSON export, with brush strokes, polygons and rectangles; images in `images/`.

The export format is that of labelstud.io/guide/export; brush strokes are run lengths of RGBA pixels, packed in
bits as by github.com/thi-ng/umbrella's rle-pack. Later regions cover earlier ones; what no region covers is
background. `config.xml`, the labelling configuration, gives the order and colours of labels where it is there.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from fullyconv.class_table import IGNORE_INDEX, ClassTable, Color
from fullyconv.errors import DataError
from fullyconv.formats.documents import read_json, understood, write_json
from fullyconv.formats.labels import IGNORED, Labels, values_of, write_classes
from fullyconv.formats.written import Labelled, copy_image
from fullyconv.images import IGNORED_COLOR, IMAGE_SUFFIXES, show_path
from fullyconv.layout import SPLIT_NAMES, Layout, Sample, entries, ordered
from fullyconv.regions import Annotation, Area, Polygon, Runs, rectangle
from fullyconv.shapes import Size

__all__ = [
    "brush_region",
    "find_label_studio",
    "image_of_task",
    "pack_strokes",
    "read_label_studio",
    "unpack_strokes",
    "write_label_studio",
]

_WHAT = "a Label Studio export"
_CONFIG, _TASKS = "config.xml", "tasks.json"
_KINDS = {"brushlabels": "brush", "polygonlabels": "polygon", "rectanglelabels": "rectangle"}
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")
"""What Label Studio makes of the name of an uploaded file."""


def find_label_studio(root: Path) -> Path | None:
    """The one JSON file of a folder that is a list of tasks; None if there is none."""
    for path in entries(root):
        if path.suffix == ".json" and path.is_file():
            with path.open("rb") as file:
                start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
            if start.startswith(b"[") and (b'"annotations"' in start or b'"data"' in start):
                return path
    return None


def read_label_studio(root: Path) -> Layout:
    """Read the tasks of a folder's export.

    Raises:
        DataError: It is damaged, or an image is not there.
    """
    path = find_label_studio(root)
    assert path is not None
    tasks = read_json(path, _WHAT)
    results = [_results(task, f"{show_path(path)}, task {number}") for number, task in enumerate(tasks)]
    found: set[str] = set()
    for number, regions in enumerate(results):
        with understood(f"{show_path(path)}, task {number}", "results of brushes, polygons or rectangles"):
            found |= {_label(region) for region in regions or [] if region["type"] in _KINDS}
    labels = _labels(root, sorted(found))
    layout = Layout(classes=labels.classes, description=f"{path.name} of Label Studio")
    left_out: Counter[str] = Counter()
    samples = []
    for number, (task, regions) in enumerate(zip(tasks, results, strict=True)):
        if regions is None:
            left_out["tasks without an annotation"] += 1
            continue
        where = f"{show_path(path)}, task {number}"
        with understood(where, "data with an image"):
            image = image_of_task(root, task["data"], where)
            split = SPLIT_NAMES.get(str(task["data"].get("split", "")).casefold())
        areas: list[tuple[int, Area]] = []
        for place, region in enumerate(regions):
            if region["type"] not in _KINDS:
                left_out[f"results of type {show_path(str(region['type']))}"] += 1
                continue
            with understood(f"{where}, result {place}", "original_width, original_height and value"):
                areas.append((labels.value_of[_label(region)], _area(region, f"{where}, result {place}")))
        size = _size(regions)
        stem = _stem(image, root, split)
        samples.append(Sample(stem, image, Annotation(path, tuple(areas), labels.background, size, stem), split))
    layout.samples = ordered(samples)
    if left_out:
        layout.notes.append("Left out: " + ", ".join(f"{count} {what}" for what, count in left_out.items()) + ".")
    return layout


def _results(task: Any, where: str) -> list[Any] | None:
    """The results of the last annotation that was not cancelled; None where there is none."""
    with understood(where, "a list of annotations, each with results"):
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        return list(done[-1]["result"]) if done else None


def _label(region: Any) -> str:
    (name,) = region["value"][region["type"]]
    return str(name)


def _labels(root: Path, found: Sequence[str]) -> Labels:
    path = root / _CONFIG
    if not path.is_file():
        return Labels.of(found, "the labels of the export")
    try:
        document = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise DataError(f"{show_path(path)}: expected a labelling configuration, got none ({error})") from error
    colors: dict[str, Color] = {}
    names = []
    for label in document.iter("Label"):
        names.append(label.get("value", ""))
        try:
            red, green, blue = ImageColor.getrgb(label.get("background", ""))[:3]
            colors[names[-1]] = (red, green, blue)
        except ValueError:
            continue
    names = [*dict.fromkeys(names), *(name for name in found if name not in names)]
    rest = any(view.get("unlabelled") == IGNORED for view in document.iter("View"))
    return Labels.of(names, _CONFIG, rest_ignored=rest, colors=colors)


def image_of_task(root: Path, data: Any, where: str) -> Path:
    """Find the image of a task by its name, whatever the server called it.

    Args:
        root: A folder with images, or with a folder `images`.
        data: Of the task.
        where: Its name for messages.

    Raises:
        DataError: It names none, or one that is not there.
    """
    given = [str(data[key]) for key in sorted(data, key=lambda key: key != "image") if isinstance(data[key], str)]
    given = [text for text in given if _path_of(text).suffix.lower() in IMAGE_SUFFIXES]
    if not given:
        raise DataError(f"{where}: expected data with the name of an image, got none")
    path = _path_of(given[0])
    parts = [PurePosixPath(*path.parts[place:]) for place in range(len(path.parts))]
    if match := _UPLOADED.fullmatch(path.name):
        parts.append(PurePosixPath(match[1]))
    for part in parts:
        if part.is_absolute() or ".." in part.parts:
            continue
        for folder in (root / "images", root):
            if (folder / part).is_file():
                return folder / part
    raise DataError(
        f"{where}: expected the image {show_path(path.name)} in {show_path(root / 'images')}, got nothing there",
        hint="the JSON export has no images: put them there",
    )


def _path_of(text: str) -> PurePosixPath:
    """`/data/local-files/?d=a/b.png`, `s3://bucket/a/b.png` or `/data/upload/1/b.png` -> its path."""
    parts = urlsplit(text)
    inner = parse_qs(parts.query).get("d")
    return PurePosixPath(inner[0] if inner else unquote(parts.path if parts.scheme or parts.query else text))


def _stem(image: Path, root: Path, split: str | None) -> str:
    """The name of an image within images/, or the folder of its split there."""
    folders = [root / "images" / (split or ""), root / "images", root]
    folder = next(folder for folder in folders if image.is_relative_to(folder))
    return image.relative_to(folder).with_suffix("").as_posix()


def _size(regions: Sequence[Any]) -> Size | None:
    for region in regions:
        if region["type"] in _KINDS:
            return int(region["original_height"]), int(region["original_width"])
    return None


def _area(region: Any, where: str) -> Area:
    height, width = int(region["original_height"]), int(region["original_width"])
    value = region["value"]
    kind = _KINDS[region["type"]]
    if kind == "brush":
        rgba = unpack_strokes(value["rle"])
        if rgba.size != height * width * 4:
            raise DataError(
                f"{where}: expected strokes on {height} x {width} pixels, got {rgba.size // 4} pixels",
                hint="export the annotations again",
            )
        return Runs.of(rgba.reshape(height, width, 4)[:, :, 3] > 0)
    percent = np.array([width, height]) / 100
    if kind == "polygon":
        points = np.asarray(value["points"], np.float64).reshape(-1, 2) * percent
    else:
        left, top = (float(value[key]) * part for key, part in zip("xy", percent, strict=True))
        shape = rectangle(0, 0, value["width"] * percent[0], value["height"] * percent[1]).rings[0]
        turn = np.deg2rad(float(value.get("rotation", 0)))
        points = shape @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + (left, top)
    if not np.isfinite(points).all():
        raise DataError(f"{where}: expected finite coordinates, got others")
    return Polygon((_near_integers(points),))


def _near_integers(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points in pixels as they were before they became percent: halves and integers come back as such."""
    halves = np.rint(points * 2) / 2
    return np.where(np.abs(points - halves) < 1e-6, halves, points)


# ---- strokes ----

_SIZES = (3, 4, 8, 16)
"""Bits of a count, as the format is written here and by Label Studio."""


def unpack_strokes(data: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Unpack run lengths: a head with the number of words, then runs of one word and stretches of single words.

    Raises:
        ValueError: They end too early, or words have more than 8 bits.
    """
    bits = "".join(f"{byte:08b}" for byte in bytes(data))
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("run lengths end too early")
        return int(bits[place - count : place], 2)

    number, word = take(32), take(5) + 1
    if word > 8 or number > 4 * 2**28:
        raise ValueError(f"{number} words of {word} bits")
    sizes = [take(4) + 1 for _ in range(4)]
    words = bytearray()
    while len(words) < number:
        is_run = take(1)
        count = take(sizes[take(2)]) + 1
        if is_run:
            words += bytes([take(word)]) * count
        else:
            words += bytes(take(word) for _ in range(count))
    return np.frombuffer(bytes(words[:number]), np.uint8)


def pack_strokes(words: npt.NDArray[np.uint8]) -> list[int]:
    """Pack words of 8 bits, the inverse of `unpack_strokes`."""
    parts = [f"{words.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    borders = [0, *(np.flatnonzero(np.diff(words)) + 1).tolist(), words.size]
    for start, end in itertools.pairwise(borders):
        for first in range(start, end, 2**16):
            count = min(end - first, 2**16) - 1
            which = next(place for place, size in enumerate(_SIZES) if count < 2**size)
            parts.append(f"1{which:02b}{count:0{_SIZES[which]}b}{int(words[start]):08b}")
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def write_label_studio(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write `images/SPLIT/`, `tasks.json` with a brush stroke for each class of an image, and `config.xml`.

    The split of an image is in its task's data.
    """
    background, values = values_of(table)
    tasks: list[dict[str, Any]] = []
    images = []
    for sample, target in items:
        home = folder / "images" / (sample.split or "")
        images.append(copy_image(sample.image, home, sample.id))
        data = {"image": f"/data/local-files/?d={images[-1].relative_to(folder).as_posix()}"}
        results = []
        for index in np.unique(target).tolist():
            if index == background or (index == IGNORE_INDEX and background < 0):
                continue
            label = IGNORED if index == IGNORE_INDEX else table.names[index]
            results.append({"id": f"{len(tasks)}-{index}", **brush_region(target == index, label)})
        annotation = {"id": len(tasks) + 1, "was_cancelled": False, "result": results}
        split = {"split": sample.split} if sample.split else {}
        tasks.append({"id": len(tasks) + 1, "data": {**data, **split}, "annotations": [annotation]})
    write_json(folder / _TASKS, tasks)
    labels = []
    for index in sorted(values, key=lambda index: values[index]):
        color = _hex(table.classes[index].color)
        labels.append(f'    <Label value={quoteattr(table.names[index])} background="{color}"/>')
    if background >= 0:
        labels.append(f'    <Label value="{IGNORED}" background="{_hex(IGNORED_COLOR)}"/>')
    rest = "" if background >= 0 else f' unlabelled="{IGNORED}"'
    lines = [
        f"<View{rest}>",
        '  <Image name="image" value="$image"/>',
        '  <BrushLabels name="label" toName="image">',
    ]
    lines += [*labels, "  </BrushLabels>", "</View>", ""]
    (folder / _CONFIG).write_text("\n".join(lines), encoding="utf-8")
    write_classes(folder, table, values)
    return images


def brush_region(
    where: npt.NDArray[np.bool_], label: str, names: tuple[str, str] = ("label", "image")
) -> dict[str, Any]:
    """A region of Label Studio: what one brush covered.

    Args:
        where: H x W, whether it covered a pixel.
        label: What it was labelled.
        names: Of the brush and of the image in the labelling configuration.
    """
    strokes = np.repeat(where.astype(np.uint8).ravel() * np.uint8(255), 4)
    return {
        "type": "brushlabels",
        "from_name": names[0],
        "to_name": names[1],
        "original_width": where.shape[1],
        "original_height": where.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": pack_strokes(strokes), "brushlabels": [label]},
    }


def _hex(color: Color) -> str:
    return "#" + "".join(f"{part:02x}" for part in color)
