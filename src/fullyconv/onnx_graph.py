"""An ONNX graph, put together operation by operation, and traced networks written into it.

Nothing here knows a network: `export` says what comes after what. Sizes of images are open in the graph: what
depends on them is computed in it, with whole numbers.
"""

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fullyconv.errors import UsageError
from fullyconv.image_form import ImageForm

__all__ = ["OPSET", "OnnxGraph"]

OPSET = 18

aten = torch.ops.aten


class OnnxGraph:
    """A graph under construction. Values are names.

    Args:
        onnx: The library.
    """

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation of ONNX and name its result."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, values: Any) -> str:
        """Name an array of the graph; equal ones have one name."""
        array = _array(values)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.parameter(array)
        return self._known[key]

    def parameter(self, values: Any) -> str:
        """Name an array of a layer, that it has for itself: OpenVINO fuses no bias that two layers share."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(_array(values), name))
        return name

    def integer(self, value: int) -> str:
        """Name a whole number: an int64 array of one value."""
        return self.constant(np.array([value], np.int64))

    def side(self, maps: str, axis: int) -> str:
        """The length of a map along an axis, as `integer`."""
        return self.op("Gather", self.op("Shape", maps), self.integer(axis), axis=0)

    def rounded_up(self, side: str, multiple: int) -> str:
        """A length rounded up to a multiple."""
        grid = self.integer(multiple)
        return self.op("Mul", self.op("Div", self.op("Add", side, self.integer(multiple - 1)), grid), grid)

    def padded(self, maps: str, height: str, width: str) -> str:
        """Fill N x K x h x w maps up with zeros at the bottom and right."""
        below = self.op("Sub", height, self.side(maps, 2))
        right = self.op("Sub", width, self.side(maps, 3))
        none = self.constant(np.zeros(6, np.int64))
        return self.op("Pad", maps, self.op("Concat", none, below, right, axis=0), mode="constant")

    def read_between(self, maps: str, axis: int, factor: Fraction, count: str) -> str:
        """What `fullyconv.sizes.read_between` does, along axis 2 or 3, for a `count` that the graph computes."""
        steps = 2 * factor.numerator
        zero, one = (self.constant(np.array(value, np.int64)) for value in (0, 1))
        cells = self.op("Range", zero, self.op("Squeeze", count), one)
        doubled = self.op("Add", self.op("Mul", cells, self.integer(2)), self.integer(1))
        places = self.op(
            "Sub", self.op("Mul", doubled, self.integer(factor.denominator)), self.integer(factor.numerator)
        )
        last = self.op("Sub", self.side(maps, axis), self.integer(1))
        end = self.op("Mul", last, self.integer(steps))
        places = self.op("Min", self.op("Max", places, self.integer(0)), end)
        lower = self.op("Div", places, self.integer(steps))
        upper = self.op("Min", self.op("Add", lower, self.integer(1)), last)
        rest = self.op("Cast", self.op("Mod", places, self.integer(steps)), to=self._onnx.TensorProto.FLOAT)
        share = self.op("Div", rest, self.constant(np.array([steps], np.float32)))
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        share = self.op("Reshape", share, self.constant(np.array(shape, np.int64)))
        first = self.op(
            "Mul", self.op("Gather", maps, lower, axis=axis), self.op("Sub", self.constant(np.float32(1)), share)
        )
        return self.op("Add", first, self.op("Mul", self.op("Gather", maps, upper, axis=axis), share))

    def enlarged(self, maps: str, factor: int) -> str:
        """Bilinear interpolation by a whole factor, as `fullyconv.decoder.resample`."""
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.op("Resize", maps, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def traced(self, function: Callable[[Tensor], Any], name: str, channels: int, side: int) -> list[str]:
        """Write down what a function of one map does; it may not depend on the size of the map.

        Args:
            function: Takes N x channels x h x w, returns a map or several.
            name: Of its argument in the graph.
            channels: Of the map.
            side: Of the map that it is traced with.

        Returns:
            The names of the results.

        Raises:
            UsageError: An operation that is not known here.
        """
        with torch.no_grad():
            with FakeTensorMode(allow_non_fake_inputs=True):
                example = torch.empty((1, channels, side, side))
            module = make_fx(function)(example)
        graph, names, values = module.graph, {}, {}
        graph.eliminate_dead_code()
        for node in graph.nodes:
            if node.op == "placeholder":
                names[node] = name
            elif node.op == "get_attr":
                values[node] = getattr(module, str(node.target))
            elif node.op == "call_function":
                names[node] = self._written(node, names, values)
        (results,) = graph.output_node().args
        return [names[result] for result in (results if isinstance(results, list | tuple) else [results])]

    def _written(self, node: fx.Node, names: dict[fx.Node, str], values: dict[fx.Node, Tensor]) -> str:
        """Write one operation down."""
        known: dict[Any, Any] = {**values, **names}
        every: list[Any] = [known[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        maps, *args = every
        match node.target:
            case aten.convolution.default:
                return self._convolution(maps, *args)
            case aten.relu.default | aten.relu_.default:
                return self.op("Relu", maps)
            case aten.hardtanh.default | aten.hardtanh_.default:
                low, high = (self.constant(np.float32(limit)) for limit in args)
                return self.op("Clip", maps, low, high)
            case aten.add.Tensor if isinstance(args[0], str):
                return self.op("Add", maps, args[0])
            case aten.constant_pad_nd.default:
                left, right, top, bottom = args[0]
                pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
                return self.op("Pad", maps, self.constant(pads), mode="constant")
            case aten.max_pool2d_with_indices.default:
                return self._pool("MaxPool", maps, *args)
            case aten.avg_pool2d.default if not any(args[2:3]):
                return self._pool("AveragePool", maps, *args[:2])
            case aten.native_batch_norm.default:
                weight, bias, mean, variance, _, _, epsilon = args
                tensors = map(self.constant, (weight, bias, mean, variance))
                return self.op("BatchNormalization", maps, *tensors, epsilon=epsilon)
            case aten.slice.Tensor:
                return self._cut(node, maps, *args)
            case aten.clone.default | aten.alias.default | aten.detach.default | operator.getitem:
                return str(maps)
        raise UsageError(f"{node.target} cannot be exported", hint="use the model itself, with --engine torch")

    def _cut(self, node: fx.Node, maps: str, axis: int = 0, start: int = 0, end: int = 0, step: int = 1) -> str:
        """Cut rows or columns off at the end: as many, whatever the size."""
        (source,) = node.all_input_nodes
        side = source.meta["val"].shape[axis]
        beyond = max(side - end if end >= 0 else -end, 0)
        if start or step != 1 or (axis < 2 and beyond):
            raise UsageError("a part of the channels cannot be exported")
        if not beyond:
            return maps
        return self.op("Slice", maps, self.integer(0), self.integer(-beyond), self.integer(axis))

    def _convolution(
        self,
        maps: str,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> str:
        tensors = [self.parameter(tensor) for tensor in (weight, bias) if tensor is not None]
        form = {"strides": stride, "pads": [*padding, *padding], "dilations": dilation, "group": groups}
        if transposed:
            return self.op("ConvTranspose", maps, *tensors, output_padding=output_padding, **form)
        return self.op("Conv", maps, *tensors, **form)

    def _pool(
        self,
        kind: str,
        maps: str,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
    ) -> str:
        return self.op(kind, maps, kernel_shape=kernel, strides=stride or kernel, pads=[*padding, *padding])

    def model(self, images: str, logits: str, form: ImageForm, classes: int, metadata: dict[str, str]) -> Any:
        """Finish: one input N x H x W x channels of a form, one output N x classes x h x w float32."""
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        kind = kinds.UINT8 if form.is_usual else kinds.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "fullyconv",
            [helper.make_tensor_value_info(images, kind, ["batch", "height", "width", form.channels])],
            [helper.make_tensor_value_info(logits, kinds.FLOAT, ["batch", classes, "rows", "columns"])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        helper.set_model_props(model, metadata)
        self._onnx.checker.check_model(model, full_check=True)
        return model


def _array(values: Any) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values)
