"""A small graph with every operation and assertion in it, over tables of at most 2^8 rows: a proof takes milliseconds."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any
from unittest.mock import patch

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.relation.graph import Committed as CommittedOp
from protocol.relation.graph import Graph, Input, IntArray, Term
from protocol.schedule import opening
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape
from prover.commitment.commit import CommitmentData, commit
from prover.executor.evaluate import check, evaluate
from prover.executor.reference import ReferenceOps
from tests.support.evil import EvilChannel, Lie, prove_with
from tests.support.stage import PARAMS, Inputs, backend, seed, verify


def tiny_graph(out: int = 3, rows: int = 3, inner: int = 5) -> Graph:
    """Y = rescale(X·Wᵀ + a permuted Y-like term, 4) in 8 bits, one-hot rows of public order, a published sum of squares."""
    g = Graph()
    w = g.input("base", "W", "od", (out, inner), -20, 20)
    x = g.input("x", "X", "nd", (rows, inner), -20, 20)
    ids = g.input("x", "ids", "n", (rows,), 0, out - 1)
    bias = g.public("bias", "o", np.arange(out) - 1)
    z = g.product("Z", "nd,od->no", x, w)
    turned = g.axis_map("turned", z, "o", out, np.arange(out), np.roll(np.arange(out), 1), np.arange(out) + 1)
    scaled = g.product("biased", "no,o->no", turned, bias)
    total = g.linear("total", "no", (1, z), (1, scaled), Term(2, bias, "o"), const=3)
    y = g.commit("Y", "no", (rows, out), -128, 127)
    g.hint("round_shift", [total], [y], shift=4)
    g.lookup("range:4", g.linear("Y.rest", "no", (1, total), (-16, y), const=8))
    g.lookup("range:8", g.linear("Y.offset", "no", (1, y), const=128))
    digits = []
    for name, axis, size in (("high", "i", (out + 1) // 2), ("low", "k", 2)):
        digit = g.commit(name, "n" + axis, (rows, size), 0, 1)
        g.lookup("range:1", digit)
        g.zero(g.linear(f"{name}.sum", "n", (1, digit), const=-1))
        digits.append(digit)
    g.hint("digits", [ids], digits, base=2)
    dots = [g.axis_map(f"{d.name}.dot", d, axis, 1, np.zeros(d.shape[1], dtype=np.int64), np.arange(d.shape[1]),
                       np.arange(d.shape[1]) * weight) for d, axis, weight in ((digits[0], "i", 2), (digits[1], "k", 1))]
    g.zero(g.linear("ids.equal", "n", (1, dots[0]), (1, dots[1]), (-1, ids)))
    chosen = g.product("chosen", "no,no->n", g.one_hot("hot", *digits, "o", out), y)
    again = g.gather("again", chosen, "pq", [[0, rows - 1], [rows - 1, 0]])
    squares = g.product("squares", "pq,pq->p", again, again)
    g.publish(squares, "squares")
    return g


@dataclass(eq=False)
class Tiny:
    """The graph with random honest values, commitments and a statement."""

    graph: Graph = dataclass_field(default_factory=tiny_graph)
    number: int = 1

    def __post_init__(self) -> None:
        rng, graph = np.random.default_rng(self.number), self.graph
        self.shape = TaskShape(graph, GOLDILOCKS)
        self.inputs: Inputs = {}
        for tensor, op in zip(graph.tensors, graph.ops):
            if isinstance(op, Input):
                top = 3 if tensor.shape[-1] <= 6 else 1  # keeps Y in its eight bits
                self.inputs[op.commitment, op.tensor_name] = rng.integers(max(tensor.lo, -top), min(tensor.hi, top) + 1, tensor.shape)
        self.values = self.run(self.inputs)
        self.published = {p.name: self.values[p.tensor.index] for p in graph.published}
        self.committed_data = [(role, self.commitment(role)) for role in sorted({role for role, _ in self.inputs})]

    def run(self, inputs: Inputs) -> list[IntArray]:
        found = evaluate(self.graph, inputs, self.graph.tensors, ReferenceOps())
        check(self.graph, found)
        return [found[i] for i in range(len(found))]

    def commitment(self, role: str) -> CommitmentData:
        tensors = {name: a for (r, name), a in self.inputs.items() if r == role}
        layout = CommitmentLayout.pack([(n, a.shape) for n, a in tensors.items()], PARAMS.code(2))
        return commit(backend(), layout, tensors, seed(role))

    @property
    def committed(self) -> list[Committed]:
        return [Committed(role, data.layout, data.root) for role, data in self.committed_data]

    @property
    def statement(self) -> bytes:
        ids = [[role, data.id] for role, data in self.committed_data]
        published = {name: values.tolist() for name, values in self.published.items()}
        return canonical_json({"relation": self.graph.digest(), "commitments": ids, "published": published})

    def prove(self, lie: Lie | None = None, label: str = "attempt") -> EvilChannel:
        return prove_with(self.shape, self.statement, self.committed_data, self.values, self.published, lie or Lie(), {}, label)

    def reason(self, proof: bytes) -> str:
        """"accepted", or the reason of the rejection; any other exception is the test's failure."""
        try:
            verify(self.shape, self.statement, self.committed, self.published, proof)
        except VerificationError as error:
            return error.reason
        return "accepted"

    def resumed(self, honest: bytes) -> Callable[[bytes], str]:
        """`reason`, for many proofs that mostly begin as this one: those are judged from its "opening/sigma" on, because what a
        verifier does before depends on the bytes before alone."""
        saved: list[Any] = []

        def keep(channel: VerifyingChannel, *arguments: Any) -> None:
            saved.extend((copy(channel), copy(channel.transcript), arguments))
            check_rows(channel, *arguments)

        check_rows = opening._check_rows
        with patch.object(opening, "_check_rows", keep):
            verify(self.shape, self.statement, self.committed, self.published, honest)
        start, transcript, arguments = saved

        def reason(proof: bytes) -> str:
            if proof[: start.at] != honest[: start.at]:
                return self.reason(proof)
            channel = copy(start)
            channel.proof, channel.transcript = proof, copy(transcript)
            try:
                check_rows(channel, *arguments)
                channel.finish()
            except VerificationError as error:
                return error.reason
            return "accepted"

        return reason


def committed_names(graph: Graph) -> list[tuple[str, str]]:
    return [(op.commitment, op.tensor_name) for op in graph.ops if isinstance(op, CommittedOp)]
