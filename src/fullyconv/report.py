"""How good a model is and where it fails, as one HTML file: measures with intervals, charts, the worst images."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fullyconv.bootstrap import METRICS, Interval, intervals, metrics_of
from fullyconv.charts import calibration_figure, confusion_figure, curves
from fullyconv.class_table import IGNORE_INDEX
from fullyconv.dataset import Dataset, Sample
from fullyconv.errors import DataError, show_path
from fullyconv.evaluate import MaskPredictor
from fullyconv.formats.labels import is_background
from fullyconv.image_form import shown
from fullyconv.metrics import ConfusionMatrix, Report
from fullyconv.page import details, document, escape, figure, heading, paragraph, picture, swatch, table
from fullyconv.pictures import beside, difference, overlay
from fullyconv.progress import Progress, Silent
from fullyconv.regions import trace
from fullyconv.shapes import Mask, Pixels

__all__ = ["ConfidentPredictor", "Measured", "measure", "report_page"]

BINS = 15
"""Of confidence, as in Guo et al., "On calibration of modern neural networks" (2017)."""

SIZES = (100, 1000, 10_000)
"""Pixels between which objects are small, middling, large and very large."""

WORST = 20
_WIDTH = 1000


class ConfidentPredictor(MaskPredictor, Protocol):
    """What a report asks of a model."""

    def predict_with_confidence(self, image: Pixels) -> tuple[Mask, npt.NDArray[np.float32]]:
        """Return the H x W mask of an image of the data set, and the H x W probabilities of its classes."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was counted on N images.

    Attributes:
        dataset: The samples.
        matrices: N x C x C int64: the confusion matrix of each; row = target, column = prediction.
        ignored: Pixels without a class.
        found: 4 x 2: objects by size (see `SIZES`), and the sum of the shares of them that were found.
        calibration: 15 x 3 by confidence: pixels, right ones, sum of confidence.
        fingerprint: SHA-256 of all images and targets as they were read.
    """

    dataset: Dataset
    matrices: npt.NDArray[np.int64]
    ignored: int
    found: npt.NDArray[np.float64]
    calibration: npt.NDArray[np.float64]
    fingerprint: str

    @property
    def image_ious(self) -> npt.NDArray[np.float64]:
        """N: the mean IoU of each image over the classes in its target or prediction, NaN without a label."""
        return metrics_of(self.matrices)["mean_iou"]

    @property
    def calibration_error(self) -> float:
        """The expected calibration error: how far confidence and accuracy lie apart, over all pixels."""
        pixels, right, confidence = self.calibration.T
        return float(np.abs(right - confidence).sum() / max(pixels.sum(), 1))

    def report(self) -> Report:
        """The metrics over all images."""
        names = self.dataset.class_table.names
        matrix = ConfusionMatrix(len(names))
        matrix.counts, matrix.images = self.matrices.sum(axis=0), len(self.matrices)
        matrix.ignored_pixels = self.ignored
        matrix.image_ious = [value for value in self.image_ious.tolist() if not np.isnan(value)]
        return matrix.report(names)


def measure(predictor: ConfidentPredictor, dataset: Dataset, *, progress: Progress | None = None) -> Measured:
    """Predict every image of a data set once, and count.

    Args:
        predictor: A model.
        dataset: Opened with its class table.
        progress: Where to report how far it is.

    Raises:
        DataError: An image or mask that cannot be used, or not one labelled pixel.
    """
    classes = predictor.class_table.num_classes
    matrices = np.zeros((len(dataset), classes, classes), np.int64)
    found, calibration = np.zeros((len(SIZES) + 1, 2)), np.zeros((BINS, 3))
    sha, ignored = hashlib.sha256(), 0
    with (progress or Silent()).track("measuring", len(dataset)) as step:
        for place, sample in enumerate(dataset):
            image, target = dataset.read_image(sample), dataset.read_target(sample)
            prediction, confidence = predictor.predict_with_confidence(image)
            matrix = ConfusionMatrix(classes)
            matrix.update(target, prediction)
            matrices[place], ignored = matrix.counts, ignored + matrix.ignored_pixels
            found += _objects(target, prediction, predictor.class_table.names)
            calibration += _calibration(target, prediction, confidence)
            for array in (image, target):
                sha.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
            step()
    if not matrices.any():
        raise DataError(f"{show_path(dataset.root)}: expected labelled pixels to measure, all are ignored")
    return Measured(dataset, matrices, ignored, found, calibration, sha.hexdigest())


def _objects(target: Mask, prediction: Mask, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Connected areas of each class but the background, by size, and the shares of them that were found."""
    totals = np.zeros((len(SIZES) + 1, 2))
    for index in np.unique(target).tolist():
        if index == IGNORE_INDEX or is_background(names[index]):
            continue
        right = prediction == index
        for area in trace(target == index):
            left, top, end, bottom = area.box()
            drawn = np.zeros((bottom - top, end - left), np.uint8)
            area.moved(-left, -top).draw(drawn, 1)
            inside = drawn == 1
            share = right[top:bottom, left:end][inside].mean()
            totals[np.searchsorted(SIZES, inside.sum(), side="right")] += (1, share)
    return totals


def _calibration(target: Mask, prediction: Mask, confidence: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    labelled = target != IGNORE_INDEX
    sure = confidence[labelled].astype(np.float64)
    place = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    columns = (None, (target == prediction)[labelled].astype(np.float64), sure)
    return np.stack([np.bincount(place, weights=weights, minlength=BINS) for weights in columns], axis=1)


def report_page(
    predictor: ConfidentPredictor,
    measured: Measured,
    description: Mapping[str, Any],
    *,
    title: str,
    history: Sequence[Mapping[str, Any]] = (),
    groups: Sequence[str] | None = None,
    split: str = "all",
) -> str:
    """Write the page.

    Args:
        predictor: The model, which is asked again about the worst images.
        measured: What it was measured on.
        description: What the model file says of itself.
        title: Of the page.
        history: One mapping an epoch, as in the run's metrics.csv.
        groups: Which images belong together, for the intervals.
        split: What was measured, in a word.
    """
    report = measured.report()
    spans = intervals(measured.matrices, groups)
    count = len(set(groups)) if groups is not None else report.images
    parts = [
        paragraph(
            f"{report.images} images ({split}) of {show_path(measured.dataset.root.name)}, "
            f"{report.labelled_pixels:,} labelled pixels. Intervals: 95 %, from {count} images or groups."
        ),
        _means(spans, report),
        heading("Classes"),
        _classes(measured, report),
        heading("Confusion"),
        figure(confusion_figure(report.counts, measured.dataset.class_table.names), "Confusion matrix"),
        heading("Objects by size"),
        _sizes(measured),
        heading("Calibration"),
        paragraph(
            f"Expected calibration error {measured.calibration_error:.4f}: how far confidence is from truth."
        ),
        figure(calibration_figure(measured.calibration), "Accuracy by confidence"),
    ]
    if history:
        parts += [heading("Training"), figure(curves(history), "Loss and mean IoU by epoch")]
    parts += [heading(f"The worst {min(WORST, report.images)} images"), *_worst(predictor, measured)]
    parts += [heading("What it is"), _facts(measured, description)]
    return document(title, parts)


def _means(spans: Mapping[str, Interval], report: Report) -> str:
    rows = [(name.replace("_", " ").replace("iou", "IoU"), escape(str(spans[name]))) for name in METRICS]
    rows.append(("mean per-image IoU", _fraction(report.mean_image_iou)))
    return table(["metric", "value"], rows)


def _classes(measured: Measured, report: Report) -> str:
    colors = [entry.color for entry in measured.dataset.class_table.classes]
    rows = [
        (
            f"{swatch(color)}{escape(entry.name)}",
            *map(_fraction, (entry.iou, entry.precision, entry.recall)),
            f"{entry.target_pixels:,}",
            f"{entry.predicted_pixels:,}",
        )
        for color, entry in zip(colors, report.classes, strict=True)
    ]
    return table(["class", "IoU", "precision", "recall", "target pixels", "predicted pixels"], rows)


def _sizes(measured: Measured) -> str:
    bounds = (0, *SIZES)
    names = [f"{low:,} to {high:,} px" for low, high in zip(bounds, SIZES, strict=False)]
    rows = [
        (name, f"{int(objects):,}", _fraction(share / objects if objects else None))
        for name, (objects, share) in zip((*names, f"{SIZES[-1]:,} px and more"), measured.found, strict=True)
    ]
    words = "Connected areas of each class, but of one called background; found is the mean share of their pixels."
    return table(["size", "objects", "found"], rows) + paragraph(words)


def _worst(predictor: ConfidentPredictor, measured: Measured) -> list[str]:
    scores = measured.image_ious
    order = [place for place in np.argsort(scores, kind="stable").tolist() if not np.isnan(scores[place])]
    return [_shown(predictor, measured, measured.dataset[place], scores[place]) for place in order[:WORST]]


def _shown(predictor: ConfidentPredictor, measured: Measured, sample: Sample, score: float) -> str:
    dataset, classes = measured.dataset, measured.dataset.class_table
    pixels, target = dataset.read_image(sample), dataset.read_target(sample)
    prediction, _ = predictor.predict_with_confidence(pixels)
    image = shown(pixels)
    pictures = [image, overlay(image, target, classes), overlay(image, prediction, classes)]
    row = beside([*pictures, difference(image, target, prediction)], _WIDTH)
    caption = f"{show_path(sample.id)}: mean IoU {score:.4f}. Image, target, prediction; red: wrong"
    return picture(
        row, f"Image, target, prediction and mistakes of {show_path(sample.id)}", lossy=True, caption=caption
    )


def _facts(measured: Measured, description: Mapping[str, Any]) -> str:
    encoder, decoder = description["encoder"], description["decoder"]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("fullyconv", "torch", "numpy", "pillow"))
    rows = [
        ("encoder", f"{encoder['name']}, scales {encoder['scales']}, strides {encoder['strides']}"),
        ("its weights", f"{encoder['weights_source']}, licence {encoder['weights_licence']}"),
        ("decoder", ", ".join(f"{key} {value}" for key, value in sorted(decoder.items()))),
        ("digest of the model", description.get("digest", "-")),
        ("fingerprint of the data", measured.fingerprint),
        ("measured with", f"{libraries}, Python {platform.python_version()}"),
    ]
    record = dict(description.get("training") or {})
    settings = record.pop("config", {})
    rows += [(key.replace("_", " "), str(value)) for key, value in sorted(record.items())]
    cells = [(escape(name), f"<code>{escape(str(value))}</code>") for name, value in rows]
    listed = "\n".join(f"{key} = {value!r}" for key, value in sorted(settings.items()))
    folded = details("All settings of the training", f"<pre>{escape(listed)}</pre>") if settings else ""
    return table(["", ""], cells) + folded


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
