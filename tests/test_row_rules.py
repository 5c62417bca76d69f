"""Each operation by rows gives the rows of the whole, bit for bit, and reads no more than it says."""

import functools
import random

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from fullyconv.decoder import resample
from fullyconv.row_rules import NotStreamableError, rule_of
from fullyconv.sizes import pad_to_multiple, resize_by
from fullyconv.streaming import RowStream


@functools.cache  # a trace must not draw them anew
def weights(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


OPERATIONS = {
    "3x3": lambda x: functional.conv2d(x, weights(5, 4, 3, 3), weights(5), padding=1),
    "5x5, stride 2, padding 0": lambda x: functional.conv2d(x, weights(5, 4, 5, 5), stride=2),
    "dilated, stride 3": lambda x: functional.conv2d(x, weights(5, 4, 3, 3), None, 3, 2, 2),
    "by channels": lambda x: functional.conv2d(x, weights(4, 1, 3, 3), None, 1, 1, 1, 4),
    "1x1, stride 2": lambda x: functional.conv2d(x, weights(5, 4, 1, 1), weights(5), 2),
    "transposed": lambda x: functional.conv_transpose2d(x, weights(4, 3, 4, 4), weights(3), 2, 1),
    "transposed, much padding": lambda x: functional.conv_transpose2d(x, weights(4, 3, 7, 7), None, 3, 6),
    "transposed, more at the end": lambda x: functional.conv_transpose2d(x, weights(4, 3, 3, 3), None, 2, 1, 1),
    "transposed, gaps": lambda x: functional.conv_transpose2d(x, weights(4, 3, 2, 2), None, 3, 0, 2),
    "transposed, dilated": lambda x: functional.conv_transpose2d(x, weights(4, 3, 3, 3), None, 2, 1, 0, 1, 2),
    "max": lambda x: functional.max_pool2d(x, 2),
    "max, padded": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max, rounded up": lambda x: functional.max_pool2d(x, 3, 2, ceil_mode=True),
    "mean": lambda x: functional.avg_pool2d(x, 2),
    "mean, overlapping": lambda x: functional.avg_pool2d(x, 3, 2),
    "padding": lambda x: functional.pad(x, (1, 2, 3, 4), value=0.5),
    "padding below": lambda x: pad_to_multiple(x, 32),
    "cropping": lambda x: functional.pad(x, (0, 0, -2, 1)),
    "up by 2": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "up by 8 and cut": lambda x: resample(x, 16, 2, (x.shape[2] * 8 - 11, x.shape[3] * 8 - 3)),
    "up by 4/3": lambda x: resample(x, 16 / 1.5, 8, (x.shape[2] * 4 // 3, x.shape[3] * 4 // 3)),
    "up by 1.1": lambda x: resize_by(x, 1.1),
    "down by 2": lambda x: resample(x, 4, 8, (-(-x.shape[2] // 2), -(-x.shape[3] // 2))),
    "down by 0.75": lambda x: resize_by(x, 0.75),
    "a part of the rows": lambda x: x[:, :, 3:-2, 1:],
    "channels turned round": lambda x: x.flip(1),
    "channels beside others": lambda x: torch.cat((x, -1 * x), dim=1),
    "a factor a row": lambda x: x * torch.arange(x.shape[2]).view(1, 1, -1, 1),
    "norm": lambda x: functional.batch_norm(x, weights(4), weights(4).abs(), weights(4), weights(4)),
    "rectified": lambda x: functional.relu6(x * 9) + functional.relu(x),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPERATIONS)
def test_some_rows_are_those_of_the_whole(name, seed):
    draw = random.Random(seed)
    x = torch.randn(
        (1, 4, draw.randint(9, 40), draw.randint(20, 40)), generator=torch.Generator().manual_seed(seed)
    )
    x = x.contiguous(memory_format=torch.channels_last)
    whole = OPERATIONS[name](x)
    stream = RowStream(OPERATIONS[name], x)
    assert stream.rows == whole.shape[-2]
    tops = sorted(draw.sample(range(1, x.shape[2]), 3))
    bands = [x[:, :, a:b] for a, b in zip([0, *tops], [*tops, x.shape[2]], strict=True)]
    parts = list(stream.run(bands))
    assert torch.equal(torch.cat(parts, dim=2), whole)
    assert torch.equal(torch.cat(list(stream.run(x.split(1, dim=2))), dim=2), whole)


@pytest.mark.parametrize("name", ["3x3", "transposed", "max, padded", "up by 2"])
def test_rows_that_are_not_asked_for_change_nothing(name):
    x = torch.randn(1, 4, 40, 30).contiguous(memory_format=torch.channels_last)
    OPERATIONS[name](x)
    module = make_fx(OPERATIONS[name])(x)
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and "val" in node.meta]
    values = {node: getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    node = next(node for node in nodes if any(source.op == "placeholder" for source in node.all_input_nodes))
    rule = rule_of(node, values)
    first, last = rule.needs(11, 17)
    assert (first, last) == {"3x3": (10, 18), "transposed": (5, 9), "max, padded": (21, 34)}.get(name, (5, 9))
    assert torch.equal(rule.compute([x[:, :, first:last]], 11, 17), OPERATIONS[name](x)[:, :, 11:17])


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (lambda x: x.softmax(dim=2), "softmax.*not known to work by rows"),
        (lambda x: x - x.mean(dim=(2, 3), keepdim=True), "mean.*not known to work by rows"),
        (lambda x: functional.avg_pool2d(x, 3, 2, 1), "means over padding"),
        (lambda x: x.flip(2), "upside down"),
        (lambda x: x.gather(2, torch.zeros(x.shape, dtype=torch.long)), "rows are gathered"),
        (lambda x: torch.cat((x, x), dim=2), "another axis than channels"),
        (lambda x: x[:, :, ::2], "rows are left out"),
        (lambda x: x.index_select(2, torch.tensor([3, 1])), "another order"),
        (lambda x: x + x[:, :, :1], "repeats a row"),
        (lambda x: functional.interpolate(x, (33, 20), mode="bilinear"), "depends on the place"),
        (
            lambda x: functional.interpolate(x, (20, 20), mode="bilinear", align_corners=True),
            "depends on the place",
        ),
        (lambda x: x.flatten(2), "3 dimensions"),
    ],
)
def test_what_needs_more_than_a_few_rows_is_refused(operation, words):
    with pytest.raises(NotStreamableError, match=words):
        RowStream(operation, torch.zeros(1, 4, 20, 20))
