"""A text list with `image mask [split]` a line; the two may be arrays, whose items are paired then."""

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from fullyconv.array_file import ARRAY_SUFFIX, is_item
from fullyconv.errors import DataError
from fullyconv.formats.npy import array_classes, describe_images, pair_items
from fullyconv.images import show_path
from fullyconv.layout import SPLIT_NAMES, Layout, Sample, ordered

__all__ = ["numbered_lines", "read_list"]


def read_list(path: Path) -> Layout:
    """Read `image mask [split]` a line; paths are relative to the file.

    Raises:
        DataError: A line is not of that form, names a file that is not there, or an image is named twice.
    """
    samples: list[Sample] = []
    line_of: dict[Path, int] = {}
    for number, line in numbered_lines(path, "a data folder or a text list of pairs"):
        fields = _fields(line)
        if not fields or [f.lower() for f in fields] in (["image", "mask"], ["image", "mask", "split"]):
            continue
        for sample in _samples_of_line(fields, path, f"{show_path(path)}, line {number}"):
            if sample.image in line_of:
                raise DataError(
                    f"{show_path(path)}: lines {line_of[sample.image]} and {number} both have the image "
                    f"{show_path(sample.image)}",
                    hint="remove one of the lines",
                )
            line_of[sample.image] = number
            samples.append(sample)
    _check_list(samples, path)
    layout = Layout(ordered(samples), f"the list {show_path(path.name)}")
    items = [sample.mask for sample in samples if isinstance(sample.mask, Path) and is_item(sample.mask)]
    masks = list(dict.fromkeys(item.parent for item in items))
    if masks:
        layout.notes = describe_images(dict.fromkeys(s.image.parent for s in samples if is_item(s.image)))
        layout.classes = array_classes(masks) if all(is_item(sample.image) for sample in samples) else None
    return layout


def numbered_lines(path: Path, expected: str = "a text list of names") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that hold anything, stripped, with their numbers from 1 on.

    Raises:
        DataError: The file is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{show_path(path)}: expected {expected}, got a file that is no text") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _fields(line: str) -> list[str]:
    """The fields of a line: separated by tab, else by comma, else by whitespace."""
    if line.startswith("#"):
        return []
    if "\t" in line:
        return [field.strip() for field in line.split("\t")]
    if "," in line:
        return [field.strip() for field in next(csv.reader([line], skipinitialspace=True))]
    return line.split()


def _samples_of_line(fields: Sequence[str], path: Path, where: str) -> list[Sample]:
    """The sample of a line, or those of its two arrays."""
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
    arrays = [file.suffix.lower() == ARRAY_SUFFIX for file in (image, mask)]
    if all(arrays):
        return pair_items(image, mask, split, stem)
    if any(arrays):
        raise DataError(
            f"{where}: expected two arrays or two image files, got one of each", hint="use .npy for both"
        )
    return [Sample(stem, image, mask, split)]


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
