"""Any predictor x a data set -> a report."""

from collections.abc import Mapping
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
from fullyconv.shapes import Image, Mask

__all__ = ["MaskPredictor", "choose_split", "evaluate", "image_matrices"]


class MaskPredictor(Protocol):
    """All that evaluation knows of a model."""

    class_table: ClassTable

    def predict(self, image: Image) -> Mask:
        """Return the H x W mask of an H x W x 3 uint8 RGB image."""


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
    with (progress or Silent()).track("evaluating", len(dataset)) as step:
        for sample in dataset:
            target = dataset.read_target(sample)
            matrix.update(target, predictor.predict(dataset.read_image(sample)))
            step()
    report = matrix.report(predictor.class_table.names)
    if report.labelled_pixels == 0:
        raise DataError(f"{dataset.root}: expected labelled pixels to measure, all are ignored")
    return report


def image_matrices(
    predictor: MaskPredictor, dataset: Dataset, *, progress: Progress | None = None
) -> npt.NDArray[np.int64]:
    """Count the pixels of each image by itself.

    Args:
        predictor: As of `evaluate`.
        dataset: As of `evaluate`.
        progress: Where to report how far it is.

    Returns:
        N x C x C; row = target, column = prediction.

    Raises:
        DataError: An image or mask that cannot be used.
    """
    classes = predictor.class_table.num_classes
    counts = np.zeros((len(dataset), classes, classes), np.int64)
    with (progress or Silent()).track("evaluating", len(dataset)) as step:
        for place, sample in enumerate(dataset):
            matrix = ConfusionMatrix(classes)
            matrix.update(dataset.read_target(sample), predictor.predict(dataset.read_image(sample)))
            counts[place] = matrix.counts
            step()
    return counts


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
