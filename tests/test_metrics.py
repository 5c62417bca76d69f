"""The confusion matrix against a double loop and scikit-learn; the four metrics by hand; absent classes."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fullyconv import metrics
from fullyconv.errors import DataError, UsageError
from fullyconv.metrics import ConfusionMatrix

few = settings(max_examples=40)


def mask(*rows):
    return np.array(rows, dtype=np.uint8)


def counted(*pairs, num_classes):
    matrix = ConfusionMatrix(num_classes)
    for target, prediction in pairs:
        matrix.update(target, prediction)
    return matrix


def counts_by_double_loop(target, prediction, num_classes):
    counts = [[0] * num_classes for _ in range(num_classes)]
    for row in range(target.shape[0]):
        for column in range(target.shape[1]):
            if target[row, column] != 255:
                counts[target[row, column]][prediction[row, column]] += 1
    return counts


def means_by_double_loop(counts):
    """The paper's formulas over plain lists; classes with 0/0 skipped."""
    classes = range(len(counts))
    targets = [sum(counts[i]) for i in classes]
    predicted = [sum(counts[j][i] for j in classes) for i in classes]
    total = sum(targets)
    if total == 0:
        return None, None, None, None
    unions = [targets[i] + predicted[i] - counts[i][i] for i in classes]
    accuracies = [counts[i][i] / targets[i] for i in classes if targets[i]]
    ious = [counts[i][i] / unions[i] for i in classes if unions[i]]
    weighted = sum(targets[i] * counts[i][i] / unions[i] for i in classes if unions[i])
    pixel_accuracy = sum(counts[i][i] for i in classes) / total
    return pixel_accuracy, sum(accuracies) / len(accuracies), sum(ious) / len(ious), weighted / total


@st.composite
def image_pairs(draw, num_classes):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    indices = st.integers(0, num_classes - 1)
    target = draw(arrays(np.uint8, shape, elements=st.one_of(indices, st.just(255))))
    return target, draw(arrays(np.uint8, shape, elements=indices))


@st.composite
def image_sets(draw):
    num_classes = draw(st.integers(1, 5))
    return num_classes, draw(st.lists(image_pairs(num_classes), max_size=4))


@few
@given(image_sets())
def test_counts_equal_a_double_loop(images):
    num_classes, pairs = images
    matrix = counted(*pairs, num_classes=num_classes)
    expected = sum((np.array(counts_by_double_loop(*pair, num_classes)) for pair in pairs), np.int64(0))
    assert (matrix.counts == expected).all()
    assert matrix.counts.dtype == np.int64
    assert matrix.ignored_pixels == sum(int((target == 255).sum()) for target, _ in pairs)


@few
@given(image_sets())
def test_the_four_means_equal_the_papers_formulas(images):
    num_classes, pairs = images
    report = counted(*pairs, num_classes=num_classes).report()
    found = (report.pixel_accuracy, report.mean_accuracy, report.mean_iou, report.frequency_weighted_iou)
    for value, expected in zip(found, means_by_double_loop(report.counts), strict=True):
        assert value == expected or value == pytest.approx(expected, abs=1e-12)


@few
@given(image_sets())
def test_every_fraction_lies_between_0_and_1_and_none_is_nan(images):
    num_classes, pairs = images
    report = counted(*pairs, num_classes=num_classes).report()
    values = [report.mean_iou, report.pixel_accuracy, report.mean_accuracy]
    values += [report.frequency_weighted_iou, report.mean_image_iou]
    for entry in report.classes:
        values += [entry.iou, entry.precision, entry.recall]
    assert all(value is None or 0 <= value <= 1 for value in values)


@few
@given(image_sets())
def test_counts_and_ious_equal_scikit_learn(images):
    num_classes, pairs = images
    matrix = counted(*pairs, num_classes=num_classes)
    target, prediction = (np.concatenate([[], *(pair[i].ravel() for pair in pairs)]).astype(int) for i in (0, 1))
    target, prediction = target[target != 255], prediction[target != 255]
    assume(target.size > 0 and num_classes > 1)
    labels = list(range(num_classes))
    assert (matrix.counts == sklearn.metrics.confusion_matrix(target, prediction, labels=labels)).all()
    expected = sklearn.metrics.jaccard_score(target, prediction, labels=labels, average=None, zero_division=0)
    for entry, iou in zip(matrix.report().classes, expected, strict=True):
        assert (entry.iou or 0) == iou


@few
@given(image_sets(), st.integers(0, 4))
def test_matrices_of_parts_add_up_to_the_matrix_of_the_whole(images, cut):
    num_classes, pairs = images
    whole = counted(*pairs, num_classes=num_classes).report()
    parts = [counted(*pairs[part], num_classes=num_classes) for part in (slice(cut, None), slice(cut))]
    assert (parts[0] + parts[1]).report() == whole


def test_a_hand_made_matrix_of_two_classes():
    target = mask([0, 0, 0, 1], [0, 0, 1, 1])
    prediction = mask([0, 0, 1, 1], [0, 0, 1, 0])
    report = counted((target, prediction), num_classes=2).report()
    assert report.counts == ((4, 1), (1, 2))
    assert report.pixel_accuracy == 6 / 8
    assert report.mean_accuracy == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert report.mean_iou == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert report.frequency_weighted_iou == pytest.approx((5 * 4 / 6 + 3 * 2 / 4) / 8)
    assert [entry.precision for entry in report.classes] == [4 / 5, 2 / 3]
    assert [entry.recall for entry in report.classes] == [4 / 5, 2 / 3]


def test_a_class_in_no_target_and_no_prediction_is_absent_and_enters_no_mean():
    report = counted((mask([0, 1]), mask([0, 0])), num_classes=3).report(["sky", "road", "pole"])
    pole = report.classes[2]
    assert pole.absent
    assert (pole.iou, pole.precision, pole.recall) == (None, None, None)
    assert report.absent_classes == ("pole",)
    assert report.mean_iou == pytest.approx((1 / 2 + 0) / 2)
    assert report.mean_accuracy == pytest.approx((1 + 0) / 2)


def test_false_positives_of_a_class_in_no_target_count():
    report = counted((mask([0, 0]), mask([0, 1])), num_classes=2).report()
    wrong = report.classes[1]
    assert not wrong.absent
    assert (wrong.iou, wrong.precision, wrong.recall) == (0, 0, None)
    assert report.mean_iou == pytest.approx((1 / 2 + 0) / 2)
    assert report.mean_accuracy == 1 / 2
    assert report.frequency_weighted_iou == 1 / 2


@pytest.mark.parametrize("pairs", [[], [(mask([255, 255]), mask([0, 1]))]])
def test_without_labelled_pixels_every_mean_is_none(pairs):
    report = counted(*pairs, num_classes=2).report()
    assert report.mean_iou is None
    assert report.pixel_accuracy is None
    assert report.mean_accuracy is None
    assert report.frequency_weighted_iou is None
    assert report.mean_image_iou is None


def test_ignored_pixels_leave_no_trace_in_the_counts():
    with_ignored = counted((mask([0, 255, 1, 255]), mask([0, 1, 1, 0])), num_classes=2)
    without = counted((mask([0, 1]), mask([0, 1])), num_classes=2)
    assert (with_ignored.counts == without.counts).all()
    assert with_ignored.report().mean_iou == without.report().mean_iou


def test_mean_image_iou_averages_images_each_over_its_own_classes():
    perfect = (mask([0, 0, 0]), mask([0, 0, 0]))
    half = (mask([1, 1]), mask([1, 2]))  # IoU 1/2 of class 1, 0 of class 2
    unlabelled = (mask([255]), mask([0]))
    matrix = counted(perfect, half, unlabelled, num_classes=4)
    assert matrix.image_ious == [1, 1 / 4]
    report = matrix.report()
    assert report.mean_image_iou == (1 + (1 / 2 + 0) / 2) / 2
    assert report.images == 3


def test_mean_image_iou_does_not_depend_on_the_order_of_images():
    generator = np.random.default_rng(0)
    pairs = [tuple(generator.integers(0, 3, (2, 3, 5)).astype(np.uint8)) for _ in range(50)]
    forth = counted(*pairs, num_classes=3).report()
    back = counted(*reversed(pairs), num_classes=3).report()
    assert forth.mean_image_iou == back.mean_image_iou


def test_counts_beyond_the_exact_range_of_float32_are_exact():
    matrix = ConfusionMatrix(2)
    image = mask([0])
    matrix.counts[0, 0] = 2**24
    matrix.update(image, image)
    assert matrix.counts[0, 0] == 2**24 + 1
    matrix.counts[0, 1] = 2**40 + 1
    assert matrix.report().classes[0].recall == (2**24 + 1) / (2**40 + 2**24 + 2)
    assert matrix.report().labelled_pixels == 2**40 + 2**24 + 2


def test_an_image_that_is_counted_in_parts_gives_the_same_counts(monkeypatch):
    target, prediction = np.random.default_rng(0).integers(0, 3, (2, 13, 17)).astype(np.uint8)
    whole = counted((target, prediction), num_classes=3)
    monkeypatch.setattr(metrics, "_PIXELS_AT_ONCE", 7)
    assert (counted((target, prediction), num_classes=3).counts == whole.counts).all()


def test_masks_of_wider_integers_and_of_any_memory_order_are_counted():
    target = np.array([[0, 1], [255, 1]], dtype=np.int64)
    prediction = np.array([[0, 0], [1, 1]], dtype=np.int32).T
    assert counted((target, prediction), num_classes=2).report().counts == ((1, 0), (0, 2))


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        (mask([0, 1]), mask([[0], [1]]), r"target's shape \(1, 2\), got \(1, 2, 1\)"),
        (mask([0, 1]), mask([0], [1]), r"target's shape \(1, 2\), got \(2, 1\)"),
        (mask([0, 1]), mask([2, 2]), r"class indices 0\.\.1 in the prediction, got 2 in 2 pixels"),
        (mask([0, 255]), mask([0, 255]), r"class indices 0\.\.1 in the prediction, got 255 in 1 pixels"),
        (mask([0, 7]), mask([0, 1]), r"class indices 0\.\.1 in the target, got 7 in 1 pixels"),
        (mask([0, 1]), np.array([[0, -1]]), r"class indices 0\.\.255 in the prediction, got -1\.\.0"),
        (mask([0, 1]), np.array([[0, 256]]), r"class indices 0\.\.255 in the prediction, got 0\.\.256"),
        (mask([0, 1]), np.array([[0.0, 1.0]]), r"a prediction of integer class indices, got dtype float64"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_nothing_is_counted(target, prediction, message):
    matrix = ConfusionMatrix(2)
    with pytest.raises(DataError, match=message):
        matrix.update(target, prediction)
    assert matrix.counts.sum() == matrix.images == matrix.ignored_pixels == 0


@pytest.mark.parametrize("num_classes", [0, -1, 256])
def test_an_impossible_number_of_classes_is_refused(num_classes):
    with pytest.raises(UsageError, match=f"expected 1 to 255 classes, got {num_classes}"):
        ConfusionMatrix(num_classes)


def test_255_classes_are_counted():
    image = np.arange(255, dtype=np.uint8)[None]
    assert counted((image, image), num_classes=255).report().mean_iou == 1


def test_matrices_of_different_classes_are_not_added():
    with pytest.raises(UsageError, match="cannot add confusion matrices of 2 and 3 classes"):
        ConfusionMatrix(2) + ConfusionMatrix(3)


def test_names_have_to_be_as_many_as_classes():
    with pytest.raises(UsageError, match="expected 3 class names, got 2"):
        ConfusionMatrix(3).report(["sky", "road"])


def test_the_json_form_is_pure_json_with_the_means_on_top():
    report = counted((mask([0, 1, 255]), mask([0, 0, 1])), num_classes=3).report(["sky", "road", "pole"])
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert read["mean_iou"] == report.mean_iou == 1 / 6 + 1 / 12
    assert read["labelled_pixels"] == 2
    assert read["ignored_pixels"] == 1
    assert read["classes"][2] == {
        "index": 2, "name": "pole", "iou": None, "precision": None, "recall": None,
        "target_pixels": 0, "predicted_pixels": 0, "absent": True,
    }  # fmt: skip
    assert read["confusion_matrix"] == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_the_table_shows_every_class_and_mean():
    report = counted((mask([0, 0, 0, 1]), mask([0, 0, 2, 1])), num_classes=4)
    assert report.report(["sky", "road", "pole", "car"]).table() == (
        "class     IoU  precision  recall  target pixels  predicted pixels\n"
        "sky    0.6667     1.0000  0.6667              3                 2\n"
        "road   1.0000     1.0000  1.0000              1                 1\n"
        "pole   0.0000     0.0000       -              0                 1  in no target\n"
        "car         -          -       -              0                 0  absent\n"
        "\n"
        "mean IoU                0.5556  over 3 of 4 classes\n"
        "pixel accuracy          0.7500\n"
        "mean accuracy           0.8333\n"
        "frequency-weighted IoU  0.7500\n"
        "mean per-image IoU      0.5556\n"
        "images                       1\n"
        "labelled pixels              4"
    )


def test_the_mean_of_nothing_is_none_and_of_many_rounds_once():
    values = [0.1] * 10
    assert metrics._mean(values) == math.fsum(values) / 10
    assert metrics._mean([None, None]) is None
