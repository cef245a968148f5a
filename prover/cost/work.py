"""Counted work and live memory of one task's proof, from its shape, its claims and the layouts of its inputs alone.

Work is in the units of rates.py. Memory is bytes by name for each phase; the peak is the phase whose sum is largest:

    evaluate   committed values as int64, the virtual ones that are alive at a time, the operands of the largest contraction in float64
    commit     the values that a proof reads, inputs and witness (rows, blinding, codewords that are kept, salts, levels)
    tree       the same, looked-up cells whose leaves have another order, and a tree: for each of its 2^variables places 32 bytes and as
               much for the levels above it on a device, which allocates them; in a heap only what is written: 16 bytes a fraction, 32 a
               node above it
    products   the same without a tree, the tables of a batch of claims
    opening    commitments, their tables of a quarter of the virtual cells, 32 bytes an entry, and weights for some rows at a time

A heap keeps what it had: tables and weights of later phases are laid where a tree's padding was, which nobody had written to, so they
come on top of the tree, as far as its padding goes. A tensor's absent blocks cost neither memory nor work. Called by tasks/estimate.py
and benchmarks/.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod

from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import WITNESS, Committed, Graph, Input, Product
from protocol.schedule.lookups import LeafPlan
from protocol.schedule.opening import EXTRA_ROWS
from protocol.schedule.products import Factor, Instance
from protocol.schedule.task import TaskShape
from prover.argument.tree import natural
from prover.argument.weights import span_of
from prover.backend.memory import kept_bytes
from prover.cost.claims import Claims
from prover.executor.evaluate import most_alive
from prover.witness.task import integers_of, read_by_proof, stepwise

WORD = 8  # bytes of an element of F, and of an integer
COLUMN = 8  # products in F that checking a cell of an opened column comes to: decoded, hashed, in two inner products


@dataclass(frozen=True)
class Work:
    """Counts; sums of tasks are sums of counts. `host` is processor seconds of this machine, measured: building graphs."""

    evaluated: float = 0  # cells of int64 tensors read or written
    operations: float = 0  # calls of the array library for them, and of Python's own as long
    macs: float = 0  # multiply-adds of contractions
    encoded: float = 0  # cells of rows encoded: witness and inputs
    again: float = 0  # of these, cells of codewords that are not kept, and of which columns are opened
    hashed: float = 0  # compressions of SHA-256 in leaves and nodes
    random: float = 0  # bytes of SHAKE-256
    counted: float = 0  # cells counted for multiplicities
    placed: float = 0  # tensors placed in rows or counted
    leaves: float = 0
    tree_rounds: float = 0
    blocks: float = 0  # lookups and tables laid out in trees
    folded: float = 0  # cells of factors folded or weighted
    instances: float = 0
    tables: float = 0  # entries of product tables
    product_rounds: float = 0
    weighted: float = 0  # cells of sums of claims' weights, each time that they are made
    slots: float = 0  # such sums
    opened: float = 0  # virtual cells, with a row or without, of commitments that are opened
    schedule: float = 0  # operations of the schedule, an array's for tally.CALL
    products: float = 0  # products in F in these arrays
    openings: float = 0  # commitments whose columns are opened
    verified: float = 0  # operations of the schedule by a verifier
    checked: float = 0  # products in F by a verifier's NumPy, columns included
    checks: float = 0  # commitments whose columns are checked
    queried: float = 0  # points of the domain from which a verifier's queries are drawn
    host: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def times(self, count: float) -> "Work":
        return Work(*(count * getattr(self, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Place:
    """The memory that is planned for: codewords of at most `kept_bytes` are kept in it; `device`: salts, Merkle trees and what was
    read from files lie in the host's memory beside it."""

    kept_bytes: int = 1 << 62
    device: bool = False

    @staticmethod
    def of(backend: str, memory: int) -> "Place":
        return Place(kept_bytes(memory), backend == "cuda")

    @property
    def weight_bytes(self) -> int:
        """Of an opening's weights that are made at a time (prover/argument/opening.py)."""
        return self.kept_bytes // 8


EVERYTHING = Place()


def witness_work(shape: TaskShape, params: Params) -> Work:
    """The witness commitment: pads, multiplicities, rows, masks."""
    layout = shape.witness_layout(params)
    counted = sum(x.columns[0].cells for x in shape.graph.lookups)
    secrets = 16 * (shape.pads + params.ell)
    placed = len(layout.slots) + sum(len(plan.blocks) for plan in shape.plans)
    return commitment_work(layout, EXTRA_ROWS) + Work(counted=counted, random=secrets, placed=placed)


def commitment_work(layout: CommitmentLayout, extra: int = 0) -> Work:
    """Encode, hash, build levels: one compression for a leaf's tag and salt, one for each eight words, two for a node."""
    rows, code = len(layout.rows), layout.code
    blocks = 1 + -(-(WORD * (rows + extra) + 9) // 64)
    return Work(encoded=rows * code.ell, hashed=code.n * (blocks + 2), random=32 * code.n + WORD * rows * code.blinding)


def proof_work(
    shape: TaskShape, claims: Claims, params: Params, inputs: Sequence[CommitmentLayout], place: Place = EVERYTHING,
) -> Work:
    """Everything from the witness commitment to the last column, inputs committed beforehand."""
    every = [*inputs, shape.witness_layout(params)]
    trees = shape.plans
    folded = claims.instances + (list(claims.batches[0]) if len(trees) > 1 and claims.batches else [])  # prover/argument/batch.py
    sizes = {place: prod(tensor) for place, tensor in _committed(shape).items()}
    again = [len(c.rows) * c.code.ell for c in every if _codeword(c, EXTRA_ROWS if c is every[-1] else 0) > place.kept_bytes]
    twice = {slot.name for c in every if _weights(c) > place.weight_bytes for slot in c.slots}  # prover/argument/opening.py
    return witness_work(shape, params) + Work(
        again=sum(again), leaves=sum(p.fractions for p in trees), tree_rounds=sum(p.variables * (p.variables - 1) / 2 for p in trees),
        blocks=sum(len(p.blocks) for p in trees),
        folded=sum(_inside(f) for i in folded for f in i.factors), instances=len(folded),
        tables=sum(2 << i.variables for i in claims.instances),
        product_rounds=sum(i.variables for i in claims.instances),
        weighted=sum((1 + (name[1] in twice)) * (sizes[name] + sum(cells)) for name, cells in claims.slots.items()),
        slots=sum(map(len, claims.slots.values())),
        opened=sum(1 << c.variables for c in every), schedule=claims.algebra.steps, products=claims.algebra.products,
        openings=len(every),
    )


def verification_work(shape: TaskShape, claims: Claims, params: Params, inputs: Sequence[CommitmentLayout]) -> Work:
    """The schedule again, and the columns' checks."""
    every = [*inputs, shape.witness_layout(params)]
    columns = params.queries * (sum(len(c.rows) for c in every) + EXTRA_ROWS)
    return Work(
        verified=claims.algebra.steps, checked=claims.algebra.products + COLUMN * columns, checks=len(every), queried=params.n,
    )


def _committed(shape: TaskShape) -> dict[tuple[str, str], tuple[int, ...]]:
    """Shapes of all committed tensors of a task by (role, name)."""
    found = {
        (op.commitment, op.tensor_name): t.shape
        for t, op in zip(shape.graph.tensors, shape.graph.ops, strict=True) if isinstance(op, Input | Committed)
    }
    return found | {(WITNESS, name): size for name, size in shape.witness_tensors()}


def contracted(op: Product, out: str) -> int:
    """Products that are added up in a cell."""
    return prod(n for a, n in zip(op.a_axes, op.a.shape, strict=True) if a not in out)


@dataclass(frozen=True)
class Memory:
    """Bytes by name for each phase of a task."""

    phases: dict[str, dict[str, int]]

    @property
    def peak(self) -> int:
        return max(sum(terms.values()) for terms in self.phases.values())

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))


def task_memory(
    shape: TaskShape, claims: Claims, params: Params, inputs: Sequence[CommitmentLayout], place: Place = EVERYTHING,
) -> Memory:
    """What is alive in each phase."""
    graph, witness = shape.graph, shape.witness_layout(params)
    every, read = [*inputs, witness], read_by_proof(graph)
    inputs_read = [t for t in read if isinstance(graph.ops[t.index], Input)]
    given = {"input tensors": WORD * sum(t.cells for t in inputs_read)}
    committed = [t for t in read if isinstance(graph.ops[t.index], Committed)]
    narrow = read if place.device else [t for t in read if t not in inputs_read]  # prover/witness/task.py
    width = {t.index: integers_of(t).itemsize if t in narrow else WORD for t in read}
    tensors = ({} if place.device else given) | {"integer values": sum(width[t.index] * t.cells for t in narrow)}
    held = _held(inputs, place)
    kept = _held(every, place, EXTRA_ROWS)
    products = {"product tables": max((_tables(b) for b in claims.batches), default=0)}
    opening = {
        "opening tables": sum(_weights(c) // 2 for c in every),
        "opening weights": sum(min(_weights(c), place.weight_bytes) for c in every),
    }
    tree = _tree(shape.plans, place, sum(products.values()) + sum(opening.values()))
    evaluated = {"values alive at a time": WORD * most_alive(graph, read, committed if stepwise(graph) else [])}
    if stepwise(graph):
        evaluated["committed values"] = WORD * sum(t.cells for t in committed)
    return Memory({
        "evaluate": given | held | evaluated | {"contraction": _contraction(graph)},
        "commit": tensors | kept,
        "tree": tensors | kept | tree | {"columns in order": max((_in_order(p, width) for p in shape.plans), default=0)},
        "products": tensors | kept | products,
        "opening": ({} if place.device else given) | kept | opening,
    })


def _tree(plans: Sequence[LeafPlan], place: Place, later: int) -> dict[str, int]:
    """The largest tree; `later` is what comes after it. A node is written if a fraction is below it: the first level above the leaves
    adds one half of them to the other, so it may have as many nodes as there are fractions."""
    largest = max(plans, key=lambda p: (p.variables, p.fractions), default=None)
    if largest is None:
        return {}
    places, fractions = 1 << largest.variables, largest.fractions
    if place.device:
        return {"leaves": 32 * places, "levels": 32 * places}
    written = {"leaves": 16 * fractions, "levels": 32 * (min(fractions, places // 2) + places // 2)}
    return written | {"later tables in its padding": min(64 * places - sum(written.values()), later)}


def _in_order(plan: LeafPlan, width: Mapping[int, int]) -> int:
    """What a tree's looked-up cells take that do not lie as its leaves do, and are copied (prover/argument/tree.py)."""
    found = 0
    for block in plan.blocks:
        if block.lookup is not None:
            cells = prod(stop - start for start, stop in block.box)
            first, end = span_of(block.box, block.lookup.columns[0].shape)
            if end - first > cells or not natural(block.layout):
                found += cells * sum(width[c.index] for c in block.lookup.columns)
    return found


def _codeword(layout: CommitmentLayout, extra: int) -> int:
    return WORD * (len(layout.rows) + extra) * layout.code.n


def _weights(layout: CommitmentLayout) -> int:
    """Bytes of the weights of all virtual cells."""
    return 16 << layout.variables


def _held(layouts: Sequence[CommitmentLayout], place: Place, extra: int = 0) -> dict[str, int]:
    """Commitments that can be opened, the last one with `extra` rows; without its codeword one encodes again when columns are asked
    for."""
    rows = [len(c.rows) for c in layouts]
    codewords = [_codeword(c, extra if c is layouts[-1] else 0) for c in layouts]
    return {
        "rows": WORD * sum(r * c.code.ell for r, c in zip(rows, layouts, strict=True)),
        "blinding": WORD * sum(r * c.code.blinding for r, c in zip(rows, layouts, strict=True)),
        "codewords": sum(size for size in codewords if size <= place.kept_bytes),
    } | ({} if place.device else {"salts and levels": 96 * sum(c.code.n for c in layouts)})


def _tables(batch: Sequence[Instance]) -> int:
    """All tables of one batch of claims, and what the last one is folded from."""
    return sum(2 * 16 << i.variables for i in batch) + max(WORD * _inside(f) for i in batch for f in i.factors)


def _inside(factor: Factor) -> int:
    """Cells of a factor that take part in a claim."""
    return prod(stop - start for start, stop in factor.box)


def _contraction(graph: Graph) -> int:
    """Operands of the largest contraction in float64, permuted, and its result."""
    return max((
        2 * WORD * (op.a.cells + op.b.cells + tensor.cells)
        for tensor, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Product) and contracted(op, tensor.axes) > 1
    ), default=0)


def padded_cells(layout: CommitmentLayout) -> tuple[int, int]:
    """(valid cells, cells of the rows that exist)."""
    return sum(prod(slot.tensor.shape) for slot in layout.slots), len(layout.rows) * layout.code.ell


def _log(n: int) -> int:
    return n.bit_length() - 1
