"""COCO: images and `annotations/instances_SPLIT.json` with polygons or run lengths.

Lin et al., "Microsoft COCO: Common Objects in Context" (2014); the format is that of cocodataset.org/#format-data
and of the run lengths of its API. As exported by Roboflow (`SPLIT/_annotations.coco.json` beside the images), CVAT
and Label Studio (`result.json`) it is read, too.

Smaller objects cover larger ones. What no object covers is the class background; where the file's `info` has
"unlabelled": "ignored", which `write_coco` says of data without a background class, it has no class.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import DataError
from fullyconv.formats.documents import read_json, understood, write_json
from fullyconv.formats.labels import IGNORED, Labels, values_of, write_classes
from fullyconv.formats.written import Labelled, copy_image, located
from fullyconv.images import show_path
from fullyconv.layout import SPLIT_NAMES, Layout, Sample, braces, entries, ordered, some, split_folders
from fullyconv.regions import Annotation, Area, Polygon, Runs, trace
from fullyconv.shapes import Size

__all__ = [
    "decode_counts",
    "encode_counts",
    "find_coco",
    "read_coco",
    "read_coco_file",
    "segmentation",
    "write_coco",
]

_WHAT = "COCO annotations"
_FILE = re.compile(r"instances(?:_(?P<split>[a-z]+)\d*)?\.json")
_BESIDE = "_annotations.coco.json"
_WHOLE = "result.json"


def find_coco(root: Path) -> Path | None:
    """The first annotation file of a folder; None if it has none."""
    return next(iter(_files(root)), None)


def _files(root: Path) -> dict[Path, str | None]:
    """The annotation files of a folder, and their splits."""
    folder = root / "annotations"
    found: dict[Path, str | None] = {}
    for path in entries(folder) if folder.is_dir() else []:
        if match := _FILE.fullmatch(path.name):
            found[path] = SPLIT_NAMES.get(match["split"] or "")
    beside: list[tuple[str | None, Path]] = [(None, root), *split_folders(root).items()]
    found |= {path: split for split, at in beside if (path := at / _BESIDE).is_file()}
    if not found and (root / _WHOLE).is_file() and (root / "images").is_dir():
        found[root / _WHOLE] = None
    return found


def read_coco(root: Path) -> Layout:
    """Read all annotation files of a folder.

    Raises:
        DataError: A file is damaged, names an image that is not there, or files contradict each other.
    """
    return _read(root, _files(root))


def read_coco_file(path: Path) -> Layout:
    """Read one annotation file, whose images lie beside it or in the folders beside or above it."""
    split = match["split"] if (match := _FILE.fullmatch(path.name)) else None
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    return _read(root, {path: SPLIT_NAMES.get(split or "")})


def _read(root: Path, files: dict[Path, str | None]) -> Layout:
    documents = {path: _document(path) for path in files}
    labels = _labels(documents)
    samples: list[Sample] = []
    for path, document in documents.items():
        samples += _samples(path, document, root, files[path], labels)
    if {None} < {sample.split for sample in samples}:
        raise DataError(
            f"{show_path(root)}: expected a split for every annotation file or for none, got "
            f"{some(path.name for path in files)}",
            hint="call them instances_train.json, instances_val.json and instances_test.json",
        )
    names = braces(path.relative_to(root).as_posix() for path in files)
    return Layout(ordered(samples), names, classes=labels.classes)


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path, _WHAT)
    if not isinstance(document, dict) or not {"images", "annotations", "categories"} <= set(document):
        raise DataError(
            f"{show_path(path)}: expected {_WHAT} with images, annotations and categories, got "
            f"{some(document) if isinstance(document, dict) else type(document).__name__}",
            hint="files of captions or keypoints have no masks; give the one with instances",
        )
    return document


def _categories(path: Path, document: dict[str, Any]) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    with understood(f"{show_path(path)}, categories", "id and name of each"):
        found = sorted((int(category["id"]), str(category["name"])) for category in document["categories"])
    names = [name for _, name in found]
    if len(set(names)) < len(names) or len(dict(found)) < len(found):
        raise DataError(f"{show_path(path)}: expected each category once, got some id or name twice")
    return dict(found)


def _labels(documents: dict[Path, dict[str, Any]]) -> Labels:
    """The values of the categories, which all files have to agree on."""
    first, *others = documents
    names = _categories(first, documents[first])
    rest = _rest_ignored(documents[first])
    for path in others:
        if (_categories(path, documents[path]), _rest_ignored(documents[path])) != (names, rest):
            raise DataError(
                f"{show_path(path)}: expected the categories of {show_path(first.name)}, got others",
                hint="export all splits from one project",
            )
    return Labels.of(list(names.values()), f"the categories of {show_path(first.name)}", rest_ignored=rest)


def _rest_ignored(document: dict[str, Any]) -> bool:
    info = document.get("info")
    return isinstance(info, dict) and info.get("unlabelled") == IGNORED


def _samples(path: Path, document: dict[str, Any], root: Path, split: str | None, labels: Labels) -> list[Sample]:
    names = _categories(path, document)
    drawn: dict[Any, list[tuple[float, int, Area]]] = {}
    size_of: dict[Any, Size] = {}
    for number, image in enumerate(document["images"]):
        with understood(f"{show_path(path)}, image {number}", "id, file_name, height and width"):
            size_of[image["id"]] = (int(image["height"]), int(image["width"]))
            drawn[image["id"]] = []
    for number, one in enumerate(document["annotations"]):
        where = f"{show_path(path)}, annotation {number}"
        with understood(where, "image_id, category_id and segmentation"):
            identity = one["image_id"]
            value = labels.value_of[names[int(one["category_id"])]]
            areas = _areas(one["segmentation"], size_of[identity], where)
            drawn[identity] += [(float(one.get("area", 0)), value, area) for area in areas]
    found = located(path, [str(image["file_name"]) for image in document["images"]], root, split)
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for image, file in zip(document["images"], found, strict=True):
        stem = str(Path(image["file_name"]).with_suffix("").as_posix())
        if stem in seen:
            raise DataError(
                f"{show_path(path)}: expected each image once, got {show_path(seen[stem])} and "
                f"{show_path(image['file_name'])}",
                hint="images are named by their path without suffix",
            )
        seen[stem] = image["file_name"]
        largest_first = sorted(drawn[image["id"]], key=lambda part: -part[0])
        parts = tuple((value, area) for _, value, area in largest_first)
        samples.append(
            Sample(stem, file, Annotation(path, parts, labels.background, size_of[image["id"]], stem), split)
        )
    return samples


def _areas(segmentation: Any, size: Size, where: str) -> list[Area]:
    """Polygons, of which there may be several, or run lengths, compressed or not."""
    if isinstance(segmentation, list):
        rings = [np.asarray(points, np.float64).reshape(-1, 2) for points in segmentation]
        if not all(np.isfinite(ring).all() for ring in rings):
            raise DataError(f"{where}: expected finite coordinates, got others")
        return [Polygon((ring,)) for ring in rings if len(ring) > 2]
    height, width = (int(part) for part in segmentation["size"])
    counts = segmentation["counts"]
    lengths = decode_counts(counts) if isinstance(counts, str) else np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise DataError(
            f"{where}: expected run lengths for {height} x {width} pixels, got {int(lengths.sum())} pixels",
            hint="export the annotations again",
        )
    return [Runs(lengths, (height, width), by_columns=True)]


# ---- run lengths ----


def decode_counts(text: str) -> npt.NDArray[np.int64]:
    """Decode compressed run lengths: five bits a character, from the fourth on as differences to the last but one.

    Raises:
        ValueError: The text ends within a number or has other characters.
    """
    lengths: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no part of run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("run lengths end within a number")
    return np.array(lengths, np.int64)


def encode_counts(lengths: npt.NDArray[np.int64]) -> str:
    """Compress run lengths, the inverse of `decode_counts`."""
    values = lengths.tolist()
    characters = []
    for place, length in enumerate(values):
        number = length - (values[place - 2] if place > 2 else 0)
        while True:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits | 32 if more else bits)))
            if not more:
                break
    return "".join(characters)


# ---- writing ----


def write_coco(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write `images/SPLIT/` and `annotations/instances_SPLIT.json`, an annotation for each connected area.

    Areas without holes become polygons, others run lengths. Pixels without a class become the category "ignored"
    where there is a background class, and stay without annotation where there is none.
    """
    background, values = values_of(table)
    names = {values[index]: name for index, name in enumerate(table.names) if index != background}
    if background >= 0:
        names[max(values.values()) + 1] = IGNORED
    first = min(names)
    ids = {value: value + 1 - first for value in names}
    info = {"description": "converted by fullyconv"} | ({"unlabelled": IGNORED} if background < 0 else {})
    categories = [{"id": ids[value], "name": name, "supercategory": ""} for value, name in names.items()]
    documents: dict[str | None, dict[str, Any]] = {}
    images: list[Path] = []
    for sample, target in items:
        document = documents.setdefault(
            sample.split, {"info": info, "images": [], "annotations": [], "categories": categories}
        )
        home = folder / "images" / (sample.split or "")
        file = copy_image(sample.image, home, sample.id)
        images.append(file)
        identity = len(document["images"]) + 1
        height, width = target.shape
        name = file.relative_to(home).as_posix()
        document["images"].append({"id": identity, "file_name": name, "height": height, "width": width})
        for index in np.unique(target).tolist():
            if index == background or (index == IGNORE_INDEX and background < 0):
                continue
            category = ids[values[index] if index != IGNORE_INDEX else max(names)]
            for area in trace(target == index):
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": identity,
                        "category_id": category,
                        "iscrowd": 0,
                        **segmentation(area, (height, width)),
                    }
                )
    for split, document in documents.items():
        write_json(folder / "annotations" / f"instances_{split or 'default'}.json", document)
    write_classes(folder, table, values)
    return images


def segmentation(area: Polygon, size: Size) -> dict[str, Any]:
    """The members `segmentation`, `bbox` and `area` of an annotation, for an area with integer corners."""
    left, top, right, bottom = area.box()
    segmentation: Any = [area.rings[0].astype(int).ravel().tolist()]
    if len(area.rings) > 1:
        drawn = np.zeros(size, np.uint8)
        area.draw(drawn, 1)
        lengths = Runs.of(drawn == 1, by_columns=True).lengths
        segmentation = {"size": list(size), "counts": encode_counts(lengths)}
    bbox = [left, top, right - left, bottom - top]
    return {"segmentation": segmentation, "bbox": bbox, "area": area.pixels()}
