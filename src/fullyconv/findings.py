"""What is wrong or odd in a data set, file by file: everything at once, where training stops at the first fault.

`check.py` counts and refuses before a training; here each image and mask is looked at, and nothing is raised.
`docs/how-to/check-a-data-set.md` lists what is found.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from fullyconv.array_file import is_item
from fullyconv.check import DataSummary, summarise
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import DataError
from fullyconv.image_form import shown
from fullyconv.images import opened, show_path
from fullyconv.layout import some
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Image, Mask, Size
from fullyconv.upright import orientation

__all__ = ["Examination", "Finding", "class_widths", "examine", "of_classes"]

Level = Literal["error", "warning", "note"]

MOST_DIFFERENT_BITS = 12
"""Of 256 in the fingerprints of two images that are nearly the same: what JPEG and small motions change."""

LEAST_CONTRAST = 4.0
"""Standard deviation of grey values below which an image has no fingerprint: empty images are all alike."""

NARROW = 4
"""Pixels: classes that are narrower are hardly seen by decoders whose finest stride is 8 or more."""

_WIDEST = 256
_FINGERPRINT = 16
_BITS_SET = np.array([number.bit_count() for number in range(256)])


@dataclass(frozen=True)
class Finding:
    """Something that somebody has to look at.

    Attributes:
        level: "error" where training or measuring fails or lies, "warning" where it may, "note" else.
        kind: One word a kind, for programs.
        text: What it is, in a sentence, and what to do.
        files: Where, of these some.
    """

    level: Level
    kind: str
    text: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        named = [file for file in self.files if file not in self.text]
        where = f" ({some(named)})" if named else ""
        return f"{self.level}: {self.text}{where}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"level": self.level, "kind": self.kind, "text": self.text, "files": list(self.files)}


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found.

    Attributes:
        dataset: What was looked at.
        sound: Its samples that can be read.
        summaries: Of each split of these; under "all" where there are no splits.
        widths: How wide each class is in pixels, by index; NaN where it never occurs.
        findings: Errors, then warnings, then notes.
    """

    dataset: Dataset
    sound: Dataset
    summaries: dict[str, DataSummary]
    widths: npt.NDArray[np.float64]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = self.dataset.class_table.names
        return {
            "samples": len(self.dataset),
            "sound": len(self.sound),
            "notes": list(self.dataset.notes),
            "splits": {
                name: {
                    "images": len(summary.sizes),
                    "ignored_pixels": summary.ignored_pixels,
                    "pixels": dict(zip(names, summary.pixel_counts.tolist(), strict=True)),
                    "images_with": dict(zip(names, summary.image_counts.tolist(), strict=True)),
                }
                for name, summary in self.summaries.items()
            },
            "class_widths": {
                name: None if np.isnan(width) else float(width)
                for name, width in zip(names, self.widths, strict=True)
            },
            "findings": [finding.to_json() for finding in self.findings],
        }


@dataclass(frozen=True)
class _Facts:
    """What one sample was seen to be."""

    size: Size
    counts: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int64]
    fingerprint: npt.NDArray[np.uint8] | None
    pixels: bytes
    turned: bool
    highest: int | None


def examine(
    dataset: Dataset, faults: Sequence[DataError] = (), *, strict: bool = False, progress: Progress | None = None
) -> Examination:
    """Look at every image and mask of a data set.

    Args:
        dataset: All its splits.
        faults: What was wrong with files that are no part of it.
        strict: Stop at the first one that cannot be read.
        progress: Where to report.

    Raises:
        DataError: With `strict`, what is wrong with that one.
    """
    progress = progress or Silent()
    found: dict[Sample, _Facts | DataError] = {}
    with progress.track("looking at images", len(dataset)) as step, ThreadPoolExecutor(max_workers=2) as pool:
        for sample, facts in zip(dataset, pool.map(lambda one: _look(dataset, one), dataset), strict=True):
            if strict and isinstance(facts, DataError):
                raise facts
            found[sample] = facts
            step()
    facts_of = {sample: facts for sample, facts in found.items() if isinstance(facts, _Facts)}
    sound = replace(dataset, samples=tuple(facts_of))
    summaries: dict[str, DataSummary] = {}
    for name in sound.splits or ["all"]:
        inside = [facts for sample, facts in facts_of.items() if name in ("all", sample.split)]
        if inside:
            counts = np.stack([facts.counts for facts in inside])
            summaries[name] = summarise(dataset.class_table, counts, [facts.size for facts in inside])
    widths = _medians(
        sum((facts.widths for facts in facts_of.values()), np.zeros((dataset.class_table.num_classes, _WIDEST)))
    )
    findings = [
        *(Finding("error", "unpaired", str(problem)) for problem in faults),
        *(
            Finding("error", "unreadable", str(problem), (show_path(sample.image),))
            for sample, problem in found.items()
            if isinstance(problem, DataError)
        ),
        *_of_files(facts_of, dataset),
        *of_classes(summaries, dataset),
        *_of_widths(widths, dataset),
        *_of_copies(facts_of),
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return Examination(dataset, sound, summaries, widths, tuple(sorted(findings, key=lambda f: rank[f.level])))


def _look(dataset: Dataset, sample: Sample) -> _Facts | DataError:
    usual = dataset.image_form.is_usual
    try:
        image, target = dataset.read_image(sample), dataset.read_target(sample)
        turned, highest = (False, None) if is_item(sample.image) or not usual else _header(sample)
    except DataError as error:
        return error
    counts = np.bincount(target.ravel(), minlength=256).astype(np.int64)
    widths = class_widths(target, dataset.class_table.num_classes)
    size = (target.shape[0], target.shape[1])
    digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
    return _Facts(size, counts, widths, _fingerprint(shown(image)), digest, turned, highest)


def _header(sample: Sample) -> tuple[bool, int | None]:
    """Whether an image is turned by its EXIF orientation; the highest value of one with 16 bits."""
    with opened(sample.image) as image:
        turned = orientation(image) != 1
        highest = int(np.asarray(image).max()) if image.mode.startswith("I") else None
    return turned, highest


def class_widths(target: Mask, num_classes: int) -> npt.NDArray[np.int64]:
    """Count pixels by class and by the width of what they belong to.

    The width at a pixel is the shorter of the two runs of its class through it, along the row and down the column.

    Args:
        target: H x W uint8 class indices, 255 = ignored.
        num_classes: C.

    Returns:
        C x 256 int64: pixels of each class at which it is so wide; the last column counts all that are wider.
    """
    width = np.minimum(np.minimum(_runs(target), _runs(target.T).T), _WIDEST - 1)
    labelled = target != IGNORE_INDEX
    place = target[labelled].astype(np.int64) * _WIDEST + width[labelled]
    counts = np.bincount(place, minlength=num_classes * _WIDEST)
    return counts[: num_classes * _WIDEST].reshape(num_classes, _WIDEST)


def _runs(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The length of the run of equal values along the row that each pixel is part of."""
    begins = np.ones(values.shape, np.bool_)
    begins[:, 1:] = values[:, 1:] != values[:, :-1]
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=values.size)
    return np.repeat(lengths, lengths).reshape(values.shape)


def _medians(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The median width of each class."""
    reached = np.cumsum(counts, axis=1) >= counts.sum(axis=1, keepdims=True) / 2
    return np.where(counts.sum(axis=1) > 0, reached.argmax(axis=1), np.nan)


def _fingerprint(image: Image) -> npt.NDArray[np.uint8] | None:
    """256 bits that small changes leave alone: whether grey rises from cell to cell of a 16 x 17 version."""
    grey = (
        PillowImage.fromarray(image)
        .convert("L")
        .resize((_FINGERPRINT + 1, _FINGERPRINT), PillowImage.Resampling.BOX)
    )
    values = np.asarray(grey, np.int16)
    if values.std() < LEAST_CONTRAST:
        return None
    return np.packbits(values[:, 1:] > values[:, :-1])


# ---- findings ----


def _of_files(facts_of: dict[Sample, _Facts], dataset: Dataset) -> Iterator[Finding]:
    turned = [show_path(sample.image.name) for sample, facts in facts_of.items() if facts.turned]
    if turned:
        yield Finding(
            "note",
            "exif",
            f"{len(turned)} images are turned by their EXIF orientation; it is applied here, and other programs "
            "may not do so",
            tuple(turned),
        )
    deep = {sample: facts.highest for sample, facts in facts_of.items() if facts.highest is not None}
    dark = [show_path(sample.image.name) for sample, highest in deep.items() if 0 < highest < 16384]
    if dark:
        highest = max(value for value in deep.values() if value < 16384)
        all_dark = len(dark) == len(deep)
        yield Finding(
            "warning",
            "dark-16-bit",
            f"{len(dark)} images with 16 bits use less than a quarter of the range (highest value {highest}): "
            "0..65535 becomes 0..255, and they turn nearly black. "
            + (f"Train with --channels 1 --value-range 0,{highest}" if all_dark else "Are all of one kind?"),
            tuple(dark),
        )
    empty = [show_path(s.image.name) for s, facts in facts_of.items() if not facts.counts[:IGNORE_INDEX].sum()]
    if empty:
        yield Finding("warning", "unlabelled", f"{len(empty)} masks have no labelled pixel", tuple(empty))
    table = dataset.class_table
    constant = defaultdict(list)
    for sample, facts in facts_of.items():
        present = np.flatnonzero(facts.counts[: table.num_classes])
        if len(present) == 1 and not facts.counts[IGNORE_INDEX]:
            constant[table.names[present[0]]].append(show_path(sample.image.name))
    for name, files in constant.items():
        share = len(files) / len(facts_of)
        text = f"{len(files)} masks ({share:.0%}) hold nothing but the class {name}"
        yield Finding("warning" if share > 0.9 else "note", "constant", text, tuple(files))


def of_classes(summaries: Mapping[str, DataSummary], dataset: Dataset) -> Iterator[Finding]:
    """Yield what is odd about how classes are spread over splits.

    Args:
        summaries: By split; "all" where there are none.
        dataset: Whose classes these are.
    """
    names = np.array(dataset.class_table.names)
    learned = summaries.get("train") or summaries.get("all")
    if learned is None:
        return
    seen = learned.pixel_counts > 0
    for name, summary in summaries.items():
        new = names[(summary.pixel_counts > 0) & ~seen]
        if len(new):
            text = f"classes in {name} that train never has: {some(new.tolist())}; they cannot be learned"
            yield Finding("warning", "not-in-train", text)
    absent = names[~seen & (sum(summary.pixel_counts for summary in summaries.values()) == 0)]
    if len(absent):
        yield Finding("warning", "absent", f"classes that no mask has: {some(absent.tolist())}")
    if seen.sum() < 2:
        text = "train has fewer than two classes: there is nothing to tell apart"
        if not seen.any():
            text = "train has no labelled pixel: all are ignored"
        yield Finding("error", "one-class", text)
    rare = [n for n, count in zip(names, learned.image_counts, strict=True) if 0 < count < 3 <= len(learned.sizes)]
    if rare:
        yield Finding("warning", "rare", f"classes in fewer than three training images: {some(rare)}")


def _of_widths(widths: npt.NDArray[np.float64], dataset: Dataset) -> Iterator[Finding]:
    for name, width in zip(dataset.class_table.names, widths, strict=True):
        if width < NARROW:
            text = (
                f"class {name} is {width:.0f} px wide: an FCN-32s or 16s cannot see it, an 8s hardly. Use the "
                "practical decoder at stride 4, or --scales 2"
            )
            yield Finding("warning", "narrow", text)
        elif width < 2 * NARROW:
            yield Finding("note", "narrow", f"class {name} is {width:.0f} px wide: an FCN-32s cannot see it")


def _of_copies(facts_of: dict[Sample, _Facts]) -> Iterator[Finding]:
    """Images that are in two splits, bit by bit or nearly."""
    samples = [sample for sample in facts_of if sample.split]
    by_pixels: dict[bytes, list[Sample]] = defaultdict(list)
    for sample in facts_of:
        by_pixels[facts_of[sample].pixels].append(sample)
    same = [group for group in by_pixels.values() if len({sample.split for sample in group}) > 1]
    if same:
        pairs = tuple(" = ".join(f"{s.split}/{show_path(s.id)}" for s in group[:2]) for group in same)
        text = f"{len(same)} images are in two splits: measuring on what was learned says nothing"
        yield Finding("error", "leak", text, pairs)
    twice = [group for group in by_pixels.values() if len(group) > 1 and group not in same]
    if twice:
        pairs = tuple(" = ".join(show_path(sample.id) for sample in group[:2]) for group in twice)
        yield Finding("warning", "twice", f"{len(twice)} images are there more than once", pairs)
    near = list(_near_copies(samples, facts_of))
    if near:
        text = (
            f"{len(near)} images look nearly like one of another split (frames of a video? parts of one image?): "
            "measures will be too good. Split by sequence or part"
        )
        yield Finding("warning", "near-leak", text, tuple(near))


def _near_copies(samples: Sequence[Sample], facts_of: dict[Sample, _Facts]) -> Iterator[str]:
    known = [(s, f) for s in samples if (f := facts_of[s].fingerprint) is not None]
    learned = [(sample, bits) for sample, bits in known if sample.split == "train"]
    if not learned:
        return
    table = np.stack([bits for _, bits in learned])
    for sample, bits in known:
        if sample.split == "train":
            continue
        different = _BITS_SET[table ^ bits].sum(axis=1)
        nearest = int(different.argmin())
        other = learned[nearest][0]
        if different[nearest] <= MOST_DIFFERENT_BITS and facts_of[other].pixels != facts_of[sample].pixels:
            yield f"{sample.split}/{show_path(sample.id)} ~ train/{show_path(other.id)}"
