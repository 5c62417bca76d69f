"""Masks whose values were blurred, by JPEG or by resizing, snapped back to the values of classes.

`check --fix` writes them into its copy. A pixel is a class if its value lies near that of the class and of no
other; what lies between is ignored: nobody knows any more what it was. Values close to each other cannot be told
apart after JPEG, and such masks are left out.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX, ClassTable
from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import DataError, show_path
from fullyconv.formats import find_samples
from fullyconv.images import opened, read_mask_array
from fullyconv.shapes import Mask, Size
from fullyconv.upright import upright

__all__ = ["Mended", "guessed_table", "mask_files", "mend"]

REACH = 32
"""How far a value may lie from that of its class, at most; less where classes are nearer to each other."""

LEAST_GAP = 16
"""Between the values of two classes that can be told apart."""

LEAST_SHARE = 0.002
"""Of all pixels that a value and its neighbourhood hold for it to be guessed as a class."""

MOST_IGNORED = 0.2
"""Share of the pixels of a mask that may be ignored for it to be taken."""


@dataclass(frozen=True)
class Mended:
    """What could be saved.

    Attributes:
        dataset: The samples that can be read, mended ones among them, ready for `convert`.
        count: Masks that were mended.
        ignored: Pixels of these that lie between classes.
    """

    dataset: Dataset
    count: int
    ignored: int


@dataclass(frozen=True)
class _Snapped:
    """A mask that is drawn from a file: class indices, 255 where a value is near to none."""

    path: Path
    values: tuple[int, ...]
    ignored: tuple[int, ...]

    def draw(self, size: Size) -> Mask:
        """Draw H x W uint8 class indices; see `fullyconv.regions.Drawn`."""
        stored = _grey(self.path)
        known = np.array([*self.values, *self.ignored])
        reach = min(REACH, int(np.diff(np.sort(known)).min()) // 2)
        distance = np.abs(np.arange(256)[:, None] - known)
        nearest = distance.argmin(axis=1)
        index = np.where(nearest < len(self.values), nearest, IGNORE_INDEX)
        lookup = np.where(distance.min(axis=1) <= reach, index, IGNORE_INDEX).astype(np.uint8)
        return lookup[stored]

    def digest(self) -> str:
        """What tells it from other masks."""
        return hashlib.sha256(self.path.read_bytes() + repr((self.values, self.ignored)).encode()).hexdigest()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class _Sound:
    """A mask that can be read: its class indices."""

    path: Path
    table: ClassTable

    def draw(self, size: Size) -> Mask:
        """Draw H x W uint8 class indices; see `fullyconv.regions.Drawn`."""
        return self.table.decode(read_mask_array(self.path), str(self))

    def digest(self) -> str:
        """What tells it from other masks."""
        return hashlib.sha256(self.path.read_bytes() + repr(self.table.to_json()).encode()).hexdigest()

    def __str__(self) -> str:
        return str(self.path)


def mend(dataset: Dataset, broken: Iterable[Sample]) -> Mended | None:
    """Snap the masks that cannot be read to the classes of a data set.

    Args:
        dataset: What can be read of it as it is stays as it is, in classes 0, 1, 2, ...
        broken: The samples that cannot be read.

    Returns:
        None where no mask can be mended: classes are told by colour, or are too near to each other.
    """
    table, broken = dataset.class_table, set(broken)
    values = table.values
    ignored = tuple({*table.ignored, IGNORE_INDEX} - set(values))
    if table.encoding == "rgb" or np.diff(np.sort([*values, *ignored])).min() < LEAST_GAP:
        return None
    if not all(isinstance(sample.mask, Path) for sample in dataset):
        return None
    samples, count, lost = [], 0, 0
    for sample in dataset:
        assert isinstance(sample.mask, Path)
        if sample not in broken:
            samples.append(replace(sample, mask=_Sound(sample.mask, table)))
            continue
        snapped = _Snapped(sample.mask, values, ignored)
        if (found := _ignored_by(dataset, sample, snapped)) is not None:
            count, lost = count + 1, lost + found
            samples.append(replace(sample, mask=snapped))
    if not count:
        return None
    entries = [replace(entry, value=index) for index, entry in enumerate(table.classes)]
    mended = replace(dataset, class_table=ClassTable.from_entries(entries), samples=tuple(samples))
    return Mended(mended, count, lost)


def _ignored_by(dataset: Dataset, sample: Sample, snapped: _Snapped) -> int | None:
    """How many pixels of a mask are near no class; None where it cannot be mended."""
    try:
        image = dataset.read_image(sample)
        mask = snapped.draw((image.shape[0], image.shape[1]))
    except DataError:
        return None
    lost = int((mask == IGNORE_INDEX).sum())
    fits = mask.shape == image.shape[:2] and lost <= MOST_IGNORED * mask.size
    return lost if fits else None


def mask_files(path: str | Path) -> list[Path]:
    """The files of the masks of a data set that may not be readable as one.

    Raises:
        DataError: Not even images and masks are found.
    """
    samples = find_samples(path, []).samples
    return [sample.mask for sample in samples if isinstance(sample.mask, Path)]


def guessed_table(masks: Sequence[Path]) -> ClassTable | None:
    """Guess the classes of masks that hold too many values: where values heap up, far from each other.

    Returns:
        None where there are not two such heaps.
    """
    counts = np.zeros(256, np.int64)
    for mask in masks:
        try:
            counts += np.bincount(_grey(mask).ravel(), minlength=256)
        except DataError:
            continue
    total, found = counts.sum(), []
    while counts.sum():
        peak = int(counts.argmax())
        near = slice(max(peak - REACH, 0), peak + REACH + 1)
        if counts[near].sum() < LEAST_SHARE * total or counts[peak] < 0.3 * counts[near].sum():
            break
        found.append(peak)
        counts[near] = 0
    if len(found) < 2:
        return None
    return ClassTable.binary() if set(found) == {0, 255} else ClassTable.from_values(found)


def _grey(path: Path) -> npt.NDArray[np.uint8]:
    """The values of a mask, of a lossy format, too.

    Raises:
        DataError: It cannot be read, or has colours.
    """
    try:
        values = read_mask_array(path)
    except DataError:
        with opened(path) as image:
            if image.mode not in ("L", "RGB"):
                raise
            values = upright(image, np.array(image))
    if values.ndim == 2:
        return values
    if int(np.ptp(values, axis=2).max()) > REACH:
        raise DataError(f"{show_path(path)}: expected a grey mask, got colours")
    grey: npt.NDArray[np.uint8] = np.rint(values.mean(axis=2)).astype(np.uint8)
    return grey
