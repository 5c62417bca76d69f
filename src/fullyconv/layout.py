"""What a layout is, and the usual one: images/ and masks/ -> samples, before any file is opened.

`formats` has the other layouts and finds out which one there is; `dataset.py` says what the masks mean. Here names
are paired. Nothing is guessed: whatever could be read in two ways, or would make the set smaller in silence, is
refused by name.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fullyconv.class_table import IGNORE_INDEX, ClassEntry
from fullyconv.errors import DataError
from fullyconv.images import IMAGE_SUFFIXES, show_path
from fullyconv.regions import Drawn

__all__ = [
    "SPLIT_NAMES",
    "SPLIT_ORDER",
    "KnownClasses",
    "Layout",
    "Sample",
    "braces",
    "by_stem",
    "entries",
    "folder_named",
    "image_files",
    "ordered",
    "pair_folder",
    "read_folders",
    "some",
    "split_folders",
    "suffix_counts",
]

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
"""What a split may be called in any case, and its name here."""

_EXPECTED = "expected images/ and masks/ (train, val, test above or below them, or neither)"
_LIST = "a text file with `image mask [split]` a line can be given, too"
_VOC = ("jpegimages", "segmentationclass")
_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """An image, its mask and its name.

    Attributes:
        id: The image's path in its images folder without suffix and split, with `/`; unique in a split.
        image: The image file, or an item of an array (`array_file`).
        mask: The mask file, an item of an array, or what it is drawn from.
        split: "train", "val" or "test"; None where the data set says nothing.
    """

    id: str
    image: Path
    mask: Path | Drawn | None
    split: str | None


@dataclass(frozen=True)
class KnownClasses:
    """What mask values mean in a format, where nobody says otherwise.

    Attributes:
        entries: The classes.
        name: Whose classes they are, for a sentence.
        sign: The value of pixels without a class. Masks of this format always hold some; where none does, they are
            taken for others'. None where the files themselves say that these are the classes.
        ignored: More values without a class.
        colored: Whether the masks may hold the colours.
    """

    entries: tuple[ClassEntry, ...]
    name: str
    sign: int | None = None
    ignored: tuple[int, ...] = ()
    colored: bool = False

    def fit(self, found: frozenset[int]) -> bool:
        """Whether masks that hold these values, and no others, are of this format."""
        values = {entry.value for entry in self.entries}
        return self.sign is None or (self.sign in found and found <= values | {self.sign, IGNORE_INDEX})


@dataclass
class Layout:
    """What was found.

    Attributes:
        samples: By split (train, val, test), in natural order of their ids.
        description: Where they lie, for a sentence, such as "images/{train,val} + masks/{train,val}".
        stripped: The mask suffixes that were left out in pairing.
        skipped: Number of files that were left out because they are no images, by suffix.
        classes: What the masks mean by custom.
        folder: Where the files lie, if that is a folder within the one that was given.
        notes: What else was left out or assumed, in sentences.
        faults: What is wrong with single files, where that is not to be raised; None where it is.
    """

    samples: tuple[Sample, ...] = ()
    description: str = ""
    stripped: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    classes: KnownClasses | None = None
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    faults: list[DataError] | None = None


def ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Samples by split, then in natural order of their ids: img2 before img10."""
    rank = {name: place for place, name in enumerate(SPLIT_ORDER)}
    return tuple(sorted(samples, key=lambda s: (rank.get(s.split or "", -1), _natural(s.id))))


def _natural(text: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = [int(p) if i % 2 else p for i, p in enumerate(re.split("([0-9]+)", text))]
    return parts, text


# ---- folders ----


def read_folders(root: Path, faults: list[DataError] | None = None) -> Layout:
    """Pair a folder with `images` and `masks`; train, val, test above or below them, or neither.

    Args:
        root: The folder.
        faults: Takes note of files without a partner, which are an error without it.

    Raises:
        DataError: It has none or two of them, or an image or mask has no partner.
    """
    splits = split_folders(root)
    images, masks = folder_named(root, IMAGE_FOLDERS), folder_named(root, MASK_FOLDERS)
    if splits and (images or masks):
        raise DataError(
            f"{show_path(root)}: expected one layout, got both {(images or masks or root).name}/ and "
            f"{next(iter(splits.values())).name}/",
            hint="keep the folders of one of the two here",
        )
    layout = Layout(faults=faults)
    pairs: list[tuple[str | None, Path, Path]]
    if splits:
        pairs = [(name, *_pair_of_folders(folder)) for name, folder in splits.items()]
        names = braces(folder.name for folder in splits.values())
        layout.description = f"{names}/{pairs[0][1].name} + {names}/{pairs[0][2].name}"
    else:
        pairs, layout.description = _splits_below(*_pair_of_folders(root))
    samples: list[Sample] = []
    for split, image_folder, mask_folder in pairs:
        samples += pair_folder(image_folder, mask_folder, split, layout)
    layout.samples = ordered(samples)
    return layout


def _splits_below(images: Path, masks: Path) -> tuple[list[tuple[str | None, Path, Path]], str]:
    """The split folders within a pair of folders, or the pair itself; and where that is, in words."""
    image_splits, mask_splits = split_folders(images), split_folders(masks)
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
    image_names = braces(folder.name for _, folder, _ in pairs)
    mask_names = braces(folder.name for _, _, folder in pairs)
    return list(pairs), f"{images.name}/{image_names} + {masks.name}/{mask_names}"


def split_folders(folder: Path, ending: str = "") -> dict[str, Path]:
    """The folders that are named like a split, by split, in the order train, val, test.

    Args:
        folder: Where to look.
        ending: What their names have behind that of the split, in lower case.
    """
    found: dict[str, Path] = {}
    for entry in entries(folder):
        name = entry.name.casefold()
        split = SPLIT_NAMES.get(name.removesuffix(ending)) if name.endswith(ending) else None
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


def folder_named(folder: Path, names: Sequence[str]) -> Path | None:
    """The one folder in a folder that has one of some names, in any case; None if none has.

    Raises:
        DataError: There are two.
    """
    found = [e for e in entries(folder) if e.name.casefold() in names and e.is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{show_path(folder)}: expected one {names[0]} folder, got both {found[0].name}/ and {found[1].name}/",
            hint=f"keep {names[0]}/ and rename or remove the other",
        )
    return found[0] if found else None


def _pair_of_folders(folder: Path) -> tuple[Path, Path]:
    images, masks = folder_named(folder, IMAGE_FOLDERS), folder_named(folder, MASK_FOLDERS)
    if images and masks:
        return images, masks
    content = [entry.name + "/" * entry.is_dir() for entry in entries(folder)]
    got = some(content) if content else "an empty folder"
    inside = {folder.name.casefold(), folder.parent.name.casefold()} & {*IMAGE_FOLDERS, *MASK_FOLDERS, *_VOC}
    hint = "give the folder above, which has images and masks side by side" if inside else _LIST
    missing = "masks" if images else "images" if masks else "images and masks"
    raise DataError(f"{show_path(folder)}: {_EXPECTED}; {missing} missing, got {got}", hint=hint)


def _refuse_files_beside(folder: Path, splits: Iterable[Path]) -> None:
    known = set(splits)
    for entry in entries(folder):
        stray = [entry] if not entry.is_dir() else [] if entry in known else _files(entry, Counter()).values()
        for file in stray:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                raise DataError(
                    f"{show_path(file)} lies beside the split folders of {show_path(folder)}",
                    hint="move it into one of them, or out of the data folder",
                )


def entries(folder: Path) -> list[Path]:
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
    for entry in entries(folder):
        if entry.is_dir():
            inner = _files(entry, skipped, (*above, resolved))
            found |= {f"{entry.name}/{name}": file for name, file in inner.items()}
        elif entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
            found[entry.name] = entry
        else:
            skipped[entry.suffix.lower() or "no suffix"] += 1
    return found


def image_files(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    """Image files of a folder and the folders in it, by path in it; `skipped` counts the others by suffix.

    Raises:
        DataError: There are none.
    """
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


def pair_folder(images: Path, masks: Path, split: str | None, layout: Layout) -> list[Sample]:
    """Pair the images of a folder with the masks of another by stem.

    Args:
        images: The folder with images.
        masks: The folder with masks.
        split: What the samples belong to.
        layout: Takes note of stripped suffixes and of files that are no images.

    Raises:
        DataError: A name is there twice, or an image or mask has no partner.
    """
    image_of, mask_of = (by_stem(image_files(folder, layout.skipped), folder) for folder in (images, masks))
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
    for problem in (
        _unpaired("image", "mask", image_of, set(paired), images, masks),
        _unpaired("mask", "image", mask_of, set(mask_of) - set(lonely), masks, images),
    ):
        if problem is not None and layout.faults is None:
            raise problem
        if problem is not None and layout.faults is not None:
            layout.faults.append(problem)
    return [Sample(stem, image, paired[stem], split) for stem, image in image_of.items() if stem in paired]


def _unpaired(
    kind: str, other: str, file_of: Mapping[str, Path], paired: set[str], folder: Path, other_folder: Path
) -> DataError | None:
    alone = [stem for stem in file_of if stem not in paired]
    if not alone:
        return None
    names = some(file_of[stem].relative_to(folder).as_posix() for stem in alone)
    return DataError(
        f"{len(alone)} of {len(file_of)} {kind}s in {show_path(folder)} have no {other} in "
        f"{show_path(other_folder)}: {names}",
        hint=f"a mask has the stem and subfolder of its image: add each {other}, or remove the {kind}",
    )


def by_stem(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
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


# ---- words ----


def suffix_counts(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix for a sentence, such as ".json: 3, .txt: 1"."""
    return ", ".join(f"{show_path(suffix)}: {counts[suffix]}" for suffix in sorted(counts))


def braces(names: Iterable[str]) -> str:
    """Names as one for a sentence, such as "{train,val}"."""
    names = list(names)
    return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"


def some(names: Iterable[str]) -> str:
    """The first few names for a sentence."""
    shown = [show_path(name) for name in names]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")
