"""Claim reduction: Σ_x Π_a w_a(x_a)·T(x) on any tensor of the graph, to committed cells and nonlinear atoms.

Linear operations are their own transpose: a claim's weight vectors are rewritten (docs/protocol.md, "Claims").

    Linear     Σ_i c_i·T_i + const: weights restricted to T_i's axes; axes that T_i lacks contribute Σ w, axes that
               only T_i has get weight 1
    AxisMap    w'(k) = Σ_e [cols_e = k]·vals_e·w(rows_e)
    Gather     w'(k) = Σ_{index(i,j) = k} w_1(i)·w_2(j)
    Public     a constant, evaluated here: nothing of a public tensor is taken from the prover

A claim from one of several lookup trees weighs the cells of a box alone. Where an axis survives an operation, so does the box's side
on it, and sumcheck and sums run over the box; on other axes a claim is on all cells.

Products and one-hot rows are *atoms*: the caller hides their claimed value and proves it in a batch of sumchecks.
"""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import lru_cache
from math import prod

import numpy as np

from protocol.field import I64, U64, Ext, Field
from protocol.layout import Vectors
from protocol.relation.graph import AxisMap, Committed, Gather, Graph, Input, IntArray, Linear, Public, Tensor
from protocol.schedule.constraints import Box, CellTerm, Weights, cells_of, whole


@dataclass(frozen=True, eq=False)
class Claim:
    """coef·⟨⊗weights, tensor⟩, one vector (2, n_a) per axis; outside `box` the weights are zero."""

    coef: Ext
    tensor: Tensor
    weights: Weights
    box: Box

    @staticmethod
    def everywhere(coef: Ext, tensor: Tensor, weights: Weights) -> "Claim":
        return Claim(coef, tensor, weights, whole(tensor.shape))


@dataclass
class Expansion:
    """const + Σ committed terms + Σ atoms."""

    const: Ext
    terms: list[CellTerm] = dataclass_field(default_factory=list)
    atoms: list[Claim] = dataclass_field(default_factory=list)


@lru_cache(maxsize=64)
def ones(field: Field, n: int) -> U64:
    out = field.lift(np.ones(n, dtype=np.uint64))
    out.flags.writeable = False  # tasks share it
    return out


def scatter_sum(field: Field, w: U64, index: I64, size: int) -> U64:
    """out[k] = Σ_{index_e = k} w_e, exact modulo p: 32-bit halves are summed apart."""
    out = field.zeros(2, size)
    for plane in range(2):
        halves = np.zeros((2, size), dtype=np.uint64)
        np.add.at(halves[0], index, w[plane] & np.uint64(2**32 - 1))
        np.add.at(halves[1], index, w[plane] >> np.uint64(32))
        halves %= np.uint64(field.p)
        out[plane] = field.add(halves[0], field.mul(halves[1], np.full(size, 2**32 % field.p, dtype=np.uint64)))
    return out


def contract(field: Field, values: IntArray, weights: Weights) -> Ext:
    """⟨⊗weights, values⟩ for integers (…shape), last axis first."""
    total = field.integer_dot(values, weights[-1]) if weights else field.lift(field.embed(values))
    for w in reversed(weights[:-1]):
        total = field.kdot(total, w)  # plane by plane, so w meets the last axis
    return Ext.from_array(field, total)


def expand(graph: Graph, vectors: Vectors, claim: Claim) -> Expansion:
    """A claim as committed terms, atoms and a constant."""
    field = vectors.field
    out = Expansion(field.zero)
    stack = [claim]
    while stack:
        c = stack.pop()
        op, w = graph.ops[c.tensor.index], c.weights
        if isinstance(op, Input | Committed):
            out.terms.append(CellTerm(c.coef, (op.commitment, op.tensor_name), w, c.box))
        elif isinstance(op, Public):
            inside = cells_of(c.box)
            out.const = out.const + c.coef * contract(field, op.values[inside], tuple(v[:, s] for v, s in zip(w, inside, strict=True)))
        elif isinstance(op, Linear):
            out.const = out.const + _linear(vectors, op, c, stack)
        elif isinstance(op, AxisMap):
            box = (*c.box[: op.axis], (0, op.tensor.shape[op.axis]), *c.box[op.axis + 1 :])
            stack.append(Claim(c.coef, op.tensor, (*w[: op.axis], _mapped(vectors, op, w[op.axis]), *w[op.axis + 1 :]), box))
        elif isinstance(op, Gather):
            pairs = field.kmul(w[0][:, :, None], w[1][:, None, :]).reshape(2, -1)
            pulled = scatter_sum(field, pairs, op.index.reshape(-1), op.tensor.shape[0])
            stack.append(Claim(c.coef, op.tensor, (pulled, *w[2:]), ((0, op.tensor.shape[0]), *c.box[2:])))
        else:
            out.atoms.append(c)
    return out


def _mapped(vectors: Vectors, op: AxisMap, w: U64) -> U64:
    """An axis map's weights on the axis of its tensor; equal maps of one vector, of many heads, are one vector."""
    field, size = vectors.field, op.tensor.shape[op.axis]

    def mapped() -> U64:
        return scatter_sum(field, field.kmulf(np.ascontiguousarray(w[:, op.rows]), field.embed(op.vals)), op.cols, size)

    return vectors.once((id(w), size, op.rows.tobytes(), op.cols.tobytes(), op.vals.tobytes()), mapped, w)


def _linear(vectors: Vectors, op: Linear, claim: Claim, stack: list[Claim]) -> Ext:
    """Push the terms of a linear node; returns its constant's contribution."""
    field, axes = vectors.field, claim.tensor.axes
    by_axis, sides = dict(zip(axes, claim.weights, strict=True)), dict(zip(axes, claim.box, strict=True))
    for term in op.terms:
        own = dict(by_axis)
        for axis, vector in term.vectors:
            own[axis] = field.kmulf(own[axis], field.embed(vector))
        c = prod((vectors.sum(own[axis]) for axis in axes if axis not in term.axes), start=claim.coef * term.coef)
        shape = list(zip(term.axes, term.tensor.shape, strict=True))
        pulled = tuple(own[axis] if axis in own else ones(field, n) for axis, n in shape)
        stack.append(Claim(c, term.tensor, pulled, tuple(sides.get(axis, (0, n)) for axis, n in shape)))
    return prod(map(vectors.sum, claim.weights), start=claim.coef * op.const) if op.const else field.zero


def is_public(graph: Graph, tensor: Tensor) -> bool:
    return isinstance(graph.ops[tensor.index], Public)
