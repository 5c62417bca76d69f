"""What oneDNN does in one operation is, bit for bit, a convolution and what follows it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from fullyconv.convolve import HELD_SIZES, convolve, pack
from fullyconv.encoder import Encoder
from fullyconv.encoders import build_network

PADDINGS = (None, ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((1, 2), (1, 2)), ((0, 1), (1, 1)))
FORMS = ((8, 24, 3, 1, 1), (16, 16, 3, 2, 16), (24, 24, 5, 2, 24), (32, 8, 1, 1, 1), (3, 16, 3, 2, 1))
ACTIVATIONS = {"none": lambda maps: maps, "relu": functional.relu, "relu6": functional.relu6}


def made(channels: int, out: int, kernel: int, stride: int, groups: int, precision: torch.dtype) -> nn.Conv2d:
    torch.manual_seed(kernel)
    conv = nn.Conv2d(channels, out, kernel, stride, groups=groups)
    return conv.to(precision).to(memory_format=torch.channels_last).requires_grad_(False)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_one_operation_gives_the_bits_of_two(form, precision):
    conv = made(*form, precision)
    pack(conv)
    for size in ((1, 5, 7), (2, 24, 30), (1, 97, 64), (1, 5, 7)):
        maps = 4 * torch.randn(size[0], form[0], *size[1:]).to(precision)
        maps = maps.contiguous(memory_format=torch.channels_last)
        for padding in PADDINGS:
            (top, bottom), (left, right) = padding or ((0, 0), (0, 0))
            even = (top, left) == (bottom, right)
            padded = maps if even else functional.pad(maps, (left, right, top, bottom))
            around = (top, left) if even else (0, 0)
            # Called by its name: torch itself leaves small maps of float32 to another library.
            rest = list(around), list(conv.stride), [1, 1], conv.groups
            plain = torch.mkldnn_convolution(padded, conv.weight, conv.bias, *rest)
            for activation, function in ACTIVATIONS.items():
                with torch.no_grad():
                    found = convolve(maps, conv, activation, padding)
                expected = function(plain)
                assert found.dtype == precision
                torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "dilation"), [(64, 1), (256, 2), (256, 4), (64, 8)])
def test_a_part_of_a_map_gives_the_bits_of_the_whole(channels, dilation, precision):
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
    conv = conv.to(precision).to(memory_format=torch.channels_last).requires_grad_(False)
    maps = torch.randn(1, channels, 21, 64).to(precision).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        whole = convolve(maps, conv, "relu")
        torch.testing.assert_close(whole, functional.relu(conv(maps)))
        for height in (1, 2, 3, 5, 9, 16, 21):
            for width in (1, 3, 6, 17, 40, 64):
                part = maps[:, :, :height, :width].contiguous(memory_format=torch.channels_last)
                rows = height if height == 21 else max(height - dilation, 0)
                columns = width if width == 64 else max(width - dilation, 0)
                found = convolve(part, conv, "relu")[:, :, :rows, :columns]
                assert torch.equal(found, whole[:, :, :rows, :columns])


def test_gradients_flow_where_something_is_learned():
    conv = nn.Conv2d(4, 8, 3, padding=1)
    pack(conv)
    maps = torch.randn(1, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    found = convolve(maps, conv, "relu")
    found.sum().backward()
    torch.testing.assert_close(found, functional.relu(conv(maps)), rtol=0, atol=0)
    assert conv.weight.grad.abs().sum() > 0


def test_weights_are_arranged_for_a_few_sizes():
    conv = made(8, 8, 3, 1, 1, torch.float32)
    pack(conv)
    with torch.no_grad():
        for side in range(8, 8 + 2 * HELD_SIZES):
            convolve(torch.randn(1, 8, side, side).contiguous(memory_format=torch.channels_last), conv)
    assert len(conv.packed._arranged) == HELD_SIZES


def test_a_copy_computes_the_same():
    encoder = Encoder(build_network("efficientnet_lite0", "none"))
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    expected = encoder(image)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        for found, wanted in zip(other(image), expected, strict=True):
            assert found.equal(wanted)
