"""What the schedule of a task asks of its prover, found by running it without data.

    batches      products and one-hot rows, one tuple of instances for each batched sumcheck
    slots        (role, tensor name) → the cells of each sum of weighted claims that is opened on that committed tensor
    algebra      what the schedule calculates, which prover and verifier do as well: reduction, public tensors, the opening's inner products

A function of the graph alone: proof parameters enter behind the point where the run stops, at the opening. One run gives the counts of
pads too. Called by work.py.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from protocol.channel import CountingChannel
from protocol.field import U64, Ext
from protocol.layout import TensorLayout
from protocol.params import PROFILES
from protocol.relation.graph import AxisMap, Gather, Graph, Linear, Public
from protocol.relation.tables import table_columns
from protocol.schedule.constraints import Place
from protocol.schedule.lookups import Fingerprint
from protocol.schedule.opening import CombinedWeights
from protocol.schedule.products import Instance
from protocol.schedule.task import TaskShape, run_task
from prover.argument.weights import span_of
from prover.cost.tally import K_PRODUCT, PUBLIC_CELL, TERM, Algebra, TallyField

LEADING = 4  # operations for the leading bits of a tensor's place: most are known, two for each other


@dataclass(frozen=True, eq=False)
class Claims:
    """Everything behind the lookups that has to be proved of one task."""

    batches: tuple[tuple[Instance, ...], ...]
    slots: dict[Place, list[int]]
    algebra: Algebra

    @property
    def instances(self) -> list[Instance]:
        return [instance for batch in self.batches for instance in batch]


class _Opened(Exception):
    """The schedule has reached the opening: all claims are known."""


class _Recorder:
    """A TaskProver without values, also its own tree, batch and opening: rounds are asked for and thrown away by the channel."""

    def __init__(self, field: TallyField) -> None:
        self.zero, self.batches, self.slots = field.zero, list[tuple[Instance, ...]](), defaultdict[Place, list[int]](list)
        self.inner = Algebra()
        self.tree = self.batch = self
        self.opening = _Opening(self)

    def witness_root(self) -> bytes:
        return b""

    def start_tree(self, number: int, fingerprint: Fingerprint) -> None:
        """No leaves are built."""

    def claim(self, instance: Instance) -> Ext:
        return self.zero

    def triples(self, weights: list[Ext]) -> U64:
        return np.zeros((2, 2), dtype=np.uint64)

    def root(self) -> Ext:
        return self.zero

    def descend(self, level: int, point: list[Ext], lam: Ext) -> None:
        """No level is folded."""

    def begin(self, instances: list[Instance], coefs: list[Ext]) -> None:
        self.batches.append(tuple(instances))

    def round(self) -> tuple[Ext, Ext]:
        return self.zero, self.zero

    def bind(self, r: Ext) -> None:
        """Nothing is folded."""

    def ends(self) -> list[tuple[Ext, Ext]]:
        return []  # a counting channel never looks


class _Opening:
    """The opening's side of the recorder: takes the weights and ends the run."""

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def begin(self, weights: CombinedWeights) -> NoReturn:
        spans = defaultdict[tuple[Place, int], list[tuple[int, int]]](list)  # of rows, by what is added up (prover/argument/weights.py)
        sizes = dict[tuple[Place, int], int]()
        for term in weights.terms:
            shape, group = tuple(w.shape[1] for w in term.weights), (term.place, id(term.weights[-1]))
            spans[group].append(span_of(term.box[:-1], shape[:-1]))
            sizes[group] = shape[-1]
        for (place, last), found in spans.items():
            self.recorder.slots[place].append(union(found) * sizes[place, last])
        self.recorder.inner = _inner_products(weights)
        raise _Opened


def union(spans: list[tuple[int, int]]) -> int:
    """How many cells are in some of the spans (first, end)."""
    total = reached = 0
    for first, end in sorted(spans):
        total += max(0, end - max(first, reached))
        reached = max(reached, end)
    return total


def _inner_products(weights: CombinedWeights) -> Algebra:
    """`CombinedWeights.at` over all commitments: each weight vector meets once the eq vector of its axis, which axes at the same
    coordinates share, each term takes a product for an axis, each tensor the eq of its leading bits."""
    met: dict[tuple[bytes, int], int] = {}
    for term in weights.terms:
        tensor = TensorLayout(tuple(w.shape[1] for w in term.weights))
        coordinates = np.arange(-tensor.variables, 0).view(np.uint64)[None]  # counted from a point's end
        met |= {
            (part.tobytes(), id(w)): w.shape[1] for part, w in zip(tensor.axis_points(coordinates), term.weights, strict=True)
        }
    axes, places = {coordinates for coordinates, _ in met}, {term.place for term in weights.terms}
    scalars = sum(2 + len(term.weights) for term in weights.terms) + LEADING * len(places)
    return Algebra(scalars, 3 * len(axes), (K_PRODUCT + 2 * TERM) * sum(met.values()))


def _public_cells(graph: Graph, shape: TaskShape, instances: list[Instance]) -> float:
    """Cells of public tensors and tables that the claims of lookups, zeros, published values and factors come down to."""
    below = [0.0] * len(graph.tensors)  # of one claim on a tensor
    for tensor, op in zip(graph.tensors, graph.ops, strict=True):
        if isinstance(op, Public):
            below[tensor.index] = tensor.cells
        elif isinstance(op, Linear):
            below[tensor.index] = sum(below[term.tensor.index] for term in op.terms)
        elif isinstance(op, AxisMap | Gather):
            below[tensor.index] = below[op.tensor.index]
    blocks = [block for plan in shape.plans for block in plan.blocks]
    claimed = [t for block in blocks if block.lookup for t in block.lookup.columns] + [zero.tensor for zero in graph.zeros]
    claimed += [factor.tensor for instance in instances for factor in instance.factors]
    tables = sum(column.size for block in blocks if not block.lookup for column in table_columns(block.table))
    return tables + sum(below[t.index] for t in claimed) + sum(item.tensor.cells for item in graph.published)


def record_claims(shape: TaskShape) -> Claims:
    """Run the schedule of `shape` up to its opening; `shape` has its counts afterwards."""
    field = TallyField(shape.field)
    recorder, published = _Recorder(field), {p.name: np.zeros(p.tensor.shape, dtype=np.int64) for p in shape.graph.published}
    try:
        run_task(CountingChannel(field), shape, b"", [], next(iter(PROFILES.values())), published, recorder)  # type: ignore[arg-type]
    except _Opened:
        claims = Claims(tuple(recorder.batches), dict(recorder.slots), field.algebra + recorder.inner)
        public = Algebra(products=PUBLIC_CELL * _public_cells(shape.graph, shape, claims.instances))
        return Claims(claims.batches, claims.slots, claims.algebra + public)
    raise RuntimeError("the schedule of a task ended without an opening")
