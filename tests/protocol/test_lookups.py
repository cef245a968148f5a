"""Lookup trees as they are placed and as their leaves are evaluated: known plans, and the two leaf claims by their definition."""

import numpy as np
import pytest

from protocol.field import GOLDILOCKS, U64, Ext
from protocol.layout import TensorLayout, Vectors
from protocol.relation.graph import WITNESS, Graph, IntArray, RelationError
from protocol.relation.tables import table_columns
from protocol.schedule import lookups
from protocol.schedule.constraints import Box, Weights, cells_of, whole
from protocol.schedule.lookups import TREE_BITS, Fingerprint, LeafPlan, leaf_claims, plan_trees, table_shape

F = GOLDILOCKS


def rows(table: str) -> tuple[IntArray, ...]:
    """The real tables of three columns have 2^16 rows; this one has five."""
    return (np.arange(5), np.array([3, -1, 4, -1, 5]), np.array([-9, 2, 6, 5, 3])) if table == "three" else table_columns(table)


def looked_up(*wanted: tuple[str, tuple[int, ...]]) -> Graph:
    graph = Graph()
    for number, (table, shape) in enumerate(wanted):
        columns = [graph.commit(f"x{number}.{k}", "abc"[: len(shape)], shape, -99, 99) for k in range(len(rows(table)))]
        graph.lookup(table, *columns)
    return graph


def placed(graph: Graph, tree_bits: int) -> list[list[tuple[str, Box | None, int]]]:
    """Of each tree its blocks: the table, the box of cells (None: the table itself), the first leaf."""
    return [[(b.table, b.box if b.lookup else None, b.offset) for b in plan.blocks] for plan in plan_trees(graph, tree_bits)]


# plans ---------------------------------------------------------------------------------------------------------------


def test_one_tree_holds_exactly_its_leaves() -> None:
    """32 + 16 cells and one table of 16 rows fill 2^6 leaves; one cell more makes boxes of 2^3 and a second tree."""
    assert placed(looked_up(("range:4", (8, 4)), ("range:4", (16,))), 6) == [
        [("range:4", ((0, 8), (0, 4)), 0), ("range:4", ((0, 16),), 32), ("range:4", None, 48)]
    ]
    boxes: list[Box] = [((row, row + 2), (0, 4)) for row in (0, 2, 4, 6)] + [((0, 8),), ((8, 16),)]
    assert placed(looked_up(("range:4", (8, 4)), ("range:4", (17,))), 6) == [
        [("range:4", None, 0), *(("range:4", box, 16 + 8 * k) for k, box in enumerate(boxes))],
        [("range:4", None, 0), ("range:4", ((16, 17),), 16)],
    ]


def test_every_table_of_a_tree_takes_its_place() -> None:
    """Two tables where one would still fit; a table joins a tree once."""
    assert placed(looked_up(("range:4", (32,)), ("range:3", (8,))), 6) == [
        [("range:4", ((0, 32),), 0), ("range:4", None, 32), ("range:3", ((0, 8),), 48), ("range:3", None, 56)]
    ]
    assert placed(looked_up(("range:5", (16,)), ("range:3", (16,))), 6) == [
        [("range:5", None, 0), ("range:5", ((0, 8),), 32), ("range:5", ((8, 16),), 40), ("range:3", ((0, 8),), 48), ("range:3", None, 56)],
        [("range:3", ((8, 16),), 0), ("range:3", None, 8)],
    ]


@pytest.mark.parametrize(("cells", "variables"), [((8,), 4), ((1,), 4), ((9,), 5), ((24,), 6), ((25,), 6)])
def test_a_tree_has_room_for_its_last_block(cells: tuple[int, ...], variables: int) -> None:
    """Beside a table of eight rows."""
    (plan,) = plan_trees(looked_up(("range:3", cells)), 6)
    assert plan.variables == variables and plan.fractions == cells[0] + 8


def test_boxes_are_cut_along_the_first_axis_that_can_be() -> None:
    """Of two cells as of many; an axis of odd length ends in a shorter box."""
    pairs: list[Box] = [((row, row + 1), (at, at + 4)) for row in (0, 1) for at in (0, 4, 8, 12)]
    found = placed(looked_up(("range:1", (2, 16))), 5)
    assert [box for tree in found for _, box, _ in tree if box] == pairs
    thirds: list[Box] = [((0, 1), (0, 2), (0, 4)), ((0, 1), (2, 4), (0, 4)), ((0, 1), (4, 6), (0, 4)), ((0, 1), (6, 7), (0, 4))]
    found = placed(looked_up(("range:1", (1, 7, 4))), 6)
    assert [box for tree in found for _, box, _ in tree if box] == [((0, 1), (0, 7), (0, 4))]
    found = placed(looked_up(("range:1", (1, 7, 4)), ("range:1", (64,))), 6)
    assert [box for tree in found for _, box, _ in tree if box and len(box) == 3] == thirds


def test_a_table_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(RelationError, match="range:6 leaves no room"):
        plan_trees(looked_up(("range:6", (64,))), 6)
    assert len(plan_trees(looked_up(("range:5", (64,))), 6)) == 2  # 32 rows beside four boxes of 8, twice


def test_a_tree_of_a_real_run_and_the_names_in_it() -> None:
    assert TREE_BITS == 26
    plans = plan_trees(looked_up(("range:4", (8, 4)), ("range:4", (17,))), 6)
    assert [plan.multiplicities() for plan in plans] == [[("multiplicity/range:4", (4, 4))], [("multiplicity/range:4@1", (4, 4))]]


@pytest.mark.parametrize(("table", "shape"), [("range:1", (2, 1)), ("range:2", (2, 2)), ("range:3", (4, 2)), ("range:16", (256, 256)),
                                              ("exp:3:12", (256, 256)), ("three", (5, 1)), ("twelve", (6, 2))])
def test_a_table_in_two_axes_has_its_rows_in_the_same_places(table: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "table_columns", lambda name: (np.arange(12),) if name == "twelve" else rows(name))
    square, line = TensorLayout(table_shape(table)), TensorLayout((shape[0] * shape[1],))
    assert table_shape(table) == square.shape == shape
    assert np.array_equal(square.blocks << square.block_bits, line.blocks << line.block_bits) and square.variables == line.variables
    numbers = np.arange(shape[0] * shape[1])
    assert np.array_equal(square.arrange(numbers.reshape(shape)).reshape(-1), line.arrange(numbers).reshape(-1))


# leaf claims ---------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, count: int) -> U64:
    return rng.integers(0, 1 << 63, (2, count)).astype(np.uint64)


def scalar(rng: np.random.Generator) -> Ext:
    return Ext.from_array(F, draw(rng, 1))


def leaves(
    plan: LeafPlan, fingerprint: Fingerprint, values: dict[int, IntArray], counts: dict[str, IntArray]
) -> tuple[list[Ext], list[Ext]]:
    """All fractions of a tree by definition: 1/(α − φ) for a cell, −m/(α − φ) for a row of a table, 0/1 elsewhere."""
    p, q = [F.zero] * (1 << plan.variables), [F.one] * (1 << plan.variables)
    tables = sorted({b.table for b in plan.blocks})
    for block in plan.blocks:
        layout = TensorLayout(tuple(stop - start for start, stop in block.box))
        order = layout.arrange(np.arange(int(np.prod(layout.shape))).reshape(layout.shape))
        if block.lookup is None:
            columns = list(rows(block.table))
        else:
            columns = [values[t.index][tuple(slice(*side) for side in block.box)].reshape(-1) for t in block.lookup.columns]
        for first, row in zip(layout.blocks << layout.block_bits, order, strict=True):
            for k, cell in enumerate(row):
                phi = fingerprint.beta_id * (tables.index(block.table) + 1)
                for beta, column in zip(fingerprint.columns, columns, strict=False):
                    phi = phi + beta * int(column[cell])
                leaf = block.offset + int(first) + k
                p[leaf] = F.one if block.lookup else F.ext(-int(counts[block.table][cell]))
                q[leaf] = fingerprint.alpha - phi
    return p, q


def paired(weights: Weights, values: IntArray) -> Ext:
    total = F.zero
    for cell in np.ndindex(*values.shape):
        term = F.one * int(values[cell])
        for w, x in zip(weights, cell, strict=True):
            term = term * Ext.from_array(F, w[:, x])
        total = total + term
    return total


@pytest.mark.parametrize("tree_bits", [6, 26])
def test_leaf_claims_are_the_leaves_extension_at_the_point(tree_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd shapes, tables of one and of three columns, whole tensors and boxes of them; no value needs to be in its table."""
    monkeypatch.setattr(lookups, "table_columns", rows)
    rng, graph = np.random.default_rng(5), looked_up(("range:3", (3, 5)), ("three", (2, 3)), ("range:3", (3, 5)), ("range:2", (1,)))
    plans = plan_trees(graph, tree_bits)
    assert (len(plans) > 1) is (tree_bits < 26)
    values = {t.index: rng.integers(-99, 99, t.shape) for t in graph.tensors}
    for plan in plans:
        counts = {table: rng.integers(0, 9, len(rows(table)[0])) for table in plan.tables}
        fingerprint = Fingerprint(scalar(rng), (F.one, scalar(rng), scalar(rng)), scalar(rng))
        point = draw(rng, plan.variables)
        eq = [Ext.from_array(F, e) for e in F.eq_table(point).T]
        wanted = [sum((w * x for w, x in zip(eq, side, strict=True)), F.zero) for side in leaves(plan, fingerprint, values, counts)]
        p_terms, p, q_terms, q = leaf_claims(Vectors(F), plan, fingerprint, point)
        for term in p_terms:
            table = next(t for t in plan.tables if plan.multiplicity(t) == term.place[1])
            shape = tuple(w.shape[1] for w in term.weights)
            assert term.place[0] == WITNESS and term.box == whole(shape)
            p = p + term.coef * paired(term.weights, counts[table].reshape(shape))
        for claim in q_terms:
            column = np.zeros_like(values[claim.tensor.index])  # cells outside the box do not take part
            column[cells_of(claim.box)] = values[claim.tensor.index][cells_of(claim.box)]
            q = q + claim.coef * paired(claim.weights, column)
            assert [w.shape[1] for w in claim.weights] == list(claim.tensor.shape)
        assert [p, q] == wanted
