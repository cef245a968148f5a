"""A second soundness calculator, in exact fractions, written from docs/protocol.md 9 and 11 and from what is really drawn and sent.

    error of a source = degree of what is tested / |K|,     queries: ((1 + (ℓ + B)/n)/2)^t

Every challenge of the transcript is listed by its tag, and each message by its size, in one run of the schedule without data; the sizes of
tensors come from the graph. Nothing is taken from protocol/soundness.py, nor from the counts that it uses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from unittest.mock import patch

import numpy as np

from protocol.channel import CountingChannel, Transcript
from protocol.field import GOLDILOCKS
from protocol.params import Params
from protocol.relation.graph import WITNESS, Committed, Graph
from protocol.relation.tables import table_columns
from protocol.schedule import task as schedule
from protocol.schedule.lookups import TREE_BITS
from protocol.schedule.task import TaskShape

K = GOLDILOCKS.p**2
Shape = tuple[int, ...]


def bits(error: Fraction) -> float:
    """−log2 of an exact error, by integer logarithms (error may be far below the smallest float)."""
    scale = 1 << 400
    return 400 - math.log2(int(error * scale))


class Listing(Transcript):
    """Which challenges are drawn, with how many elements of K each."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[str, int]] = []
        self.sent: list[tuple[str, int]] = []

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        self.drawn.append((tag, words // 2))
        return super().draw(tag, words, below)

    def absorb(self, tag: str, data: bytes) -> None:
        self.sent.append((tag, len(data)))
        super().absorb(tag, data)


def variables(shape: Shape) -> int:
    """An axis of odd·2^k cells has ⌈log2 odd⌉ + k variables."""
    total = 0
    for n in shape:
        low = (n & -n).bit_length() - 1
        total += low + math.ceil(math.log2(n >> low))
    return total


def packed(shapes: Sequence[Shape], ell: int) -> int:
    """Variables of a commitment: tensors one after the other, each padded, largest first."""
    return max(math.ceil(math.log2(sum(1 << variables(s) for s in shapes))), int(math.log2(ell)))


@dataclass(frozen=True)
class Bound:
    """One source: how often it occurs, and its largest error."""

    count: int
    error: Fraction


class Schedule:
    """What one graph's schedule draws and sends before the opening; the same for every profile."""

    def __init__(self, graph: Graph, tree_bits: int = TREE_BITS) -> None:
        self.graph, listing = graph, Listing()
        shape = TaskShape(graph, GOLDILOCKS, tree_bits)
        published = {item.name: np.zeros(item.tensor.shape, dtype=np.int64) for item in graph.published}
        with patch.object(schedule, "prove_opening", lambda *_: None):
            schedule.run_task(CountingChannel(GOLDILOCKS, listing), shape, b"", [], _ANY, published, None)
        self.drawn, self.sent = listing.drawn, listing.sent
        boxes = [[block for block in plan.blocks if block.lookup] for plan in shape.plans]
        self.tables = [len(table_columns(name)[0]) for tree in boxes for name in {block.table for block in tree}]
        cells = [[math.prod(stop - start for start, stop in block.box) for block in tree] for tree in boxes]
        rows = [sum(len(table_columns(name)[0]) for name in {block.table for block in tree}) for tree in boxes]
        self.fractions = [sum(c) + r for c, r in zip(cells, rows)]
        looked_up = sum(math.prod(x.columns[0].shape) for x in graph.lookups)
        if self.draws("lookups/alpha-beta") != len(boxes) or sum(map(sum, cells)) != looked_up:
            raise AssertionError("trees without challenges of their own, or cells in no tree")

    def draws(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.drawn)

    @property
    def levels(self) -> int:
        return self.draws("tree/lambda")

    @property
    def batches(self) -> int:
        return self.draws("products/rho")

    @property
    def rounds(self) -> int:
        return self.draws("tree/round") + self.draws("products/round")

    @property
    def points(self) -> list[int]:
        return [count for tag, count in self.drawn if tag in ("zero", "published")]

    @property
    def ends(self) -> int:
        """Hidden ends of products: each is a claim of its own."""
        return sum(size // 16 for tag, size in self.sent if tag == "products/ends")

    @property
    def multiplied(self) -> int:
        """Products of two hidden values: two for each level of the tree, one for each pair of ends."""
        return 2 * self.levels + sum(size == 32 for tag, size in self.sent if tag == "products/ends")

    @property
    def constraints(self) -> int:
        """Levels, numerators, denominators, points, batches, ends, and the three of the triples."""
        leaves = 2 * self.draws("lookups/alpha-beta")
        return self.levels + leaves + len(self.points) + self.batches + self.ends + 3

    def witness(self) -> list[Shape]:
        """Shapes in the witness commitment: own tensors, multiplicities, pads and products in granules of 256."""
        own = [t.shape for t, op in zip(self.graph.tensors, self.graph.ops) if isinstance(op, Committed) and op.commitment == WITNESS]
        secret = ("tree/root", "tree/round", "tree/ends", "claim", "products/round", "products/ends")
        hidden = sum(size // 16 for tag, size in self.sent if tag in secret)
        pads, products = hidden + 2, 2 * self.multiplied + 1
        return own + [(rows,) for rows in self.tables] + [(-(-n // 256) * 256, 2) for n in (pads, products)]


_ANY = Params("any", GOLDILOCKS, 1024, 4096, 240)


def errors(found: Schedule, params: Params, inputs: Sequence[Sequence[Shape]], blinding: int) -> dict[str, Bound]:
    """By source, for input commitments of these tensors."""
    rate = Fraction(params.ell + blinding, params.n)
    size = max(packed(shapes, params.ell) for shapes in [*inputs, found.witness()])
    rows = size - int(math.log2(params.ell))
    return {
        "queries": Bound(1, ((1 + rate) / 2) ** params.queries),
        "folding": Bound(1, Fraction(params.n * (rows + 1), K)),
        "lookups": Bound(max(len(found.fractions), 1), Fraction(max(found.fractions, default=1), K)),
        "sumcheck": Bound(found.rounds + size, Fraction(3, K)),
        "batching": Bound(1 + found.batches, Fraction(found.constraints, K)),
        "combining": Bound(2 * found.levels + 3, Fraction(1, K)),
        "products": Bound(1, Fraction(2 * (found.multiplied + 1), K)),
        "equality": Bound(len(found.points), Fraction(max([*found.points, 1]), K)),
    }


def total(bounds: dict[str, Bound]) -> float:
    """Bits of the sum over one proof."""
    return bits(sum((b.count * b.error for b in bounds.values()), Fraction(0)))


def missed(params: Params, blinding: int) -> float:
    """Bits of what the query bound bounds: t distinct columns of n all miss the errors of a word that is not near the code."""
    wrong = (params.n - params.ell - blinding) // 2 + 1
    return -sum(math.log2((params.n - wrong - k) / (params.n - k)) for k in range(params.queries))
