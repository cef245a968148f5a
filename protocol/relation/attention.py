"""Causal attention between the projections, forward and backward (arithmetic.md, sections 2, 3).

    q, k = rescale(RoPE(Z_q)), rescale(RoPE(Z_k)), 1/√head_dim folded into q's table;  v = rescale(Z_v)
    P = softmax(q·kᵀ, causal),  O = rescale(P·v)
    dS = rescale(P∘(dO·vᵀ − rowsum(dO∘O))),  dv = rescale(Pᵀ·dO),  dZ_q = rescale(RoPEᵀ(dS·k)),  dZ_k alike from dSᵀ·q

With q/k norm RoPE turns γ_q∘x̂, x̂ = RMSNorm over head_dim of y = rescale(Z_q); its gradient is committed as q_norm.dy, then
q_norm.dx = rescale(γ_q∘dy), and RMSNorm's backward pass gives dZ_q; k alike. Exponents: q_proj.y, those of the norm "q_norm",
q_norm.dy. y (24 bits) also stands between Z and RoPE where weights have scales by row, whose bits RoPE has no room for.

The score square [s,b,g,q,t,u] is full; the public mask [t,u] is 1 for u ≤ t. RoPE acts on the exact accumulators:
Z∘cos + M·Z∘sin with M the rotate-half matrix on axis j. dk and dv sum over the query heads of a group (GQA).
"""

from dataclasses import dataclass

import numpy as np

from protocol.relation.context import Context, Fixed
from protocol.relation.graph import IntArray, Tensor
from protocol.relation.norm import Norm, norm_backward, norm_forward
from protocol.relation.softmax import softmax
from protocol.rope import ROPE_BITS, query_bits, query_tables, rope_tables


@dataclass(frozen=True)
class Rope:
    """Public cos and sin [t, j] with f fractional bits."""

    cos: Tensor
    sin: Tensor
    f: int


@dataclass(frozen=True)
class Turned:
    """q or k after RoPE, committed as `x`; with q/k norm the norm before it and γ [j]."""

    x: Fixed
    rope: Rope
    norm: Norm | None
    gamma: Fixed | None


@dataclass(frozen=True)
class Attention:
    q: Turned
    k: Turned
    v: Fixed
    p: Fixed
    out: Fixed


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


def _turn(c: Context, name: str, axes: str, z: list[Fixed], rope: Rope, gamma: Fixed | None) -> Turned:
    norm = None
    if gamma is None and c.m.weight_scales == "tensor":
        y = c.add(f"{name}.sum", axes, *z)
    else:
        y = c.rounded(f"{name}_proj.y", axes, z, "residual")
    if gamma is not None:
        norm = norm_forward(c, f"{name}_norm", y)
        y = c.product(f"{name}_norm.gamma", f"{axes},j->{axes}", norm.out, gamma)
    return Turned(c.rounded(name, axes, [_rope(c, name, y, rope)], "activation"), rope, norm, gamma)


def _turn_backward(c: Context, name: str, of: Turned, exact: Fixed) -> Fixed:
    """The gradient of Z, committed as dq or dk."""
    axes, turned = exact.t.axes, _rope_backward(c, f"d{name}", exact, of.rope)
    if of.norm is None or of.gamma is None:
        return c.rounded(f"d{name}", axes, [turned], "gradient")
    dy = c.rounded(f"{name}_norm.dy", axes, [turned], "gradient")
    scaled = c.product(f"{name}_norm.dy_gamma", f"{axes},j->{axes}", dy, of.gamma)
    dx = c.rounded(f"{name}_norm.dx", axes, [scaled], "gradient")
    return norm_backward(c, f"{name}_norm", of.norm, dx, None, f"d{name}", c.exponent(f"d{name}"))


def attention(
    c: Context, zq: list[Fixed], zk: list[Fixed], zv: list[Fixed], gamma_q: Fixed | None, gamma_k: Fixed | None
) -> Attention:
    """From the summands of the three projections to O [s,b,t,g,q,j]."""
    model, length = c.m.model, c.m.sequence_length
    rope_q = _public(c, "q", query_tables(model.head_dim, model.theta, length, model.scaling), query_bits(model.head_dim))
    rope_k = _public(c, "k", rope_tables(model.head_dim, model.theta, length, model.scaling), ROPE_BITS)
    q = _turn(c, "q", "sbtgqj", zq, rope_q, gamma_q)
    k = _turn(c, "k", "sbtgj", zk, rope_k, gamma_k)
    v = c.rounded("v", "sbtgj", zv, "activation")
    mask = c.g.public("causal", "tu", np.tri(length, dtype=np.int64))
    scores = c.product("scores", "sbtgqj,sbugj->sbgqtu", q.x, k.x)
    p, _, _ = softmax(c, "attn", scores, c.m.widths["probability"], mask)
    mixed = c.product("Pv", "sbgqtu,sbugj->sbtgqj", p, v)
    return Attention(q, k, v, p, c.rounded("O", "sbtgqj", [mixed], "activation", to=v.f))


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
            dq = _turn_backward(c, "q", att.q, c.product("dS_k", "sbgqtu,sbugj->sbtgqj", ds, att.k.x))
        if need_k:
            # The key's own position is u in dS; named t here, because dk is indexed like k.
            dk = _turn_backward(c, "k", att.k, c.product("dS_q", "sbgqut,sbugqj->sbtgj", ds, att.q.x))
    if need_v:
        dv = c.rounded("dv", "sbtgj", [c.product("P_dO", "sbgqut,sbugqj->sbtgj", att.p, d_out)], "gradient")
    return dq, dk, dv
