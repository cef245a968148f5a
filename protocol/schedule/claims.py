"""Claim reduction: Σ_x Π_a w_a(x_a)·T(x) on any tensor of the graph, to committed cells and nonlinear atoms.

Linear operations are their own transpose: a claim's weight vectors are rewritten (docs/protocol.md, "Claims").

    Linear     Σ_i c_i·T_i + const: weights restricted to T_i's axes; axes that T_i lacks contribute Σ w, axes that
               only T_i has get weight 1
    AxisMap    w'(k) = Σ_e [cols_e = k]·vals_e·w(rows_e)
    Gather     w'(k) = Σ_{index(i,j) = k} w_1(i)·w_2(j)
    Public     a constant, evaluated here: nothing of a public tensor is taken from the prover; once for each choice of vectors

Products and one-hot rows are *atoms*: the caller hides their claimed value and proves it in a batch of sumchecks.
"""

from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np

from protocol.field import I64, U64, Ext, Field
from protocol.relation.graph import AxisMap, Committed, Gather, Graph, Input, IntArray, Linear, Public, Tensor
from protocol.schedule.constraints import CellTerm, Weights


@dataclass
class Expansion:
    """const + Σ committed terms + Σ coef·⟨weights, atom⟩."""

    const: Ext
    terms: list[CellTerm] = dataclass_field(default_factory=list)
    atoms: list[tuple[Ext, Tensor, Weights]] = dataclass_field(default_factory=list)


def ones(field: Field, n: int) -> U64:
    return field.lift(np.ones(n, dtype=np.uint64))


def vector_sum(field: Field, w: U64) -> Ext:
    return Ext.from_array(field, field.ksum(w))


def scatter_sum(field: Field, w: U64, index: I64, size: int) -> U64:
    """out[k] = Σ_{index_e = k} w_e, exact modulo p: 32-bit halves are summed apart."""
    out = field.zeros(2, size)
    mask, shift = np.uint64(2**32 - 1), np.uint64(32)
    for plane in range(2):
        halves = np.zeros((2, size), dtype=np.uint64)
        np.add.at(halves[0], index, w[plane] & mask)
        np.add.at(halves[1], index, w[plane] >> shift)
        halves %= np.uint64(field.p)
        out[plane] = field.add(halves[0], field.mul(halves[1], np.full(size, 2**32 % field.p, dtype=np.uint64)))
    return out


def integer_dot(field: Field, values: IntArray, w: U64) -> U64:
    """Σ over the last axis of integers (…, n) times one vector (2, n) over K: (2, …). The vector's 32-bit halves meet the values in
    64-bit integers, in pieces so short that no sum reaches 2^63: a tenth of the time that as many products in F take."""
    largest = max(int(values.max()), -int(values.min()))
    if largest >> 31:
        high, low = integer_dot(field, values >> 31, w), integer_dot(field, values & (1 << 31) - 1, w)
        return field.add(field.mul(high, np.asarray(np.uint64(1 << 31))), low)
    n = values.shape[-1]
    piece = min(n, (1 << 31) // (largest + 1))
    pieces = n // piece
    whole = pieces * piece
    halves = np.stack([w & np.uint64((1 << 32) - 1), w >> np.uint64(32)]).astype(np.int64)[..., :whole].reshape(2, 2, pieces, piece)
    sums = np.einsum("...cn,hkcn->hk...c", values[..., :whole].reshape(*values.shape[:-1], pieces, piece), halves)
    low, high = field.sum(field.embed(sums))
    total = field.add(low, field.mul(high, np.asarray(np.uint64(1 << 32))))
    return total if whole == n else field.add(total, integer_dot(field, values[..., whole:], w[:, whole:]))


def contract(field: Field, values: IntArray, weights: Weights) -> Ext:
    """⟨⊗weights, values⟩ for integers (…shape), last axis first."""
    total = integer_dot(field, values, weights[-1]) if weights else field.lift(field.embed(values))
    for w in reversed(weights[:-1]):
        total = field.kdot(total, w)  # plane by plane, so w meets the last axis
    return Ext.from_array(field, total)


@dataclass(frozen=True, eq=False)
class PublicValues:
    """Claims on public tensors, each evaluated once: the lookups of a tree, and the products of a batch, meet the causal mask and RoPE's
    tables under the same vectors. A vector is known by its identity, and kept, so that no other one can get it."""

    field: Field
    found: dict[tuple[int, ...], tuple[Weights, Ext]] = dataclass_field(default_factory=dict)

    def at(self, tensor: Tensor, values: IntArray, weights: Weights) -> Ext:
        key = (tensor.index, *map(id, weights))
        if key not in self.found:
            self.found[key] = weights, contract(self.field, values, weights)
        return self.found[key][1]


def expand(graph: Graph, known: PublicValues, tensor: Tensor, weights: Weights, coef: Ext) -> Expansion:
    """coef·⟨⊗weights, tensor⟩ as committed terms, atoms and a constant."""
    field = known.field
    out = Expansion(field.zero)
    stack: list[tuple[Ext, Tensor, Weights]] = [(coef, tensor, weights)]
    while stack:
        c, t, w = stack.pop()
        op = graph.ops[t.index]
        if isinstance(op, Input | Committed):
            out.terms.append(CellTerm(c, (op.commitment, op.tensor_name), w))
        elif isinstance(op, Public):
            out.const = out.const + c * known.at(t, op.values, w)
        elif isinstance(op, Linear):
            out.const = out.const + _linear(field, op, t, w, c, stack)
        elif isinstance(op, AxisMap):
            moved = field.kmulf(np.ascontiguousarray(w[op.axis][:, op.rows]), field.embed(op.vals))
            pulled = scatter_sum(field, moved, op.cols, op.tensor.shape[op.axis])
            stack.append((c, op.tensor, (*w[: op.axis], pulled, *w[op.axis + 1 :])))
        elif isinstance(op, Gather):
            pairs = field.kmul(w[0][:, :, None], w[1][:, None, :]).reshape(2, -1)
            pulled = scatter_sum(field, pairs, op.index.reshape(-1), op.tensor.shape[0])
            stack.append((c, op.tensor, (pulled, *w[2:])))
        else:
            out.atoms.append((c, t, w))
    return out


def _linear(
    field: Field, op: Linear, t: Tensor, weights: Weights, coef: Ext, stack: list[tuple[Ext, Tensor, Weights]]
) -> Ext:
    """Push the terms of a linear node; returns its constant's contribution."""
    by_axis = dict(zip(t.axes, weights, strict=True))
    for term in op.terms:
        own = dict(by_axis)
        for axis, vector in term.vectors:
            own[axis] = field.kmulf(own[axis], field.embed(vector))
        c = coef * term.coef
        for axis in t.axes:
            if axis not in term.axes:
                c = c * vector_sum(field, own[axis])
        pulled = tuple(
            own[axis] if axis in own else ones(field, n)
            for axis, n in zip(term.axes, term.tensor.shape, strict=True)
        )
        stack.append((c, term.tensor, pulled))
    if not op.const:
        return field.zero
    total = coef * op.const
    for w in weights:
        total = total * vector_sum(field, w)
    return total


def is_public(graph: Graph, tensor: Tensor) -> bool:
    return isinstance(graph.ops[tensor.index], Public)
