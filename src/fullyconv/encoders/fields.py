"""What a cell of another library's network sees, found by watching it compute on tensors without values.

Every operation that torch runs is looked at. Of those known here it is said which rows and columns they read; at
any other (attention, a mean over the map, a normalisation over it) the network may see the whole image. So a field
is found exactly, or not at all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fullyconv.taps import ReceptiveField

__all__ = ["find_fields"]

aten = torch.ops.aten

ROWS, COLUMNS = "rows", "columns"

Axis = tuple[tuple[str, int], ...]
"""What lies along one axis of a tensor, outermost first: names (ROWS, COLUMNS, "" for all else) and sizes."""

POINTWISE = {
    getattr(aten, name)
    for name in (
        *(
            "add",
            "add_",
            "sub",
            "sub_",
            "mul",
            "mul_",
            "div",
            "div_",
            "rsub",
            "neg",
            "pow",
            "sqrt",
            "rsqrt",
            "exp",
        ),
        *("relu", "relu_", "hardtanh", "hardtanh_", "clamp", "clamp_", "clamp_min", "clamp_max", "leaky_relu"),
        *("leaky_relu_", "elu", "elu_", "gelu", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_"),
        *("hardsigmoid", "hardsigmoid_", "sigmoid", "sigmoid_", "tanh", "tanh_", "softplus", "erf", "abs"),
        *("clone", "detach", "alias", "_to_copy", "native_dropout", "_prelu_kernel"),
    )
}
"""Operations of which a value of the result depends on the values at its place, and on no others."""

REDUCING = {aten.mean, aten.sum, aten.amax, aten.var, aten.var_mean, aten.std}
"""Operations that make one value of all along some axes, which may be no rows and columns."""

PARTING = {aten.split, aten.split_with_sizes, aten.unbind, aten.select}

RESHAPING = {aten.view, aten._unsafe_view, aten.squeeze, aten.unsqueeze, aten.expand, aten._reshape_alias}


class _UnknownError(Exception):
    """An operation that is not known, or not in this form."""


@dataclass(frozen=True)
class _Map:
    """A tensor that depends on the image.

    Attributes:
        axes: What lies along each axis.
        rows: What a row sees.
        columns: What a column sees.
    """

    axes: tuple[Axis, ...]
    rows: ReceptiveField
    columns: ReceptiveField


def find_fields(
    network: Callable[[Tensor], Sequence[Tensor]], image: Tensor
) -> tuple[list[ReceptiveField] | None, list[tuple[int, ...]]]:
    """Find the receptive fields of a network's maps.

    Args:
        network: Takes images and gives maps, N x K x h x w.
        image: 1 x K x H x W on the meta device, H and W different multiples of the last stride.

    Returns:
        The fields of the maps in their order, each the square that has all that a cell sees in it; None where a
        cell may see the whole image. And the shapes of the maps.
    """
    with torch.no_grad():
        try:
            with _Watch(image) as watch:
                maps = network(image)
                fields: list[ReceptiveField] | None = [watch.square(values) for values in maps]
        except _UnknownError:
            maps, fields = network(image), None
    return fields, [tuple(values.shape) for values in maps]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows all that depends on the image through the operations that are run."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        axes = tuple(_axis(name, size) for name, size in zip(("", "", ROWS, COLUMNS), image.shape, strict=True))
        self.maps: dict[int, _Map] = {id(image): _Map(axes, ReceptiveField(), ReceptiveField())}
        self.kept: list[Any] = [image]  # so that no two tensors have one id

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation."""
        result = function(*args, **(kwargs or {}))
        sources = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if any(id(source) in self.maps for source in sources):
            self.kept.append(result)
            for value in tree_leaves(result):
                if isinstance(value, Tensor):
                    self.maps[id(value)] = self._follow(function, args, kwargs or {}, value)
        return result

    def square(self, maps: Tensor) -> ReceptiveField:
        """The square that has all in it that a cell of N x K x h x w maps sees."""
        found = self._plain(maps)
        if found.rows.stride != found.columns.stride:
            raise _UnknownError("strides differ")
        return _union(found.rows, found.columns)

    def _follow(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor) -> _Map:
        """Say of a result what a row and a column of it see."""
        operation = function.overloadpacket
        if operation in POINTWISE or operation is aten.cat:
            return self._together(args, kwargs, result, joined=operation is aten.cat)
        source = next((self.maps[id(value)] for value in args if id(value) in self.maps), None)
        if source is None:
            raise _UnknownError(str(function))
        if operation in RESHAPING:
            return replace(source, axes=_regrouped(source.axes, tuple(result.shape)))
        if operation is aten.permute or operation is aten.transpose or operation is aten.t:
            return replace(source, axes=_permuted(source.axes, operation, args[1:]))
        if operation in PARTING or operation in REDUCING:
            return replace(source, axes=_reduced(source.axes, operation, args, kwargs, result))
        if operation is aten.native_layer_norm:
            if any(name for axis in source.axes[-len(args[1]) :] for name, _ in axis):
                raise _UnknownError("a normalisation over rows or columns")
            return source
        if operation is aten.mm or operation is aten.addmm:
            return self._product(args, result)
        if operation is aten.slice:
            return _sliced(source, *args[1:])
        return self._windows(operation, args, result)

    def _windows(self, operation: Any, args: tuple[Any, ...], result: Tensor) -> _Map:
        """Operations on N x K x h x w maps."""
        source = self._plain(args[0])
        match operation:
            case aten.convolution:
                if args[6]:
                    raise _UnknownError("a transposed convolution")
                kernel, stride, padding, dilation = list(args[1].shape[2:]), args[3], args[4], args[5]
            case aten.max_pool2d_with_indices | aten.avg_pool2d:
                kernel, stride, padding, dilation = _pooling(operation, args)
            case aten.native_batch_norm | aten._native_batch_norm_legit_no_training:
                if operation is aten.native_batch_norm and args[5]:
                    raise _UnknownError("a normalisation that learns")
                return source
            case aten.constant_pad_nd:
                left, _, top, _ = (*args[1], 0, 0)[:4]
                if len(args[1]) > 4:
                    raise _UnknownError("padded along other axes")
                kernel, stride, padding, dilation = [1, 1], [1, 1], [top, left], [1, 1]
            case aten.upsample_nearest2d:
                return _enlarged(source, result)
            case _:
                raise _UnknownError(str(operation))
        fields = [
            field.through(_both(kernel)[at], _both(stride)[at], _both(dilation)[at], padding=_both(padding)[at])
            for at, field in enumerate((source.rows, source.columns))
        ]
        return _Map(_sized(source.axes, result), *fields)

    def _plain(self, maps: Tensor) -> _Map:
        """What is known of a tensor that has to be N x K x h x w."""
        found = self.maps.get(id(maps))
        if found is None or [[name for name, _ in axis if name] for axis in found.axes] != [
            [],
            [],
            [ROWS],
            [COLUMNS],
        ]:
            raise _UnknownError("no map of rows and columns")
        if any(len(axis) != 1 for axis in found.axes[2:]):
            raise _UnknownError("rows or columns together with others")
        return found

    def _together(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor, *, joined: bool) -> _Map:
        """Operands that are computed with value by value, repeated along axes of 1, or joined along one."""
        operands = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        found = [self.maps[id(value)] for value in operands if id(value) in self.maps]
        first = max(found, key=lambda each: sum(bool(name) for axis in each.axes for name, _ in axis))
        axes = ((),) * (result.ndim - len(first.axes)) + first.axes
        places = [place for place, axis in enumerate(axes) if any(name for name, _ in axis)]
        if joined and (args[1] if len(args) > 1 else 0) % result.ndim in places:
            raise _UnknownError("joined along rows or columns")
        for operand in operands:
            its = self.maps.get(id(operand))
            aligned = (None,) * (result.ndim - operand.ndim) + (its.axes if its else (None,) * operand.ndim)
            for place in places:
                size = operand.shape[place - result.ndim] if place >= result.ndim - operand.ndim else 1
                # What does not depend on the image may not depend on the place in it either.
                if aligned[place] != axes[place] and (its is not None or size != 1):
                    raise _UnknownError("it depends on the place in the image")
        rows, columns = (_all_of([getattr(each, name) for each in found]) for name in (ROWS, COLUMNS))
        sized = (axis if place in places else _axis("", result.shape[place]) for place, axis in enumerate(axes))
        return _Map(tuple(sized), rows, columns)

    def _product(self, args: tuple[Any, ...], result: Tensor) -> _Map:
        """Each row of a matrix that depends on the image, times a matrix that does not."""
        *biases, left, right = args
        source = self.maps.get(id(left))
        others = any(id(value) in self.maps for value in (*biases, right))
        if source is None or others or any(name for name, _ in source.axes[1]):
            raise _UnknownError("a product of rows or columns")
        if any(bias.ndim > 1 for bias in biases):
            raise _UnknownError("it depends on the place in the image")
        return replace(source, axes=(source.axes[0], _axis("", result.shape[1])))


def _axis(name: str, size: int) -> Axis:
    return ((name, size),) if name or size > 1 else ()


def _both(values: Sequence[int] | int) -> Sequence[int]:
    """One number for rows and one for columns."""
    listed = [values] if isinstance(values, int) else list(values)
    return listed * 2 if len(listed) == 1 else listed


def _pooling(operation: Any, args: tuple[Any, ...]) -> tuple[Any, Any, Any, Any]:
    """Kernel, stride, padding and dilation, of which the last ones may be left out."""
    usual: tuple[Any, ...] = ((), (), 0, 1)
    kernel, stride, padding, dilation = (*args[1:5], *usual[len(args[1:5]) :])
    return kernel, stride or kernel, padding, dilation if operation is aten.max_pool2d_with_indices else 1


def _sized(axes: tuple[Axis, ...], result: Tensor) -> tuple[Axis, ...]:
    """The axes of N x K x h x w maps of the size of a result."""
    return tuple(_axis(name, size) for name, size in zip(("", "", ROWS, COLUMNS), result.shape, strict=True))


def _union(first: ReceptiveField, second: ReceptiveField) -> ReceptiveField:
    """The smallest field with both in it."""
    if first.stride != second.stride:
        raise _UnknownError("maps of different strides are added")
    start = min(first.start, second.start)
    return ReceptiveField(max(first.start + first.size, second.start + second.size) - start, first.stride, start)


def _all_of(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    found = fields[0]
    for field in fields[1:]:
        found = _union(found, field)
    return found


def _regrouped(axes: tuple[Axis, ...], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """What lies along the axes of the same values, read in the same order in another shape."""
    atoms = [atom for axis in axes for atom in axis]
    found: list[Axis] = []
    for size in shape:
        axis: list[tuple[str, int]] = []
        while size > 1:
            name, length = atoms.pop(0) if atoms else (ROWS, 0)
            if length and size % length == 0:
                axis.append((name, length))
                size //= length
            elif length and not name and length % size == 0:
                axis.append(("", size))
                atoms.insert(0, ("", length // size))
                size = 1
            else:
                raise _UnknownError("rows or columns are torn")
        found.append(tuple(axis))
    if atoms:
        raise _UnknownError("rows or columns are torn")
    return tuple(found)


def _permuted(axes: tuple[Axis, ...], operation: Any, args: tuple[Any, ...]) -> tuple[Axis, ...]:
    order = list(range(len(axes)))
    if operation is aten.permute:
        order = [place % len(axes) for place in args[0]]
    else:
        first, second = args if args else (0, 1)
        order[first], order[second] = order[second], order[first]
    return tuple(axes[place] for place in order)


def _reduced(
    axes: tuple[Axis, ...], operation: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
) -> tuple[Axis, ...]:
    """What is left of axes where some are parted or made one value of."""
    at = 2 if operation in (aten.split, aten.split_with_sizes) else 1
    given = args[at] if len(args) > at else kwargs.get("dim", 0 if operation in PARTING else None)
    places = range(len(axes)) if given is None else [place % len(axes) for place in tree_leaves(given)]
    if any(name for place in places for name, _ in axes[place]):
        raise _UnknownError("one value of many rows or columns")
    if result.ndim == len(axes):
        return tuple(
            _axis("", result.shape[place]) if place in places else axis for place, axis in enumerate(axes)
        )
    return tuple(axis for place, axis in enumerate(axes) if place not in places)


def _sliced(source: _Map, place: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> _Map:
    """Every `step`-th row or column from `start` to `end`, or a part of another axis."""
    axes, place = list(source.axes), place % len(source.axes)
    total = math.prod(size for _, size in axes[place])
    first, stop, _ = slice(start, end).indices(total)
    names = [name for name, _ in axes[place] if name]
    count = -(-(stop - first) // step)
    if not names:
        axes[place] = _axis("", count)
        return replace(source, axes=tuple(axes))
    if len(axes[place]) > 1:
        raise _UnknownError("a part of rows together with others")
    field: ReceptiveField = getattr(source, names[0])
    moved = ReceptiveField(field.size, field.stride * step, field.start + first * field.stride)
    axes[place] = _axis(names[0], count)
    return replace(source, axes=tuple(axes), **{names[0]: moved})


def _enlarged(source: _Map, result: Tensor) -> _Map:
    """Each cell repeated: what any of the copies sees, from its own place."""
    sizes = [axis[0][1] for axis in source.axes[2:]]
    fields = []
    for field, before, after in zip((source.rows, source.columns), sizes, result.shape[2:], strict=True):
        factor = after // before
        if after % before or field.stride % factor:
            raise _UnknownError("enlarged by a fraction")
        step = field.stride // factor
        beyond = (factor - 1) * step
        fields.append(ReceptiveField(field.size + beyond, step, field.start - beyond))
    return _Map(_sized(source.axes, result), *fields)
