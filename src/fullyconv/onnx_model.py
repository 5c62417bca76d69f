"""A model for other engines: the whole way from pixels to logits as one ONNX graph.

The decoder is written from what it says of itself, `Decoder.stages`; the encoder from a trace of its network. The
exported graph takes images of any size and gives logits at the output stride: tiles, upsampling and masks are
`Predictor`'s, so an exported model is measured by the code that measures the model itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from fullyconv.decoder import LARGEST_DENOMINATOR, Decoder
from fullyconv.decoders.practical import Skip
from fullyconv.encoder import PAD_TO_STRIDE, Encoder
from fullyconv.errors import UsageError
from fullyconv.model import FCN
from fullyconv.onnx_graph import OnnxGraph
from fullyconv.sizes import as_fraction
from fullyconv.stages import Stage

__all__ = ["onnx_model"]

IMAGES, LOGITS = "images", "logits"


@dataclass(frozen=True)
class _Map:
    """A map in the graph.

    Attributes:
        name: Of its value.
        channels: How many.
        stride: Pixels of the original image between neighbouring cells.
        whole: Whether its cells are those of the image padded to the grid: it was not made from a scaled image.
    """

    name: str
    channels: int
    stride: Fraction
    whole: bool


def onnx_model(onnx: Any, model: FCN, metadata: Mapping[str, str]) -> Any:
    """Write a model as an ONNX graph in float32.

    Args:
        onnx: The library.
        model: In eval mode, on the processor.
        metadata: Travels in the file.

    Returns:
        An `onnx.ModelProto`: `IMAGES`, uint8 RGB N x H x W x 3 (or of another form, float32), in; `LOGITS`,
        float32 N x C x h x w, out, for any N, H and W from 1 up. The logits may cover more than those of the
        model, which cuts them to the image.

    Raises:
        UsageError: A network that cannot be exported.
    """
    graph = OnnxGraph(onnx)
    decoder = model.decoder
    maps = _features(graph, model.encoder)
    grid = max(spec.tap.stride for spec in decoder.specs)
    sides = [graph.rounded_up(graph.side(IMAGES, axis), grid) for axis in (1, 2)]
    for stage in decoder.stages():
        maps[stage.name] = _stage(graph, stage, decoder, maps, sides)
    graph.op("Identity", maps[stage.name].name)
    graph.nodes[-1].output[0] = LOGITS
    return graph.model(IMAGES, LOGITS, model.encoder.image_form, model.class_table.num_classes, dict(metadata))


def _features(graph: OnnxGraph, encoder: Encoder) -> dict[str, _Map]:
    """Write the encoder; its maps by the labels of their specs."""
    if encoder.network.size_policy != PAD_TO_STRIDE:
        raise UsageError(
            f"encoder {encoder.network.name} ({encoder.network.size_policy}) cannot be exported: only networks "
            "that pad to a stride can"
        )
    network = encoder.network.folded().float().eval()
    pixels = graph.op("Cast", graph.op("Transpose", IMAGES, perm=[0, 3, 1, 2]), to=1)
    normalised = _normalised(graph, encoder, pixels)
    names: list[str] = []
    for scale in encoder.scales:
        maps = normalised if scale == 1 else _scaled(graph, normalised, as_fraction(scale))
        sides = [graph.rounded_up(graph.side(maps, axis), encoder.stride_grid) for axis in (2, 3)]
        maps, channels = graph.padded(maps, *sides), len(encoder.input_convention.mean)
        names += graph.traced(lambda x: network(x, encoder.strides), maps, channels, 2 * encoder.stride_grid)
    return {
        spec.label: _Map(name, spec.channels, _fraction(spec.stride), spec.scale == 1)
        for spec, name in zip(encoder.specs, names, strict=True)
    }


def _scaled(graph: OnnxGraph, pixels: str, factor: Fraction) -> str:
    """What `fullyconv.sizes.resize_by` does."""
    maps = pixels
    for axis in (2, 3):
        wanted = graph.op("Mul", graph.side(pixels, axis), graph.integer(factor.numerator))
        more = graph.op("Add", wanted, graph.integer(factor.denominator - 1))  # to round up
        maps = graph.read_between(maps, axis, factor, graph.op("Div", more, graph.integer(factor.denominator)))
    return maps


def _normalised(graph: OnnxGraph, encoder: Encoder, maps: str) -> str:
    """What `Encoder.normalise` does."""
    order = encoder.input_convention.channel_order
    if order == "BGR":
        maps = graph.op("Gather", maps, graph.constant(np.array([2, 1, 0])), axis=1)
    elif order == "grey" and encoder.image_form.is_usual:
        red, green, blue = (graph.op("Gather", maps, graph.integer(channel), axis=1) for channel in range(3))
        maps = green
        for weight, color in ((0.299, red), (0.114, blue)):
            difference = graph.op("Sub", color, green)
            maps = graph.op("Add", maps, graph.op("Mul", difference, graph.constant(np.float32(weight))))
    return graph.op("Div", graph.op("Sub", maps, graph.constant(encoder.mean)), graph.constant(encoder.std))


def _stage(graph: OnnxGraph, stage: Stage, decoder: Decoder, maps: Mapping[str, _Map], sides: list[str]) -> _Map:
    """Write one stage of a decoder, as `fullyconv.stages.Stage` says it."""
    inputs, stride = [maps[name] for name in stage.reads], _fraction(stage.stride)
    whole = inputs[0].whole
    if stage.kind == "whole":
        raise UsageError(f"decoder {stage.name} does not say what it computes, so it cannot be exported")
    if stage.kind == "sum":
        summands = [read if read.whole else _resampled(graph, read, stride, sides) for read in inputs]
        result, whole = summands[0].name, True
        for other in summands[1:]:
            result = graph.op("Add", result, other.name)
        if stage.module:
            result = graph.op("Add", result, graph.constant(decoder.get_parameter(stage.module)[:, None, None]))
    elif stage.kind == "scale":
        result = graph.op("Mul", inputs[0].name, graph.constant(np.float32(stage.factor)))
    elif stage.kind == "upsample":
        result, whole = _resampled(graph, inputs[0], stride, sides).name, True
    else:
        result = _layer(graph, decoder.get_submodule(stage.module), inputs[0])
    return _Map(graph.op("Relu", result) if stage.activation else result, stage.channels, stride, whole)


def _resampled(graph: OnnxGraph, read: _Map, stride: Fraction, sides: list[str]) -> _Map:
    """Bilinear interpolation to the cells that the padded image has at a stride."""
    factor = read.stride / stride
    if read.whole and factor.denominator == 1:
        return _Map(graph.enlarged(read.name, factor.numerator), read.channels, stride, True)
    name = read.name
    for axis, side in zip((2, 3), sides, strict=True):
        count = graph.op("Div", graph.op("Add", side, graph.integer(int(stride) - 1)), graph.integer(int(stride)))
        name = graph.read_between(name, axis, factor, count)
    return _Map(name, read.channels, stride, True)


def _layer(graph: OnnxGraph, layer: nn.Module, read: _Map) -> str:
    """Write a module of a decoder."""
    if isinstance(layer, Skip):  # the norm goes into the projection
        weight, offset = layer.folded(torch.empty(0, read.channels))
        tensors = graph.parameter(weight[:, :, None, None]), graph.parameter(offset)
        return graph.op("Conv", read.name, *tensors)
    (name,) = graph.traced(layer, read.name, read.channels, side=8)
    return name


def _fraction(stride: float) -> Fraction:
    return Fraction(stride).limit_denominator(LARGEST_DENOMINATOR)
