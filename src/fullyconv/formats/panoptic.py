"""COCO panoptic: `annotations/panoptic_SPLIT.json` and a folder of PNGs that hold segment ids beside it.

Kirillov et al., "Panoptic Segmentation" (2019); cocodataset.org/#format-data. A pixel's id is R + 256 G + 65536 B,
the JSON says which category a segment has, and pixels with id 0 have no class.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import DataError
from fullyconv.formats.documents import read_json, understood, write_json
from fullyconv.formats.labels import Labels, write_classes
from fullyconv.formats.written import Labelled, copy_image, located
from fullyconv.images import read_mask_array, show_path, write_image
from fullyconv.layout import SPLIT_NAMES, Layout, Sample, braces, entries, ordered
from fullyconv.regions import trace
from fullyconv.shapes import Size

__all__ = ["SegmentMap", "find_panoptic", "read_panoptic", "write_panoptic"]

_FILE = re.compile(r"panoptic(?:_(?P<split>[a-z]+)\d*)?\.json")
_WHAT = "COCO panoptic annotations"


@dataclass(frozen=True, eq=False)
class SegmentMap:
    """A mask that is read as a PNG of segment ids.

    Attributes:
        path: The PNG.
        value_of: The mask value of each segment's id.
    """

    path: Path
    value_of: Mapping[int, int]

    def draw(self, size: Size) -> npt.NDArray[np.uint8]:
        """Read H x W mask values, 255 where a pixel has no segment; the size is checked by the reader.

        Raises:
            DataError: The file cannot be read, or a pixel has an id that the JSON does not tell of.
        """
        colors = read_mask_array(self.path)
        if colors.ndim == 2:  # ids below 256 saved as grey
            colors = np.stack([colors, np.zeros_like(colors), np.zeros_like(colors)], axis=2)
        ids = colors.astype(np.int64) @ np.array([1, 256, 65536])
        found, place = np.unique(ids, return_inverse=True)
        unknown = [int(identity) for identity in found if identity and int(identity) not in self.value_of]
        if unknown:
            raise DataError(
                f"{show_path(self.path)}: expected the segments of its JSON file, got id {unknown[0]}, too",
                hint="the PNG and the JSON file are of different versions: export both again",
            )
        values = np.array([self.value_of.get(int(identity), IGNORE_INDEX) for identity in found], np.uint8)
        return values[place].reshape(ids.shape)

    def digest(self) -> str:
        """SHA-256 of the PNG and of what its ids mean."""
        try:
            sha = hashlib.sha256(self.path.read_bytes())
        except OSError as error:
            raise DataError(f"{show_path(self.path)} cannot be read: {error.strerror or error}") from None
        sha.update(repr(sorted(self.value_of.items())).encode())
        return sha.hexdigest()

    def __str__(self) -> str:
        return str(self.path)


def find_panoptic(root: Path) -> Path | None:
    """The first annotation file of a folder; None if it has none."""
    return next(iter(_files(root)), None)


def _files(root: Path) -> dict[Path, str | None]:
    folder = root / "annotations"
    found = entries(folder) if folder.is_dir() else []
    matches = {path: match for path in found if (match := _FILE.fullmatch(path.name))}
    return {path: SPLIT_NAMES.get(match["split"] or "") for path, match in matches.items()}


def read_panoptic(root: Path) -> Layout:
    """Read all panoptic files of a folder.

    Raises:
        DataError: A file is damaged, names a file that is not there, or files contradict each other.
    """
    samples: list[Sample] = []
    names: dict[int, str] | None = None
    for path, split in _files(root).items():
        document = read_json(path, _WHAT)
        with understood(show_path(path), f"{_WHAT} with images, annotations and categories"):
            here = {int(one["id"]): str(one["name"]) for one in document["categories"]}
            document["images"], document["annotations"]
        if names not in (None, here):
            raise DataError(
                f"{show_path(path)}: expected the categories of the other files, got others",
                hint="export all splits from one project",
            )
        names = dict(sorted(here.items()))
        labels = _labels(names, path)
        samples += _samples(path, document, root, split, names, labels)
    assert names is not None
    return Layout(
        ordered(samples),
        braces(path.relative_to(root).as_posix() for path in _files(root)),
        classes=labels.classes,
    )


def _labels(names: dict[int, str], path: Path) -> Labels:
    if len(set(names.values())) < len(names):
        raise DataError(f"{show_path(path)}: expected each category once, got some name twice")
    return Labels.of(list(names.values()), f"the categories of {show_path(path.name)}", rest_ignored=True)


def _samples(
    path: Path, document: Any, root: Path, split: str | None, names: dict[int, str], labels: Labels
) -> list[Sample]:
    masks: dict[Any, SegmentMap] = {}
    for number, one in enumerate(document["annotations"]):
        with understood(f"{show_path(path)}, annotation {number}", "image_id, file_name and segments_info"):
            value_of = {
                int(segment["id"]): labels.value_of[names[int(segment["category_id"])]]
                for segment in one["segments_info"]
            }
            masks[one["image_id"]] = SegmentMap(path.with_suffix("") / one["file_name"], value_of)
    with understood(f"{show_path(path)}, images", "id and file_name of each"):
        file_names = [str(image["file_name"]) for image in document["images"]]
        found = [masks.get(image["id"]) for image in document["images"]]
    files = located(path, file_names, root, split)
    for name, mask in zip(file_names, found, strict=True):
        if mask is None or not mask.path.is_file():
            raise DataError(f"{show_path(path)}: expected a PNG of segments for {show_path(name)}, got none")
    stems = [Path(name).with_suffix("").as_posix() for name in file_names]
    return [Sample(stem, file, mask, split) for stem, file, mask in zip(stems, files, found, strict=True)]


def write_panoptic(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write `images/SPLIT/`, `annotations/panoptic_SPLIT.json` and its PNGs, a segment for each connected area."""
    categories = [
        {"id": index + 1, "name": entry.name, "supercategory": "", "isthing": 0, "color": list(entry.color)}
        for index, entry in enumerate(table.classes)
    ]
    documents: dict[str | None, dict[str, Any]] = {}
    images = []
    for sample, target in items:
        document = documents.setdefault(sample.split, {"images": [], "annotations": [], "categories": categories})
        home = folder / "images" / (sample.split or "")
        images.append(copy_image(sample.image, home, sample.id))
        name = images[-1].relative_to(home).as_posix()
        identity = len(images)
        height, width = target.shape
        document["images"].append({"id": identity, "file_name": name, "height": height, "width": width})
        ids, segments = _segments(target)
        png = f"{sample.id}.png"
        path = folder / "annotations" / f"panoptic_{sample.split or 'default'}" / png
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=2).astype(np.uint8))
        document["annotations"].append({"image_id": identity, "file_name": png, "segments_info": segments})
    for split, document in documents.items():
        write_json(folder / "annotations" / f"panoptic_{split or 'default'}.json", document)
    write_classes(folder, table, range(table.num_classes))
    return images


def _segments(target: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], list[dict[str, Any]]]:
    """The id of each pixel, 0 without a class, and what the ids are."""
    ids = np.zeros(target.shape, np.int64)
    segments: list[dict[str, Any]] = []
    for index in np.unique(target[target != IGNORE_INDEX]).tolist():
        for area in trace(target == index):
            left, top, right, bottom = area.box()
            drawn = np.zeros((bottom - top, right - left), np.uint8)
            area.moved(-left, -top).draw(drawn, 1)
            identity = len(segments) + 1
            ids[top:bottom, left:right][drawn == 1] = identity
            segments.append(
                {
                    "id": identity,
                    "category_id": index + 1,
                    "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(drawn.sum()),
                }
            )
    return ids, segments
