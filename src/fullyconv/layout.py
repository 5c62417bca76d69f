"""Where images and masks lie on disk: folders or a text list -> samples, before any file is opened.

`dataset.py` says what the masks mean; this file only pairs names. Nothing is guessed: whatever could be read
in two ways, or would make the set smaller in silence, is refused by name.
"""

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullyconv.errors import DataError
from fullyconv.images import IMAGE_SUFFIXES, show_path

__all__ = ["SPLIT_ORDER", "Layout", "Sample", "find_samples", "ordered", "suffix_counts"]

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations")
MASK_SUFFIXES = ("_mask", "_label", "_gt", "_seg")
"""What the stem of a mask may have behind that of its image."""

SPLIT_ORDER = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_EXPECTED = "expected images/ and masks/ (train, val, test above or below them, or neither)"
_LIST = "a text file with `image mask [split]` a line can be given, too"
_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """An image, its mask and its name.

    Attributes:
        id: The image's path in its images folder without suffix and split, with `/`; unique in a split.
        image: The image file.
        mask: The mask file.
        split: "train", "val" or "test"; None where the data set says nothing.
    """

    id: str
    image: Path
    mask: Path | None
    split: str | None


@dataclass
class Layout:
    """What was found.

    Attributes:
        samples: By split (train, val, test), in natural order of their ids.
        description: Where they lie, for a sentence, such as "images/{train,val} + masks/{train,val}".
        stripped: The mask suffixes that were left out in pairing.
        skipped: Number of files that were left out because they are no images, by suffix.
    """

    samples: tuple[Sample, ...] = ()
    description: str = ""
    stripped: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)


def find_samples(path: str | Path) -> Layout:
    """Find the pairs of images and masks of a data folder or a list file.

    Args:
        path: A folder with `images` and `masks` (train, val, test above or below them, or neither), or a text
            file with `image mask [split]` a line.

    Raises:
        DataError: Nothing is there, a name is there twice, or an image or mask has no partner.
    """
    root = Path(path)
    try:
        if root.is_file():
            return _read_list(root)
        if root.is_dir():
            return _read_folders(root)
    except OSError as error:
        raise DataError(f"{show_path(error.filename or root)}: cannot be read: {error.strerror}") from error
    raise DataError(
        f"{show_path(root)}: expected a data folder or a list of pairs, got nothing there",
        hint="a folder with images and masks, or a text file with `image mask [split]` a line",
    )


def ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Samples by split, then in natural order of their ids: img2 before img10."""
    rank = {name: place for place, name in enumerate(SPLIT_ORDER)}
    return tuple(sorted(samples, key=lambda s: (rank.get(s.split or "", -1), _natural(s.id))))


def _natural(text: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = [int(p) if i % 2 else p for i, p in enumerate(re.split("([0-9]+)", text))]
    return parts, text


# ---- folders ----


def _read_folders(root: Path) -> Layout:
    splits = _split_folders(root)
    images, masks = _folder_named(root, IMAGE_FOLDERS), _folder_named(root, MASK_FOLDERS)
    if splits and (images or masks):
        raise DataError(
            f"{show_path(root)}: expected one layout, got both {(images or masks or root).name}/ and "
            f"{next(iter(splits.values())).name}/",
            hint="keep the folders of one of the two here",
        )
    layout = Layout()
    pairs: list[tuple[str | None, Path, Path]]
    if splits:
        pairs = [(name, *_pair_of_folders(folder)) for name, folder in splits.items()]
        names = _braces(folder.name for folder in splits.values())
        layout.description = f"{names}/{pairs[0][1].name} + {names}/{pairs[0][2].name}"
    else:
        pairs, layout.description = _splits_below(*_pair_of_folders(root))
    samples: list[Sample] = []
    for split, image_folder, mask_folder in pairs:
        samples += _pair_folder(image_folder, mask_folder, split, layout)
    layout.samples = ordered(samples)
    return layout


def _splits_below(images: Path, masks: Path) -> tuple[list[tuple[str | None, Path, Path]], str]:
    """The split folders within a pair of folders, or the pair itself; and where that is, in words."""
    image_splits, mask_splits = _split_folders(images), _split_folders(masks)
    if not image_splits and not mask_splits:
        return [(None, images, masks)], f"{images.name} + {masks.name}"
    for split in SPLIT_ORDER:
        if (split in image_splits) != (split in mask_splits):
            there, lacking = (images, masks) if split in image_splits else (masks, images)
            raise DataError(
                f"{show_path(there)} has a {split} folder, but {show_path(lacking)} has none",
                hint=f"add {lacking.name}/{split}, or take {there.name}/{split} out of the data folder",
            )
    for folder, splits in ((images, image_splits), (masks, mask_splits)):
        _refuse_files_beside(folder, splits.values())
    pairs = [(split, image_splits[split], mask_splits[split]) for split in SPLIT_ORDER if split in image_splits]
    image_names = _braces(folder.name for _, folder, _ in pairs)
    mask_names = _braces(folder.name for _, _, folder in pairs)
    return list(pairs), f"{images.name}/{image_names} + {masks.name}/{mask_names}"


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders that are named like a split, by split, in the order train, val, test."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        split = SPLIT_NAMES.get(entry.name.casefold())
        if split is None or not entry.is_dir():
            continue
        if split in found:
            raise DataError(
                f"{show_path(folder)}: expected one {split} folder, got both {found[split].name}/ and "
                f"{entry.name}/",
                hint="rename or remove one of them",
            )
        found[split] = entry
    return {split: found[split] for split in SPLIT_ORDER if split in found}


def _folder_named(folder: Path, names: Sequence[str]) -> Path | None:
    found = [e for e in _entries(folder) if e.name.casefold() in names and e.is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{show_path(folder)}: expected one {names[0]} folder, got both {found[0].name}/ and {found[1].name}/",
            hint=f"keep {names[0]}/ and rename or remove the other",
        )
    return found[0] if found else None


def _pair_of_folders(folder: Path) -> tuple[Path, Path]:
    images, masks = _folder_named(folder, IMAGE_FOLDERS), _folder_named(folder, MASK_FOLDERS)
    if images and masks:
        return images, masks
    content = [entry.name + "/" * entry.is_dir() for entry in _entries(folder)]
    got = _some(content) if content else "an empty folder"
    inside = {folder.name.casefold(), folder.parent.name.casefold()} & {*IMAGE_FOLDERS, *MASK_FOLDERS}
    hint = "give the folder above, which has images and masks side by side" if inside else _LIST
    missing = "masks" if images else "images" if masks else "images and masks"
    raise DataError(f"{show_path(folder)}: {_EXPECTED}; {missing} missing, got {got}", hint=hint)


def _refuse_files_beside(folder: Path, splits: Iterable[Path]) -> None:
    known = set(splits)
    for entry in _entries(folder):
        stray = [entry] if not entry.is_dir() else [] if entry in known else _files(entry, Counter()).values()
        for file in stray:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                raise DataError(
                    f"{show_path(file)} lies beside the split folders of {show_path(folder)}",
                    hint="move it into one of them, or out of the data folder",
                )


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, without hidden files, in one order on every file system."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files(folder: Path, skipped: Counter[str], above: tuple[Path, ...] = ()) -> dict[str, Path]:
    """Image files of a folder and the folders in it, by path in it.

    Args:
        folder: Where to look.
        skipped: Counts what is left out, by suffix.
        above: The folders on the way here, resolved: a link back to one of them would never end.
    """
    found: dict[str, Path] = {}
    resolved = folder.resolve()
    if resolved in above:
        return found
    for entry in _entries(folder):
        if entry.is_dir():
            inner = _files(entry, skipped, (*above, resolved))
            found |= {f"{entry.name}/{name}": file for name, file in inner.items()}
        elif entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            found[entry.name] = entry
        else:
            skipped[entry.suffix.lower() or "no suffix"] += 1
    return found


def _image_files(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    here: Counter[str] = Counter()
    found = _files(folder, here)
    skipped += here
    if not found:
        raise DataError(
            f"{show_path(folder)}: expected image files, got none ({suffix_counts(here) or 'empty'})",
            hint=f"image files end in {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    return found


# ---- pairs ----


def _pair_folder(images: Path, masks: Path, split: str | None, layout: Layout) -> list[Sample]:
    image_of, mask_of = (_by_stem(_image_files(folder, layout.skipped), folder) for folder in (images, masks))
    paired: dict[str, Path] = {}
    lonely: list[str] = []
    for stem, mask in mask_of.items():
        partner, suffix = _partner(stem, image_of)
        if partner is None:
            lonely.append(stem)
        elif partner in paired:
            raise DataError(
                f"{show_path(image_of[partner])}: expected one mask in {show_path(masks)}, got both "
                f"{show_path(paired[partner].name)} and {show_path(mask.name)}",
                hint="keep one of them",
            )
        else:
            paired[partner] = mask
            layout.stripped |= {suffix} - {""}
    _refuse_unpaired("image", "mask", image_of, set(paired), images, masks)
    _refuse_unpaired("mask", "image", mask_of, set(mask_of) - set(lonely), masks, images)
    return [Sample(stem, image, paired[stem], split) for stem, image in image_of.items()]


def _refuse_unpaired(
    kind: str, other: str, file_of: Mapping[str, Path], paired: set[str], folder: Path, other_folder: Path
) -> None:
    alone = [stem for stem in file_of if stem not in paired]
    if not alone:
        return
    names = _some(file_of[stem].relative_to(folder).as_posix() for stem in alone)
    raise DataError(
        f"{len(alone)} of {len(file_of)} {kind}s in {show_path(folder)} have no {other} in "
        f"{show_path(other_folder)}: {names}",
        hint=f"a mask has the stem and subfolder of its image: add each {other}, or remove the {kind}",
    )


def _by_stem(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Files by path without suffix; composed and decomposed accents (é) are the same name."""
    found: dict[str, Path] = {}
    for name, file in files.items():
        stem = unicodedata.normalize("NFC", name[: -len(file.suffix)])
        if stem in found:
            raise DataError(
                f"{show_path(folder)}: two files have the stem {show_path(stem)!r}: "
                f"{show_path(found[stem].name)} and {show_path(file.name)}",
                hint="rename or remove one of them: images and masks are paired by stem",
            )
        found[stem] = file
    return found


def _partner(stem: str, images: Mapping[str, Path]) -> tuple[str | None, str]:
    """The image stem of a mask stem, and the suffix that was left out for it."""
    if stem in images:
        return stem, ""
    for suffix in MASK_SUFFIXES:
        if stem.casefold().endswith(suffix) and stem[: -len(suffix)] in images:
            return stem[: -len(suffix)], suffix
    return None, ""


# ---- lists ----


def _read_list(path: Path) -> Layout:
    """Read `image mask [split]` a line; paths are relative to the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{show_path(path)}: expected a data folder or a text list of pairs, got a file that is no text"
        ) from error
    samples: list[Sample] = []
    line_of: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = _fields(line)
        if not fields or [f.lower() for f in fields] in (["image", "mask"], ["image", "mask", "split"]):
            continue
        sample = _sample_of_line(fields, path, f"{show_path(path)}, line {number}")
        if sample.image in line_of:
            raise DataError(
                f"{show_path(path)}: lines {line_of[sample.image]} and {number} both have the image "
                f"{show_path(sample.image)}",
                hint="remove one of the lines",
            )
        line_of[sample.image] = number
        samples.append(sample)
    _check_list(samples, path)
    return Layout(ordered(samples), f"the list {show_path(path.name)}")


def _fields(line: str) -> list[str]:
    """The fields of a line: separated by tab, else by comma, else by whitespace."""
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    if "," in line:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    return line.split()


def _sample_of_line(fields: Sequence[str], path: Path, where: str) -> Sample:
    hint = "separate the fields by tab or comma where names have blanks"
    if len(fields) not in (2, 3) or not all(fields):
        raise DataError(f"{where}: expected image, mask and perhaps a split, got {len(fields)} fields", hint=hint)
    split = SPLIT_NAMES.get(fields[2].casefold()) if len(fields) == 3 else None
    if len(fields) == 3 and split is None:
        raise DataError(f"{where}: expected the split train, val or test, got {show_path(fields[2])!r}", hint=hint)
    image, mask = (Path(os.path.normpath(path.parent / name)) for name in fields[:2])
    for file in (image, mask):
        if not file.is_file():
            raise DataError(f"{where}: expected the file {show_path(file)}, got nothing there")
    base = Path(os.path.normpath(path.parent))
    inside = image.relative_to(base) if image.is_relative_to(base) else image.relative_to(image.anchor)
    stem = unicodedata.normalize("NFC", inside.with_suffix("").as_posix())
    return Sample(stem, image, mask, split)


def _check_list(samples: Sequence[Sample], path: Path) -> None:
    where = show_path(path)
    if not samples:
        raise DataError(f"{where}: expected lines `image mask [split]`, got none")
    if len({sample.split is None for sample in samples}) > 1:
        lacking = next(sample for sample in samples if sample.split is None)
        raise DataError(
            f"{where}: expected a split in every line or in none, got none for {show_path(lacking.image)}",
            hint="add train, val or test as third field",
        )
    seen: dict[str, Path] = {}
    for sample in samples:
        if sample.id in seen:
            raise DataError(
                f"{where}: two images have the stem {show_path(sample.id)!r}: "
                f"{show_path(seen[sample.id].name)} and {show_path(sample.image.name)}",
                hint="rename or remove one of them: results are named by stem",
            )
        seen[sample.id] = sample.image


# ---- words ----


def suffix_counts(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix for a sentence, such as ".json: 3, .txt: 1"."""
    return ", ".join(f"{show_path(suffix)}: {counts[suffix]}" for suffix in sorted(counts))


def _braces(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"


def _some(names: Iterable[str]) -> str:
    shown = [show_path(name) for name in names]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
