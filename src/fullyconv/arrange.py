"""What archives of published data sets hold, brought into a form that `formats` reads.

Images are moved as they are, and masks too where they are images. SBD keeps its masks in MATLAB files: they become
palette PNGs once, which needs SciPy (extra `sbd`).
"""

import importlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fullyconv.class_table import ClassTable, entries_of_names
from fullyconv.errors import DataError, UsageError, show_path
from fullyconv.formats.labels import write_classes
from fullyconv.formats.lists import numbered_lines
from fullyconv.formats.voc import VOC_CLASSES, read_names, write_lists
from fullyconv.images import write_mask
from fullyconv.layout import some
from fullyconv.progress import Progress
from fullyconv.shapes import Mask

__all__ = ["ARRANGED", "require_extra"]

_IMAGES, _MASKS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_SBD = "benchmark_RELEASE/dataset"


def require_extra(extra: str) -> None:
    """Refuse to begin where the extra is missing that a data set will need.

    Raises:
        UsageError: It is not installed.
    """
    if extra and find_spec("scipy") is None:
        raise UsageError(
            "SBD keeps its masks in MATLAB files, which SciPy reads, and it is not installed",
            hint=f'install it with: pip install "fullyconv[{extra}]"',
        )


# ---- VOC and SBD ----


def _arrange_voc2012(parts: Path, folder: Path, progress: Progress) -> None:
    """VOCdevkit/VOC2012 as it is."""
    _move_all(_part(parts, "VOCdevkit/VOC2012"), folder)


def _arrange_sbd(parts: Path, folder: Path, progress: Progress) -> None:
    """train_noval as train, all others as val."""
    root = _part(parts, _SBD)
    train = read_names(_part(parts, "SBD_train_noval.txt"))
    val = [name for name in _names_of_sbd(root) if name not in train]
    _take_sbd(root, folder, [*train, *val], progress)
    _write_lists(folder, train, val)


def _arrange_voc2011_sbd(parts: Path, folder: Path, progress: Progress) -> None:
    """Long, Shelhamer and Darrell (2015): SBD's train, and what of VOC 2011's val is not in it (seg11valid)."""
    root, voc = _part(parts, _SBD), _part(parts, "TrainVal/VOCdevkit/VOC2011")
    train = read_names(_part(root, "train.txt"))
    val = [name for name in read_names(_part(voc, f"{_LISTS}/val.txt")) if name not in train]
    _take_voc(voc, folder, val)
    _take_sbd(root, folder, train, progress)
    _write_lists(folder, train, val)


def _arrange_voc2012_sbd(parts: Path, folder: Path, progress: Progress) -> None:
    """VOC 2012 and SBD together without VOC's val; VOC's own masks where it has some."""
    root, voc = _part(parts, _SBD), _part(parts, "VOCdevkit/VOC2012")
    own, val = (read_names(_part(voc, f"{_LISTS}/{split}.txt")) for split in ("train", "val"))
    added = [name for name in _names_of_sbd(root) if name not in own and name not in val]
    _take_voc(voc, folder, [*own, *val])
    _take_sbd(root, folder, added, progress)
    _write_lists(folder, sorted([*own, *added]), val)


def _names_of_sbd(root: Path) -> list[str]:
    return sorted({**read_names(_part(root, "train.txt")), **read_names(_part(root, "val.txt"))})


def _take_voc(voc: Path, folder: Path, names: Iterable[str]) -> None:
    listed = list(names)
    _move(listed, _part(voc, _IMAGES), folder / _IMAGES, ".jpg")
    _move(listed, _part(voc, _MASKS), folder / _MASKS, ".png")


def _take_sbd(root: Path, folder: Path, names: Iterable[str], progress: Progress) -> None:
    """Move images, and write masks as palette PNGs in VOC's colours."""
    listed = list(names)
    _move(listed, _part(root, "img"), folder / _IMAGES, ".jpg")
    masks = _part(root, "cls")
    _refuse_missing(listed, masks, ".mat")
    colors = {entry.value: entry.color for entry in VOC_CLASSES.entries}
    (folder / _MASKS).mkdir(exist_ok=True)
    with progress.track("writing masks", len(listed)) as step:
        for name in listed:
            write_mask(folder / _MASKS / f"{name}.png", _read_sbd_mask(masks / f"{name}.mat"), colors)
            step()


def _read_sbd_mask(path: Path) -> Mask:
    """Read `GTcls.Segmentation` of a MATLAB file: H x W uint8, 0 for background, 1..20."""
    try:
        # The reader gets numbers and texts out of MATLAB's version 5, and runs nothing.
        mask: Any = importlib.import_module("scipy.io").loadmat(path, variable_names=["GTcls"])
        mask = mask["GTcls"]["Segmentation"][0, 0]
    except Exception as error:
        # A damaged file fails in as many ways as it has bytes: all of them mean the same.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{show_path(path)}: expected SBD's GTcls.Segmentation, got none: {reason}") from None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise DataError(f"{show_path(path)}: expected H x W uint8, got {mask.dtype} {mask.shape}")
    return np.asarray(mask)


def _write_lists(folder: Path, train: Iterable[str], val: Iterable[str]) -> None:
    """The lists, and the classes: SBD's masks have no border, by which VOC's would be known."""
    write_lists(folder / _LISTS, {"train": train, "val": val})
    values = [entry.value for entry in VOC_CLASSES.entries]
    write_classes(folder, ClassTable(VOC_CLASSES.entries), values)


# ---- others ----


def _arrange_camvid(parts: Path, folder: Path, progress: Progress) -> None:
    """images/ and labels/NAME_P.png, with valid.txt where there are splits; codes.txt has the classes."""
    root = next((path for name in ("camvid", "camvid_tiny") if (path := parts / name).is_dir()), parts)
    images, masks = _part(root, "images"), _part(root, "labels")
    names = [line.strip() for _, line in numbered_lines(_part(root, "codes.txt"))]
    held_out = root / "valid.txt"
    val = {line.strip() for _, line in numbered_lines(held_out)} if held_out.is_file() else set()
    for image in sorted(path for path in images.iterdir() if not path.name.startswith(".")):
        split = "" if not val else "val" if image.name in val else "train"
        _rename(image, folder / "images" / split / image.name)
        _rename(_part(masks, f"{image.stem}_P.png"), folder / "masks" / split / f"{image.stem}.png")
    _name_classes(folder, dict(enumerate(names)))


def _arrange_pets(parts: Path, folder: Path, progress: Progress) -> None:
    """images/ and annotations/trimaps/, by the lists trainval.txt and test.txt."""
    images, notes = _part(parts, "images"), _part(parts, "annotations")
    for split, path in (("train", "trainval.txt"), ("test", "test.txt")):
        names = [line.split()[0] for _, line in numbered_lines(_part(notes, path)) if not line.startswith("#")]
        _move(names, images, folder / "images" / split, ".jpg")
        _move(names, _part(notes, "trimaps"), folder / "masks" / split, ".png")
    _name_classes(folder, {1: "pet", 2: "background", 3: "border"})


def _arrange_ade20k(parts: Path, folder: Path, progress: Progress) -> None:
    """ADEChallengeData2016 as it is."""
    _move_all(_part(parts, "ADEChallengeData2016"), folder)


ARRANGED: Mapping[str, Callable[[Path, Path, Progress], None]] = {
    "voc2012": _arrange_voc2012,
    "sbd": _arrange_sbd,
    "voc2011-sbd": _arrange_voc2011_sbd,
    "voc2012-sbd": _arrange_voc2012_sbd,
    "camvid": _arrange_camvid,
    "camvid-tiny": _arrange_camvid,
    "oxford-pets": _arrange_pets,
    "ade20k": _arrange_ade20k,
}
"""By name of the data set, what moves its files from the folder of its unpacked archives into an empty one.

They raise `DataError` where the archives do not hold what they should.
"""


# ---- files ----


def _part(root: Path, name: str) -> Path:
    """A file or folder that has to be there."""
    path = root / name
    if not path.exists():
        raise DataError(
            f"the archives should hold {name}, they do not",
            hint="the publisher has changed them: report it, with the name of the data set",
        )
    return path


def _move_all(source: Path, folder: Path) -> None:
    for entry in source.iterdir():
        _rename(entry, folder / entry.name)


def _move(names: Iterable[str], source: Path, folder: Path, suffix: str) -> None:
    """Move the files of names, all of which have to be there."""
    listed = list(names)
    _refuse_missing(listed, source, suffix)
    for name in listed:
        _rename(source / f"{name}{suffix}", folder / f"{name}{suffix}")


def _refuse_missing(names: list[str], source: Path, suffix: str) -> None:
    missing = [name for name in names if not (source / f"{name}{suffix}").is_file()]
    if missing:
        raise DataError(
            f"the archives lack {len(missing)} of {len(names)} files *{suffix} in their lists: {some(missing)}",
            hint="the publisher has changed them: report it, with the name of the data set",
        )


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def _name_classes(folder: Path, names: Mapping[int, str]) -> None:
    """Write classes.txt: a name for each mask value."""
    colored = entries_of_names(list(names.values()))
    entries = tuple(type(e)(e.name, value, e.color) for value, e in zip(names, colored, strict=True))
    write_classes(folder, ClassTable(entries), list(names))
