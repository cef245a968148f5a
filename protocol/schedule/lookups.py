"""Lookups as one sum of fractions (LogUp, Haböck eprint 2022/1530; protocol.md 5).

With α, β_1, β_2, β_id drawn after witness and multiplicities are committed, a looked-up cell has the fingerprint
φ = x + β_1·y + β_2·z + β_id·id, and

    Σ_cells 1/(α − φ) − Σ_table rows m_j/(α − φ_j) = 0.

The leaves of a tree are blocks, one per lookup and one per table, placed largest first, aligned. A cell outside
its tensor, and free space, is the fraction 0/1. At the leaf point the tree leaves two forms; here they become two
constraints on the looked-up columns and on the multiplicities. The verifier evaluates tables itself.

A task whose lookups do not fit one tree has several, proved one after the other, each such a sum with its own α, β, tables and
multiplicities: the prover needs the memory of one tree at a time, and the error of one α stays below 2^26/|K| however large the task
is. Large lookups are then cut into boxes of cells, so every cell is a leaf of exactly one tree.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from protocol.channel import Channel
from protocol.field import U64, Ext
from protocol.layout import Corners, TensorLayout, Vectors, bits_of
from protocol.relation.graph import WITNESS, Graph, Lookup, RelationError
from protocol.relation.tables import table_columns
from protocol.schedule.claims import Claim, contract
from protocol.schedule.constraints import Box, CellTerm, Weights, cells_of, whole

TREE_BITS = 26  # a tree has at most 2^26 leaves: about 5 GB while it is proved
PIECE_BITS = 3  # where one tree is too small, boxes have at most an eighth of a tree: seven and their tables share one
MAX_WEIGHTS = 1 << 25  # trees times the longest axis: vectors of each tree are held until the opening (decision 26 has what was measured)


@dataclass(frozen=True)
class Block:
    """Leaves [offset, offset + 2^variables): the cells of a lookup inside `box`, or the table itself when `lookup` is None."""

    table: str
    lookup: Lookup | None
    box: Box
    offset: int

    @cached_property
    def layout(self) -> TensorLayout:
        return TensorLayout(tuple(stop - start for start, stop in self.box))

    @property
    def cells(self) -> tuple[slice, ...]:
        """The box as an index of the looked-up tensors."""
        return cells_of(self.box)


@dataclass(frozen=True)
class LeafPlan:
    """One tree: where the cells of its lookups and its tables lie."""

    number: int
    blocks: tuple[Block, ...]

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Tables in use, sorted; the fingerprint's id is the position plus one."""
        return tuple(sorted({block.table for block in self.blocks}))

    @cached_property
    def variables(self) -> int:
        last = self.blocks[-1]
        return bits_of(last.offset + (1 << last.layout.variables))

    @property
    def fractions(self) -> int:
        """Lookups and table rows: the degree of the identity in α."""
        return sum(prod(b.layout.shape) for b in self.blocks)

    def multiplicity(self, table: str) -> str:
        """Name of the committed multiplicities of a table in this tree."""
        return f"multiplicity/{table}@{self.number}" if self.number else f"multiplicity/{table}"

    def multiplicities(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the committed multiplicity tensors, in the order of `tables`."""
        return [(self.multiplicity(name), table_shape(name)) for name in self.tables]


def table_shape(table: str) -> tuple[int, int]:
    """The rows of a table in two axes, 256·256 for 2^16: the same cells in the same places as along one axis, whose eq vectors would be
    as long as the table."""
    rows = len(table_columns(table)[0])
    half = ((rows & -rows).bit_length() - 1) // 2
    return rows >> half, 1 << half


def plan_trees(graph: Graph, tree_bits: int = TREE_BITS) -> tuple[LeafPlan, ...]:
    """The trees of a task, a function of the graph alone: one if it has room for everything, else boxes, the largest first, in one
    tree after the other. RelationError if a table leaves no room for anything, or there are more than a verifier should have to hold."""
    wanted = [(x, whole(x.columns[0].shape)) for x in graph.lookups]
    if sum(1 << _variables(box) for _, box in wanted) + sum(map(_rows, {x.table for x in graph.lookups})) <= 1 << tree_bits:
        return (_arrange(0, wanted),) if wanted else ()
    pieces = [(lookup, piece) for lookup, box in wanted for piece in _cut(box, tree_bits - PIECE_BITS)]
    trees: list[list[tuple[Lookup, Box]]] = []
    used, tables = 1 << tree_bits, set[str]()
    for lookup, box in sorted(pieces, key=lambda item: -_variables(item[1])):
        needed = (1 << _variables(box)) + (0 if lookup.table in tables else _rows(lookup.table))
        if used + needed > 1 << tree_bits:
            needed = (1 << _variables(box)) + _rows(lookup.table)
            if needed > 1 << tree_bits:
                raise RelationError(f"{lookup.table} leaves no room for lookups in a tree of 2^{tree_bits} leaves")
            trees.append([])
            used, tables = 0, set()
        trees[-1].append((lookup, box))
        used, tables = used + needed, tables | {lookup.table}
    longest = max(n for lookup in graph.lookups for n in lookup.columns[0].shape)
    if len(trees) * longest > MAX_WEIGHTS:
        raise RelationError(f"{len(trees)} lookup trees with axes of up to {longest} cells are too many for one task; take fewer tokens")
    return tuple(_arrange(number, tree) for number, tree in enumerate(trees))


def _rows(table: str) -> int:
    """Leaves that a table fills."""
    return 1 << bits_of(len(table_columns(table)[0]))


def _variables(box: Box) -> int:
    return sum(bits_of(stop - start) for start, stop in box)


def _cut(box: Box, bits: int) -> Iterator[Box]:
    """Boxes of at most 2^bits leaves: the first axis that can be cut is cut at a power of two, and so are the two parts."""
    if _variables(box) <= bits:
        yield box
        return
    axis = next(a for a, (start, stop) in enumerate(box) if stop - start > 1)
    start, stop = box[axis]
    middle = start + (1 << bits_of(stop - start) - 1)
    for part in ((start, middle), (middle, stop)):
        yield from _cut((*box[:axis], part, *box[axis + 1 :]), bits)


def _arrange(number: int, pieces: list[tuple[Lookup, Box]]) -> LeafPlan:
    """Blocks and tables of one tree, the largest first."""
    tables = sorted({lookup.table for lookup, _ in pieces})
    wanted: list[tuple[str, Lookup | None, Box]] = [(lookup.table, lookup, box) for lookup, box in pieces]
    wanted += [(name, None, whole(table_shape(name))) for name in tables]
    out, offset = [], 0
    for table, lookup, box in sorted(wanted, key=lambda item: -_variables(item[2])):
        out.append(Block(table, lookup, box, offset))
        offset += 1 << _variables(box)
    return LeafPlan(number, tuple(out))


@dataclass(frozen=True)
class Fingerprint:
    """α and the column weights (1, β_1, β_2), and β_id·id per table."""

    alpha: Ext
    columns: tuple[Ext, Ext, Ext]
    beta_id: Ext

    @staticmethod
    def draw(channel: Channel) -> "Fingerprint":
        alpha, b1, b2, bid = channel.challenges("lookups/alpha-beta", 4)
        return Fingerprint(alpha, (channel.field.one, b1, b2), bid)

    def constant(self, plan: LeafPlan, table: str) -> Ext:
        """α − β_id·id."""
        return self.alpha - self.beta_id * (plan.tables.index(table) + 1)


def leaf_claims(
    vectors: Vectors, plan: LeafPlan, fingerprint: Fingerprint, point: U64
) -> tuple[tuple[CellTerm, ...], Ext, list[Claim], Ext]:
    """What the two leaf evaluations are made of: p(point) = p_const + Σ multiplicities, q(point) = q_const + Σ claims on columns;
    returns (multiplicities, p_const, claims, q_const).
    """
    field, corners = vectors.field, Corners(vectors.field, point)
    p_terms, q_terms = list[CellTerm](), list[Claim]()
    p_const, q_const, mass = field.zero, field.one, dict.fromkeys(plan.tables, field.zero)
    placed: dict[tuple[Box, tuple[int, ...]], tuple[Weights, Ext]] = {}  # equal shapes have equal points: the last coordinates
    for block in plan.blocks:
        lead = plan.variables - block.layout.variables
        weight, shape = corners.at(lead, block.offset >> block.layout.variables), block.layout.shape
        key = block.box, block.lookup.columns[0].shape if block.lookup else shape
        if key not in placed:
            sides = zip(block.layout.axis_points(point[:, lead:]), key[1], block.box, strict=True)
            axes = tuple(vectors.eq(part, n, side) for part, n, side in sides)
            placed[key] = axes, prod(map(vectors.sum, axes), start=field.one)
        axes, valid = placed[key]
        mass[block.table] = mass[block.table] + weight * valid
        if block.lookup is not None:
            p_const = p_const + weight * valid
            for beta, tensor in zip(fingerprint.columns, block.lookup.columns, strict=False):
                q_terms.append(Claim(-(weight * beta), tensor, axes, block.box))
        else:
            p_terms.append(CellTerm(-weight, (WITNESS, plan.multiplicity(block.table)), axes, block.box))
            for beta, column in zip(fingerprint.columns, table_columns(block.table), strict=False):
                q_const = q_const - weight * beta * contract(field, column.reshape(shape), axes)
    for table, weight in mass.items():
        q_const = q_const + (fingerprint.constant(plan, table) - 1) * weight
    return tuple(p_terms), p_const, q_terms, q_const

