"""YOLO polygons: `images/SPLIT/`, `labels/SPLIT/NAME.txt` and a `data.yaml` with the names of the classes.

The format of docs.ultralytics.com/datasets/segment (AGPL-3.0, of which nothing is used): a line is a class index
and the corners x y of a polygon as shares of width and height. Later lines cover earlier ones. What no polygon
covers is background, or has no class where `data.yaml` says `unlabelled: ignored`.
"""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.errors import DataError, UsageError
from fullyconv.formats.documents import understood
from fullyconv.formats.labels import IGNORED, Labels, values_of, write_classes
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.written import Labelled, copy_image
from fullyconv.images import image_size, show_path
from fullyconv.layout import Layout, Sample, braces, by_stem, entries, image_files, ordered, some, split_folders
from fullyconv.regions import Annotation, Area, Polygon, keyhole, trace

__all__ = ["find_yolo", "read_yolo", "write_yolo"]


def find_yolo(root: Path) -> Path | None:
    """The YAML file that lies beside `images` and `labels`, where labels are text; None if there is none."""
    folder = root / "labels"
    suffixes = {path.suffix for path in folder.rglob("*.*")} if folder.is_dir() else set()
    if ".txt" not in suffixes:
        return None
    named = next((path for path in entries(root) if path.suffix in (".yaml", ".yml")), None)
    return named or (folder if suffixes == {".txt"} else None)


def read_yolo(root: Path) -> Layout:
    """Pair images with the polygons of their text files; an image without one is background alone.

    Raises:
        DataError: A file is damaged, holds boxes, or has no image.
    """
    file = find_yolo(root)
    if file is None or file.suffix not in (".yaml", ".yml"):
        raise DataError(
            f"{show_path(root)}: expected data.yaml with the names of the classes, got none",
            hint="a file with `names: {0: first, 1: second}`",
        )
    labels = _labels(file)
    layout = Layout(classes=labels.classes)
    images, texts = root / "images", root / "labels"
    splits: dict[str | None, tuple[Path, Path]] = {
        split: (folder, texts / folder.name) for split, folder in split_folders(images).items()
    } or {None: (images, texts)}
    samples = []
    for split, (folder, labelled) in splits.items():
        image_of = by_stem(image_files(folder, layout.skipped), folder)
        found = sorted(labelled.rglob("*.txt")) if labelled.is_dir() else []
        text_of = {path.relative_to(labelled).with_suffix("").as_posix(): path for path in found}
        alone = [name for name in text_of if name not in image_of]
        if alone:
            raise DataError(
                f"{len(alone)} of {len(text_of)} text files in {show_path(labelled)} have no image: {some(alone)}",
                hint="add the images, or remove the text files",
            )
        for stem, image in image_of.items():
            areas = _areas(text_of[stem], image, labels) if stem in text_of else ()
            source = text_of.get(stem, image)
            samples.append(Sample(stem, image, Annotation(source, areas, labels.background), split))
    layout.samples = ordered(samples)
    names = braces(folder.name for folder, _ in splits.values())
    layout.description = (
        f"images/{names} + labels/{names} of YOLO" if None not in splits else "images + labels of YOLO"
    )
    return layout


def _labels(file: Path) -> Labels:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise UsageError(
            f"{show_path(file)}: reading it needs PyYAML", hint='install it with: pip install "fullyconv[yolo]"'
        ) from None
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{show_path(file)}: expected YAML with names, got a file that is none ({reason})"
        ) from error
    with understood(show_path(file), "`names` as a list or by number"):
        names = document["names"]
        listed = list(names) if isinstance(names, list) else [names[number] for number in range(len(names))]
        rest = document.get("unlabelled") == IGNORED
    labels = Labels.of([str(name) for name in listed], file.name, rest_ignored=rest)
    # Lines name classes by their place.
    values = {str(number): labels.value_of[str(name)] for number, name in enumerate(listed)}
    return Labels(values, labels.background, labels.classes)


def _areas(path: Path, image: Path, labels: Labels) -> tuple[tuple[int, Area], ...]:
    height, width = image_size(image)
    areas: list[tuple[int, Area]] = []
    for number, line in numbered_lines(path, "lines `class x y x y x y`"):
        where = f"{show_path(path)}, line {number}"
        first, *rest = line.split()
        if len(rest) == 4:
            raise DataError(
                f"{where}: expected a polygon of three corners or more, got a box",
                hint="boxes of detection are no masks: export polygons (YOLO segmentation)",
            )
        with understood(where, "a class index and corners x y"):
            value = labels.value_of[first]
            corners = np.array([float(part) for part in rest]).reshape(-1, 2) * (width, height)
        if not np.isfinite(corners).all() or len(corners) < 3:
            raise DataError(f"{where}: expected three corners or more, finite, got {len(corners)}")
        near = np.rint(corners)
        areas.append((value, Polygon((np.where(np.abs(corners - near) < 1e-6, near, corners),))))
    return tuple(areas)


def write_yolo(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write a polygon for each connected area; a line without width leads to each of its holes and back.

    Pixels without a class become the class "ignored" where there is a background class, and stay without polygon
    where there is none.
    """
    background, values = values_of(table)
    names = [
        table.names[index] for index in sorted(values, key=lambda index: values[index]) if index != background
    ]
    if background >= 0:
        names.append(IGNORED)
    images = []
    splits: dict[str, None] = {}
    for sample, target in items:
        split = sample.split or ""
        splits[split] = None
        images.append(copy_image(sample.image, folder / "images" / split, sample.id))
        lines = []
        for index in np.unique(target).tolist():
            if index == background or (index == IGNORE_INDEX and background < 0):
                continue
            number = names.index(IGNORED if index == IGNORE_INDEX else table.names[index])
            for area in trace(target == index):
                shares = keyhole(area) / (target.shape[1], target.shape[0])
                lines.append(" ".join([str(number), *(f"{share:.12g}" for share in shares.ravel())]))
        path = folder / "labels" / split / f"{sample.id}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    entries_ = [f"{split or 'train'}: images/{split}".rstrip("/") for split in splits]
    rest = [] if background >= 0 else [f"unlabelled: {IGNORED}"]
    quoted = [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(names)]
    text = "\n".join(["path: .", *entries_, *rest, "names:", *quoted, ""])
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    write_classes(folder, table, values)
    return images
