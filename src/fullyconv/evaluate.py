"""Any predictor x a data set -> a report."""

from pathlib import Path
from typing import Protocol

from fullyconv.class_table import ClassTable
from fullyconv.dataset import Dataset
from fullyconv.errors import DataError
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.predict import Predictor
from fullyconv.progress import Progress, Silent
from fullyconv.shapes import Image, Mask

__all__ = ["MaskPredictor", "choose_split", "evaluate"]


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


def choose_split(dataset: Dataset, name: str | None = None) -> Dataset:
    """Return the split of a name, or else test, val or everything, whichever is there first."""
    if name is not None:
        return dataset.split(name)
    for candidate in ("test", "val"):
        if dataset.has_split(candidate):
            return dataset.split(candidate)
    return dataset
