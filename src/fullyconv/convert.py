"""A data set in one format -> the same data set in another, read back and compared before it appears.

`formats` has a file for each format; `docs/how-to/convert-a-data-set.md` is for users.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fullyconv.atomic import atomic_folder
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError, FullyConvError, UsageError, show_path
from fullyconv.formats import WRITERS
from fullyconv.formats.written import Labelled
from fullyconv.progress import Progress, Silent

__all__ = ["Conversion", "convert", "refuse_inside"]


OF_RGB = ("nnunet", "cityscapes", "npy")
"""Formats whose images are decoded and written anew."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        folder: Where.
        samples: How many.
        notes: How the new folder is read, in sentences.
    """

    folder: Path
    samples: int
    notes: tuple[str, ...]


def convert(
    dataset: Dataset, folder: str | Path, kind: str = "folders", *, progress: Progress | None = None
) -> Conversion:
    """Write a data set in another format.

    Images are copied byte for byte. The new folder is read back: every image has to have the same classes, by
    name, at the same pixels.

    Args:
        dataset: What to write, all its splits.
        folder: The folder to make, in an existing one; it appears whole or not at all.
        kind: A key of `fullyconv.formats.WRITERS`.
        progress: Where to report.

    Raises:
        UsageError: An unknown format, one that holds RGB alone for other images, or a folder that is there already
            or lies in the data.
        DataError: The data cannot be read, or not be written in this format.
        FullyConvError: What was written is read differently.
    """
    folder, progress = Path(folder), progress or Silent()
    if kind not in WRITERS:
        raise UsageError(f"a format to write is one of {', '.join(WRITERS)}, got {kind}")
    if not dataset.image_form.is_usual and kind in OF_RGB:
        raise UsageError(
            f"format {kind} is written with 8-bit RGB images, got {dataset.image_form}",
            hint="choose a format that keeps the files of images, such as folders or coco",
        )
    refuse_inside(folder, dataset.root)
    if any(sample.mask is None for sample in dataset):
        raise DataError(f"{show_path(dataset.root)}: expected a mask for every image, got images alone")
    with atomic_folder(folder) as temporary:
        if kind != "folders":
            _refuse_names(dataset)
        try:
            images = WRITERS[kind](temporary, dataset.class_table, _items(dataset, progress))
        except OSError as error:
            raise FullyConvError(f"{show_path(folder)}: cannot be written: {error.strerror or error}") from error
        found = Dataset.open(temporary, image_form=dataset.image_form)
        _compare(dataset, found, images, progress)
    return Conversion(folder, len(found), tuple(note.replace(str(temporary), str(folder)) for note in found.notes))


def refuse_inside(folder: Path, root: Path) -> None:
    """Refuse to write a folder into a data set.

    Raises:
        UsageError: It lies in the folder `root`.
    """
    if root.is_dir() and folder.resolve().is_relative_to(root.resolve()):
        raise UsageError(
            f"{show_path(folder)} lies in the data set {show_path(root)}, which is only read",
            hint="choose a folder elsewhere",
        )


def _refuse_names(dataset: Dataset) -> None:
    """Refuse names of files that are no text: only a file system can hold them."""
    for sample in dataset:
        if any("\ud800" <= sign <= "\udfff" for sign in sample.id):
            raise DataError(
                f"{show_path(sample.image)}: expected a name in UTF-8, got other bytes",
                hint="rename the image and its mask, or convert to folders",
            )


def _items(dataset: Dataset, progress: Progress) -> Iterator[Labelled]:
    with progress.track("writing", len(dataset)) as step:
        for sample in dataset:
            yield Labelled(sample, dataset.read_target(sample))
            step()


def _compare(dataset: Dataset, found: Dataset, images: Sequence[Path], progress: Progress) -> None:
    """Refuse a data set that is not read as the one that was written.

    Args:
        dataset: What was written.
        found: What was read.
        images: The image that was made of each sample of `dataset`.
        progress: Where to report.
    """
    by_image = {sample.image: sample for sample in found}
    if len(found) != len(dataset) or set(by_image) != set(images):
        raise FullyConvError(f"nothing is written: {len(dataset)} samples were written and {len(found)} read back")
    index_of = {name: index for index, name in enumerate(found.class_table.names)}
    expected = np.full(256, IGNORE_INDEX, np.uint8)
    for index, name in enumerate(dataset.class_table.names):
        expected[index] = index_of.get(name, IGNORE_INDEX - 1)
    with progress.track("reading back", len(dataset)) as step:
        for sample, image in zip(dataset, images, strict=True):
            there = by_image[image]
            target = expected[dataset.read_target(sample)]
            different = int((found.read_target(there) != target).sum())
            if different or sample.split not in (None, there.split):
                what = f"{different} pixels" if different else f"split {there.split}"
                raise FullyConvError(
                    f"nothing is written: {show_path(sample.image)} would be read differently ({what})"
                )
            step()
