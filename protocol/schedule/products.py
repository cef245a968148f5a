"""Products of tensors: one batched sumcheck for all claims that wait (Thaler 2013; protocol.md 4).

A claim Σ w·Z on Z = einsum(A, B) is Σ_x A'(x)·B'(x) over the axes that A and B share (batch and contracted): A' is A with
its own axes folded by w and the batch weights multiplied in, B' is B with its own axes folded. For a one-hot tensor,
A' = w·H1 and B'(.., i) = Σ_j w_v(i·base + j)·H2(.., j) over (.., i).

A claim on the cells of a box is a sum over the box's sides of the shared axes.

Instances of different sizes run together, weighted by powers of ρ: one of m_c variables lives on the last m_c of the
m = max m_c challenges and contributes (1 − X)·Π(1 − r)·sum in earlier rounds. At the end A'~ and B'~ are sent hidden,
their product is a triple, and each is a claim on its own tensor. If B is public the verifier evaluates it.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

from protocol.channel import Channel, Form, RoundProver
from protocol.field import U64, Ext, Field
from protocol.layout import Vectors, bits_of
from protocol.relation.graph import Graph, OneHot, Product, Tensor
from protocol.schedule.claims import Claim
from protocol.schedule.constraints import Box, Weights
from protocol.schedule.gkr import as_point
from protocol.schedule.sumcheck import sumcheck


@dataclass(frozen=True, eq=False)
class Factor:
    """A or B of a claim: its tensor, the axes as the operation names them, and the box of its cells that take part."""

    tensor: Tensor
    axes: str
    box: Box


@dataclass(frozen=True, eq=False)
class Instance:
    """A claim ⟨⊗weights, tensor⟩ on a product or one-hot tensor, whose weights are zero outside `box`."""

    graph: Graph
    field: Field
    tensor: Tensor
    weights: Weights
    box: Box

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
    def sides(self) -> dict[str, tuple[int, int]]:
        """The box's side on each axis that the tensor has in common with a factor."""
        sides = zip(self.tensor.axes, self.box, strict=True)
        return dict(list(sides)[:-1] if isinstance(self.op, OneHot) else sides)

    @cached_property
    def factors(self) -> tuple[Factor, Factor]:
        op = self.op
        if isinstance(op, OneHot):
            return self._factor(op.high, op.high.axes), self._factor(op.low, op.low.axes)
        return self._factor(op.a, op.a_axes), self._factor(op.b, op.b_axes)

    def _factor(self, tensor: Tensor, axes: str) -> Factor:
        return Factor(tensor, axes, tuple(self.sides.get(x, (0, n)) for x, n in zip(axes, tensor.shape, strict=True)))

    @cached_property
    def shared(self) -> tuple[tuple[str, int, tuple[int, int]], ...]:
        """(axis, its length, the side that is summed over) of the sumcheck's axes, in order."""
        a, b = self.factors
        every = isinstance(self.op, OneHot)
        return tuple((x, n, side) for x, n, side in zip(a.axes, a.tensor.shape, a.box, strict=True) if every or x in b.axes)

    @cached_property
    def variables(self) -> int:
        return sum(bits_of(stop - start) for _, _, (start, stop) in self.shared)

    @property
    def digit_matrix(self) -> U64:
        """One-hot only: w_v as (2, i, j), zero beyond the vocabulary. Made anew each time: it is as long as the vocabulary."""
        high, low = (factor.tensor for factor in self.factors)
        base = low.shape[-1]
        padded = self.field.zeros(2, high.shape[-1] * base)
        padded[:, : self.tensor.shape[-1]] = self.weights[-1]
        return padded.reshape(2, high.shape[-1], base)

    def ends(self, point: U64, vectors: Vectors) -> list[Claim]:
        """The claims A'~(point) and B'~(point) on the two factors."""
        weights = self._end_weights(point, vectors)
        return [Claim(self.field.one, factor.tensor, w, factor.box) for factor, w in zip(self.factors, weights, strict=True)]

    def _end_weights(self, point: U64, vectors: Vectors) -> tuple[Weights, Weights]:
        eq, at = dict[str, U64](), 0
        for axis, n, (start, stop) in self.shared:
            k = bits_of(stop - start)
            eq[axis], at = vectors.eq(point[:, at : at + k], n, (start, stop)), at + k
        op, times = self.op, vectors.times
        if isinstance(op, OneHot):
            batch = op.high.axes[:-1]
            digit = eq[op.high.axes[-1]]
            last = self.field.ksum(self.field.kmul(self.digit_matrix.transpose(0, 2, 1), digit[:, None, :]))
            high = (*(times(self.by_axis[x], eq[x]) for x in batch), digit)
            return high, (*(eq[x] for x in batch), last)
        a = tuple((times(self.by_axis[x], eq[x]) if x in self.by_axis else eq[x]) if x in eq else self.by_axis[x] for x in op.a_axes)
        return a, tuple(eq[x] if x in eq else self.by_axis[x] for x in op.b_axes)


class BatchProver(RoundProver, Protocol):
    """The prover's side of one batch."""

    def begin(self, instances: list[Instance], coefs: list[Ext]) -> None:
        """Start the sumcheck of Σ coefs_i·(instance i)."""

    def ends(self) -> list[tuple[Ext, Ext]]:
        """(A'~, B'~) of every instance at the bound point."""


def prove_products(
    channel: Channel, vectors: Vectors, instances: list[Instance], claims: list[Form], public: "PublicEvaluator",
    prover: BatchProver | None,
) -> tuple[Form, list[tuple[Form, Claim]]]:
    """Returns the form that must vanish, and the forms that equal claims on the factors."""
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
    out, parts = list[tuple[Form, Claim]](), [(field.one, claim)]
    for index, (instance, coef) in enumerate(zip(instances, coefs, strict=True)):
        free = variables - instance.variables
        coef = prod((1 - r for r in point[:free]), start=coef)
        a, b = instance.ends(as_point(point[free:]), vectors)
        known = public(b)
        count = 1 if known is not None else 2
        sent = channel.secrets("products/ends", count, lambda i=index, k=count: ends[i][:k])  # type: ignore[misc]
        out.append((sent[0], a))
        if known is not None:
            parts.append((-(coef * known), sent[0]))
        else:
            out.append((sent[1], b))
            parts.append((-coef, channel.multiply(sent[0], sent[1])))
    return Form.combination(field, parts), out


class PublicEvaluator(Protocol):
    def __call__(self, claim: Claim) -> Ext | None:
        """The value of a claim on a public tensor; None if the tensor is not public."""
