"""PASCAL VOC: JPEGImages/, SegmentationClass/ and lists of names in ImageSets/Segmentation/.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010). Most images have no mask: the lists say
which images count. Masks are palette PNGs that hold 0..20, and 255 along the borders of objects.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from fullyconv.class_table import ClassTable, entries_of_names
from fullyconv.errors import DataError
from fullyconv.formats.labels import write_classes
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.written import Labelled, copy_image, flat_names, write_values
from fullyconv.images import show_path
from fullyconv.layout import (
    SPLIT_ORDER,
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

__all__ = ["VOC_CLASSES", "find_voc", "read_names", "read_voc", "write_lists", "write_voc"]

NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)

VOC_CLASSES = KnownClasses(
    entries_of_names(NAMES),
    "PASCAL VOC",
    sign=255,
)
"""The 21 classes of PASCAL VOC in its colours; value 255 is the border."""

_IMAGES, _MASKS = ("jpegimages",), ("segmentationclass",)
_LISTS = "ImageSets/Segmentation"
_OTHERS = ("class_names.txt",)
"""With these, Labelme says that the classes of a folder laid out like VOC are not VOC's."""
_CVAT = "labelmap.txt"
"""With this, the folder is CVAT's."""


def find_voc(root: Path) -> Path | None:
    """JPEGImages/ or SegmentationClass/ of a folder, or of the one year in a VOCdevkit; None if there is neither.

    Raises:
        DataError: There are several years.
    """
    year = None if (root / _CVAT).is_file() else _year(root)
    return None if year is None else folder_named(year, _IMAGES) or folder_named(year, _MASKS)


def _year(root: Path) -> Path | None:
    """The folder that has JPEGImages/ or SegmentationClass/: a folder itself, or the one year in it."""
    if _has_parts(root):
        return root
    years = [entry for entry in entries(root) if re.fullmatch(r"(?i)voc\d{4}", entry.name) and entry.is_dir()]
    years = [year for year in years if _has_parts(year)]
    if len(years) > 1:
        raise DataError(
            f"{show_path(root)}: expected one year of PASCAL VOC, got {some(year.name for year in years)}",
            hint=f"give one of them, such as {show_path(years[-1])}",
        )
    return years[0] if years else None


def _has_parts(folder: Path) -> bool:
    return any(folder_named(folder, names) is not None for names in (_IMAGES, _MASKS))


def read_voc(root: Path) -> Layout:
    """Pair the images and masks that the lists name.

    Raises:
        DataError: A folder or list is missing, a name has no image or no mask, or lists contradict each other.
    """
    given, root = root, _year(root) or root
    layout = Layout(folder=root, classes=None if any((root / name).exists() for name in _OTHERS) else VOC_CLASSES)
    images, masks = folder_named(root, _IMAGES), folder_named(root, _MASKS)
    if images is None or masks is None:
        raise DataError(
            f"{show_path(root)}: expected JPEGImages/ and SegmentationClass/, got one of them alone",
            hint="unpack the whole archive; a VOC without SegmentationClass/ has no masks",
        )
    split_of, names = _read_lists(root, layout)
    image_of, mask_of = (by_stem(image_files(folder, layout.skipped), folder) for folder in (images, masks))
    for kind, file_of, folder in (("image", image_of, images), ("mask", mask_of, masks)):
        _refuse_missing(kind, [name for name in split_of if name not in file_of], split_of, folder)
    unlisted = [name for name in mask_of if name not in split_of]
    if unlisted:
        layout.notes.append(f"{len(unlisted)} masks are in no list and left out ({some(unlisted)}).")
    layout.samples = ordered(Sample(name, image_of[name], mask_of[name], split_of[name]) for name in split_of)
    where = "" if root == given else f"{root.name}/"
    layout.description = f"{where}{images.name} + {masks.name} by {_LISTS}/{braces(names)}.txt"
    return layout


def _read_lists(root: Path, layout: Layout) -> tuple[dict[str, str], list[str]]:
    """The split of each name, and the lists that said so."""
    folder = root / _LISTS
    files = {path.stem: path for path in entries(folder) if path.suffix == ".txt"} if folder.is_dir() else {}
    used = {split: files[split] for split in SPLIT_ORDER if split in files}
    only_both = "trainval" in files and not {"train", "val"} & set(used)
    if only_both:
        used = {"train": files["trainval"], **used}
    if not used:
        raise DataError(
            f"{show_path(folder)}: expected train.txt, val.txt, trainval.txt or test.txt, "
            f"got {some(path.name for path in files.values()) or 'none'}",
            hint="a list has a name without suffix a line and says which images count",
        )
    split_of: dict[str, str] = {}
    for split, path in used.items():
        for name, number in read_names(path).items():
            if name in split_of:
                raise DataError(
                    f"{show_path(path)}, line {number}: {show_path(name)} is in {used[split_of[name]].name}, too",
                    hint="each name belongs to one of train, val and test",
                )
            split_of[name] = split
    if "trainval" in files and not only_both:
        _refuse_contradiction(read_names(files["trainval"]), split_of, files["trainval"])
    others = sorted(set(files) - {*SPLIT_ORDER, "trainval"})
    if others:
        layout.notes.append(f"Lists of other names are not read ({some(f'{name}.txt' for name in others)}).")
    return split_of, [path.stem for path in used.values()]


def read_names(path: Path) -> dict[str, int]:
    """Read the names in a list, a name without suffix a line, and their line numbers.

    Raises:
        DataError: There are none, one is there twice, or a line has blanks.
    """
    found: dict[str, int] = {}
    for number, line in numbered_lines(path):
        name = unicodedata.normalize("NFC", line)
        if len(line.split()) != 1 or name in found:
            problem = f"that of line {found[name]}" if name in found else f"{len(line.split())} fields"
            raise DataError(
                f"{show_path(path)}, line {number}: expected a new name, got {problem}: {show_path(line)!r}",
                hint="one name without suffix a line, each once",
            )
        found[name] = number
    if not found:
        raise DataError(f"{show_path(path)}: expected names, got none", hint="remove the list")
    return found


def _refuse_contradiction(both: Mapping[str, int], split_of: Mapping[str, str], path: Path) -> None:
    """Refuse a trainval.txt that is not train.txt and val.txt together."""
    expected = {name for name, split in split_of.items() if split in ("train", "val")}
    different = [*(name for name in both if name not in expected), *sorted(expected - set(both))]
    if different:
        here, there = ("it has", "they have not") if different[0] in both else ("it has not", "they have")
        raise DataError(
            f"{show_path(path)}: expected the names of train.txt and val.txt together, {here} "
            f"{show_path(different[0])}, which {there}",
            hint="complete the lists, or remove trainval.txt",
        )


def _refuse_missing(kind: str, missing: list[str], split_of: Mapping[str, str], folder: Path) -> None:
    if not missing:
        return
    lists = sorted({split_of[name] for name in missing}, key=SPLIT_ORDER.index)
    raise DataError(
        f"{len(missing)} of {len(split_of)} names in the lists ({', '.join(lists)}) have no {kind} in "
        f"{show_path(folder)}: {some(missing)}",
        hint=f"add each {kind}, or take the names out of the list; VOC's own test images have no masks",
    )


def write_voc(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write JPEGImages/, SegmentationClass/, the lists and classes.txt. Data without splits are in trainval.txt.

    Masks are palette PNGs that hold class indices, 255 where a pixel has no class.
    """
    values = dict(enumerate(range(table.num_classes)))
    images = []
    names: dict[str, list[str]] = {}
    name_of = flat_names()
    for sample, target in items:
        name = name_of(sample)
        names.setdefault(sample.split or "trainval", []).append(name)
        images.append(copy_image(sample.image, folder / "JPEGImages", name))
        write_values(folder / "SegmentationClass" / f"{name}.png", target, table, values)
    write_lists(folder / _LISTS, names)
    write_classes(folder, table, values)
    return images


def write_lists(folder: Path, names: Mapping[str, Iterable[str]]) -> None:
    """Write a list for each split, a name a line."""
    folder.mkdir(parents=True)
    for split, listed in names.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
