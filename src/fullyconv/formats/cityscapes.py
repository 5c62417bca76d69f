"""Cityscapes: leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png.

Cordts et al., "The Cityscapes Dataset" (2016); ids and colours are those of github.com/mcordts/cityscapesScripts,
helpers/labels.py. Of the 34 labels the 19 that are evaluated are classes, the others are ignored. labelTrainIds
are taken where they are there, else labelIds, else the colours; gtCoarse where there is no gtFine.
"""

from collections.abc import Iterable
from pathlib import Path

from fullyconv.class_table import IGNORE_INDEX, ClassEntry, ClassTable, Color
from fullyconv.errors import DataError
from fullyconv.formats.labels import write_classes
from fullyconv.formats.written import Labelled, write_values
from fullyconv.images import read_image, show_path, write_image
from fullyconv.layout import KnownClasses, Layout, Sample, braces, image_files, ordered, some, split_folders

__all__ = ["CITYSCAPES_CLASSES", "find_cityscapes", "read_cityscapes", "write_cityscapes"]

_IMAGES = "leftImg8bit"
_KINDS = ("labelTrainIds", "labelIds", "color")

CITYSCAPES_CLASSES: tuple[tuple[str, int, Color], ...] = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)
"""Name, label id and colour of the classes, in the order of their train ids."""

_IGNORED_IDS = tuple(sorted(set(range(34)) - {identity for _, identity, _ in CITYSCAPES_CLASSES}))
_IGNORED_COLORS: tuple[Color, ...] = (
    *((0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100)),
    *((150, 120, 90), (0, 0, 90), (0, 0, 110)),
)


def find_cityscapes(root: Path) -> Path | None:
    """leftImg8bit/ of a folder; None if it has none."""
    folder = root / _IMAGES
    return folder if folder.is_dir() else None


def read_cityscapes(root: Path) -> Layout:
    """Pair the images of leftImg8bit/ with gtFine/, or gtCoarse/. A split without any masks is left out and said.

    Raises:
        DataError: There are no masks, or an image has none while others of its split have.
    """
    truth = next((root / name for name in ("gtFine", "gtCoarse") if (root / name).is_dir()), None)
    if truth is None:
        raise DataError(
            f"{show_path(root)}: expected gtFine/ beside {_IMAGES}/, got none",
            hint="unpack gtFine_trainvaltest.zip there",
        )
    layout = Layout()
    found = {path.relative_to(truth).as_posix(): path for path in image_files(truth, layout.skipped).values()}
    kind = next((k for k in _KINDS if any(name.endswith(f"_{truth.name}_{k}.png") for name in found)), None)
    if kind is None:
        raise DataError(f"{show_path(truth)}: expected files that end in _labelIds.png, got others")
    ending = f"_{truth.name}_{kind}.png"
    samples: list[Sample] = []
    splits = split_folders(root / _IMAGES)
    for split, folder in splits.items():
        pairs = {}
        for name, image in image_files(folder, layout.skipped).items():
            stem = name[: -len(image.suffix)].removesuffix(f"_{_IMAGES}")
            pairs[stem] = (image, found.get(f"{folder.name}/{stem}{ending}"))
        alone = [stem for stem, (_, mask) in pairs.items() if mask is None]
        if len(alone) == len(pairs):
            layout.notes.append(f"{folder.name}/ has no masks and is left out ({len(alone)} images).")
            continue
        if alone:
            raise DataError(
                f"{len(alone)} of {len(pairs)} images in {show_path(folder)} have no {ending[1:]} in "
                f"{show_path(truth / folder.name)}: {some(alone)}",
                hint="add the masks, or remove the images",
            )
        samples += [Sample(stem, image, mask, split) for stem, (image, mask) in pairs.items()]
    layout.samples = ordered(samples)
    layout.description = f"{_IMAGES}/{braces(splits)} + {truth.name} ({kind}) of Cityscapes"
    layout.classes = _classes(kind)
    return layout


def _classes(kind: str) -> KnownClasses:
    if kind == "labelIds":
        known = tuple(ClassEntry(*fields) for fields in CITYSCAPES_CLASSES)
        return KnownClasses(known, "Cityscapes", ignored=_IGNORED_IDS)
    known = tuple(ClassEntry(name, value, color) for value, (name, _, color) in enumerate(CITYSCAPES_CLASSES))
    if kind == "color":
        # Ignored colours are entries with the value 255.
        known += tuple(ClassEntry(f"ignored {i}", IGNORE_INDEX, color) for i, color in enumerate(_IGNORED_COLORS))
        return KnownClasses(known, "Cityscapes", colored=True)
    return KnownClasses(known, "Cityscapes")


def write_cityscapes(folder: Path, table: ClassTable, items: Iterable[Labelled]) -> list[Path]:
    """Write leftImg8bit/SPLIT/CITY/ as PNG, gtFine/SPLIT/CITY/ with labelTrainIds, and classes.txt.

    Train ids are the class indices, 255 without a class. The city is the folder of a sample, or "all"; data
    without splits are all train.
    """
    values = dict(enumerate(range(table.num_classes)))
    images = []
    for sample, target in items:
        split = sample.split or "train"
        city, _, name = sample.id.rpartition("/")
        city = city.replace("/", "_") or "all"
        path = folder / _IMAGES / split / city / f"{name}_{_IMAGES}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, read_image(sample.image))
        images.append(path)
        write_values(folder / "gtFine" / split / city / f"{name}_gtFine_labelTrainIds.png", target, table, values)
    write_classes(folder, table, values)
    return images
