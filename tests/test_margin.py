"""The margin: that of the two best of all upsampled logits, of which only few are computed."""

import math

import pytest
import torch
from torch.nn import functional

from fullyconv import margin as module
from fullyconv.margin import predict_margin
from fullyconv.memory import peak_bytes
from fullyconv.upsample import predict_confidence, predict_mask, upsample_logits


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def slow_margin(logits, stride, size):
    best, second = upsample_logits(logits.double(), stride, size).topk(2, dim=1).values.unbind(1)
    return best - second


def smooth(count, classes, height, width):
    """Logits with regions, as networks give them."""
    coarse = torch.randn(count, classes, height // 6 + 2, width // 6 + 2)
    return functional.interpolate(coarse, (height, width), mode="bilinear")


def assert_equal(logits, stride, size):
    margin = predict_margin(logits, stride, size)
    assert (margin.dtype, margin.shape) == (torch.float32, (len(logits), *size))
    tolerance = 8 * 2.0**-23 * float(logits.abs().max())
    torch.testing.assert_close(margin.double(), slow_margin(logits, stride, size), rtol=0, atol=tolerance)
    return margin


@pytest.mark.parametrize("values", [1, 4_000_000])
@pytest.mark.parametrize(
    ("stride", "size"), [(1, (9, 5)), (2, (31, 8)), (4, (33, 20)), (8, (70, 1)), (3, (1, 15)), (32, (65, 96))]
)
@pytest.mark.parametrize("kind", [torch.randn, smooth])
def test_a_margin_is_that_of_the_two_best_upsampled_logits(monkeypatch, values, stride, size, kind):
    monkeypatch.setattr(module, "BAND_VALUES", values)
    monkeypatch.setattr(module, "CHUNK_VALUES", values)
    assert_equal(kind(2, 5, -(-size[0] // stride) + 1, -(-size[1] // stride)), stride, size)


@pytest.mark.parametrize("classes", [2, 3, 21, 150])
@pytest.mark.parametrize("stride", [3, 4, 7, 8])
@pytest.mark.parametrize("most", [0.0, 1.0])
def test_blocks_and_single_pixels_agree_for_any_number_of_classes(monkeypatch, classes, stride, most):
    monkeypatch.setattr(module, "MOST_CLASSES", most)  # 0: every pixel, 1: only classes that can matter
    assert_equal(smooth(1, classes, 13, 17), stride, (13 * stride - 2, 17 * stride - 1))


def test_most_classes_are_left_out():
    possible = module._among_two_best(smooth(1, 150, 40, 60)[0])
    assert bool((possible.sum(0) >= 2).all())
    assert possible.float().mean() < 0.1


def test_it_is_zero_where_two_classes_are_equal_and_goes_with_the_probabilities():
    logits = smooth(1, 4, 12, 12)
    logits[:, 3] = logits[:, 1]
    margin, mask = predict_margin(logits, 4, (48, 48)), predict_mask(logits, 4, (48, 48)).long()
    assert 0 < int((mask == 1).sum()) < mask.numel()
    assert (margin[mask == 1] == 0).all()
    two = smooth(1, 2, 12, 12)
    first = predict_confidence(two, 4, (48, 48))
    torch.testing.assert_close(
        torch.exp(-predict_margin(two, 4, (48, 48))), (1 - first) / first, rtol=0, atol=1e-5
    )


def test_one_class_wins_without_end():
    assert (predict_margin(torch.randn(2, 1, 3, 3), 8, (20, 24)) == math.inf).all()


@pytest.mark.parametrize("stride", [2, 8])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_give_zero_and_spoil_only_what_is_near(worst, stride, monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 1.0)
    logits = smooth(1, 5, 40, 12)
    whole = predict_margin(logits, stride, (40 * stride, 12 * stride))
    logits[0, 2, 5, 5] = worst
    spoilt = predict_margin(logits, stride, (40 * stride, 12 * stride))
    assert not spoilt.isnan().any()
    assert (spoilt[0, 5 * stride : 6 * stride, 5 * stride : 6 * stride] == 0).all()
    for far in (slice(0, 4 * stride), slice(7 * stride, None)):
        torch.testing.assert_close(spoilt[:, far], whole[:, far], rtol=0, atol=1e-5)


def test_half_precision_is_computed_in_float32(monkeypatch):
    monkeypatch.setattr(module, "MOST_CLASSES", 1.0)
    logits = smooth(1, 5, 9, 9).bfloat16()
    assert torch.equal(predict_margin(logits, 8, (70, 72)), predict_margin(logits.float(), 8, (70, 72)))


@pytest.mark.parametrize("kind", [torch.randn, smooth])
def test_full_size_logits_are_never_there(kind):
    logits = kind(1, 40, 60, 100)
    size = (480, 800)
    assert peak_bytes(lambda: predict_margin(logits, 8, size)) < 4 * 480 * 800 + 45 * 10**6
