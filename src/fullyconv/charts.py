"""Numbers as figures: the curves of a training run, the confusion matrix, what each stride contributes.

matplotlib without pyplot: a figure is an object that is drawn once and saved by `pictures.save_picture`. No
global state, no window, no style sheet.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fullyconv.errors import UsageError

__all__ = ["calibration_figure", "confusion_figure", "contributions_figure", "curves"]

_INK, _QUIET, _GRID = "#1f2328", "#656d76", "#e3e6ea"
_BLUE, _VERMILLION, _GREEN, _PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # Okabe and Ito
_WORDS = {
    "loss": "training loss",
    "mean_iou": "mean IoU",
    "psnr": "PSNR (dB)",
}  # the others: their key with spaces
_DPI = 150
_MANY = 12  # classes: with more, shares below one percent are not written


def curves(
    history: Sequence[Mapping[str, Any]],
    *,
    losses: Sequence[str] = ("loss", "val_loss"),
    metrics: Sequence[str] = ("mean_iou", "pixel_accuracy"),
) -> Figure:
    """Draw a training run: losses on the left, metrics on the right, over the epochs.

    Args:
        history: One mapping an epoch, with "epoch" and numbers. A missing, None or not finite number leaves a
            gap.
        losses: Keys for the left panel; those that no epoch has are left out.
        metrics: Keys for the right panel, fractions in [0, 1]. The best epoch of the first one is marked.

    Returns:
        A figure of 1,350 x 510 pixels when saved.

    Raises:
        UsageError: There is no epoch.
    """
    if not history:
        raise UsageError("expected at least one epoch to draw curves of, got none")
    figure = _figure(9, 3.4)
    left, right = figure.subplots(1, 2)
    epochs = [int(row["epoch"]) for row in history]
    for axes, title, keys in ((left, "loss", losses), (right, "validation", metrics)):
        _clean(axes, title)
        drawn = {key: _numbers(history, key) for key in keys}
        drawn = {key: values for key, values in drawn.items() if np.isfinite(values).any()}
        _lines(axes, epochs, drawn)
    left.set_ylim(0, 1.05 * left.get_ylim()[1])
    if metrics:
        _mark_best(right, epochs, _numbers(history, metrics[0]))
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def _numbers(history: Sequence[Mapping[str, Any]], key: str) -> npt.NDArray[np.float64]:
    return np.array([math.nan if row.get(key) is None else float(row[key]) for row in history])


def _clean(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK, fontweight="bold")
    axes.set_xlabel("epoch", fontsize=9, color=_QUIET)
    axes.tick_params(labelsize=8, colors=_QUIET, length=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_QUIET)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _lines(axes: Axes, epochs: Sequence[int], values: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Lines with their names at their ends, moved apart where they would overlap."""
    marker = "o" if len(epochs) == 1 else ""
    axes.margins(x=0.02, y=0.1)
    ends = {}
    for (key, line), color in zip(values.items(), (_BLUE, _VERMILLION, _GREEN, _PURPLE), strict=False):
        axes.plot(epochs, line, color=color, linewidth=1.8, marker=marker, markersize=5)
        last = int(np.flatnonzero(np.isfinite(line))[-1])
        ends[key] = (line[last], epochs[last], color)
    low, high = axes.get_ylim()
    previous = -math.inf
    for key, (value, epoch, color) in sorted(ends.items(), key=lambda end: end[1][0]):
        height = max(value, previous + 0.07 * (high - low))
        previous = height
        name = _WORDS.get(key, key.replace("_", " "))
        axes.annotate(
            name,
            (epoch, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=color,
        )


def _mark_best(axes: Axes, epochs: Sequence[int], values: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(values).any():
        return
    best = int(np.nanargmax(values))
    axes.plot([epochs[best]], [values[best]], "o", color=_BLUE, markersize=6, markeredgecolor="white")
    axes.annotate(
        f"{values[best]:.3f}",
        (epochs[best], values[best]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=_BLUE,
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
    )


def confusion_figure(counts: npt.ArrayLike, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix in percent of each target class: hits in blue, mistakes in orange.

    Args:
        counts: C x C integers; row = target, column = prediction.
        names: The C class names.

    Returns:
        A figure that grows with the number of classes. A class without target pixels is a hatched row.

    Raises:
        UsageError: The counts are not C x C for C names.
    """
    matrix = np.asarray(counts, np.int64)
    number = len(names)
    if matrix.shape != (number, number) or number == 0:
        raise UsageError(f"expected {number} x {number} counts for {number} names, got an array of {matrix.shape}")
    totals = matrix.sum(axis=1)
    shares = matrix / np.maximum(totals, 1)[:, None]
    cell = min(0.45 + 1.3 / number, max(9 / number, 0.3))  # inches: 1.1 for 2 classes, 0.3 for 30 and more
    longest = 0.075 * max(len(_short(name)) for name in names)
    side = cell * number
    steep = longest > cell
    figure = _figure(max(side + longest + 1.4, 3.8), side + (longest if steep else 0.1) + 1.2)
    axes = figure.subplots()
    colors = _mixed(shares, _VERMILLION)
    colors[np.eye(number, dtype=bool)] = _mixed(shares.diagonal(), _BLUE)
    axes.imshow(colors, interpolation="nearest")
    for row in np.flatnonzero(totals == 0):
        axes.fill_between(
            [-0.5, number - 0.5], row - 0.5, row + 0.5, hatch="///", facecolor="none", edgecolor=_GRID
        )
    least = 0.01 if number > _MANY else 0
    for row, column in zip(*np.nonzero(shares > least), strict=True):
        dark = colors[row, column] @ (0.299, 0.587, 0.114) < 0.6
        color = "white" if dark else _INK if shares[row, column] >= 0.01 else _QUIET
        size = min(5 + 6 * cell, 9)
        text = _percent(shares[row, column])
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)
    _label_classes(axes, names, totals, steep)
    return figure


def _mixed(shares: npt.NDArray[np.float64], color: str) -> npt.NDArray[np.float64]:
    """White to a colour; the root makes a few percent of mistakes visible."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return 1 - np.sqrt(shares)[..., None] * (1 - rgb)


def _percent(share: float) -> str:
    """A share above 0 in whole percent; never 0 for a little, nor 100 for not quite all."""
    if share < 0.01:
        return "<1"
    return ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"


def _label_classes(axes: Axes, names: Sequence[str], totals: npt.NDArray[np.int64], steep: bool) -> None:
    number = len(names)
    labels = [_short(name) for name in names]
    absent = [label if total else f"{label} (absent)" for label, total in zip(labels, totals, strict=True)]
    axes.set_xticks(range(number), labels, rotation=90 if steep else 0, parse_math=False)
    axes.set_yticks(range(number), absent, parse_math=False)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="both", length=0)
    axes.tick_params(labelsize=9 if number <= 20 else 8, labelcolor=_INK)
    axes.set_xlabel("prediction", fontsize=9, color=_QUIET)
    axes.set_ylabel("target", fontsize=9, color=_QUIET)
    axes.set_title("% of each target class's pixels", loc="left", fontsize=10, color=_INK, fontweight="bold")
    for spine in axes.spines.values():
        spine.set_color(_GRID)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23].rstrip() + "…"


def contributions_figure(
    whole: float, without: Sequence[tuple[str, float]], down_to: Sequence[tuple[str, float]]
) -> Figure:
    """Draw what the parts of a network contribute: lost without each on the left, gained one by one on the right.

    Args:
        whole: Mean IoU of the whole network, a fraction.
        without: For each part its name and the mean IoU without it.
        down_to: For ever more parts their names and the mean IoU with nothing but them; the last are all.

    Returns:
        A figure that grows with the number of parts.
    """
    slots = max(len(without), len(down_to), 4)
    figure = _figure(9, 0.3 * slots + 1.0)
    left, right = figure.subplots(1, 2)
    drops = [(name, whole - value) for name, value in without]
    _bars(left, "mean IoU lost without", drops, _VERMILLION)
    _bars(right, "mean IoU with nothing but", down_to, _BLUE)
    left.axvline(0, color=_QUIET, linewidth=0.8)
    for axes, longest in ((left, max(value for _, value in drops)), (right, whole)):
        lowest = min(0.0, *(bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)))
        axes.set_xlim(1.1 * lowest, 1.25 * longest if longest > 0 else 0.01)
        axes.set_ylim(slots - 0.4, -0.6)
    return figure


def _bars(axes: Axes, title: str, values: Sequence[tuple[str, float]], color: str) -> None:
    """Horizontal bars from the top down, each with its number at its end."""
    _clean(axes, title)
    axes.set_xlabel("")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    places = range(len(values))
    axes.barh(places, [value for _, value in values], height=0.62, color=color, alpha=0.85)
    axes.set_yticks(places, [_short(name) for name, _ in values], parse_math=False, color=_INK, fontsize=9)
    axes.grid(visible=False, axis="y")
    for place, (_, value) in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.3f}",
            (max(value, 0), place),  # Left of a negative bar it would stand on the name.
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
        )


def calibration_figure(counts: npt.ArrayLike) -> Figure:
    """Draw accuracy over confidence: on the diagonal, a model is as sure as it is right.

    Args:
        counts: B x 3 by ranges of confidence of one width: pixels, right ones, sum of confidence.

    Returns:
        A figure; the area of a dot says how many pixels a range has.
    """
    pixels, right, confidence = np.asarray(counts, np.float64).T
    there = pixels > 0
    figure = _figure(4.6, 4.2)
    axes = figure.add_subplot()
    _clean(axes, "accuracy by confidence")
    axes.set_xlabel("confidence", fontsize=9, color=_QUIET)
    axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1)
    shares = pixels[there] / max(pixels.sum(), 1)
    x, y = confidence[there] / pixels[there], right[there] / pixels[there]
    axes.plot(x, y, color=_BLUE, linewidth=1.5)
    axes.scatter(x, y, s=12 + 400 * shares, color=_BLUE, alpha=0.7)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    return figure
