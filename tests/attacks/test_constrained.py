"""The relation leaves no freedom: changing any committed cell, and nothing else that is committed, breaks an assertion.

For every committed tensor of a layer, head and embed task a few cells are moved by small and large amounts, virtual
tensors that depend on them are computed again, and at least one lookup, zero or published value must fail.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from protocol.relation.graph import AxisMap, Committed, Gather, Graph, Input, IntArray, Linear, OneHot, Operation, Product
from protocol.relation.tables import table_columns
from prover.executor.reference import ReferenceOps
from tests.support.evil import _Unbounded
from tests.support.stage import Case, Stage

DELTAS = (1, -1, 2, -(1 << 15), 1 << 20)


def sources(op: Operation) -> list[int]:
    if isinstance(op, Linear):
        return [t.tensor.index for t in op.terms]
    if isinstance(op, AxisMap | Gather):
        return [op.tensor.index]
    if isinstance(op, Product):
        return [op.a.index, op.b.index]
    return [op.high.index, op.low.index] if isinstance(op, OneHot) else []


def dependents(graph: Graph) -> list[set[int]]:
    """For each tensor, the virtual tensors whose value it can change (itself included)."""
    readers: list[set[int]] = [set() for _ in graph.ops]
    for i, op in enumerate(graph.ops):
        for j in sources(op):
            readers[j].add(i)
    reach: list[set[int]] = [set() for _ in graph.ops]
    for i in reversed(range(len(graph.ops))):
        reach[i] = {i}.union(*(reach[j] for j in readers[i]))
    return reach


def survives(graph: Graph, values: Sequence[IntArray], honest: Sequence[IntArray], touched: set[int]) -> bool:
    """Whether every assertion that reads a touched tensor still holds."""
    for zero in graph.zeros:
        if zero.tensor.index in touched and values[zero.tensor.index].any():
            return False
    for item in graph.published:
        if not np.array_equal(values[item.tensor.index], honest[item.tensor.index]):
            return False
    for lookup in graph.lookups:
        if not touched & {c.index for c in lookup.columns}:
            continue
        columns, first = table_columns(lookup.table), values[lookup.columns[0].index]
        if first.min() < columns[0][0] or first.max() > columns[0][-1]:
            return False
        for column, tensor in zip(columns[1:], lookup.columns[1:], strict=True):
            if not np.array_equal(column[first - columns[0][0]], values[tensor.index]):
                return False
    return True


def free_cells(case: Case, per_tensor: int) -> dict[str, list[tuple[int, ...]]]:
    """Cells that can be changed without breaking an assertion."""
    graph, rng, out = case.graph, np.random.default_rng(4), dict[str, list[tuple[int, ...]]]()
    reach = dependents(graph)
    for tensor, op in zip(graph.tensors, graph.ops):
        if not isinstance(op, Committed):
            continue
        touched = reach[tensor.index]
        given = {i: v for i, v in enumerate(case.values) if i not in touched}
        for n in range(per_tensor):
            cell = tuple(int(rng.integers(k)) for k in tensor.shape)
            changed = case.values[tensor.index].copy()
            changed[cell] += DELTAS[(tensor.index + n) % len(DELTAS)]
            run = _Unbounded(graph, case.inputs, ReferenceOps(), given | {tensor.index: changed}, 0)
            values = {**given, **run.run(sorted(touched))}
            if survives(graph, [values[i] for i in range(len(graph.tensors))], case.values, touched):
                out.setdefault(tensor.name, []).append(cell)
    return out


@pytest.mark.parametrize("key", [("embed", 0), ("head", 1), ("layer", 0, 0), ("layer", 1, 1)], ids=str)
def test_every_committed_tensor_is_determined(stage: Stage, key: tuple) -> None:  # type: ignore[type-arg]
    assert free_cells(stage.case(*key), 8) == {}


@pytest.mark.attacks
@pytest.mark.parametrize("key", [("embed", 0), ("head", 1), ("layer", 0, 0), ("layer", 1, 1)], ids=str)
def test_many_cells_of_every_committed_tensor(stage: Stage, key: tuple) -> None:  # type: ignore[type-arg]
    assert free_cells(stage.case(*key), 300) == {}


def test_steps_of_a_window_are_determined(odd_window: Case) -> None:
    """The recurrence over three steps: updates, momentum, state and delivered adapter."""
    assert free_cells(odd_window, 8) == {}


def test_an_unasserted_tensor_is_found(stage: Stage) -> None:
    """The test itself can fail: without its range check and remainder a committed tensor is free."""
    case = stage.case("embed", 0)
    graph = case.task.graph(stage.toy.manifest)
    graph.lookups = [x for x in graph.lookups if not x.columns[0].name.startswith("x")]
    graph.zeros = [z for z in graph.zeros if not z.tensor.name.startswith("x")]
    assert set(free_cells(Case(stage, case.task, graph), 2)) == {t.name for t in graph.tensors if t.name.startswith("x")} & {
        t.name for t, op in zip(graph.tensors, graph.ops) if isinstance(op, Committed)
    }


@pytest.mark.parametrize("key", [("embed", 0), ("head", 1), ("layer", 0, 0), ("layer", 1, 1)], ids=str)
def test_every_input_is_read(stage: Stage, key: tuple) -> None:  # type: ignore[type-arg]
    """A tensor of another commitment that no assertion depends on would be bound by nothing."""
    graph = stage.case(*key).graph
    reach = dependents(graph)
    asserted = {z.tensor.index for z in graph.zeros} | {c.index for x in graph.lookups for c in x.columns}
    for tensor, op in zip(graph.tensors, graph.ops):
        if isinstance(op, Input | Committed):
            assert reach[tensor.index] & asserted, tensor.name
