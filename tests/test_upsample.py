import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from fullyconv import upsample
from fullyconv.memory import peak_bytes
from fullyconv.upsample import (
    bilinear_kernel,
    bilinear_upsampling,
    pixel_logits,
    predict_confidence,
    predict_mask,
    upsample_logits,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def slow_bilinear(plane, stride, row, column):
    """One pixel of an upsampled h x w plane, by the definition."""
    height, width = plane.shape
    y = min(max((row + 0.5) / stride - 0.5, 0), height - 1)
    x = min(max((column + 0.5) / stride - 0.5, 0), width - 1)
    return sum(
        float(plane[i, j]) * max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
        for i, j in product(range(height), range(width))
    )


@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_upsampled_logits_follow_the_definition_at_every_pixel(stride):
    logits = torch.randn(1, 2, 3, 2)
    size = (3 * stride - stride // 2, 2 * stride - stride // 3)
    upsampled = upsample_logits(logits, stride, size)
    assert upsampled.shape == (1, 2, *size)
    for channel, row, column in product(range(2), range(size[0]), range(size[1])):
        expected = slow_bilinear(logits[0, channel], stride, row, column)
        assert upsampled[0, channel, row, column].item() == pytest.approx(expected, abs=1e-5)


def differing(mask, logits, stride, size):
    """Pixels that differ from the argmax of float64 logits, and how many of them lie beyond 4 float32 ulp."""
    upsampled = upsample_logits(logits.double(), stride, size)
    different = mask.long() != upsampled.argmax(1)
    best, second = upsampled.topk(2, dim=1).values.unbind(1) if logits.shape[1] > 1 else (upsampled[:, 0],) * 2
    near = best - second <= 4 * 2.0**-23 * logits.abs().max()
    return int(different.sum()), int((different & ~near).sum())


def smooth(count, classes, height, width):
    """Logits with regions, as networks give them."""
    coarse = torch.randn(count, classes, height // 6 + 2, width // 6 + 2)
    return functional.interpolate(coarse, (height, width), mode="bilinear")


@pytest.mark.parametrize("values", [1, 500, 4_000_000])
@pytest.mark.parametrize(
    ("stride", "size"), [(1, (9, 5)), (2, (31, 8)), (4, (33, 20)), (8, (70, 1)), (3, (1, 15)), (32, (65, 96))]
)
@pytest.mark.parametrize("kind", [torch.randn, smooth])
def test_a_predicted_mask_is_the_argmax_of_the_upsampled_logits(monkeypatch, values, stride, size, kind):
    monkeypatch.setattr(upsample, "BAND_VALUES", values)
    monkeypatch.setattr(upsample, "CHUNK_VALUES", values)
    logits = kind(2, 5, -(-size[0] // stride) + 1, -(-size[1] // stride))
    mask = predict_mask(logits, stride, size)
    assert mask.dtype == torch.uint8
    assert mask.shape == (2, *size)
    assert differing(mask, logits, stride, size)[1] == 0


@pytest.mark.parametrize("classes", [1, 2, 21, 150, 256])
@pytest.mark.parametrize("stride", [3, 4, 7, 8, 12])
@pytest.mark.parametrize("borders", [0.0, 0.5, 1.0])
def test_blocks_and_single_pixels_agree_for_any_number_of_classes(monkeypatch, classes, stride, borders):
    monkeypatch.setattr(upsample, "MOST_BORDERS", borders)  # 0: every pixel, 1: only blocks on borders
    logits = smooth(1, classes, 13, 17)
    size = (13 * stride - 2, 17 * stride - 1)
    mask = predict_mask(logits, stride, size)
    different, wrong = differing(mask, logits, stride, size)
    assert wrong == 0
    assert different < 4


def test_more_than_256_classes_make_a_mask_of_16_bits():
    logits = smooth(1, 300, 9, 9)
    mask = predict_mask(logits, 8, (70, 72))
    assert mask.dtype == torch.uint16
    assert mask.int().max() > 255
    assert differing(mask.int(), logits, 8, (70, 72))[1] == 0


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_spoil_only_what_is_near(worst):
    logits = smooth(1, 5, 40, 12)
    whole = predict_mask(logits, 8, (320, 96))
    logits[0, 2, 5, 5] = worst
    spoilt = predict_mask(logits, 8, (320, 96))
    assert torch.equal(spoilt[:, 64:], whole[:, 64:])
    assert torch.equal(spoilt[:, :32], whole[:, :32])


def test_masks_are_the_same_however_the_logits_are_laid_out():
    logits = smooth(2, 7, 20, 30)
    turned = logits.to(memory_format=torch.channels_last)
    assert torch.equal(predict_mask(logits, 8, (160, 240)), predict_mask(turned, 8, (160, 240)))


def test_a_part_of_the_logits_gives_that_part_of_the_mask():
    logits = smooth(1, 7, 60, 40)
    whole = predict_mask(logits, 8, (480, 320))
    part = predict_mask(logits[:, :, 19:42, 9:32], 8, (184, 184))
    assert torch.equal(part[0, 8:-8, 8:-8], whole[0, 160:328, 80:248])


def test_the_mask_takes_the_lowest_index_of_equal_logits():
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0]).view(1, 4, 1, 1).expand(1, 4, 3, 3)
    assert (predict_mask(logits, 4, (12, 12)) == 1).all()
    assert (predict_mask(torch.zeros(1, 4, 3, 3), 4, (12, 12)) == 0).all()


@pytest.mark.parametrize("kind", [torch.randn, smooth])
def test_full_size_logits_are_never_there(kind):
    logits = kind(1, 40, 60, 100)
    size = (480, 800)
    assert peak_bytes(lambda: upsample_logits(logits, 8, size)) >= 40 * 480 * 800 * 4
    mask = 480 * 800
    assert peak_bytes(lambda: predict_mask(logits, 8, size)) < mask + 40 * 10**6


def read_whole(logits, stride, rows, columns):
    """What `pixel_logits` gives, from the whole upsampled logits."""
    whole = upsample_logits(logits, stride, (logits.shape[2] * stride, logits.shape[3] * stride))
    return torch.stack([whole[n][:, rows[n], columns[n]].T for n in range(len(logits))])


def some_pixels(count, height, width, number):
    return torch.randint(0, height, (count, number)), torch.randint(0, width, (count, number))


@pytest.mark.parametrize("stride", [1, 4, 32])
def test_pixel_logits_equal_the_upsampled_ones_there(stride):
    logits = torch.randn(2, 3, 4, 5)
    rows, columns = some_pixels(2, 4 * stride, 5 * stride, 60)
    read = pixel_logits(logits, stride, rows, columns)
    torch.testing.assert_close(read, read_whole(logits, stride, rows, columns), atol=1e-5, rtol=0)


def test_pixel_logits_have_the_gradient_of_the_upsampled_ones():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    rows, columns = some_pixels(2, 32, 40, 60)
    weights = torch.randn(2, 60, 3)
    (fast,) = torch.autograd.grad((pixel_logits(logits, 8, rows, columns) * weights).sum(), logits)
    (slow,) = torch.autograd.grad((read_whole(logits, 8, rows, columns) * weights).sum(), logits)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("spread", [1, 45])
def test_the_gradient_of_pixel_logits_has_the_same_bits_every_time(spread):
    logits = torch.randn(4, 11, 45, 60, requires_grad=True)
    rows, columns = some_pixels(4, 8 * spread, 8 * spread, 2000)  # spread 1: all pixels add to one cell
    weights = torch.randn(4, 2000, 11)
    gradients = [
        torch.autograd.grad((pixel_logits(logits, 8, rows, columns) * weights).sum(), logits)[0] for _ in range(4)
    ]
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_the_bilinear_kernel_of_side_4_is_the_papers():
    axis = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(4), axis[:, None] * axis)


@pytest.mark.parametrize("side", [1, 3, 4, 16, 63, 64])
def test_the_bilinear_kernel_follows_the_formula(side):
    factor = (side + 1) // 2
    centre = factor - 1 if side % 2 == 1 else factor - 0.5
    for i, j in product(range(0, side, 3), range(0, side, 3)):
        expected = (1 - abs(i - centre) / factor) * (1 - abs(j - centre) / factor)
        assert bilinear_kernel(side)[i, j].item() == pytest.approx(expected, abs=1e-6)


def transposed(stride):
    return bilinear_upsampling(1, stride, bias=False).requires_grad_(False)


@pytest.mark.parametrize(("stride", "corner"), [(2, 0.75), (8, 0.5625), (32, 0.515625)])
def test_a_bilinear_transposed_convolution_is_interpolation_but_for_the_border(stride, corner):
    maps = torch.randn(1, 1, 4, 5)
    border = stride // 2
    upsampled = functional.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)
    inner = (..., slice(border, -border), slice(border, -border))
    torch.testing.assert_close(transposed(stride)(maps)[inner], upsampled[inner], atol=1e-5, rtol=0)
    ones = transposed(stride)(torch.ones(1, 1, 4, 5))
    assert ones[0, 0, 0, 2 * stride].item() == pytest.approx(corner)
    assert ones[0, 0, 0, 0].item() == pytest.approx(corner**2)
    assert ones[0, 0, border, border].item() == pytest.approx(1)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (320, 480), (96, 64)])
def test_the_transposed_convolution_of_d2l_gives_multiples_of_32_back(height, width):
    layer = nn.ConvTranspose2d(2, 2, kernel_size=64, stride=32, padding=16)
    assert layer(torch.zeros(1, 2, height // 32, width // 32)).shape[2:] == (height, width)


def test_upsampling_zero_logits_keeps_the_classes_equally_probable():
    upsampled = upsample_logits(torch.zeros(1, 21, 4, 4), 8, (31, 32))
    loss = functional.cross_entropy(upsampled, torch.full((1, 31, 32), 7))
    assert loss.item() == pytest.approx(math.log(21))


@pytest.mark.parametrize("stride", [1, 4, 8, 10])
@pytest.mark.parametrize("band", [1, 50_000, 10**8])
def test_the_confidence_is_the_probability_of_the_class_in_the_mask(stride, band, monkeypatch):
    monkeypatch.setattr("fullyconv.upsample.BAND_VALUES", band)
    logits = 40 * torch.randn(2, 5, 13, 17, generator=torch.Generator().manual_seed(1))
    size = (13 * stride - stride // 2, 17 * stride - stride // 3)
    confidence = predict_confidence(logits, stride, size)
    assert confidence.shape == (2, *size)
    expected = upsample_logits(logits.double(), stride, size).softmax(dim=1).amax(dim=1)
    torch.testing.assert_close(confidence.double(), expected, rtol=0, atol=1e-4)
