"""Convolutions of fixed weights, as a processor computes them fastest: the same bits in less time.

oneDNN wants weights in an order of its own, and rearranges them at every call unless that was done before. It
applies a ReLU in the pass in which it writes. And zeros around a map that are not the same on both sides need no
copy of the map: the kernel gets a first row and column of zeros instead.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Activation", "Packed", "Padding", "convolve", "pack"]

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

    def arranged(self, weight: Tensor, maps: Tensor, padding: list[int]) -> Tensor:
        """Give weights in the order that suits maps of a size; in the wrong one it would be very slow."""
        if type(maps) is not Tensor:  # it has no values, and bands of another size will be computed
            return weight
        key = (*maps.shape, *weight.shape)
        if key not in self._arranged:
            form = padding, list(self.conv.stride), list(self.conv.dilation), self.conv.groups
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


def convolve(
    maps: Tensor, conv: nn.Conv2d, activation: Activation = "none", padding: Padding | None = None
) -> Tensor:
    """Convolve, then apply a ReLU: `conv(maps)` and what follows it.

    Where maps are channels last on a processor and nothing is learned, it is one operation of oneDNN, with the
    same bits (torch itself leaves tiny maps of float32 to another library, which adds in another order). It clips
    before the result is rounded to bfloat16, which changes nothing: 0 and 6 are bfloat16.

    Args:
        maps: N x K x h x w.
        conv: The convolution.
        activation: What follows it.
        padding: Instead of its own.
    """
    fast = not torch.is_grad_enabled() and _computes(maps) and maps.shape[1] > 1
    fast = fast and maps.is_contiguous(memory_format=torch.channels_last)
    packed: Packed | None = getattr(conv, "packed", None) if fast else None
    weight = conv.weight
    (top, bottom), (left, right) = padding or [(int(side), int(side)) for side in conv.padding]
    if packed and packed.enlarged is not None and (top + 1, left + 1) == (bottom, right):
        weight, top, left = packed.enlarged, bottom, right
    elif (top, left) != (bottom, right):
        maps, top, left = functional.pad(maps, (left, right, top, bottom)), 0, 0
    if fast:
        weight = packed.arranged(weight, maps, [top, left]) if packed else weight
        lists = [top, left], list(conv.stride), list(conv.dilation)
        operation = torch.ops.mkldnn._convolution_pointwise
        fused: Tensor = operation(maps, weight, conv.bias, *lists, conv.groups, *POINTWISE[activation])
        return fused
    convolved = functional.conv2d(maps, weight, conv.bias, conv.stride, (top, left), conv.dilation, conv.groups)
    return AFTERWARDS[activation](convolved)


def _computes(values: Tensor) -> bool:
    """Whether oneDNN computes with such numbers here."""
    if values.device.type != "cpu" or not FUSES:
        return False
    native: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return values.dtype == torch.float32 or (values.dtype == torch.bfloat16 and native)
