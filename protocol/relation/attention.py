"""Causal attention between the projections, forward and backward (arithmetic.md, sections 2, 3).

    q, k = rescale(RoPE(Z_q)), rescale(RoPE(Z_k)), 1/√head_dim folded into q's table;  v = rescale(Z_v)
    P = softmax(q·kᵀ, causal),  O = rescale(P·v)
    dS = rescale(P∘(dO·vᵀ − rowsum(dO∘O))),  dv = rescale(Pᵀ·dO),  dZ_q = rescale(RoPEᵀ(dS·k)),  dZ_k alike from dSᵀ·q

The score square [s,b,g,q,t,u] is full; the public mask [t,u] is 1 for u ≤ t. RoPE acts on the exact accumulators:
Z∘cos + M·Z∘sin with M the rotate-half matrix on axis j. dk and dv sum over the query heads of a group (GQA).
"""

from dataclasses import dataclass

import numpy as np

from protocol.relation.context import Context, Fixed
from protocol.relation.graph import IntArray, Tensor
from protocol.relation.softmax import softmax
from protocol.rope import ROPE_BITS, query_bits, query_tables, rope_tables


@dataclass(frozen=True)
class Rope:
    """Public cos and sin [t, j] with f fractional bits."""

    cos: Tensor
    sin: Tensor
    f: int


@dataclass(frozen=True)
class Attention:
    q: Fixed
    k: Fixed
    v: Fixed
    p: Fixed
    out: Fixed
    rope_q: Rope
    rope_k: Rope


def _rotate(c: Context, name: str, x: Tensor, transpose: bool) -> Tensor:
    """rotate_half on axis j: out[j] = −x[j + h/2] for j < h/2, x[j − h/2] otherwise; its transpose on demand."""
    n = x.shape[-1]
    rows = np.arange(n)
    signs = np.where(rows < n // 2, -1, 1)
    cols = (rows + n // 2) % n
    if transpose:
        rows, cols = cols, rows
    return c.g.axis_map(name, x, "j", n, rows, cols, signs)


def _rope(c: Context, name: str, z: Fixed, rope: Rope) -> Fixed:
    axes = z.t.axes
    turned = _rotate(c, f"{name}.turned", z.t, transpose=False)
    cos = c.g.product(f"{name}.cos", f"{axes},tj->{axes}", z.t, rope.cos)
    sin = c.g.product(f"{name}.sin", f"{axes},tj->{axes}", turned, rope.sin)
    return Fixed(c.g.linear(f"{name}.rope", axes, (1, cos), (1, sin)), z.f + rope.f)


def _rope_backward(c: Context, name: str, dz: Fixed, rope: Rope) -> Fixed:
    axes = dz.t.axes
    cos = c.g.product(f"{name}.cos", f"{axes},tj->{axes}", dz.t, rope.cos)
    sin = c.g.product(f"{name}.sin", f"{axes},tj->{axes}", dz.t, rope.sin)
    turned = _rotate(c, f"{name}.turned", sin, transpose=True)
    return Fixed(c.g.linear(f"{name}.rope", axes, (1, cos), (1, turned)), dz.f + rope.f)


def _public(c: Context, name: str, tables: tuple[IntArray, IntArray], f: int) -> Rope:
    return Rope(c.g.public(f"{name}.cos_table", "tj", tables[0]), c.g.public(f"{name}.sin_table", "tj", tables[1]), f)


def attention(c: Context, zq: list[Fixed], zk: list[Fixed], zv: list[Fixed]) -> Attention:
    """From the summands of the three projections to O [s,b,t,g,q,j]."""
    model, length = c.m.model, c.m.sequence_length
    rope_q = _public(c, "q", query_tables(model.head_dim, model.theta, length), query_bits(model.head_dim))
    rope_k = _public(c, "k", rope_tables(model.head_dim, model.theta, length), ROPE_BITS)
    q = c.rounded("q", "sbtgqj", [_rope(c, "q", c.add("q.sum", "sbtgqj", *zq), rope_q)], "activation")
    k = c.rounded("k", "sbtgj", [_rope(c, "k", c.add("k.sum", "sbtgj", *zk), rope_k)], "activation")
    v = c.rounded("v", "sbtgj", zv, "activation")
    mask = c.g.public("causal", "tu", np.tri(length, dtype=np.int64))
    scores = c.product("scores", "sbtgqj,sbugj->sbgqtu", q, k)
    p, _, _ = softmax(c, "attn", scores, c.m.widths["probability"], mask)
    mixed = c.product("Pv", "sbgqtu,sbugj->sbtgqj", p, v)
    return Attention(q, k, v, p, c.rounded("O", "sbtgqj", [mixed], "activation", to=v.f), rope_q, rope_k)


def attention_backward(
    c: Context, att: Attention, d_out: Fixed, need_q: bool, need_k: bool, need_v: bool
) -> tuple[Fixed | None, Fixed | None, Fixed | None]:
    """Committed gradients of Z_q [s,b,t,g,q,j], Z_k and Z_v [s,b,t,g,j]; None where not needed."""
    dq = dk = dv = None
    if need_q or need_k:
        d_p = c.product("dP", "sbtgqj,sbugj->sbgqtu", d_out, att.v)
        row = c.product("dO_O", "sbtgqj,sbtgqj->sbgqt", d_out, att.out)
        centred = Fixed(c.g.linear("dP.centred", "sbgqtu", (1, d_p.t), (-1, row.t)), d_p.f)
        ds = c.rounded("dS", "sbgqtu", [c.product("P_dP", "sbgqtu,sbgqtu->sbgqtu", att.p, centred)], "gradient")
        if need_q:
            dq_exact = c.product("dS_k", "sbgqtu,sbugj->sbtgqj", ds, att.k)
            dq = c.rounded("dq", "sbtgqj", [_rope_backward(c, "dq", dq_exact, att.rope_q)], "gradient")
        if need_k:
            # The key's own position is u in dS; named t here, because dk is indexed like k.
            dk_exact = c.product("dS_q", "sbgqut,sbugqj->sbtgj", ds, att.q)
            dk = c.rounded("dk", "sbtgj", [_rope_backward(c, "dk", dk_exact, att.rope_k)], "gradient")
    if need_v:
        dv = c.rounded("dv", "sbtgj", [c.product("P_dO", "sbgqut,sbugqj->sbtgj", att.p, d_out)], "gradient")
    return dq, dk, dv
