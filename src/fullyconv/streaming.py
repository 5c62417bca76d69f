"""Run a network from the top of an image to its bottom, a band of rows at a time.

Each layer keeps the few rows of its input that the next band needs again, so nothing is computed twice and memory
grows with the width of an image alone. The network is not written a second time for that: it is traced once, on a
tensor of the full size that holds no values, and `row_rules` says of each operation of the trace which rows it
reads for which rows of its result. `docs/concepts/exactness.md` says why the bits are those of the whole image.
"""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from fullyconv.row_rules import NotStreamableError, Rule, map_of, rule_of, writes
from fullyconv.shapes import Size

__all__ = ["RowStream"]

IMAGE = -1
"""Stands for the image where the number of a step is expected."""

BEHIND_THE_END = 2**62

SETTLED_BANDS = 4
"""After so many that gave rows of the result, as many rows wait as ever will."""


@dataclass(frozen=True)
class _Step:
    """One operation of the trace.

    Attributes:
        inputs: The numbers of the steps whose results it reads.
        rule: How it is done by rows.
        rows: Of its result, for the whole image.
        row_bytes: Of each.
    """

    inputs: tuple[int, ...]
    rule: Rule
    rows: int
    row_bytes: int


class _Held:
    """The rows of one map that somebody has still to read."""

    def __init__(self) -> None:
        self.top = self.bottom = 0
        self.parts: deque[Tensor] = deque()

    def append(self, rows: Tensor) -> None:
        """Add the rows that follow."""
        self.parts.append(rows)
        self.bottom += rows.shape[-2]

    def read(self, top: int, bottom: int) -> Tensor:
        """Return rows `top` to `bottom` of the map, copied only where they lie in several parts."""
        found, start = [], self.top
        for part in self.parts:
            first, last = max(top - start, 0), min(bottom - start, part.shape[-2])
            if first < last:
                found.append(part if last - first == part.shape[-2] else part[..., first:last, :])
            start += part.shape[-2]
        return found[0] if len(found) == 1 else torch.cat(found, dim=-2)

    def drop(self, top: int) -> None:
        """Forget the rows above `top`."""
        while self.parts and self.top + self.parts[0].shape[-2] <= top:
            self.top += self.parts.popleft().shape[-2]
        if self.parts and self.top < top:
            # A copy, so that the memory of the others is free.
            self.parts[0] = self.parts[0][..., top - self.top :, :].clone(memory_format=torch.preserve_format)
            self.top = top


class RowStream:
    """A network for images of one size, to be run by bands of rows.

    Args:
        network: Takes N x K x H x W images and returns one N x C x h x w map. It is traced: what it decides by
            values is decided once for all, and weights that it folds are folded once.
        image: Has the shape, type and device of the images; its values are not read.

    Raises:
        NotStreamableError: The network has an operation that is not known to work by rows.
    """

    def __init__(self, network: Callable[[Tensor], Tensor], image: Tensor) -> None:
        with torch.no_grad():
            with FakeTensorMode(allow_non_fake_inputs=True):
                valueless = torch.empty(image.shape, dtype=image.dtype, device=image.device)
            self._steps = _steps_of(make_fx(network)(valueless))
        # Of each step, and last of the image: who reads it.
        self._readers: list[list[int]] = [[] for _ in range(len(self._steps) + 1)]
        for number, step in enumerate(self._steps):
            for source in step.inputs:
                self._readers[source].append(number)
        self._deferred = _deferred(self._steps, image.nbytes)
        self.size: Size = (image.shape[-2], image.shape[-1])
        self.rows = self._steps[-1].rows

    @torch.no_grad()
    def run(self, bands: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the rows of the result as soon as they can be computed.

        Args:
            bands: N x K x rows x W, any number of rows each, from the top of the images to their bottom.

        Yields:
            N x C x rows x w: put together, what the network gives for the images.
        """
        held = [_Held() for _ in range(len(self._steps) + 1)]
        done = [0] * (len(self._steps) + 1)  # rows of each map, the image's last
        result = held[len(self._steps) - 1]
        for band in bands:
            held[IMAGE].append(band)
            done[IMAGE] += band.shape[-2]
            ends = self._ends(done)
            for number, step in enumerate(self._steps):
                top, bottom = done[number], ends[number]
                if bottom > top:
                    rows = [held[source].read(*step.rule.needs(top, bottom)) for source in step.inputs]
                    held[number].append(step.rule.compute(rows, top, bottom))
                    done[number] = bottom
                    del rows
                for source in step.inputs:
                    if number == self._readers[source][-1]:
                        held[source].drop(self._first_needed(source, done))
            if result.parts:
                yield result.read(result.top, result.bottom)
                result.drop(result.bottom)

    def kept_bytes(self, band: int) -> int:
        """Count the bytes of all rows that wait for the next band of so many rows, at most."""
        done, most, settled = [0] * (len(self._steps) + 1), 0, 0
        while done[IMAGE] < self.size[0] and settled < SETTLED_BANDS:
            done[IMAGE] = min(done[IMAGE] + band, self.size[0])
            done = self._ends(done)
            kept = (rows - min(self._first_needed(source, done), rows) for source, rows in enumerate(done[:-1]))
            most = max(most, sum(rows * step.row_bytes for rows, step in zip(kept, self._steps, strict=True)))
            settled += done[-2] > 0
        return most

    def _ends(self, done: Sequence[int]) -> list[int]:
        """How far each step is to get, with the rows that there are of the image."""
        ends = list(done)
        for number, step in enumerate(self._steps):
            there = min(ends[source] for source in step.inputs)
            low, high = done[number], step.rows
            while low < high:  # the rows that are needed grow with those that are wanted
                middle = (low + high + 1) // 2
                low, high = (
                    (middle, high) if step.rule.needs(done[number], middle)[1] <= there else (low, middle - 1)
                )
            ends[number] = low
        for number in reversed(range(len(self._steps))):
            if self._deferred[number]:
                ends[number] = max(self._wanted(reader, done, ends) for reader in self._readers[number])
                ends[number] = max(ends[number], done[number])
        return ends

    def _wanted(self, reader: int, done: Sequence[int], ends: Sequence[int]) -> int:
        """How many rows of its inputs a step needs to get where it is to get."""
        if ends[reader] == done[reader]:
            return 0
        return self._steps[reader].rule.needs(done[reader], ends[reader])[1]

    def _first_needed(self, source: int, done: Sequence[int]) -> int:
        """The first row of a map that one of its readers has still to read."""
        first = BEHIND_THE_END
        for reader in self._readers[source]:
            step, ready = self._steps[reader], done[reader]
            if ready < step.rows:
                first = min(first, step.rule.needs(ready, ready + 1)[0])
        return first


def _deferred(steps: Sequence[_Step], image_bytes: int) -> list[bool]:
    """Say of each step whether it waits until its result is read.

    Where maps of several strides are added, the finer ones wait for the coarsest. Let wait what is small:
    the features of the encoder, not what a decoder has made of them on the grid of its output. So a step waits if
    it is local and its result larger than all that it is made of, back to the last steps that did not wait.
    """
    size = [*(step.rows * step.row_bytes for step in steps), image_bytes]
    made_of: list[set[int]] = [set() for _ in steps] + [{IMAGE}]
    for number, step in enumerate(steps):
        sources = set().union(*(made_of[source] for source in step.inputs))
        larger = sum(size[source] for source in sources) <= size[number]
        made_of[number] = sources if step.rule.local and larger else {number}
    return [number not in made_of[number] for number in range(len(steps) - 1)] + [False]


def _steps_of(module: fx.GraphModule) -> list[_Step]:
    """Turn a trace into steps; what does not depend on the image is computed here, once."""
    graph = module.graph
    _read_what_was_written(graph)
    graph.eliminate_dead_code()
    numbers: dict[fx.Node, int] = {}
    values: dict[fx.Node, Any] = {}
    steps: list[_Step] = []
    for node in graph.nodes:
        inputs = [source for source in node.all_input_nodes if source in numbers]
        if node.op == "placeholder":
            numbers[node] = IMAGE
        elif node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(module)
        elif node.op == "call_function" and not inputs:
            args, kwargs = (map_arg(given, values.__getitem__) for given in (node.args, node.kwargs))
            values[node] = node.target(*args, **kwargs)
        elif node.target is operator.getitem:  # of an operation with several results, the map
            numbers[node] = numbers[inputs[0]]
        elif node.op == "call_function":
            whole = map_of(node)
            row_bytes = whole.numel() // whole.shape[-2] * whole.element_size()
            sources = tuple(numbers[source] for source in inputs)
            steps.append(_Step(sources, rule_of(node, values), whole.shape[-2], row_bytes))
            numbers[node] = len(steps) - 1
        elif numbers[node.args[0]] != len(steps) - 1:
            raise NotStreamableError("the result is not what is computed last")
    return steps


def _read_what_was_written(graph: fx.Graph) -> None:
    """Where an operation writes over a tensor, let later ones read its result, so that no order is implied."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if writes(node):
            node.args[0].replace_all_uses_with(node, lambda user, here=place[node]: place[user] > here)
