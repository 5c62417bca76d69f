"""How sure a measure is: intervals by drawing images again, and whether one model is better than another.

Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13 (percentile intervals). What is drawn
are images, or groups of images that belong together (frames of a video, pictures of one patient or part): these
are not independent of each other, and drawn one by one they would give intervals that are too narrow.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fullyconv.errors import UsageError

__all__ = ["METRICS", "Comparison", "Interval", "compare", "groups_of", "intervals", "metrics_of"]

METRICS = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
"""The paper's four."""

DRAWS = 2000
LEVEL = 0.95
FEW = 10
"""Groups below which an interval says little."""

_AT_ONCE = 1 << 24
"""Numbers that are held at a time."""


@dataclass(frozen=True)
class Interval:
    """A measure and where it would lie with other images of the same kind.

    Attributes:
        value: Of all images; None where there is nothing to divide by.
        low: The lower end of the 95 % interval; None where there is one image or group alone.
        high: The upper end.
    """

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.low is None:
            return f"{self.value:.4f} (no interval: one image or group)"
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class Comparison:
    """Whether one model is better than another, on the same images.

    Attributes:
        metric: One of `METRICS`.
        first: Its value for the first model.
        second: For the second one.
        difference: Second minus first, with its interval.
        better: Share of the draws in which the second one is better.
        groups: How many images or groups were drawn from.
    """

    metric: str
    first: float | None
    second: float | None
    difference: Interval
    better: float
    groups: int

    def words(self, first: str = "A", second: str = "B") -> str:
        """Say what it means in a sentence."""
        name = self.metric.replace("_", " ").replace("iou", "IoU")
        if self.difference.value is None:
            return f"{name}: nothing to compare"
        values = f"{first} {self.first:.4f}, {second} {self.second:.4f}"
        if self.difference.low is None or self.difference.high is None:
            return f"{name}: no difference can be told from one image or group ({values})"
        low, high = self.difference.low, self.difference.high
        span = f"95 % interval of the difference {low:+.4f} to {high:+.4f}, over {self.groups} images or groups"
        few = f"; with fewer than {FEW} of them it says little" if self.groups < FEW else ""
        if low <= 0 <= high:
            return f"{name}: no difference can be told ({values}; {span}{few})"
        better, share = (second, self.better) if low > 0 else (first, 1 - self.better)
        return f"{name}: {better} is better ({values}; {span}; in {share:.1%} of the draws{few})"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def metrics_of(counts: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float64]]:
    """Work out the four metrics of many confusion matrices at once; `fullyconv.metrics` defines them.

    Args:
        counts: B x C x C; row = target, column = prediction.

    Returns:
        For each of `METRICS` B numbers, NaN where there is nothing to divide by.
    """
    counts = counts.astype(np.float64)
    right = np.einsum("bii->bi", counts)
    target, predicted = counts.sum(axis=2), counts.sum(axis=1)
    labelled = target.sum(axis=1)
    iou, recall = _ratio(right, target + predicted - right), _ratio(right, target)
    return {
        "mean_iou": _mean(iou),
        "pixel_accuracy": _ratio(right.sum(axis=1), labelled),
        "mean_accuracy": _mean(recall),
        "frequency_weighted_iou": _ratio(np.nansum(target * np.nan_to_num(iou), axis=1), labelled),
    }


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean over what is not NaN."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))


def groups_of(ids: Sequence[str], pattern: str | None) -> list[str]:
    """Name the group of each image.

    Args:
        ids: Of the samples.
        pattern: A regular expression that is searched in each id: its first group, or all that it matches, is the
            name. None makes each image a group of its own.

    Raises:
        UsageError: It is no regular expression, or an id does not match.
    """
    if pattern is None:
        return list(ids)
    try:
        found = [re.search(pattern, name) for name in ids]
    except re.error as error:
        raise UsageError(f"--group {pattern}: expected a regular expression, got none ({error})") from None
    for name, match in zip(ids, found, strict=True):
        if match is None:
            raise UsageError(f"--group {pattern}: expected it to match every id, got none in {name!r}")
    return [match.group(1 if match.re.groups else 0) for match in found if match is not None]


def intervals(
    matrices: npt.NDArray[np.int64], groups: Sequence[str] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Measure with 95 % intervals.

    Args:
        matrices: N x C x C: the confusion matrix of each image.
        groups: The group of each image; each is one of its own by default.
        draws: How often groups are drawn again, as many as there are, with replacement.
        seed: Decides the draws.
    """
    summed = _by_group(matrices, groups)
    whole = metrics_of(summed.sum(axis=0)[None])
    drawn = _drawn(summed, draws, seed)
    return {name: _interval(float(whole[name][0]), drawn[name]) for name in METRICS}


def compare(
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
    groups: Sequence[str] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two models on the same images: each draw is taken for both (a paired bootstrap).

    Args:
        first: N x C x C: the confusion matrix of each image, of the first model.
        second: The same of the second one.
        groups: As of `intervals`.
        draws: As of `intervals`.
        seed: As of `intervals`.

    Raises:
        UsageError: They are not of the same images and classes.
    """
    if first.shape != second.shape:
        raise UsageError(
            f"expected two models on the same images and classes, got {first.shape} and {second.shape}"
        )
    both = [_by_group(matrices, groups) for matrices in (first, second)]
    wholes = [metrics_of(summed.sum(axis=0)[None]) for summed in both]
    drawn = [_drawn(summed, draws, seed) for summed in both]
    found = {}
    for name in METRICS:
        before, after = (float(whole[name][0]) for whole in wholes)
        differences = drawn[1][name] - drawn[0][name]
        found[name] = Comparison(
            metric=name,
            first=_or_none(before),
            second=_or_none(after),
            difference=_interval(after - before, differences),
            better=float((differences > 0).mean()) if len(differences) else 0.0,
            groups=len(both[0]),
        )
    return found


def _by_group(matrices: npt.NDArray[np.int64], groups: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """Sum up the matrices of each group."""
    if groups is None:
        return matrices
    names, place = np.unique(np.array(groups), return_inverse=True)
    summed = np.zeros((len(names), *matrices.shape[1:]), np.int64)
    np.add.at(summed, place, matrices)
    return summed


def _drawn(summed: npt.NDArray[np.int64], draws: int, seed: int) -> dict[str, npt.NDArray[np.float64]]:
    """The metrics of each draw."""
    count, classes = len(summed), summed.shape[1]
    draws = draws if count > 1 else 0
    random = np.random.default_rng(seed)
    flat = summed.reshape(count, -1).astype(np.float64)
    part = max(1, _AT_ONCE // max(count, classes * classes))
    parts = []
    for start in range(0, draws, part):
        times = random.multinomial(count, np.full(count, 1 / count), size=min(part, draws - start))
        parts.append(metrics_of((times @ flat).reshape(-1, classes, classes)))
    return {name: np.concatenate([found[name] for found in parts] or [np.empty(0)]) for name in METRICS}


def _interval(value: float, drawn: npt.NDArray[np.float64]) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(known) < 2:
        return Interval(_or_none(value), None, None)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
