"""Products of tensors: one batched sumcheck for all claims that wait (Thaler 2013; protocol.md 4).

A claim Σ w·Z on Z = einsum(A, B) is Σ_x A'(x)·B'(x) over the axes that A and B share (batch and contracted): A' is A with
its own axes folded by w and the batch weights multiplied in, B' is B with its own axes folded. For a one-hot tensor,
A' = w·H1 and B'(.., i) = Σ_j w_v(i·base + j)·H2(.., j) over (.., i).

Instances of different sizes run together, weighted by powers of ρ: one of m_c variables lives on the last m_c of the
m = max m_c challenges and contributes (1 − X)·Π(1 − r)·sum in earlier rounds. At the end A'~ and B'~ are sent hidden,
their product is a triple, and each is a claim on its own tensor. If B is public the verifier evaluates it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from protocol.channel import Channel, Form
from protocol.field import U64, Ext, Field
from protocol.layout import bits_of
from protocol.relation.graph import Graph, OneHot, Product, Tensor
from protocol.schedule.constraints import Weights
from protocol.schedule.gkr import as_point
from protocol.schedule.sumcheck import RoundProver, sumcheck


@dataclass(frozen=True, eq=False)
class Instance:
    """A claim ⟨⊗weights, tensor⟩ on a product or one-hot tensor."""

    graph: Graph
    field: Field
    tensor: Tensor
    weights: Weights

    @cached_property
    def op(self) -> Product | OneHot:
        op = self.graph.ops[self.tensor.index]
        if not isinstance(op, Product | OneHot):
            raise TypeError(f"{self.tensor.name} is not a product")
        return op

    @cached_property
    def by_axis(self) -> dict[str, U64]:
        return dict(zip(self.tensor.axes, self.weights, strict=True))

    @cached_property
    def shared(self) -> tuple[tuple[str, int], ...]:
        """(axis, length) of the sumcheck's axes, in order."""
        op = self.op
        if isinstance(op, OneHot):
            return tuple(zip(op.high.axes, op.high.shape, strict=True))
        pairs = zip(op.a_axes, op.a.shape, strict=True)
        return tuple((axis, n) for axis, n in pairs if axis in op.b_axes)

    @cached_property
    def variables(self) -> int:
        return sum(bits_of(n) for _, n in self.shared)

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        op = self.op
        return (op.high, op.low) if isinstance(op, OneHot) else (op.a, op.b)

    @cached_property
    def digit_matrix(self) -> U64:
        """One-hot only: w_v as (2, i, j), zero beyond the vocabulary."""
        high, low = self.factors
        base = low.shape[-1]
        padded = self.field.zeros(2, high.shape[-1] * base)
        padded[:, : self.tensor.shape[-1]] = self.weights[-1]
        return padded.reshape(2, high.shape[-1], base)

    def end_weights(self, point: U64, memo: dict[tuple[int, ...], list[U64]]) -> tuple[Weights, Weights]:
        """Weights of the claims A'~(point) and B'~(point) on the two factors; `memo` keeps eq by shared lengths."""
        lengths = tuple(n for _, n in self.shared)
        if lengths not in memo:
            memo[lengths], at = [], 0
            for n in lengths:
                k = bits_of(n)
                memo[lengths].append(np.ascontiguousarray(self.field.eq_table(point[:, at : at + k])[:, :n]))
                at += k
        eq = {axis: table for (axis, _), table in zip(self.shared, memo[lengths], strict=True)}
        op, kmul = self.op, self.field.kmul
        if isinstance(op, OneHot):
            batch = op.high.axes[:-1]
            digit = eq[op.high.axes[-1]]
            last = self.field.ksum(kmul(self.digit_matrix.transpose(0, 2, 1), digit[:, None, :]))
            high = (*(kmul(self.by_axis[x], eq[x]) for x in batch), digit)
            return high, (*(eq[x] for x in batch), last)
        a = tuple(
            (kmul(self.by_axis[x], eq[x]) if x in self.by_axis else eq[x]) if x in eq else self.by_axis[x]
            for x in op.a_axes
        )
        return a, tuple(eq[x] if x in eq else self.by_axis[x] for x in op.b_axes)


class BatchProver(RoundProver, Protocol):
    """The prover's side of one batch."""

    def begin(self, instances: list[Instance], coefs: list[Ext]) -> None:
        """Start the sumcheck of Σ coefs_i·(instance i)."""

    def ends(self) -> list[tuple[Ext, Ext]]:
        """(A'~, B'~) of every instance at the bound point."""


@dataclass(frozen=True, eq=False)
class EndClaim:
    """form = ⟨⊗weights, tensor⟩, to be expanded and constrained by the caller."""

    form: Form
    tensor: Tensor
    weights: Weights


def prove_products(
    channel: Channel, instances: list[Instance], claims: list[Form], public: "PublicEvaluator", prover: BatchProver | None
) -> tuple[Form, list[EndClaim]]:
    """Returns the form that must vanish and the claims on the factors."""
    field = channel.field
    rho = channel.challenge("products/rho")
    coefs, power = [], field.one
    for _ in instances:
        coefs.append(power)
        power = power * rho
    total = Form.combination(field, list(zip(coefs, claims, strict=True)))
    if prover:
        prover.begin(instances, coefs)
    variables = max(i.variables for i in instances)
    point, claim = sumcheck(channel, "products/round", total, variables, prover)
    ends = prover.ends() if prover else []
    out, parts = list[EndClaim](), [(field.one, claim)]
    memo: dict[tuple[int, ...], list[U64]] = {}  # equal lengths have equal points: the last challenges
    for index, (instance, coef) in enumerate(zip(instances, coefs, strict=True)):
        free = variables - instance.variables
        for r in point[:free]:
            coef = coef * (1 - r)
        a_weights, b_weights = instance.end_weights(as_point(point[free:]), memo)
        a_tensor, b_tensor = instance.factors
        known = public(b_tensor, b_weights)
        count = 1 if known is not None else 2
        sent = channel.secrets("products/ends", count, lambda i=index, k=count: ends[i][:k])  # type: ignore[misc]
        out.append(EndClaim(sent[0], a_tensor, a_weights))
        if known is not None:
            parts.append((-(coef * known), sent[0]))
        else:
            out.append(EndClaim(sent[1], b_tensor, b_weights))
            parts.append((-coef, channel.multiply(sent[0], sent[1])))
    return Form.combination(field, parts), out


class PublicEvaluator(Protocol):
    def __call__(self, tensor: Tensor, weights: Weights) -> Ext | None:
        """The value of a public tensor under these weights; None if the tensor is not public."""
