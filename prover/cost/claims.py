"""What the schedule of a task asks of its prover, found by running it without data.

    batches      products and one-hot rows, one tuple of instances for each batched sumcheck
    slots        (role, tensor name) → the cells of each weighted claim that is opened on that committed tensor
    seconds      processor time of this run: the affine arithmetic that prover and verifier do as well
    counting     processor time of counting pads, which a prover does beforehand

A function of the graph alone: proof parameters enter behind the point where the run stops, at the opening. Called by work.py.
"""

import time
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from typing import NoReturn

import numpy as np

from protocol.channel import CountingChannel
from protocol.field import U64, Ext
from protocol.params import PROFILES
from protocol.relation.tables import table_columns
from protocol.schedule.constraints import Place
from protocol.schedule.lookups import Fingerprint
from protocol.schedule.opening import CombinedWeights
from protocol.schedule.products import Instance
from protocol.schedule.task import TaskShape, run_task
from prover.argument.counting import count
from prover.argument.opening import span_of


@dataclass(frozen=True, eq=False)
class Claims:
    """Everything behind the lookups that has to be proved of one task."""

    batches: tuple[tuple[Instance, ...], ...]
    slots: dict[Place, list[int]]
    seconds: float
    counting: float

    @property
    def instances(self) -> list[Instance]:
        return [instance for batch in self.batches for instance in batch]


class _Opened(Exception):
    """The schedule has reached the opening: all claims are known."""


class _Recorder:
    """A TaskProver without values, also its own tree, batch and opening: rounds are asked for and thrown away by the channel."""

    def __init__(self, shape: TaskShape) -> None:
        self.zero, self.batches, self.slots = shape.field.zero, list[tuple[Instance, ...]](), defaultdict[Place, list[int]](list)
        self.tree = self.batch = self
        self.opening = _Opening(self)

    def witness_root(self) -> bytes:
        return b""

    def start_tree(self, number: int, fingerprint: Fingerprint) -> None:
        """No leaves are built."""

    def claim(self, instance: Instance) -> Ext:
        return self.zero

    def triples(self, tau: Ext) -> U64:
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
        for term in weights.terms:
            shape = tuple(w.shape[1] for w in term.weights)
            first, last = span_of(term.box[:-1], shape[:-1])
            self.recorder.slots[term.place].append((last - first) * prod(shape[-1:]))
        raise _Opened


def record_claims(shape: TaskShape) -> Claims:
    """Run the schedule of `shape` up to its opening; `shape` has its counts afterwards. Tables are made before the clock starts: a
    process makes each of them once."""
    for table in {name for plan in shape.plans for name in plan.tables}:
        table_columns(table)
    before = time.process_time()
    count(shape)
    recorder, published = _Recorder(shape), {p.name: np.zeros(p.tensor.shape, dtype=np.int64) for p in shape.graph.published}
    start = time.process_time()
    try:
        run_task(CountingChannel(shape.field), shape, b"", [], next(iter(PROFILES.values())), published, recorder)  # type: ignore[arg-type]
    except _Opened:
        return Claims(tuple(recorder.batches), dict(recorder.slots), time.process_time() - start, start - before)
    raise RuntimeError("the schedule of a task ended without an opening")
