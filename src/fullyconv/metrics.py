"""Confusion matrix -> the four metrics of the paper and more.

With n_ij the pixels of class i predicted as class j and t_i = sum_j n_ij the target pixels of class i
(Long, Shelhamer, Darrell, CVPR 2015, section 5):

    pixel accuracy           sum_i n_ii / sum_i t_i
    mean accuracy            the mean over classes of n_ii / t_i
    mean IoU                 the mean over classes of n_ii / (t_i + sum_j n_ji - n_ii)
    frequency-weighted IoU   sum_i t_i IoU_i / sum_i t_i

One rule covers classes that do not occur: *a ratio 0/0 is None, and a mean is taken over the classes whose
ratio is not None.* A class that is in no target and in no prediction is *absent*: it has no IoU and enters no
mean. A class that is predicted but in no target has IoU 0, as in the paper's formula, so that its false
positives count; it has no recall and does not enter mean accuracy. A mean over nothing is None.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.class_table import IGNORE_INDEX
from fullyconv.errors import DataError, UsageError
from fullyconv.shapes import Mask

__all__ = ["ClassMetrics", "ConfusionMatrix", "Report"]

_BYTE_VALUES = 256
_PIXELS_AT_ONCE = 1 << 22
"""Bounds the memory of `ConfusionMatrix.update` on huge images: bincount wants 8 bytes a pixel."""


@dataclass(frozen=True)
class ClassMetrics:
    """How one class was predicted. Fractions in [0, 1]; None where the ratio is 0/0.

    Attributes:
        name: The class's name.
        iou: Intersection over union, n_ii / (t_i + sum_j n_ji - n_ii). None for an absent class.
        precision: The fraction of the predicted pixels that are right, n_ii / sum_j n_ji.
        recall: The fraction of the target pixels that were found, n_ii / t_i: the paper's class accuracy.
        target_pixels: t_i.
        predicted_pixels: sum_j n_ji, ignored pixels not counted.
    """

    name: str
    iou: float | None
    precision: float | None
    recall: float | None
    target_pixels: int
    predicted_pixels: int

    @property
    def absent(self) -> bool:
        """True where the class is in no target and in no prediction: it enters no mean."""
        return self.iou is None


@dataclass(frozen=True)
class Report:
    """What a confusion matrix says. Fractions in [0, 1]; None where there is nothing to divide by.

    Attributes:
        pixel_accuracy: The fraction of labelled pixels whose prediction is right.
        mean_accuracy: The mean recall of the classes in the targets.
        mean_iou: The mean IoU of the classes that are not absent.
        frequency_weighted_iou: The IoU of the classes, weighted by their target pixels.
        mean_image_iou: For each image the mean IoU of the classes in its target or prediction; the mean of
            that over the images with a labelled pixel. Another number than `mean_iou`, and not the paper's.
        classes: One entry for each class, by class index.
        counts: C rows of C pixel counts; row = target, column = prediction.
        images: Images counted, those without a labelled pixel included.
        ignored_pixels: Pixels left out because their target is 255.
    """

    pixel_accuracy: float | None
    mean_accuracy: float | None
    mean_iou: float | None
    frequency_weighted_iou: float | None
    mean_image_iou: float | None
    classes: tuple[ClassMetrics, ...]
    counts: tuple[tuple[int, ...], ...]
    images: int
    ignored_pixels: int

    @property
    def labelled_pixels(self) -> int:
        """Pixels that were counted."""
        return sum(entry.target_pixels for entry in self.classes)

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Names of the classes in no target and no prediction."""
        return tuple(entry.name for entry in self.classes if entry.absent)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, the means at the top level.

        `classes` are in the order of their indices, `confusion_matrix` holds rows. None stays None (`null`);
        there is never a NaN.
        """
        return {
            "mean_iou": self.mean_iou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "mean_image_iou": self.mean_image_iou,
            "images": self.images,
            "labelled_pixels": self.labelled_pixels,
            "ignored_pixels": self.ignored_pixels,
            "classes": [
                {"index": index, **asdict(entry), "absent": entry.absent}
                for index, entry in enumerate(self.classes)
            ],
            "confusion_matrix": [list(row) for row in self.counts],
        }

    def table(self) -> str:
        """The report as aligned plain text: one line a class, then the means."""
        header = ("class", "IoU", "precision", "recall", "target pixels", "predicted pixels", "")
        rows = [header, *map(_class_row, self.classes)]
        return "\n".join([*_aligned(rows), "", *_aligned(self._mean_rows())])

    def _mean_rows(self) -> list[tuple[str, ...]]:
        present = sum(not entry.absent for entry in self.classes)
        total = len(self.classes)
        over = f"over {present} of {total} classes" if present < total else ""
        rows: list[tuple[str, ...]] = [
            ("mean IoU", _fraction(self.mean_iou), over),
            ("pixel accuracy", _fraction(self.pixel_accuracy), ""),
            ("mean accuracy", _fraction(self.mean_accuracy), ""),
            ("frequency-weighted IoU", _fraction(self.frequency_weighted_iou), ""),
            ("mean per-image IoU", _fraction(self.mean_image_iou), ""),
        ]
        return [*rows, ("images", str(self.images), ""), ("labelled pixels", f"{self.labelled_pixels:,}", "")]


class ConfusionMatrix:
    """Pixels counted by target and predicted class, over any number of images.

    Args:
        num_classes: C, 1 to 255.

    Attributes:
        counts: C x C int64; row = target, column = prediction.
        image_ious: Of each image with a labelled pixel, the mean IoU of the classes in its target or
            prediction.
        images: Number of updates.
        ignored_pixels: Pixels whose target is 255.

    Raises:
        UsageError: `num_classes` is not in 1..255.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= IGNORE_INDEX:
            raise UsageError(f"expected 1 to {IGNORE_INDEX} classes, got {num_classes}")
        self.num_classes = num_classes
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.image_ious: list[float] = []
        self.images = 0
        self.ignored_pixels = 0

    def update(self, target: Mask, prediction: Mask) -> None:
        """Count one image.

        Args:
            target: H x W class indices 0..C-1, 255 = ignored.
            prediction: H x W class indices 0..C-1.

        Raises:
            DataError: The shapes differ, or a value is no class index. Nothing has been counted then.
        """
        if target.shape != prediction.shape:
            raise DataError(
                f"expected a prediction of the target's shape {target.shape}, got {prediction.shape}",
                hint="predictions are scored at the size of the label file",
            )
        pairs = _joint_histogram(_bytes(target, "target"), _bytes(prediction, "prediction"))
        self._check_range(pairs)
        counts = pairs[: self.num_classes, : self.num_classes]
        self.counts += counts
        self.images += 1
        self.ignored_pixels += int(pairs[IGNORE_INDEX].sum())
        image_iou = _mean(entry.iou for entry in _class_metrics(counts, [""] * self.num_classes))
        if image_iou is not None:
            self.image_ious.append(image_iou)

    def _check_range(self, pairs: npt.NDArray[np.int64]) -> None:
        """Refuse values beyond the classes; at ignored pixels the prediction has to be a class, too."""
        for what, totals in (("target", pairs.sum(axis=1)), ("prediction", pairs.sum(axis=0))):
            wrong = np.flatnonzero(totals[self.num_classes :]) + self.num_classes
            if what == "target":
                wrong = wrong[wrong != IGNORE_INDEX]
            if wrong.size:
                value = int(wrong[0])
                raise DataError(
                    f"expected class indices 0..{self.num_classes - 1} in the {what}, got {value} in "
                    f"{int(totals[value])} pixels"
                )

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        """Put the images of two matrices together.

        Raises:
            UsageError: They count different numbers of classes.
        """
        if self.num_classes != other.num_classes:
            raise UsageError(
                f"cannot add confusion matrices of {self.num_classes} and {other.num_classes} classes"
            )
        both = ConfusionMatrix(self.num_classes)
        both.counts = self.counts + other.counts
        both.image_ious = self.image_ious + other.image_ious
        both.images = self.images + other.images
        both.ignored_pixels = self.ignored_pixels + other.ignored_pixels
        return both

    def report(self, names: Sequence[str] | None = None) -> Report:
        """Work out the metrics.

        Args:
            names: The C class names, by class index; "class 0", ... if None.

        Raises:
            UsageError: Not as many names as classes.
        """
        names = [f"class {index}" for index in range(self.num_classes)] if names is None else names
        if len(names) != self.num_classes:
            raise UsageError(f"expected {self.num_classes} class names, got {len(names)}")
        classes = _class_metrics(self.counts, names)
        labelled = int(self.counts.sum())
        weighted = math.fsum(entry.target_pixels * (entry.iou or 0.0) for entry in classes)
        return Report(
            pixel_accuracy=_ratio(int(np.trace(self.counts)), labelled),
            mean_accuracy=_mean(entry.recall for entry in classes),
            mean_iou=_mean(entry.iou for entry in classes),
            frequency_weighted_iou=weighted / labelled if labelled else None,
            mean_image_iou=_mean(self.image_ious),
            classes=classes,
            counts=tuple(tuple(row) for row in self.counts.tolist()),
            images=self.images,
            ignored_pixels=self.ignored_pixels,
        )


def _bytes(mask: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    """Give a mask of any integer dtype as flat uint8."""
    if mask.dtype != np.uint8:
        if mask.dtype.kind not in "iu":
            raise DataError(f"expected a {what} of integer class indices, got dtype {mask.dtype}")
        if mask.size and not (mask.min() >= 0 and mask.max() <= IGNORE_INDEX):
            raise DataError(f"expected class indices 0..255 in the {what}, got {mask.min()}..{mask.max()}")
        mask = mask.astype(np.uint8)
    return mask.reshape(-1)


def _joint_histogram(target: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count pairs of values: 256 x 256 int64.

    With ignored and impossible values among them, masking and range checks are sums over this table.
    """
    pairs = np.zeros(_BYTE_VALUES * _BYTE_VALUES, dtype=np.int64)
    for start in range(0, target.size, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        codes = target[part].astype(np.intp) * _BYTE_VALUES + prediction[part]
        pairs += np.bincount(codes, minlength=pairs.size)
    return pairs.reshape(_BYTE_VALUES, _BYTE_VALUES)


def _class_metrics(counts: npt.NDArray[np.int64], names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    """Metrics of each class. Python integers divide correctly rounded at any size."""
    rows = zip(names, counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist(), strict=True)
    return tuple(
        ClassMetrics(
            name=name,
            iou=_ratio(right, target + predicted - right),
            precision=_ratio(right, predicted),
            recall=_ratio(right, target),
            target_pixels=target,
            predicted_pixels=predicted,
        )
        for name, right, target, predicted in rows
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is not None, independent of the order (fsum rounds once); None if nothing is left."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _class_row(entry: ClassMetrics) -> tuple[str, ...]:
    note = "absent" if entry.absent else "" if entry.target_pixels else "in no target"
    fractions = (_fraction(entry.iou), _fraction(entry.precision), _fraction(entry.recall))
    return (entry.name, *fractions, f"{entry.target_pixels:,}", f"{entry.predicted_pixels:,}", note)


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Pad cells to columns: the first and last to the left, the numbers between to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *numbers, last in rows:
        cells = [first.ljust(widths[0])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, last]).rstrip())
    return lines
