"""Charts: what is drawn is what was given, for one epoch and for many, for one class and for forty."""

import itertools
import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fullyconv.charts import confusion_figure, contributions_figure, curves
from fullyconv.errors import UsageError
from fullyconv.pictures import save_picture

HISTORY = [
    {"epoch": 1, "loss": 1.5, "mean_iou": 0.2, "pixel_accuracy": 0.7},
    {"epoch": 2, "loss": 0.9, "mean_iou": 0.5, "pixel_accuracy": 0.8},
    {"epoch": 3, "loss": 0.7, "mean_iou": 0.4, "pixel_accuracy": None},
]


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def cells(figure):
    """What is written in the matrix: (row, column) -> text."""
    return {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in figure.axes[0].texts}


def test_curves_show_losses_and_metrics_over_the_epochs():
    left, right = curves(HISTORY).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert left.lines[0].get_ydata().tolist() == [1.5, 0.9, 0.7]
    assert right.lines[0].get_ydata().tolist() == [0.2, 0.5, 0.4]


def test_curves_carry_their_names_and_the_best_value():
    assert words(curves(HISTORY)) == ["training loss", "mean IoU", "pixel accuracy", "0.500"]


def test_curves_leave_gaps_where_numbers_are_missing():
    accuracy = curves(HISTORY).axes[1].lines[1].get_ydata()
    assert accuracy[:2].tolist() == [0.7, 0.8]
    assert math.isnan(accuracy[2])


def test_columns_of_curves_can_be_chosen():
    figure = curves([{"epoch": 4, "val_loss": 2.0, "recall": 0.5}], losses=["val_loss"], metrics=["recall"])
    assert words(figure) == ["val loss", "recall", "0.500"]


@pytest.mark.parametrize("epochs", [1, 2, 200])
@pytest.mark.parametrize("value", [0.5, math.nan])
def test_curves_of_any_length_can_be_saved(tmp_path, epochs, value):
    history = [
        {"epoch": e, "loss": value, "mean_iou": value, "pixel_accuracy": value} for e in range(1, epochs + 1)
    ]
    save_picture(curves(history), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_curves_of_no_epoch_are_refused():
    with pytest.raises(UsageError, match="expected at least one epoch to draw curves of, got none"):
        curves([])


def test_a_confusion_matrix_shows_percent_of_each_target_class():
    figure = confusion_figure([[300, 100], [1, 999_999]], ["sound", "crack"])
    assert cells(figure) == {(0, 0): "75", (0, 1): "25", (1, 0): "<1", (1, 1): ">99"}


def test_hits_are_blue_and_mistakes_are_orange():
    colors = confusion_figure([[50, 50], [0, 10]], ["a", "b"]).axes[0].images[0].get_array()
    red, blue = 0, 2
    assert colors[0, 0, blue] > colors[0, 0, red]
    assert colors[0, 1, red] > colors[0, 1, blue]
    assert colors[1, 0].tolist() == [1, 1, 1]
    assert (colors[1, 1] * 255).tolist() == pytest.approx([0, 114, 178])


def test_an_absent_class_is_a_hatched_row_that_says_so():
    figure = confusion_figure([[5, 1], [0, 0]], ["sound", "crack"])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sound", "crack (absent)"]
    assert [patch.get_hatch() for patch in axes.collections] == ["///"]
    assert {row for row, _ in cells(figure)} == {0}


def test_many_classes_leave_small_mistakes_unwritten():
    counts = np.full((20, 20), 1) + 10_000 * np.eye(20, dtype=np.int64)
    assert set(cells(confusion_figure(counts, [f"class {i}" for i in range(20)])).values()) == {">99"}


@pytest.mark.parametrize("number", [1, 2, 20])
def test_a_confusion_matrix_of_any_number_of_classes_can_be_saved(tmp_path, number):
    names = [f"{index} $\\frac$ 裂纹 " + "very long " * 5 for index in range(number)]
    save_picture(confusion_figure(np.eye(number, dtype=np.int64), names), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


@pytest.mark.parametrize("counts", [[[1, 2]], [1, 2], [[1, 2, 3]] * 3])
def test_counts_that_do_not_fit_the_names_are_refused(counts):
    with pytest.raises(UsageError, match=r"expected 2 x 2 counts for 2 names, got an array of \("):
        confusion_figure(counts, ["a", "b"])


def test_contributions_show_what_is_lost_without_and_what_is_there_with():
    left, right = contributions_figure(0.6, [("stride 32", 0.2), ("stride 8", 0.65)], [("stride 32", 0.4)]).axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.4, -0.05])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.4])
    assert [text.get_text() for text in left.texts] == ["0.400", "-0.050"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["stride 32", "stride 8"]
    assert left.get_xlim()[0] < -0.05
    assert left.get_ylim() == right.get_ylim()  # bars of one thickness


def test_no_words_overlap_in_contributions():
    figure = contributions_figure(0.6, [("a long name", 0.63), ("another", 0.1)], [("strides 32, 16, 8, 4", 0.6)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        words = [*axes.texts, *axes.get_yticklabels()]
        for one, other in itertools.combinations([text.get_window_extent(renderer) for text in words], 2):
            assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0


@pytest.mark.parametrize("number", [1, 14])
def test_contributions_of_any_number_of_parts_can_be_saved(tmp_path, number):
    parts = [(f"part {index}", 0.5) for index in range(number)]
    save_picture(contributions_figure(0.5, parts, parts), tmp_path / "contributions.png")
    assert (tmp_path / "contributions.png").stat().st_size > 1000
