"""How the lookups of a task are cut into trees (protocol/schedule/lookups.py): every cell once, no tree too large, tables beside them."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.relation.graph import Graph, RelationError
from protocol.schedule.lookups import MAX_WEIGHTS, TREE_BITS, LeafPlan, plan_trees
from protocol.schedule.task import TaskShape
from tests.support.tiny import tiny_graph
from tests.toy import toy_manifest

SHAPES = st.lists(st.lists(st.integers(1, 13), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


def looked_up(shapes: list[tuple[int, ...]], tables: list[int]) -> Graph:
    graph = Graph()
    for number, (shape, bits) in enumerate(zip(shapes, tables)):
        graph.lookup(f"range:{bits}", graph.commit(f"x{number}", "abc"[: len(shape)], shape, 0, 2**bits - 1))
    return graph


def covered(graph: Graph, plans: tuple[LeafPlan, ...]) -> list[np.ndarray]:
    """How often each cell of each lookup is a leaf."""
    counts = [np.zeros(x.columns[0].shape, dtype=np.int64) for x in graph.lookups]
    for plan in plans:
        for block in plan.blocks:
            if block.lookup is not None:
                counts[graph.lookups.index(block.lookup)][block.cells] += 1
    return counts


def sound(graph: Graph, plans: tuple[LeafPlan, ...], tree_bits: int) -> None:
    assert all((count == 1).all() for count in covered(graph, plans))
    assert [plan.number for plan in plans] == list(range(len(plans)))
    for plan in plans:
        used = sorted((b.offset, b.offset + (1 << b.layout.variables)) for b in plan.blocks)
        assert all(end <= start for (_, end), (start, _) in zip(used, used[1:])) and used[-1][1] <= 1 << tree_bits
        assert all(b.offset % (1 << b.layout.variables) == 0 for b in plan.blocks)
        tables = [b.table for b in plan.blocks if b.lookup is None]
        assert sorted(tables) == list(plan.tables) == sorted({b.lookup.table for b in plan.blocks if b.lookup is not None})
        assert plan.fractions == sum(prod(b.layout.shape) for b in plan.blocks)
    names = [name for plan in plans for name, _ in plan.multiplicities()]
    assert len(set(names)) == len(names)


@given(SHAPES, st.lists(st.sampled_from([1, 2, 3]), min_size=4, max_size=4), st.integers(5, 12))
@settings(max_examples=200, deadline=None)
def test_every_cell_is_a_leaf_of_exactly_one_tree(shapes: list[tuple[int, ...]], tables: list[int], tree_bits: int) -> None:
    graph = looked_up(shapes, tables)
    sound(graph, plan_trees(graph, tree_bits), tree_bits)


def test_what_fits_one_tree_is_one_tree() -> None:
    graph = looked_up([(8, 4), (16,)], [4, 4])
    assert [plan.variables for plan in plan_trees(graph, 6)] == [6]  # 32 + 16 + the table's 16
    assert len(plan_trees(graph, 5)) > 1
    assert plan_trees(Graph()) == ()


def test_only_long_axes_are_cut() -> None:
    """The first axis that has more than one cell gives way, and the next one where that is not enough."""
    graph = looked_up([(1, 6, 8)], [2])
    boxes = sorted(b.box for plan in plan_trees(graph, 5) for b in plan.blocks if b.lookup is not None)
    assert boxes == [((0, 1), (row, row + 1), (at, at + 4)) for row in range(6) for at in (0, 4)]


def test_a_table_as_large_as_a_tree_is_refused() -> None:
    with pytest.raises(RelationError, match="range:6 leaves no room for lookups in a tree of 2\\^6 leaves"):
        plan_trees(looked_up([(8, 16)], [6]), 6)


def test_real_shapes_have_several_trees_without_being_built() -> None:
    """A lookup of 40 heads on 2,048 tokens: 2^27.3 cells, in trees of at most 2^26 leaves."""
    graph = looked_up([(40, 2048, 2048), (2048, 13824)], [16, 16])
    plans = plan_trees(graph)
    boxes = [b for plan in plans for b in plan.blocks if b.lookup is not None]
    assert sum(prod(b.layout.shape) for b in boxes) == 40 * 2048 * 2048 + 2048 * 13824
    assert all(plan.variables <= TREE_BITS for plan in plans) and len(plans) < 9
    assert sum(1 << b.layout.variables for b in boxes) < 1.6 * sum(prod(b.layout.shape) for b in boxes)


def test_more_trees_than_a_verifier_can_hold_weights_for_are_refused() -> None:
    """32 trees of 7 boxes of 2^23 cells and an axis of 2^20 reach the bound exactly; one box more does not fit."""
    most = plan_trees(looked_up([(32 * 7 * 8, 1 << 20)], [16]))
    assert len(most) * (1 << 20) == MAX_WEIGHTS
    with pytest.raises(RelationError, match="33 lookup trees with axes of up to 1048576 cells are too many for one task"):
        plan_trees(looked_up([((32 * 7 + 1) * 8, 1 << 20)], [16]))


def test_a_head_of_128256_words_on_16384_tokens_is_not_refused() -> None:
    plans = plan_trees(looked_up([(16384, 128256), (16384, 128256)], [16, 8]))
    assert 60 < len(plans) < MAX_WEIGHTS // 128256


def test_tasks_of_small_runs_have_one_tree() -> None:
    from protocol.field import GOLDILOCKS
    from protocol.statement import task_list

    manifest = toy_manifest()
    for task in task_list(manifest):
        assert len(TaskShape(task.graph(manifest), GOLDILOCKS).plans) <= 1


def test_multiplicities_of_further_trees_have_names_of_their_own() -> None:
    plans = plan_trees(tiny_graph(6, 24, 5), 9)
    assert len(plans) > 1
    assert all(name == f"multiplicity/{table}" for (name, _), table in zip(plans[0].multiplicities(), plans[0].tables))
    assert all(name.endswith(f"@{plan.number}") for plan in plans[1:] for name, _ in plan.multiplicities())
