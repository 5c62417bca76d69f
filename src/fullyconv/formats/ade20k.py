"""ADE20K's scene parsing benchmark: images/training, annotations/training and so on, objectInfo150.txt.

Zhou et al., "Scene Parsing through ADE20K Dataset" (2017), sceneparsing.csail.mit.edu: masks hold 1..150, and 0
where a pixel has no class. The names are those of objectInfo150.txt, of several words for one class the first.
"""

from collections.abc import Iterable
from pathlib import Path

from fullyconv.class_table import ClassEntry, ClassTable, default_color
from fullyconv.errors import DataError
from fullyconv.formats.documents import understood
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.written import Labelled, copy_image, write_values
from fullyconv.images import show_path
from fullyconv.layout import KnownClasses, Layout, read_folders

__all__ = ["find_ade20k", "read_ade20k", "write_ade20k"]

_CLASSES_FILE = "objectInfo150.txt"
_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def find_ade20k(root: Path) -> Path | None:
    """objectInfo150.txt of a folder; None if it has none."""
    path = root / _CLASSES_FILE
    return path if path.is_file() else None


def read_ade20k(root: Path) -> Layout:
    """Pair images/ with annotations/, as `layout.read_folders` does.

    Raises:
        DataError: What that refuses, or objectInfo150.txt is damaged.
    """
    layout = read_folders(root)
    layout.classes = _classes(root / _CLASSES_FILE)
    return layout


def _classes(path: Path) -> KnownClasses:
    found: list[ClassEntry] = []
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if fields[0].strip().casefold() == "idx":
            continue
        with understood(f"{show_path(path)}, line {number}", "Idx, Ratio, Train, Val, Stuff, Name by tabs"):
            index, names = int(fields[0]), fields[5]
        name = names.split(",")[0].strip()
        # A few first words stand for two classes: the later one is called by all its words.
        name = names.strip() if name in {entry.name for entry in found} else name
        found.append(ClassEntry(name, index, default_color(index)))
    if not found:
        raise DataError(f"{show_path(path)}: expected classes, got none")
    return KnownClasses(tuple(found), _CLASSES_FILE, ignored=(0,))


def write_ade20k(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write images and annotations with the values 1, 2, ..., 0 without a class, and objectInfo150.txt."""
    values = {index: index + 1 for index in range(table.num_classes)}
    images = []
    for sample, target in items:
        split = _FOLDERS.get(sample.split or "", "")
        images.append(copy_image(sample.image, folder / "images" / split, sample.id))
        write_values(folder / "annotations" / split / f"{sample.id}.png", target, table, values, ignored=0)
    lines = [
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        *(f"{index + 1}\t0\t0\t0\t0\t{name}" for index, name in enumerate(table.names)),
    ]
    (folder / _CLASSES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return images
