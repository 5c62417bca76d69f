"""Predicted masks as polygons and areas: GeoJSON, COCO JSON, a table of pixels by class.

GeoJSON: RFC 7946, holes kept; of images without a place coordinates are pixels, x to the right and y down. Of a
GeoTIFF they are those of its map, which the older member `crs` names. COCO JSON is what `fullyconv.formats.coco`
reads.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.atomic import atomic_path
from fullyconv.class_table import ClassTable
from fullyconv.errors import UsageError
from fullyconv.formats.coco import segmentation
from fullyconv.formats.labels import is_background
from fullyconv.regions import trace
from fullyconv.rules import Rules, Verdict, judge
from fullyconv.shapes import Mask

__all__ = ["AREAS_FILE", "COCO_FILE", "VERDICTS_FILE", "Place", "Vectors", "geojson"]

AREAS_FILE, COCO_FILE, VERDICTS_FILE = "areas.csv", "predictions.json", "verdicts.csv"


@dataclass(frozen=True)
class Place:
    """Where an image lies on a map.

    Attributes:
        transform: a, b, c, d, e, f of x = a * column + b * row + c, y = d * column + e * row + f.
        crs: Of these coordinates, as an OGC URN; "" if it is not known by one.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str = ""

    def of(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """N x 2 pixel coordinates (x, y) on the map."""
        a, b, c, d, e, f = self.transform
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    @property
    def pixel_area(self) -> float:
        """Of one pixel, in squared units of the map."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)


class Vectors:
    """What is written of masks beside them.

    Args:
        out: The folder.
        table: The classes. One called background has no polygons.
        geojson: Write `NAME.geojson` for each mask.
        coco: Write one `predictions.json` for all.
        areas: Write `areas.csv`: pixels of each class in each mask.
        rules: Write `verdicts.csv`: what each of these rules says of each mask.

    Attributes:
        failed: Names of masks that fail a rule.
    """

    def __init__(
        self,
        out: Path,
        table: ClassTable,
        *,
        geojson: bool = False,
        coco: bool = False,
        areas: bool = False,
        rules: Rules | None = None,
    ) -> None:
        self.out, self.table = out, table
        self.geojson, self.coco, self.areas = geojson, coco, areas
        self.rules = rules
        self.failed: list[str] = []
        self._verdicts: list[tuple[str, Verdict]] = []
        self._rows: list[tuple[str, str, int, float, str]] = []
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def refuse_existing(self, names: Iterable[str]) -> None:
        """Refuse to write over files.

        Args:
            names: Of the masks.

        Raises:
            UsageError: A file is there already.
        """
        once = ((AREAS_FILE, self.areas), (COCO_FILE, self.coco), (VERDICTS_FILE, self.rules is not None))
        files = [self.out / name for name, wanted in once if wanted]
        files += [self.out / f"{name}.geojson" for name in names if self.geojson]
        for path in files:
            if path.exists():
                raise UsageError(f"{path} is there already", hint="choose another folder with -o")

    def add(self, name: str, image: Path, mask: Mask, place: Place | None = None) -> None:
        """Take a mask of class indices: write its GeoJSON, keep the rest for `finish`."""
        if self.areas:
            counts = np.bincount(mask.ravel(), minlength=self.table.num_classes)
            for class_name, pixels in zip(self.table.names, counts.tolist(), strict=False):
                area = f"{pixels * place.pixel_area:.6g}" if place is not None else ""
                self._rows.append((name, class_name, pixels, pixels / mask.size, area))
        if self.geojson:
            path = self.out / f"{name}.geojson"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, _as_json(geojson(mask, self.table, place)))
        if self.coco:
            self._add_coco(image, mask)
        if self.rules is not None:
            verdicts = judge(mask, self.table, self.rules)
            self._verdicts += [(name, verdict) for verdict in verdicts]
            self.failed += [name] * (not all(verdict.passed for verdict in verdicts))

    def _add_coco(self, image: Path, mask: Mask) -> None:
        height, width = mask.shape
        identity = len(self._images) + 1
        self._images.append({"id": identity, "file_name": image.name, "height": height, "width": width})
        for index in _shown(mask, self.table):
            self._annotations += [
                {
                    "id": len(self._annotations) + place + 1,
                    "image_id": identity,
                    "category_id": index + 1,
                    "iscrowd": 0,
                    **segmentation(area, (height, width)),
                }
                for place, area in enumerate(trace(mask == index))
            ]

    def finish(self) -> None:
        """Write what is for all masks."""
        if self.areas:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("image", "class", "pixels", "share", "area"))
            writer.writerows(
                (name, kind, pixels, f"{share:.6f}", area) for name, kind, pixels, share, area in self._rows
            )
            _write(self.out / AREAS_FILE, text.getvalue())
        if self.rules is not None:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("image", "rule", "verdict", "count", "area", "length"))
            for name, found in self._verdicts:
                words = "pass" if found.passed else "fail"
                writer.writerow((name, found.rule, words, found.count, f"{found.area:.6g}", f"{found.length:.6g}"))
            _write(self.out / VERDICTS_FILE, text.getvalue())
        if self.coco:
            categories = [
                {"id": index + 1, "name": name, "supercategory": ""}
                for index, name in enumerate(self.table.names)
                if not is_background(name)
            ]
            document = {"images": self._images, "annotations": self._annotations, "categories": categories}
            _write(self.out / COCO_FILE, _as_json(document))


def geojson(mask: Mask, table: ClassTable, place: Place | None = None) -> dict[str, Any]:
    """Turn a mask into a GeoJSON FeatureCollection, a polygon for each connected area.

    Args:
        mask: H x W class indices.
        table: The classes. One called background has no polygons.
        place: Where the image lies, if it lies anywhere.
    """
    features = []
    for index in _shown(mask, table):
        entry = table.classes[index]
        for area in trace(mask == index):
            rings = [ring if place is None else place.of(ring) for ring in area.rings]
            pixels = area.pixels()
            properties: dict[str, Any] = {"class": entry.name, "value": entry.value, "pixels": pixels}
            if place is not None:
                properties["area"] = pixels * place.pixel_area
            coordinates = [_closed(ring, outer=number == 0) for number, ring in enumerate(rings)]
            geometry = {"type": "Polygon", "coordinates": coordinates}
            features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    document: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if place is not None and place.crs:
        document["crs"] = {"type": "name", "properties": {"name": place.crs}}
    return document


def _shown(mask: Mask, table: ClassTable) -> list[int]:
    """Classes in a mask that have polygons."""
    return [index for index in np.unique(mask).tolist() if not is_background(table.names[index])]


def _closed(ring: npt.NDArray[np.float64], *, outer: bool) -> list[list[float]]:
    """A ring that ends where it begins, outlines counterclockwise and holes clockwise."""
    x, y = ring.T
    turns_left = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0
    points = ring if turns_left == outer else ring[::-1]
    return [*points.tolist(), points[0].tolist()]


def _as_json(document: Mapping[str, Any]) -> str:
    """Names as they are; escaped where they are no text, as names of files may be."""
    text = json.dumps(document, ensure_ascii=False)
    return (
        text if text.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in text) else json.dumps(document)
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, overwrite=False) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")  # names as the system has them
