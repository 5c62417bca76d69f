"""Any predictor x a data set -> a report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.images import show_path
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Mask, Pixels

__all__ = ["MaskPredictor", "choose_split", "evaluate", "evaluate_images"]


class MaskPredictor(Protocol):
    """All that evaluation knows of a model."""

    class_table: ClassTable

    def predict(self, image: Pixels) -> Mask:
        """Return the H x W mask of an image, of the form in which the data set was opened."""


def evaluate(
    predictor: MaskPredictor | str | Path, dataset: Dataset, *, progress: Progress | None = None
) -> Report:
    """Compare predictions with the targets of a data set, at the targets' own size.

    Args:
        predictor: Anything with `predict` and `class_table`, or the path of a model file.
        dataset: Opened with the predictor's class table, so that both speak of the same classes.
        progress: Where to report how far it is.

    Returns:
        The report over one confusion matrix of the whole data set.

    Raises:
        DataError: An image or mask that cannot be used, or not one labelled pixel.
    """
    if isinstance(predictor, str | Path):
        predictor = Predictor(predictor)
    matrix = ConfusionMatrix(predictor.class_table.num_classes)
    for _ in _counted(matrix, predictor, dataset, progress):
        pass
    return _report(matrix, dataset, predictor.class_table)


def evaluate_images(
    predictor: MaskPredictor, dataset: Dataset, *, progress: Progress | None = None
) -> tuple[Report, npt.NDArray[np.int64]]:
    """Do what `evaluate` does, and keep the counts of each image.

    Args:
        predictor: As of `evaluate`.
        dataset: As of `evaluate`.
        progress: Where to report how far it is.

    Returns:
        The report; and N x C x C int64, the confusion matrix of each image, row = target, column = prediction.

    Raises:
        DataError: As of `evaluate`.
    """
    classes = predictor.class_table.num_classes
    matrix, counts = ConfusionMatrix(classes), np.zeros((len(dataset), classes, classes), np.int64)
    for place, one in enumerate(_counted(matrix, predictor, dataset, progress)):
        counts[place] = one
    return _report(matrix, dataset, predictor.class_table), counts


def _counted(
    matrix: ConfusionMatrix, predictor: MaskPredictor, dataset: Dataset, progress: Progress | None
) -> Iterator[npt.NDArray[np.int64]]:
    """Count one image after the other into a matrix, and yield what each adds to it."""
    with (progress or Silent()).track("evaluating", len(dataset)) as step:
        for sample in dataset:
            before = matrix.counts.copy()
            matrix.update(dataset.read_target(sample), predictor.predict(dataset.read_image(sample)))
            yield matrix.counts - before
            step()


def _report(matrix: ConfusionMatrix, dataset: Dataset, table: ClassTable) -> Report:
    report = matrix.report(table.names)
    if report.labelled_pixels == 0:
        raise DataError(f"{dataset.root}: expected labelled pixels to measure, all are ignored")
    return report


def choose_split(dataset: Dataset, name: str | None = None, training: Mapping[str, Any] | None = None) -> Dataset:
    """Return the split of a name, or else test, val or everything, whichever is there first.

    Args:
        dataset: With splits or without.
        name: "train", "val", "test", "all", or None for the first there is.
        training: The training record of the model to measure. Where the data set has no val split, train and val
            are drawn again as its training drew them.

    Raises:
        DataError: There is no such split, or these are not the samples that were split then.
    """
    if name == "all":
        return dataset
    if name in ("train", "val") and not dataset.has_split("val"):
        dataset = _as_drawn_in_training(dataset, name, training or {})
    if name is not None:
        return dataset.split(name)
    for candidate in ("test", "val"):
        if dataset.has_split(candidate):
            return dataset.split(candidate)
    return dataset


def _as_drawn_in_training(dataset: Dataset, name: str, training: Mapping[str, Any]) -> Dataset:
    """Split off val as `train` did: by the samples' ids, the fraction and the seed alone.

    A data set that was not split so comes back as it is: one without samples to split, one whose model says
    nothing of its training, or other data with a train split, all of which was never held out.
    """
    try:
        fraction, seed = training["config"]["val_fraction"], training["config"]["seed"]
        counts = {split: training[f"{split}_images"] for split in ("train", "val")}
    except (KeyError, TypeError):
        return dataset
    pool = sum(sample.split != "test" for sample in dataset)
    if pool < 2:
        return dataset
    drawn = dataset.with_seeded_split(fraction, seed)
    if {split: drawn.splits[split] for split in counts} == counts:
        return drawn
    if dataset.has_split(name):
        return dataset
    raise DataError(
        f"{show_path(dataset.root)}: expected the {sum(counts.values())} samples that the model's training "
        f"split into train and val, got {pool}",
        hint="measure --split all, or a folder with splits of its own",
    )
