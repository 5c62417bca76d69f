"""CVAT's "Segmentation mask 1.1": PASCAL VOC's folders, and labelmap.txt with the colour of each label.

The format of docs.cvat.ai (formats, segmentation mask): SegmentationClass/ has PNGs in these colours, the lists in
ImageSets/Segmentation/ are called as the subsets are, `default` by default. Images lie in JPEGImages/ where they
were exported, too.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fullyconv.class_table import IGNORE_INDEX, ClassEntry, ClassTable
from fullyconv.errors import DataError
from fullyconv.formats.documents import understood
from fullyconv.formats.labels import IGNORED, is_ignored
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.voc import read_names, write_lists
from fullyconv.formats.written import Labelled, copy_image, distinct_colors, flat_names
from fullyconv.images import IGNORED_COLOR, show_path, write_image
from fullyconv.layout import (
    SPLIT_NAMES,
    KnownClasses,
    Layout,
    Sample,
    braces,
    by_stem,
    entries,
    folder_named,
    image_files,
    ordered,
    some,
)

__all__ = ["find_cvat", "read_cvat", "write_cvat"]

_LABELS_FILE = "labelmap.txt"
_LISTS = "ImageSets/Segmentation"


def find_cvat(root: Path) -> Path | None:
    """labelmap.txt of a folder that has SegmentationClass/, too; None if there is none."""
    path = root / _LABELS_FILE
    return path if path.is_file() and folder_named(root, ("segmentationclass",)) else None


def read_cvat(root: Path) -> Layout:
    """Pair the images and masks that the lists name.

    Raises:
        DataError: A list, an image or a mask is missing, or a name is in two lists.
    """
    layout = Layout(classes=_classes(root / _LABELS_FILE))
    masks, images = (folder_named(root, (name,)) for name in ("segmentationclass", "jpegimages"))
    if masks is None or images is None:
        raise DataError(
            f"{show_path(root)}: expected JPEGImages/ beside SegmentationClass/, got none",
            hint='export from CVAT with "Save images", or put the images there',
        )
    image_of, mask_of = (by_stem(image_files(folder, layout.skipped), folder) for folder in (images, masks))
    lists = [path for path in entries(root / _LISTS) if path.suffix == ".txt"] if (root / _LISTS).is_dir() else []
    list_of: dict[str, Path] = {}
    for path in lists:
        for name, number in read_names(path).items():
            if name in list_of:
                raise DataError(
                    f"{show_path(path)}, line {number}: {show_path(name)} is in {list_of[name].name}, too",
                    hint="each image belongs to one subset",
                )
            list_of[name] = path
    names = list_of if lists else dict.fromkeys(mask_of, masks)
    for kind, file_of, folder in (("image", image_of, images), ("mask", mask_of, masks)):
        if missing := [name for name in names if name not in file_of]:
            raise DataError(
                f"{len(missing)} of {len(names)} names have no {kind} in {show_path(folder)}: {some(missing)}",
                hint=f"add each {kind}, or take the names out of the lists",
            )
    layout.samples = ordered(
        Sample(name, image_of[name], mask_of[name], SPLIT_NAMES.get(path.stem.casefold()) if lists else None)
        for name, path in names.items()
    )
    layout.description = f"{images.name} + {masks.name} of CVAT"
    if lists:
        layout.description += f" by {_LISTS}/{braces(path.stem for path in lists)}.txt"
    return layout


def _classes(path: Path) -> KnownClasses:
    """The labels in their order, `name:r,g,b:parts:actions` a line."""
    found: list[ClassEntry] = []
    for number, line in numbered_lines(path):
        if line.startswith("#"):
            continue
        with understood(f"{show_path(path)}, line {number}", "name:r,g,b:parts:actions"):
            name, color, *_ = line.split(":")
            red, green, blue = (int(part) for part in color.split(","))
        value = IGNORE_INDEX if is_ignored(name) else sum(entry.value != IGNORE_INDEX for entry in found)
        found.append(ClassEntry(name, value, (red, green, blue)))
    if not found:
        raise DataError(f"{show_path(path)}: expected labels, got none")
    return KnownClasses(tuple(found), _LABELS_FILE, colored=True)


def write_cvat(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write JPEGImages/, SegmentationClass/ in RGB, the lists and labelmap.txt.

    The colours are the table's if all differ, else those of PASCAL VOC.
    """
    color_of = distinct_colors(table, [IGNORED_COLOR])
    lookup = np.full((256, 3), IGNORED_COLOR, np.uint8)
    for index, color in color_of.items():
        lookup[index] = color
    images = []
    names: dict[str, list[str]] = {}
    name_of = flat_names()
    (folder / "SegmentationClass").mkdir()
    for sample, target in items:
        name = name_of(sample)
        names.setdefault(sample.split or "default", []).append(name)
        images.append(copy_image(sample.image, folder / "JPEGImages", name))
        write_image(folder / "SegmentationClass" / f"{name}.png", lookup[target])
    write_lists(folder / _LISTS, names)
    labels = [(table.names[index], color) for index, color in color_of.items()] + [(IGNORED, IGNORED_COLOR)]
    lines = [
        "# label:color_rgb:parts:actions",
        *(f"{name}:{','.join(map(str, color))}::" for name, color in labels),
    ]
    (folder / _LABELS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return images
