"""The whole schedule of one task, from witness root to end of proof (protocol.md 6).

statement → witness root → lookup trees, each with its α, β → zero and published tensors at random points → claims level by level →
triples → opening. Counting, proving and verifying call `run_task`; what differs is the channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from protocol.channel import Channel, CountingChannel, Form
from protocol.errors import VerificationError
from protocol.field import U64, Ext, Field
from protocol.layout import CommitmentLayout, TensorLayout, Vectors
from protocol.params import Params
from protocol.relation.graph import WITNESS, Graph, IntArray
from protocol.relation.graph import Committed as CommittedOp
from protocol.schedule.claims import Claim, contract, expand, is_public
from protocol.schedule.constraints import CellTerm, ConstraintSystem
from protocol.schedule.gkr import TreeProver, as_point, prove_fraction_tree
from protocol.schedule.lookups import TREE_BITS, Fingerprint, LeafPlan, leaf_claims, plan_trees
from protocol.schedule.opening import Committed, OpeningProver, prove_opening
from protocol.schedule.products import BatchProver, Instance, prove_products
from protocol.schedule.triples import check_triples

PAD_GRANULE = 256  # pads and products are counted up to a multiple of this, so that their rows pack well


class TaskProver(Protocol):
    """Everything the schedule asks of a prover."""

    tree: TreeProver
    batch: BatchProver
    opening: OpeningProver

    def witness_root(self) -> bytes:
        """Root of the witness commitment."""

    def start_tree(self, number: int, fingerprint: Fingerprint) -> None:
        """α and β are known: build this lookup tree."""

    def claim(self, instance: Instance) -> Ext:
        """The value ⟨⊗weights, tensor⟩ of a product or one-hot tensor."""

    def triples(self, weights: list[Ext]) -> U64:
        """(A(τ), B(τ)), shape (2, 2), from τ's Lagrange weights on the pads' points."""


@dataclass(frozen=True)
class Counts:
    """What a reduction used. `products` are pad indices, the masking pair last; `constraints` also bounds the instances that
    one ρ combines, `batches` is how many ρ there were; `rounds` and `message_bytes` are those between witness root and opening."""

    pads: int
    products: tuple[tuple[int, int], ...]
    constraints: int
    batches: int
    rounds: int
    message_bytes: int

    @staticmethod
    def of(channel: Channel, system: ConstraintSystem, before: int) -> "Counts":
        """`before`: bytes that were sent before the reduction."""
        batches = sum(c.where == "products" for c in system.constraints)
        return Counts(channel.pads, tuple(channel.products), len(system.constraints), batches, channel.rounds, channel.sent - before)


@dataclass(frozen=True, eq=False)
class TaskShape:
    """What a graph needs of its witness commitment; a function of the graph alone. (Tests have smaller trees.)"""

    graph: Graph
    field: Field
    tree_bits: int = TREE_BITS

    @cached_property
    def plans(self) -> tuple[LeafPlan, ...]:
        """The lookup trees."""
        return plan_trees(self.graph, self.tree_bits)

    @cached_property
    def counts(self) -> Counts:
        """By running the reduction without data; a run of the schedule over a proof finds the same (`run_task`)."""
        return self.counts_on(CountingChannel(self.field))

    def counts_on(self, channel: Channel) -> Counts:
        """Those of a channel that has no data."""
        published = {p.name: np.zeros(p.tensor.shape, dtype=np.int64) for p in self.graph.published}
        return Counts.of(channel, _reduce(channel, self, published, None), 0)

    def adopt(self, counts: Counts) -> None:
        """Take the counts from a run of the schedule that has just reduced everything."""
        self.__dict__.setdefault("counts", counts)

    @property
    def pads(self) -> int:
        return -(-self.counts.pads // PAD_GRANULE) * PAD_GRANULE

    @property
    def products(self) -> int:
        """Committed product cells: T, the masking one, and C at T+1…2T."""
        return -(-(2 * len(self.counts.products) - 1) // PAD_GRANULE) * PAD_GRANULE

    @property
    def cells(self) -> dict[str, int]:
        return {"pad": self.pads, "product": self.products}

    def witness_tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the witness commitment, in canonical order."""
        own = [
            (op.tensor_name, tensor.shape)
            for tensor, op in zip(self.graph.tensors, self.graph.ops, strict=True)
            if isinstance(op, CommittedOp) and op.commitment == WITNESS
        ]
        extra = [(name, (size, 2)) for name, size in self.cells.items()]
        return own + [item for plan in self.plans for item in plan.multiplicities()] + extra

    def witness_layout(self, params: Params) -> CommitmentLayout:
        """Opened once, by its own task."""
        return CommitmentLayout.pack(self.witness_tensors(), params.code(1))


def run_task(
    channel: Channel, shape: TaskShape, statement: bytes, commitments: list[Committed], params: Params,
    published: Mapping[str, IntArray], prover: TaskProver | None,
) -> None:
    """Run the schedule. `commitments` are those named by the statement; the witness comes last. Its layout follows from
    the statement, so it is neither sent nor known before the reduction has counted its pads."""
    channel.bind("statement", statement)
    root = channel.clear_bytes("witness/root", 32, lambda: prover.witness_root() if prover else b"")
    before = channel.sent
    system = _reduce(channel, shape, published, prover)
    shape.adopt(Counts.of(channel, system, before))
    every = [*commitments, Committed(WITNESS, shape.witness_layout(params), root)]
    prove_opening(channel, every, system, shape.cells, params.queries, prover.opening if prover else None)


def _reduce(
    channel: Channel, shape: TaskShape, published: Mapping[str, IntArray], prover: TaskProver | None
) -> ConstraintSystem:
    """Everything between the witness root and the opening: all claims become constraints."""
    graph, field = shape.graph, channel.field
    system = ConstraintSystem()
    pending, one, vectors = list[tuple[Instance, Form]](), Form(field.one), Vectors(field)

    def constrain(form: Form, claims: list[Claim], where: str) -> None:
        """form + Σ claims = 0 for any tensors; nonlinear ones get a hidden value."""
        terms, parts = list[CellTerm](), [(field.one, form)]
        for claim in claims:
            expansion = expand(graph, vectors, claim)
            parts.append((expansion.const, one))
            terms += expansion.terms
            for atom in expansion.atoms:
                instance = Instance(graph, field, atom.tensor, atom.weights, atom.box)
                (value,) = channel.secrets("claim", 1, lambda i=instance: [prover.claim(i)] if prover else ())  # type: ignore[misc]
                pending.append((instance, value))
                parts.append((atom.coef, value))
        system.require(Form.combination(field, parts), where, tuple(terms))

    for plan in shape.plans:
        _lookups(channel, plan, system, constrain, vectors, prover)
    for zero in graph.zeros:
        layout = TensorLayout(zero.tensor.shape)
        weights = layout.eq_weights(vectors, channel.point("zero", layout.variables))
        constrain(Form(field.zero), [Claim.everywhere(field.one, zero.tensor, weights)], f"zero {zero.tensor.name}")
    for item in graph.published:
        values = published.get(item.name)
        if values is None or values.shape != item.tensor.shape:
            raise VerificationError("published-shape", item.name, str(item.tensor.shape), str(getattr(values, "shape", None)))
        layout = TensorLayout(item.tensor.shape)
        weights = layout.eq_weights(vectors, channel.point("published", layout.variables))
        public = contract(field, values, weights)
        constrain(Form(-public), [Claim.everywhere(field.one, item.tensor, weights)], f"published {item.name}")

    def public_value(claim: Claim) -> Ext | None:
        return expand(graph, vectors, claim).const if is_public(graph, claim.tensor) else None

    while pending:
        batch, pending = pending, []
        remaining, ends = prove_products(
            channel, vectors, [i for i, _ in batch], [f for _, f in batch], public_value, prover.batch if prover else None
        )
        system.require(remaining, "products")
        for form, claim in ends:
            constrain(form.scale(field.ext(-1)), [claim], f"factor {claim.tensor.name}")
    check_triples(channel, system, lambda weights: prover.triples(weights) if prover else field.zeros(2, 2))
    return system


def _lookups(channel: Channel, plan: LeafPlan, system: ConstraintSystem, constrain, vectors: Vectors, prover) -> None:  # type: ignore[no-untyped-def]
    """One lookup tree and its two leaf constraints."""
    field, fingerprint = channel.field, Fingerprint.draw(channel)
    if prover:
        prover.start_tree(plan.number, fingerprint)
    point, p, q = prove_fraction_tree(channel, system, plan.variables, prover.tree if prover else None)
    multiplicities, p_const, columns, q_const = leaf_claims(vectors, plan, fingerprint, as_point(point))
    system.require(p.scale(field.ext(-1)) + p_const, "lookup numerators", multiplicities)
    constrain(q.scale(field.ext(-1)) + q_const, columns, "lookup denominators")
