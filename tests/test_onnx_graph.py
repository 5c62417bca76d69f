"""What is written into a graph computes what torch computes; what cannot be written is refused."""

from fractions import Fraction

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from torch.nn import functional

from fullyconv.errors import UsageError
from fullyconv.onnx_graph import OPSET, OnnxGraph
from fullyconv.sizes import read_between

WEIGHTS = torch.randn(5, 4, 3, 3), torch.randn(4, 5, 3, 3)
BIAS, ONES, TWOS = torch.ones(5), torch.ones(4), torch.full((4,), 2.0)


def computed(graph, name, maps):
    helper, kinds = onnx.helper, onnx.TensorProto
    given = helper.make_tensor_value_info("maps", kinds.FLOAT, list(maps.shape))
    result = helper.make_tensor_value_info(name, kinds.FLOAT, None)
    whole = helper.make_graph(graph.nodes, "test", [given], [result], graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)])
    return torch.from_numpy(
        np.array(onnx.reference.ReferenceEvaluator(model).run(None, {"maps": maps.numpy()})[0])
    )


FUNCTIONS = {
    "convolution": lambda x: functional.conv2d(x, WEIGHTS[0], None, 2, 1),
    "transposed": lambda x: functional.conv_transpose2d(x, WEIGHTS[1], BIAS, 2, 1, 1),
    "cut": lambda x: functional.conv_transpose2d(x, WEIGHTS[1], None, 2)[..., :-1, : 2 * x.shape[3]],
    "clipped": lambda x: functional.relu6(x),
    "pooled": lambda x: functional.max_pool2d(functional.relu(x), 3, 2, 1),
    "averaged": lambda x: functional.avg_pool2d(x, 2),
    "padded": lambda x: functional.pad(x, (1, 2, 0, 3)) + functional.pad(x, (0, 3, 2, 1)),
    "norm": lambda x: functional.batch_norm(x, ONES, TWOS, ONES, TWOS),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_written_for_every_size(name):
    graph = OnnxGraph(onnx)
    (result,) = graph.traced(FUNCTIONS[name], "maps", 4, 16)
    maps = torch.randn(1, 4, 8, 12)
    torch.testing.assert_close(computed(graph, result, maps), FUNCTIONS[name](maps), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("factor", [Fraction(3, 2), Fraction(1, 3), Fraction(11, 10), Fraction(1)])
def test_reading_between_cells_is_that_of_torch(axis, factor):
    maps = torch.randn(1, 2, 9, 14)
    for count in (1, 8, 25):
        graph = OnnxGraph(onnx)
        result = graph.read_between("maps", axis, factor, graph.integer(count))
        torch.testing.assert_close(computed(graph, result, maps), read_between(maps, axis, factor, count))


def test_equal_constants_are_kept_once():
    graph = OnnxGraph(onnx)
    assert graph.constant(torch.ones(3)) == graph.constant(np.ones(3, np.float32)) != graph.constant(np.ones(3))
    assert len(graph.constants) == 2


@pytest.mark.parametrize("function", [lambda x: x.softmax(1), lambda x: x[:, :2], lambda x: x + 1])
def test_what_is_not_known_is_refused(function):
    with pytest.raises(UsageError, match="cannot be exported"):
        OnnxGraph(onnx).traced(function, "maps", 4, 16)
