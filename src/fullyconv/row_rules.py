"""Which rows of its inputs an operation reads for some rows of its result, and how it computes only those.

One function an operation, each gives a `Rule`. What is said of rows only: columns are always whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.nn import functional

from fullyconv.convolve import fused
from fullyconv.errors import FullyConvError

__all__ = ["NotStreamableError", "Rule", "rule_of"]

aten = torch.ops.aten

POINTWISE = {
    getattr(getattr(aten, name), overload)
    for name, overload in (
        *((name, "Tensor") for name in ("add", "add_", "sub", "mul", "mul_", "div", "rsub", "lerp")),
        *((name, "Scalar") for name in ("add", "sub", "mul", "div", "rsub")),
        *((name, "default") for name in ("relu", "relu_", "sqrt", "hardtanh", "hardtanh_", "clamp", "clamp_min")),
        *((name, "default") for name in ("_to_copy", "clone", "alias", "detach", "flip", "cat", "gather")),
        ("native_batch_norm", "default"),
    )
}
"""Operations of which a row of the result depends on the same row of each operand, and on no other."""

LARGEST_DENOMINATOR = 10**4
"""Of a factor as a fraction; as in `fullyconv.decoder`."""

LEAST_CELLS = 256
"""Of a map that a convolution computes. For fewer (up to 204 were found) another kernel may be chosen, which adds
in another order: rows of nothing are computed beside them then."""

Rows = tuple[int, int]


class NotStreamableError(FullyConvError):
    """A network has an operation that needs more than a few rows, or one that is not known here."""


@dataclass(frozen=True)
class Rule:
    """How an operation is done by rows.

    Attributes:
        needs: Which rows of the inputs it reads for rows `top` to `bottom` of its result, ends not included.
            Both grow with what is asked for.
        compute: Rows `top` to `bottom` of the result, from the rows of each input that it needs.
        local: Whether a row of the result needs no more than the neighbours of one row. Such an operation can be
            done late, when its result is read.
    """

    needs: Callable[[int, int], Rows]
    compute: Callable[[list[Tensor], int, int], Tensor]
    local: bool = False


def rule_of(node: fx.Node, values: Mapping[fx.Node, Any]) -> Rule:
    """Say of an operation of a trace how it is done by rows.

    Args:
        node: The operation, traced with the size of the whole image.
        values: Those of its arguments that do not depend on the image.

    Raises:
        NotStreamableError: It is none of those known here, or not by rows in this form.
    """
    inputs = [source for source in node.all_input_nodes if source not in values]
    if node.target in POINTWISE:
        return _pointwise(node, inputs, values)
    args: list[Any] = [values.get(arg, arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
    rows = map_of(inputs[0]).shape[-2]
    match node.target:
        case aten.convolution.default:
            return (_transposed if args[6] else _convolution)(rows, *args[1:])
        case torch.ops.mkldnn._convolution_pointwise.default:
            weight, bias, padding, stride, dilation, groups, *behind = args[1:]
            form = (stride, padding, dilation, False, [0, 0], groups)
            return _convolution(rows, weight, bias, *form, behind=behind)
        case aten.max_pool2d_with_indices.default:
            return _max_pool(rows, *args[1:])
        case aten.avg_pool2d.default:
            return _mean_pool(rows, *args[1:])
        case aten.constant_pad_nd.default:
            return _constant_pad(rows, *args[1:])
        case aten.upsample_bilinear2d.default:
            return _bilinear(rows, *args[1:])
        case aten.index_select.default:
            return _index_select(*args[1:])
        case aten.slice.Tensor:
            return _slice(*args[1:])
    raise NotStreamableError(f"{node.target} is not known to work by rows")


def map_of(node: fx.Node) -> Tensor:
    """The map (without values) that a node of a trace stands for, of several results the first."""
    value = node.meta["val"]
    first: Tensor = value[0] if isinstance(value, tuple | list) else value
    if first.ndim != 4:
        raise NotStreamableError(f"{node.target} is about a tensor of {first.ndim} dimensions, not a map")
    return first


def writes(node: fx.Node) -> bool:
    """Whether an operation writes its result over its first argument."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _pointwise(node: fx.Node, inputs: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> Rule:
    target: Any = node.target
    arguments: tuple[Any, ...] = node.args
    rows = map_of(node).shape[-2]
    if target is aten.flip.default and any(axis % 4 == 2 for axis in arguments[1]):
        raise NotStreamableError("an image is turned upside down")
    if target is aten.cat.default and (arguments[1] if len(arguments) > 1 else 0) % 4 != 1:
        raise NotStreamableError("maps are put together along another axis than channels")
    if target is aten.gather.default and arguments[1] % 4 != 3:
        raise NotStreamableError("rows are gathered")
    if any(map_of(source).shape[-2] != rows for source in inputs):
        raise NotStreamableError(f"{target} repeats a row")
    keep = writes(node) and (len(arguments[0].users) > 1 or arguments[0].op == "placeholder")

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        parts = dict(zip(inputs, maps, strict=True))

        def given(argument: fx.Node) -> Any:
            if argument in parts:
                return parts[argument]
            value = values[argument]
            by_rows = isinstance(value, Tensor) and value.ndim == 4 and value.shape[-2] == rows > 1
            return value[..., top:bottom, :] if by_rows else value

        args: Any = map_arg(arguments, given)
        if keep:
            args = (args[0].clone(), *args[1:])
        result = target(*args, **map_arg(node.kwargs, given))
        return _tensor(result[0] if isinstance(result, tuple) else result)

    return Rule(_same, compute, local=True)


def _same(top: int, bottom: int) -> Rows:
    return top, bottom


def _tensor(result: Any) -> Tensor:
    """Say of what an operator gives that it is a tensor."""
    found: Tensor = result
    return found


def _windows(kernel: int, stride: int, padding: int, dilation: int) -> Callable[[int, int], Rows]:
    """Which rows windows read; those above and below the map, which are padding, count."""
    reach = (kernel - 1) * dilation + 1
    return lambda top, bottom: (top * stride - padding, (bottom - 1) * stride - padding + reach)


def _within(rows: int, wanted: Rows) -> Rows:
    """The wanted rows that a map has; at least one, so that there is something to begin from."""
    top = min(max(wanted[0], 0), rows - 1)
    return top, max(min(wanted[1], rows), top + 1)


def _filled(maps: Tensor, rows: int, wanted: Rows, value: float) -> Tensor:
    """Complete what `_within` gave to all the wanted rows."""
    top, bottom = _within(rows, wanted)
    if wanted[1] <= 0 or wanted[0] >= rows:
        return maps[..., :1, :].expand(-1, -1, wanted[1] - wanted[0], -1).clone().fill_(value)
    above, below = top - wanted[0], wanted[1] - bottom
    return functional.pad(maps, (0, 0, above, below), value=value) if above or below else maps


def _convolution(
    rows: int,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    behind: Sequence[Any] = (),
) -> Rule:
    """The rule of a convolution, or of one with what oneDNN does `behind` it."""
    reads = _windows(weight.shape[-2], stride[0], padding[0], dilation[0])

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        filled = _filled(maps[0], rows, reads(top, bottom), 0.0)
        below = _missing_rows(bottom - top, filled.shape[-1] // stride[1]) * stride[0]
        filled = functional.pad(filled, (0, 0, 0, below)) if below else filled
        across = [0, padding[-1]]
        if behind:
            result = fused(filled, weight, bias, across, stride, dilation, groups, behind)
        else:
            result = functional.conv2d(filled, weight, bias, stride, across, dilation, groups)
        return result[..., : bottom - top, :].clone() if below else result

    local = weight.shape[-2] == stride[0] == 1
    return Rule(lambda top, bottom: _within(rows, reads(top, bottom)), compute, local)


def _missing_rows(rows: int, width: int) -> int:
    """How many rows have to be computed beside so few, for the kernel to be that of the whole map."""
    return max(-(-LEAST_CELLS // width) - rows, 0)


def _transposed(
    rows: int,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Rule:
    reach = (weight.shape[-2] - 1) * dilation[0]

    def needs(top: int, bottom: int) -> Rows:
        first = -((reach - top - padding[0]) // stride[0])
        return _within(rows, (first, (bottom - 1 + padding[0]) // stride[0] + 1))

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        first, last = needs(top, bottom)
        above = top + padding[0] - first * stride[0]
        # Rows of nothing behind the last one, where the result goes on beyond what it reaches.
        missing = max(above + bottom - top - ((last - first - 1) * stride[0] + reach + 1), 0)
        below = max(-(-missing // stride[0]), _missing_rows(last - first, maps[0].shape[-1]))
        given = functional.pad(maps[0], (0, 0, 0, below)) if below else maps[0]
        result = functional.conv_transpose2d(
            given, weight, bias, stride, (0, padding[1]), (0, output_padding[1]), groups, dilation
        )
        return result[..., above : above + bottom - top, :]

    return Rule(needs, compute)


def _max_pool(
    rows: int,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Rule:
    steps = stride or kernel
    reads = _windows(kernel[0], steps[0], padding[0], dilation[0])

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        filled = _filled(maps[0], rows, reads(top, bottom), -torch.inf)
        across = [0, padding[-1]]
        return _tensor(aten.max_pool2d_with_indices.default(filled, kernel, steps, across, dilation, ceil_mode)[0])

    return Rule(lambda top, bottom: _within(rows, reads(top, bottom)), compute)


def _mean_pool(
    rows: int,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    *others: Any,
) -> Rule:
    if any(padding) or ceil_mode:
        raise NotStreamableError("means over padding")
    reads = _windows(kernel[0], (stride or kernel)[0], 0, 1)
    return Rule(
        reads,
        lambda maps, top, bottom: _tensor(
            aten.avg_pool2d.default(maps[0], kernel, stride or kernel, padding, ceil_mode, *others)
        ),
    )


def _constant_pad(rows: int, padding: list[int], value: float = 0.0) -> Rule:
    left, right, above = padding[:3] if len(padding) > 2 else (*padding, 0)

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        filled = _filled(maps[0], rows, (top - above, bottom - above), value)
        return functional.pad(filled, (left, right), value=value)

    return Rule(lambda top, bottom: _within(rows, (top - above, bottom - above)), compute, local=True)


def _bilinear(
    rows: int, size: list[int], align_corners: bool, down: float | None = None, along: float | None = None
) -> Rule:
    # The operator computes positions from the inverse: in float32 they are exact where that is a binary fraction.
    factor = 1 / Fraction(1 / down).limit_denominator(LARGEST_DENOMINATOR) if down else Fraction(size[0], rows)
    if align_corners or factor.numerator & (factor.numerator - 1):
        raise NotStreamableError(f"bilinear interpolation by {factor} depends on the place in the image")
    grid = factor.denominator  # rows of the map between those whose upper edge is that of a row of the result

    def needs(top: int, bottom: int) -> Rows:
        first = int((top + Fraction(1, 2)) / factor - Fraction(1, 2)) if top else 0
        last = int((bottom - Fraction(1, 2)) / factor - Fraction(1, 2)) + 2
        return max(first, 0) // grid * grid, min(last, rows)

    def compute(maps: list[Tensor], top: int, bottom: int) -> Tensor:
        first = int(needs(top, bottom)[0] * factor)
        count = bottom - first
        # Where there are as many rows as before the operator would copy them; one more keeps it from that.
        more = count + (count == maps[0].shape[-2] and factor != 1)
        result = aten.upsample_bilinear2d.default(maps[0], [more, size[1]], False, down, along)
        return _tensor(result[..., top - first : bottom - first, :])

    return Rule(needs, compute, local=True)


def _index_select(axis: int, index: Tensor) -> Rule:
    if axis % 4 != 2:
        return Rule(_same, lambda maps, top, bottom: maps[0].index_select(axis, index), local=True)
    places: list[int] = index.tolist()
    if places != sorted(places):
        raise NotStreamableError("rows are read in another order")
    return Rule(
        lambda top, bottom: (places[top], places[bottom - 1] + 1),
        lambda maps, top, bottom: maps[0].index_select(axis, index[top:bottom] - places[top]),
        local=True,
    )


def _slice(axis: int, start: int | None = None, end: int | None = None, step: int = 1) -> Rule:
    if axis % 4 != 2:
        return Rule(
            _same, lambda maps, top, bottom: _tensor(aten.slice.Tensor(maps[0], axis, start, end, step)), True
        )
    if step != 1:
        raise NotStreamableError("rows are left out")
    first = start or 0
    return Rule(lambda top, bottom: (first + top, first + bottom), lambda maps, top, bottom: maps[0], local=True)
