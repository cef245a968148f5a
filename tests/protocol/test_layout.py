"""Layouts: every valid cell exactly once, aligned blocks, and weights that equal their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.code import Code
from protocol.field import GOLDILOCKS, Ext
from protocol.layout import CommitmentLayout, Corners, TensorLayout, Vectors, bits_of

F = GOLDILOCKS
shapes = st.lists(st.integers(1, 7), min_size=0, max_size=3).map(tuple)
CODE = Code(F, 8, 32, 4)


def point(rng: np.random.Generator, m: int) -> np.ndarray:
    return rng.integers(0, 1 << 63, (2, m)).astype(np.uint64)


def index_of(layout: TensorLayout, cell: tuple[int, ...]) -> int:
    """The definition: all odd digits, outermost, then all low bits, axis by axis."""
    index = 0
    for x, low, bits in zip(cell, layout.low, layout.digits):
        index = index << bits | x >> low
    for x, low in zip(cell, layout.low):
        index = index << low | x & ((1 << low) - 1)
    return index


@given(shapes)
@settings(max_examples=80, deadline=None)
def test_every_valid_cell_has_one_index(shape: tuple[int, ...]) -> None:
    layout = TensorLayout(shape)
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    arranged, blocks = layout.arrange(numbers), layout.blocks
    assert arranged.shape == (len(blocks), 1 << layout.block_bits)
    place = {int(v): (int(b) << layout.block_bits) + i for b, row in zip(blocks, arranged) for i, v in enumerate(row)}
    assert len(place) == numbers.size and max(place.values()) < 1 << layout.variables
    for cell in np.ndindex(*shape):
        assert place[int(numbers[cell])] == index_of(layout, cell)


@given(shapes, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_eq_weights_are_the_multilinear_weights_of_valid_cells(shape: tuple[int, ...], number: int) -> None:
    layout = TensorLayout(shape)
    r = point(np.random.default_rng(number), layout.variables)
    full, weights = F.eq_table(r), layout.eq_weights(Vectors(F), r)
    for cell in np.ndindex(*shape):
        product = F.one
        for w, x in zip(weights, cell):
            product = product * Ext.from_array(F, w[:, x])
        assert product == Ext.from_array(F, full[:, index_of(layout, cell)])


@given(st.lists(shapes, min_size=1, max_size=4), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_commitments_hold_each_cell_once_in_existing_rows(tensors: list[tuple[int, ...]], number: int) -> None:
    layout = CommitmentLayout.pack([(f"t{i}", s) for i, s in enumerate(tensors)], CODE)
    cells: dict[int, tuple[str, tuple[int, ...]]] = {}
    for slot in layout.slots:
        assert slot.offset % (1 << slot.tensor.variables) == 0
        for cell in np.ndindex(*slot.tensor.shape):
            index = slot.offset + index_of(slot.tensor, cell)
            assert index not in cells
            cells[index] = (slot.name, cell)
    assert sorted({i >> layout.column_bits for i in cells}) == layout.rows.tolist()
    assert max(cells) < 1 << layout.variables
    rng = np.random.default_rng(number)
    r = point(rng, layout.variables)
    full = F.eq_table(r)
    for slot in layout.slots:  # slot_eq: Σ over valid cells of w(cell)·eq(r, cell), the extension of the weights
        weights = [point(rng, n) for n in slot.tensor.shape]
        total = F.zero
        for cell in np.ndindex(*slot.tensor.shape):
            w = Ext.from_array(F, full[:, slot.offset + index_of(slot.tensor, cell)])
            for axis, x in zip(weights, cell):
                w = w * Ext.from_array(F, axis[:, x])
            total = total + w
        lead, eqs = layout.slot_eq(slot, Corners(F, r), Vectors(F))
        for axis, eq in zip(weights, eqs):
            lead = lead * Ext.from_array(F, F.kdot(axis, eq))
        assert total == lead
    table = layout.row_weights(F, r)
    rows = F.eq_table(r[:, : layout.variables - layout.column_bits])
    assert np.array_equal(table, rows[:, layout.rows])


def test_corners_and_bits() -> None:
    r = point(np.random.default_rng(3), 4)
    corners = Corners(F, r)
    for m in (4, 2, 0, 3, 1):
        table = F.eq_table(r[:, :m])
        assert all(corners.at(m, i) == Ext.from_array(F, table[:, i]) for i in range(1 << m))
    assert [bits_of(n) for n in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]


def test_identity_binds_everything() -> None:
    tensors, root = [("a", (3, 4)), ("b", (5,))], b"r" * 32
    base = CommitmentLayout.pack(tensors, CODE)
    others = [
        CommitmentLayout.pack([("a", (4, 3)), ("b", (5,))], CODE), CommitmentLayout.pack([("b", (3, 4)), ("a", (5,))], CODE),
        CommitmentLayout.pack([("a", (3, 4))], CODE), CommitmentLayout.pack(tensors, Code(F, 8, 32, 5)),
        CommitmentLayout.pack(tensors, Code(F, 8, 64, 4)), CommitmentLayout.pack(tensors, Code(F, 16, 64, 4)),
    ]
    ids = {base.identity(root), base.identity(b"s" + root[1:])} | {x.identity(root) for x in others}
    assert len(ids) == 8
    assert base.identity(root) == CommitmentLayout.pack(tensors, CODE).identity(root)


def test_one_name_is_one_slot() -> None:
    with pytest.raises(ValueError, match="twice"):
        CommitmentLayout.pack([("a", (3,)), ("a", (3,))], CODE)


def test_rows_of_a_vast_odd_tensor_are_found_without_listing_its_cells() -> None:
    """2^34 blocks of one cell each: listed, they would take a verifier a terabyte, for a proof of 20 MB."""
    layout = CommitmentLayout.pack([("odd", (71, 255, 1048575)), ("small", (3, 5))], Code(F, 1 << 20, 1 << 22, 0))
    assert layout.by_name["odd"].tensor.block_bits == 0
    assert layout.rows.tolist() == [a << 8 | b for a in range(71) for b in range(255)] + [1 << 15]
