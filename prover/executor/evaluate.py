"""Evaluates a graph on demand: inputs and any committed tensors given, everything else computed exactly once.

A committed tensor that is not given is computed by its hint and its declared bounds are checked: a value outside stops
with `RangeOverflow`, which names tensor, step and value. Virtual values are dropped after their last use. `check`
verifies every assertion of a fully evaluated graph and names the first cell that fails. Called by the trainer, the
witness and the tests.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from protocol.relation.graph import (
    AxisMap,
    Committed,
    Gather,
    Graph,
    Hint,
    Input,
    IntArray,
    Linear,
    OneHot,
    Operation,
    Product,
    Public,
    Tensor,
)
from protocol.relation.tables import table_columns
from prover.executor.reference import ReferenceOps


class RangeOverflow(OverflowError):
    """A committed value left its declared range."""

    def __init__(self, tensor: str, step: int | None, value: int, lo: int, hi: int) -> None:
        where = "" if step is None else f" in step {step}"
        super().__init__(f"{tensor} reached {value}{where}, outside [{lo}, {hi}]: `verilora calibrate run.yaml` shows the "
                         "room of every tensor; raise quantisation.headroom or lower training.learning_rate, which makes it a new run")
        self.tensor, self.step, self.value = tensor, step, value


class RelationBroken(Exception):
    """An assertion of the relation does not hold for the given values."""


class Ops(Protocol):
    """See prover/executor/reference.py."""

    def load(self, array: IntArray) -> Any: ...
    def store(self, array: Any) -> IntArray: ...
    def result(self, array: Any) -> Any: ...
    def join(self, parts: Sequence[Any]) -> Any: ...
    def extent(self, array: Any) -> tuple[int, int]: ...
    def linear(self, op: Linear, values: Any, axes: str, shape: tuple[int, ...]) -> Any: ...
    def axis_map(self, op: AxisMap, value: Any, shape: tuple[int, ...]) -> Any: ...
    def gather(self, value: Any, index: IntArray) -> Any: ...
    def product(self, op: Product, a: Any, b: Any, axes: str) -> Any: ...
    def one_hot(self, high: Any, low: Any, size: int) -> Any: ...
    def round_shift(self, z: Any, shift: int) -> Any: ...
    def limb(self, t: Any, shift: int, bits: int) -> Any: ...
    def rsqrt(self, v: Any, target: int) -> Any: ...
    def isqrt(self, v: Any) -> Any: ...
    def divide(self, numerator: Any, divisor: Any) -> Any: ...
    def maximum(self, d: Any, limit: int) -> Any: ...
    def table(self, x: Any, table: str) -> list[Any]: ...
    def softmax_shift(self, s: Any, mask: Any, g: int, bits: int) -> Any: ...
    def digits(self, ids: Any, base: int, sizes: tuple[int, int]) -> list[Any]: ...


Inputs = Mapping[tuple[str, str], IntArray]


def evaluate(
    graph: Graph, inputs: Inputs, wanted: Iterable[Tensor], ops: Ops, given: Mapping[int, IntArray] | None = None,
    first_step: int = 0,
) -> dict[int, Any]:
    """{tensor index: int64 array} of the wanted tensors, as `ops` gives results. `inputs` by (role, name), `given` committed values
    by index."""
    return _Evaluation(graph, inputs, ops, given or {}, first_step).run([t.index for t in wanted])


def most_alive(graph: Graph, wanted: Iterable[Tensor], given: Iterable[Tensor]) -> int:
    """Cells that are alive at most while `evaluate` computes `wanted` from `given` committed values: without inputs and given ones,
    which whoever calls holds."""
    held = [t.index for t in given]
    run = _Evaluation(graph, {}, ReferenceOps(), dict.fromkeys(held, np.zeros(0, dtype=np.int64)), 0)
    alive, cells, most = set[int](), 0, 0
    free = {*held, *(i for i, op in enumerate(graph.ops) if isinstance(op, Input))}
    for i, gone in run.steps([t.index for t in wanted]):
        made = {t.index for t in run.hints[i].outputs} if i in run.hints and i not in run.given else {i}
        new = made - alive - free
        alive |= new
        cells += sum(graph.tensors[j].cells for j in new)
        most = max(most, cells)
        ended = alive.intersection(gone)
        alive -= ended
        cells -= sum(graph.tensors[j].cells for j in ended)
    return most


class _Evaluation:
    def __init__(self, graph: Graph, inputs: Inputs, ops: Ops, given: Mapping[int, IntArray], first: int) -> None:
        self.graph, self.inputs, self.ops, self.given, self.first = graph, inputs, ops, given, first
        self.hints = {t.index: h for h in graph.hints for t in h.outputs}
        self.values: dict[int, Any] = {}

    def needs(self, i: int) -> list[int]:
        op = self.graph.ops[i]
        if i in self.given or isinstance(op, Input | Public):
            return []
        if isinstance(op, Committed):
            return [t.index for t in self.hints[i].inputs]
        if isinstance(op, Linear):
            return [t.tensor.index for t in op.terms]
        if isinstance(op, AxisMap):
            return [op.tensor.index] if len(op.rows) else []
        if isinstance(op, Gather):
            return [op.tensor.index]
        return [op.a.index, op.b.index] if isinstance(op, Product) else [op.high.index, op.low.index]

    def order(self, wanted: list[int]) -> list[int]:
        """Depth first without recursion: every tensor after all that it needs."""
        done: dict[int, None] = {}
        opened, stack = set(), list(reversed(wanted))
        while stack:
            i = stack[-1]
            missing = [j for j in self.needs(i) if j not in done]
            if i in done or not missing:
                done.setdefault(stack.pop())
            elif i in opened:
                raise RelationBroken(f"{self.graph.tensors[i].name} depends on itself within one step")
            else:
                opened.add(i)
                stack.extend(reversed(missing))
        return list(done)

    def steps(self, wanted: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Tensors in the order in which they are computed, each with those that nobody needs after it."""
        order, keep = self.order(wanted), set(wanted)
        last = {j: i for i in order for j in self.needs(i)}
        for i in order:
            yield i, [j for j in dict.fromkeys(self.needs(i)) if last[j] == i and j not in keep]

    def run(self, wanted: list[int]) -> dict[int, Any]:
        for i, gone in self.steps(wanted):
            if i not in self.values:
                self.compute(i)
            for j in gone:
                self.values.pop(j, None)
        return {i: self.ops.result(self.values[i]) for i in set(wanted)}

    def compute(self, i: int) -> None:
        tensor, op, ops = self.graph.tensors[i], self.graph.ops[i], self.ops
        value = self.values.__getitem__
        if i in self.given:
            self.values[i] = self.load(tensor, self.given[i])
        elif isinstance(op, Input):
            self.values[i] = self.load(tensor, self.inputs[op.commitment, op.tensor_name])
        elif isinstance(op, Committed):
            self.compute_hint(self.hints[i])
        else:
            self.values[i] = _virtual(op, tensor, ops, value)

    def load(self, tensor: Tensor, array: IntArray) -> Any:
        if array.shape != tensor.shape:
            raise ValueError(f"{tensor.name}: shape {array.shape} where the relation has {tensor.shape}")
        value = self.ops.load(array)
        self.check_bounds(tensor, value, tensor.lo, tensor.hi)
        return value

    def check_bounds(self, tensor: Tensor, value: Any, lo: int, hi: int) -> None:
        smallest, largest = self.ops.extent(value)
        if smallest < lo or largest > hi:
            worst = smallest if smallest < lo else largest
            step = None
            if tensor.axes.startswith("s"):
                rows = self.ops.store(value).reshape(tensor.shape[0], -1)
                step = self.first + int(np.argmax((rows == worst).any(axis=1)))
            raise RangeOverflow(tensor.name, step, worst, lo, hi)

    def compute_hint(self, hint: Hint) -> None:
        ops, params = self.ops, dict(hint.params)
        sources = [self.values[t.index] for t in hint.inputs]
        if hint.kind == "rsqrt":
            self.check_bounds(hint.inputs[0], sources[0], 1, hint.inputs[0].hi)
        if hint.kind == "table":
            column = table_columns(str(params["table"]))[0]
            self.check_bounds(hint.inputs[0], sources[0], int(column[0]), int(column[-1]))
        if hint.kind == "softmax_shift":
            params["mask"] = sources[1] if len(sources) > 1 else None
            sources = sources[:1]
        if hint.kind == "digits":
            params["sizes"] = tuple(t.shape[-1] for t in hint.outputs)
        result = getattr(ops, hint.kind)(*sources, **params)
        results = result if isinstance(result, list) else [result]
        for tensor, value in zip(hint.outputs, results, strict=True):
            self.check_bounds(tensor, value, tensor.lo, tensor.hi)
            self.values[tensor.index] = value


def _virtual(op: Operation, tensor: Tensor, ops: Ops, value: Any) -> Any:
    if isinstance(op, Public):
        return ops.load(op.values)
    if isinstance(op, Linear):
        return ops.linear(op, [value(t.tensor.index) for t in op.terms], tensor.axes, tensor.shape)
    if isinstance(op, AxisMap):
        return ops.axis_map(op, value(op.tensor.index) if len(op.rows) else None, tensor.shape)
    if isinstance(op, Gather):
        return ops.gather(value(op.tensor.index), op.index)
    if isinstance(op, Product):
        return ops.product(op, value(op.a.index), value(op.b.index), tensor.axes)
    if isinstance(op, OneHot):
        return ops.one_hot(value(op.high.index), value(op.low.index), tensor.shape[-1])
    raise TypeError(f"{tensor.name}: {type(op).__name__} is not a virtual operation")


def check(graph: Graph, values: Mapping[int, Any], ops: Ops | None = None) -> None:
    """Raises RelationBroken unless every bound, lookup and zero of the graph holds for these values, NumPy arrays or those of `ops`. Of
    the other tensors values may be missing: their bounds follow from those of what they are computed from."""
    ops = ops or ReferenceOps()
    for tensor in graph.tensors:
        if values.get(tensor.index) is None:
            continue
        smallest, largest = ops.extent(values[tensor.index])
        if smallest < tensor.lo or largest > tensor.hi:
            raise RelationBroken(f"bounds of {tensor.name}: [{smallest}, {largest}] outside [{tensor.lo}, {tensor.hi}]")
    for zero in graph.zeros:
        _require(values[zero.tensor.index] == 0, "zero", zero.tensor, values, ops)
    for lookup in graph.lookups:
        columns = table_columns(lookup.table)
        first, least = values[lookup.columns[0].index], int(columns[0][0])
        inside = (first >= least) & (first <= int(columns[0][-1]))
        _require(inside, f"lookup in {lookup.table}", lookup.columns[0], values, ops)
        for column, tensor in zip(columns[1:], lookup.columns[1:], strict=True):
            _require(ops.load(column)[first - least] == values[tensor.index], f"lookup in {lookup.table}", tensor, values, ops)


def _require(holds: Any, what: str, tensor: Tensor, values: Mapping[int, Any], ops: Ops) -> None:
    if not holds.all():
        cell = tuple(int(k) for k in np.argwhere(~ops.store(holds))[0])
        raise RelationBroken(f"{what}: {tensor.name}{list(cell)} = {values[tensor.index][cell]}")
