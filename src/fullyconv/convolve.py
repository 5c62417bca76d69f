"""Convolutions as a processor computes them fastest, a part of a map with the bits of the whole.

oneDNN wants weights in an order of its own, and rearranges them at every call unless that was done before. It
applies a ReLU in the pass in which it writes. And zeros around a map that are not the same on both sides need no
copy of the map: the kernel gets a first row and column of zeros instead.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Activation", "Conv2d", "Packed", "Padding", "convolve", "fused", "mix", "pack"]

Activation = Literal["none", "relu", "relu6"]

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros above and below, to the left and right."""

POINTWISE: dict[Activation, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
}
"""What each activation is called in oneDNN's operation."""

AFTERWARDS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "none": lambda maps: maps,
    "relu": functional.relu_,
    "relu6": partial(functional.relu6, inplace=True),
}
"""The same as operations of their own."""

HELD_SIZES = 4
"""Of maps for which a convolution keeps its weights arranged: two scales of two sizes of images."""

FUSES: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether torch was built with oneDNN, which has these operations."""


class Packed:
    """Weights of a convolution that never change again, in oneDNN's order. A copy of the convolution goes without.

    Attributes:
        enlarged: The weights with a first row and column of zeros; None where they would be of no use.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        # Where a convolution adds over many channels it would add in another order.
        lopsided = conv.stride == (2, 2) and conv.groups == conv.in_channels
        self.enlarged = functional.pad(conv.weight.detach(), (1, 0, 1, 0)) if lopsided else None
        self._arranged: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def arranged(self, weight: Tensor, maps: Tensor, padding: list[int], dilation: list[int]) -> Tensor:
        """Give weights in the order that suits maps of a size; in the wrong one it would be very slow."""
        if type(maps) is not Tensor:  # it has no values, and bands of another size will be computed
            return weight
        key = (*maps.shape, *weight.shape)
        if key not in self._arranged:
            form = padding, list(self.conv.stride), dilation, self.conv.groups
            operation = torch.ops.mkldnn._reorder_convolution_weight
            self._arranged[key] = operation(weight, *form, list(maps.shape))
            if len(self._arranged) > HELD_SIZES:
                self._arranged.popitem(last=False)
        self._arranged.move_to_end(key)
        return self._arranged[key]

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def pack(network: nn.Module) -> None:
    """Let the weights of all convolutions of a network be arranged once. They may not change any more."""
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d) and _computes(conv.weight):
            conv.packed = Packed(conv)  # type: ignore[assignment]


class Conv2d(nn.Conv2d):
    """A convolution that computes with `convolve`, whatever the size of the map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve N x K x h x w maps."""
        return convolve(maps, self)


def convolve(
    maps: Tensor, conv: nn.Conv2d, activation: Activation = "none", padding: Padding | None = None
) -> Tensor:
    """Convolve, then apply a ReLU: `conv(maps)` and what follows it.

    Where maps are channels last on a processor and nothing is learned, it is one operation of oneDNN. (Torch
    itself leaves tiny maps of float32 to another library, which adds in another order.) It clips before the result
    is rounded to bfloat16, which changes nothing: 0 and 6 are bfloat16.

    Args:
        maps: N x K x h x w.
        conv: The convolution.
        activation: What follows it.
        padding: Instead of its own.
    """
    fast = _is_fast(maps)
    packed: Packed | None = getattr(conv, "packed", None) if fast else None
    weight = conv.weight
    (top, bottom), (left, right) = padding or [(int(side), int(side)) for side in conv.padding]
    if packed and packed.enlarged is not None and (top + 1, left + 1) == (bottom, right):
        weight, top, left = packed.enlarged, bottom, right
    elif (top, left) != (bottom, right):
        maps, top, left = functional.pad(maps, (left, right, top, bottom)), 0, 0
    if fast:
        form = [top, left], list(conv.stride), list(conv.dilation), conv.groups
        return fused(maps, weight, conv.bias, *form, POINTWISE[activation], packed)
    convolved = functional.conv2d(maps, weight, conv.bias, conv.stride, (top, left), conv.dilation, conv.groups)
    return AFTERWARDS[activation](convolved)


def mix(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve with a 1x1 kernel: N x K x h x w maps, C x K weights."""
    kernel = weight[:, :, None, None]
    if _is_fast(maps):
        return fused(maps, kernel, bias, [0, 0], [1, 1], [1, 1], 1, POINTWISE["none"])
    return functional.conv2d(maps, kernel, bias)


def fused(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
    groups: int,
    behind: Sequence[Any],
    packed: Packed | None = None,
) -> Tensor:
    """Let oneDNN convolve and do what comes `behind`, so that a part of a map gives the bits of the whole.

    With a kernel that is spread over more than every second cell, oneDNN adds in an order that depends on the size
    of the map. So the map is dealt out into maps of every fourth row and column (say), whose cells the kernel
    reads side by side.
    """
    spread = dilation[0] if stride == [1, 1] and dilation[0] == dilation[1] > 2 else 1
    if spread > 1 and type(maps) is Tensor:
        size = [maps.shape[axis] + 2 * padding[axis - 2] for axis in (2, 3)]
        size = [length - spread * (kernel - 1) for length, kernel in zip(size, weight.shape[2:], strict=True)]
        dealt = _dealt_out(maps, padding, spread)
        parts = fused(dealt, weight, bias, [0, 0], stride, [1, 1], groups, behind, packed)
        return _gathered(parts, spread)[:, :, : size[0], : size[1]].contiguous(memory_format=torch.channels_last)
    weight = packed.arranged(weight, maps, padding, dilation) if packed else weight
    operation = torch.ops.mkldnn._convolution_pointwise
    result: Tensor = operation(maps, weight, bias, padding, stride, dilation, groups, *behind)
    return result


def _dealt_out(maps: Tensor, padding: list[int], step: int) -> Tensor:
    """Turn N x K x h x w maps with zeros around them into step * step * N of every step-th row and column."""
    top, left = padding
    below, right = (-(length + 2 * side) % step for length, side in zip(maps.shape[2:], padding, strict=True))
    filled = functional.pad(maps, (left, left + right, top, top + below)).permute(0, 2, 3, 1)
    count, height, width, channels = filled.shape
    parts = filled.reshape(count, height // step, step, width // step, step, channels).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(step * step * count, height // step, width // step, channels).permute(0, 3, 1, 2)


def _gathered(parts: Tensor, step: int) -> Tensor:
    """Put together what `_dealt_out` parted."""
    _, channels, height, width = parts.shape
    apart = parts.permute(0, 2, 3, 1).reshape(step, step, -1, height, width, channels)
    whole = apart.permute(2, 3, 0, 4, 1, 5).reshape(-1, height * step, width * step, channels)
    return whole.permute(0, 3, 1, 2)


def _is_fast(maps: Tensor) -> bool:
    """Whether maps are channels last, where oneDNN computes, and nothing is learned."""
    if torch.is_grad_enabled() or not _computes(maps) or maps.shape[1] == 1:
        return False
    return maps.is_contiguous(memory_format=torch.channels_last)


def _computes(values: Tensor) -> bool:
    """Whether oneDNN computes with such numbers here."""
    if values.device.type != "cpu" or not FUSES:
        return False
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return values.dtype == torch.float32 or (values.dtype == torch.bfloat16 and native)
