"""A folder or list of images and masks -> a `Dataset` of samples.

`formats` pairs the files; this file finds out what the masks mean, says so in one sentence, and reads.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fullyconv.array_file import is_item, open_rgb_images
from fullyconv.class_table import (
    IGNORE_INDEX,
    ClassEntry,
    ClassTable,
    entries_of_names,
    read_entries,
)
from fullyconv.errors import DataError, UsageError
from fullyconv.formats import find_samples
from fullyconv.formats.labels import CLASSES_FILE
from fullyconv.image_form import RGB, ImageForm
from fullyconv.images import mask_mode, read_mask_array, show_path
from fullyconv.layout import SPLIT_ORDER, KnownClasses, Layout, Sample, ordered, suffix_counts
from fullyconv.mask_values import one_channel, value_text
from fullyconv.shapes import Mask, Pixels

__all__ = ["Dataset", "Sample"]

_COLOR_MODES = ("RGB", "RGBA")
_MOST_UNDECLARED = 64  # more values than this are rarely classes: masks that were resized have 200


@dataclass(frozen=True)
class Dataset:
    """Ordered samples and what the values in their masks mean.

    Attributes:
        root: The folder or list file that was opened.
        class_table: The classes.
        samples: By split (train, val, test), in natural order of their ids.
        notes: What was assumed, in sentences to print.
        image_form: How the images are read.
    """

    root: Path
    class_table: ClassTable
    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    image_form: ImageForm = RGB

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        classes: str | Path | Sequence[str] | None = None,
        ignore: Sequence[int] = (),
        class_table: ClassTable | None = None,
        image_form: ImageForm = RGB,
        faults: list[DataError] | None = None,
    ) -> "Dataset":
        """Find the images and masks of a data set and the classes of its masks.

        The data are only read. Images are not opened here; masks are, as far as their meaning depends on
        their values. `docs/concepts/data.md` has the rules.

        Args:
            path: A folder with `images` and `masks` or of another known format, or a text file with
                `image mask [split]` a line.
            classes: A class table file (index,name,r,g,b a line), or the names of the classes of values 0, 1,
                2, ... as a sequence or separated by commas. Without, `classes.txt` in the folder; without
                that too, the classes of the format; without these, each value found in the masks is a class.
            ignore: Mask values that are no class. 255 is none either, unless all masks hold nothing but 0 and
                255; that exception is switched off by giving 255 here.
            class_table: The classes as a model knows them: masks are read with it, and `classes` and `ignore`
                may not be given.
            image_form: How the images are read: as RGB, or as so many channels.
            faults: Takes note of files without a partner, and masks that cannot be read say nothing of the
                classes; without it both are errors.

        Raises:
            DataError: Nothing is found, files cannot be paired, or the classes remain unclear.
            UsageError: The arguments contradict each other.
        """
        for value in ignore:
            if not 0 <= value <= 255:
                raise UsageError(f"expected mask values 0..255 to ignore, got {value}")
        if class_table is not None and (classes is not None or ignore):
            raise UsageError("expected either a class table, or classes and values to ignore, got both")
        root = Path(path)
        layout = find_samples(root, faults)
        if image_form.is_usual:
            for array in {sample.image.parent for sample in layout.samples if is_item(sample.image)}:
                open_rgb_images(array)
        if class_table is None:
            folder = root if root.is_dir() else root.parent
            declared = _declared(classes, (folder, layout.folder or folder))
            class_table, meaning = _find_classes(
                layout, declared, tuple(ignore), show_path(root), faults is not None
            )
        else:
            meaning = f"masks are read with the table of {class_table.num_classes} classes that was given"
            layout.notes += _other_names(class_table, _known_entries(layout, root))
        notes = _notes(layout, class_table, meaning)
        if not image_form.is_usual:
            notes += (f"images are read as {image_form}.",)
        return cls(root, class_table, layout.samples, notes, image_form)

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    @property
    def splits(self) -> dict[str, int]:
        """Number of samples of each split there is, in the order train, val, test."""
        counts = {name: sum(sample.split == name for sample in self.samples) for name in SPLIT_ORDER}
        return {name: count for name, count in counts.items() if count}

    def has_split(self, name: str) -> bool:
        """Whether there are samples of this split."""
        return name in self.splits

    def split(self, name: str) -> "Dataset":
        """The samples of one split, "train", "val" or "test".

        Raises:
            DataError: There are none.
        """
        if not self.has_split(name):
            raise DataError(
                f"{show_path(self.root)}: expected a {name} split, got {', '.join(self.splits) or 'none'}"
            )
        return replace(self, samples=tuple(sample for sample in self.samples if sample.split == name))

    def with_seeded_split(self, fraction: float, seed: int) -> "Dataset":
        """Split val off the train samples, or off all samples where there are no splits; test stays.

        Which samples go depends on their ids and the seed alone, so that the split is the same on each
        machine and nearly the same when samples are added.

        Args:
            fraction: Of the samples to go to val, between 0 and 1; at least one sample goes and one stays.
            seed: Another seed, another split.

        Returns:
            A data set whose samples have the split "train", "val" or "test".

        Raises:
            DataError: There are fewer than two samples to divide.
            UsageError: The fraction is not between 0 and 1, or there is a val split already.
        """
        if not 0 < fraction < 1:
            raise UsageError(f"expected a val fraction between 0 and 1, got {fraction}")
        if self.has_split("val"):
            raise UsageError(f"{show_path(self.root)}: expected no val split to begin with, got one")
        pool = [sample for sample in self.samples if sample.split in (None, "train")]
        if len(pool) < 2:
            raise DataError(
                f"{show_path(self.root)}: expected 2 samples or more to split off val from, got {len(pool)}",
                hint="training needs train samples and others to be measured on",
            )
        drawn = sorted(
            pool,
            key=lambda sample: hashlib.sha256(f"{seed}:{sample.id}".encode(errors="surrogateescape")).digest(),
        )
        count = min(max(round(fraction * len(pool)), 1), len(pool) - 1)
        val = {sample.id for sample in drawn[:count]}
        samples = [
            sample if sample.split == "test" else replace(sample, split="val" if sample.id in val else "train")
            for sample in self.samples
        ]
        note = f"{count} of the {len(pool)} training samples are split off as val (seed {seed})."
        return replace(self, samples=ordered(samples), notes=(*self.notes, note))

    def read_image(self, sample: Sample) -> Pixels:
        """Read the image of a sample.

        Returns:
            H x W x 3 uint8 RGB, or what else `image_form` says; upright by its EXIF orientation.

        Raises:
            DataError: The file cannot be read.
        """
        return self.image_form.read(sample.image)

    def read_target(self, sample: Sample) -> Mask:
        """Read the mask of a sample.

        Returns:
            H x W uint8 class indices, 255 = ignored; as large as the image.

        Raises:
            DataError: The file cannot be read, differs in size from its image, or holds a value or colour
                that is neither a class nor ignored.
        """
        if sample.mask is None:
            raise DataError(f"{show_path(sample.image)}: expected a mask, got an image alone")
        size = self.image_form.size(sample.image)
        values = read_mask_array(sample.mask) if isinstance(sample.mask, Path) else sample.mask.draw(size)
        if values.shape[:2] != size:
            (rows, columns), (height, width) = values.shape[:2], size
            turned = "one of the two is turned: " if (columns, rows) == size else ""
            raise DataError(
                f"{show_path(str(sample.mask))}: expected the size of {show_path(sample.image)}, "
                f"{height} x {width} (height x width), got {rows} x {columns}",
                hint=f"{turned}export image and mask in one size; EXIF orientation is applied to both",
            )
        return self.class_table.decode(values, show_path(str(sample.mask)))


@dataclass(frozen=True)
class _Declared:
    """Classes that somebody wrote down."""

    entries: tuple[ClassEntry, ...]
    source: str
    has_colors: bool


def _declared(classes: str | Path | Sequence[str] | None, folders: Sequence[Path]) -> _Declared | None:
    if classes is None:
        there = [path for folder in folders if (path := folder / CLASSES_FILE).is_file()]
        return _Declared(read_entries(there[0]), CLASSES_FILE, has_colors=True) if there else None
    if isinstance(classes, str) and "," in classes and not Path(classes).exists():
        classes = classes.split(",")
    if isinstance(classes, str | Path):
        return _Declared(read_entries(classes), show_path(Path(classes).name), has_colors=True)
    if not classes:
        raise UsageError("expected names of classes, got an empty list")
    return _Declared(entries_of_names(classes), "the names given", has_colors=False)


def _known_entries(layout: Layout, root: Path) -> Sequence[ClassEntry]:
    """The classes that a data set itself names: in classes.txt, or by its format where the files say so."""
    folder = root if root.is_dir() else root.parent
    declared = _declared(None, (folder, layout.folder or folder))
    if declared is not None:
        return declared.entries
    known = layout.classes
    return known.entries if known is not None and known.sign is None else ()


def _other_names(table: ClassTable, entries: Sequence[ClassEntry]) -> list[str]:
    """Say where a model and a data set call a mask value differently: then it is measured on other classes."""
    if table.encoding != "index":
        return []
    ours = {entry.value: entry.name for entry in table.classes}
    wrong = [e for e in entries if e.value in ours and ours[e.value].casefold() != e.name.casefold()]
    if not wrong:
        return []
    first = wrong[0]
    return [
        f'WARNING: the data call mask value {first.value} "{first.name}", the model "{ours[first.value]}"'
        f"{f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''}: is it a model of these classes?"
    ]


def _find_classes(
    layout: Layout, declared: _Declared | None, ignore: tuple[int, ...], where: str, lenient: bool = False
) -> tuple[ClassTable, str]:
    """The class table, and the masks' meaning in words."""
    known = layout.classes
    if not declared and known is not None and known.sign is None:
        declared = _Declared(known.entries, known.name, has_colors=known.colored)
        ignore = (*ignore, *known.ignored)
    masks = [sample.mask for sample in layout.samples if isinstance(sample.mask, Path)]
    if lenient:
        masks = [mask for mask in masks if _is_readable(mask)] or masks
    modes = [mask_mode(mask) for mask in masks]
    colored = any(mode in _COLOR_MODES for mode in modes)
    if declared and declared.has_colors and colored:
        table = ClassTable.from_entries(declared.entries, ignore, "rgb", declared.source)
        words = f"masks are RGB with the {table.num_classes} colours of {declared.source}"
        return _at_least_two(table, where), words
    kept = [entry for entry in declared.entries if entry.value not in ignore] if declared else []
    two = not declared or sorted(entry.value for entry in kept) in ([0, 1], [0, 255])
    may_be_binary = two and IGNORE_INDEX not in ignore
    found = _values_in(masks, modes) if not declared or colored or may_be_binary else frozenset()
    if may_be_binary and found == {0, 255}:
        table = ClassTable.from_entries(kept, ignore, "binary") if kept else ClassTable.binary()
        first, second = table.names
        return table, f"masks hold nothing but 0 ({first}) and 255 ({second}), so that 255 is a class"
    if not declared and known is not None and known.fit(found):
        declared = _Declared(known.entries, known.name, has_colors=False)
        ignore = ignore if known.sign is None else (*ignore, *known.ignored, known.sign)
    if declared:
        table = ClassTable.from_entries(declared.entries, ignore, where=declared.source)
        kind = "are index images of" if masks else "are drawn with"
        words = f"masks {kind} the {table.num_classes} classes of {declared.source}"
        return _at_least_two(table, where), words
    values = sorted(found - {*ignore, IGNORE_INDEX})
    if not values:
        raise DataError(
            f"{where}: expected class values in the masks, got nothing but ignored ones",
            hint=f"{_ignored_text((*ignore, IGNORE_INDEX))}: is that meant?",
        )
    if len(values) > _MOST_UNDECLARED:
        raise DataError(
            f"{where}: expected at most {_MOST_UNDECLARED} mask values where no classes are declared, "
            f"got {len(values)}",
            hint="masks that were resized or compressed hold values between classes; else write classes.txt",
        )
    table = ClassTable.from_values(values, ignore)
    which = "" if _has_map(table) else f", {value_text(values)},"  # where there is a map, the notes have it
    words = f"no classes are declared{_unlike(known)}: the mask values found{which} are the classes"
    return _at_least_two(table, where), words


def _unlike(known: KnownClasses | None) -> str:
    """Why masks in a format's layout are not read with its classes, in words."""
    if known is None:
        return ""
    values = value_text(entry.value for entry in known.entries)
    return f", and the masks are not those of {known.name}, which hold {values} and always some {known.sign}"


def _has_map(table: ClassTable) -> bool:
    """Whether class indices differ from mask values in a way that has to be said."""
    return table.encoding != "binary" and table.values != tuple(range(table.num_classes))


def _at_least_two(table: ClassTable, where: str) -> ClassTable:
    if table.num_classes < 2:
        raise DataError(
            f'{where}: expected two classes or more, got one: "{table.names[0]}" (value {table.values[0]})',
            hint="the background is a class too: give it a value; 255 and values to ignore are no classes",
        )
    return table


def _values_in(masks: Sequence[Path], modes: Sequence[str]) -> frozenset[int]:
    """Read all masks for the values they hold."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        values: frozenset[int] = frozenset().union(*pool.map(_values_of, masks))
    if values == {0, 1, 255} and "1" in modes and set(modes) != {"1"}:
        one_bit = masks[modes.index("1")]
        other = next(mask for mask, mode in zip(masks, modes, strict=True) if mode != "1")
        raise DataError(
            f"{show_path(one_bit)}: expected masks of one kind, got one bit a pixel (0 and 1) here and eight "
            f"bits (0 and 255) in others such as {show_path(other)}",
            hint="save all masks in the same way",
        )
    return values


def _is_readable(mask: Path) -> bool:
    try:
        _values_of(mask)
    except DataError:
        return False
    return True


def _values_of(mask: Path) -> frozenset[int]:
    array = one_channel(read_mask_array(mask), show_path(mask))
    return frozenset(np.flatnonzero(np.bincount(array.ravel(), minlength=256)).tolist())


def _notes(layout: Layout, table: ClassTable, meaning: str) -> tuple[str, ...]:
    parts = [f"{len(layout.samples)} samples in {layout.description}"]
    if layout.stripped:
        parts.append(f"mask names end in {' or '.join(sorted(layout.stripped))}")
    parts.append(meaning)
    if _has_map(table):
        values = value_text(table.values)
        parts.append(f"mask values {values} have the class indices {value_text(range(table.num_classes))}")
    ignored = (*table.ignored, *(() if table.encoding == "binary" else (IGNORE_INDEX,)))
    if ignored:
        parts.append(_ignored_text(ignored))
    notes = ["; ".join(parts) + "."]
    notes += layout.notes
    if layout.skipped:
        notes.append(f"Files that are no images are left out ({suffix_counts(layout.skipped)}).")
    return tuple(notes)


def _ignored_text(values: Sequence[int]) -> str:
    *others, last = sorted(set(values))
    if not others:
        return f"value {last} is ignored"
    return f"values {', '.join(map(str, others))} and {last} are ignored"
