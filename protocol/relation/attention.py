"""Causal attention between the projections, forward and backward (arithmetic.md, sections 2, 3).

    q, k = rescale(RoPE(Z_q)), rescale(RoPE(Z_k)), 1/√head_dim folded into q's table;  v = rescale(Z_v)
    P = softmax(q·kᵀ, causal),  O = rescale(P·v)
    dS = rescale(P∘(dO·vᵀ − rowsum(dO∘O))),  dv = rescale(Pᵀ·dO),  dZ_q = rescale(RoPEᵀ(dS·k)),  dZ_k alike from dSᵀ·q

With q/k norm RoPE turns γ_q∘x̂, x̂ = RMSNorm over head_dim of y = rescale(Z_q); its gradient is committed as q_norm.dy, then
q_norm.dx = rescale(γ_q∘dy), and RMSNorm's backward pass gives dZ_q; k alike. Exponents: q_proj.y, those of the norm "q_norm",
q_norm.dy. y (24 bits) also stands between Z and RoPE where weights have scales by row, whose bits RoPE has no room for.

The square of scores [s,b,g,q,t,u] is cut into bands of BAND queries, each with the keys up to its last query; inside a band the public
mask [t,u] is 1 for u ≤ t. What queries of all bands or keys of several add up to is the sum of the bands' parts, each placed on the
whole axis. RoPE acts on the exact accumulators: Z∘cos + M·Z∘sin with M the rotate-half matrix on axis j. dk and dv sum over the
query heads of a group (GQA).
"""

from dataclasses import dataclass

import numpy as np

from protocol.relation.context import Context, Fixed
from protocol.relation.graph import IntArray, Tensor
from protocol.relation.norm import Norm, norm_backward, norm_forward
from protocol.relation.softmax import softmax
from protocol.rope import ROPE_BITS, query_bits, query_tables, rope_tables

BAND = 256  # queries; longer sequences have (1 + 1/bands)/2 of the square's cells


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
class Band:
    """Queries [start, stop) and keys [0, stop): cut from q, k, v, with their probabilities. `suffix` tells its tensors from others'."""

    start: int
    stop: int
    suffix: str
    q: Fixed
    k: Fixed
    v: Fixed
    p: Fixed


@dataclass(frozen=True)
class Attention:
    q: Turned
    k: Turned
    v: Fixed
    bands: tuple[Band, ...]
    out: Fixed


def _cut(c: Context, name: str, x: Fixed, start: int, stop: int) -> Fixed:
    """Positions [start, stop) of axis t."""
    length = x.t.shape[x.t.axes.index("t")]
    if stop - start == length:
        return x
    taken = np.arange(start, stop)
    return Fixed(c.g.axis_map(name, x.t, "t", stop - start, np.arange(stop - start), taken), x.f)


def _place(c: Context, name: str, x: Fixed, start: int) -> Fixed:
    """On the whole axis t, from position `start`, 0 elsewhere."""
    count, length = x.t.shape[x.t.axes.index("t")], c.m.sequence_length
    if count == length:
        return x
    return Fixed(c.g.axis_map(name, x.t, "t", length, np.arange(start, start + count), np.arange(count)), x.f)


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
    bands, mixed = list[Band](), list[Fixed]()
    for start in range(0, length, BAND):
        stop = min(start + BAND, length)
        suffix = f"@{start}" if length > BAND else ""
        queries = _cut(c, f"q{suffix}", q.x, start, stop)
        keys, values = (_cut(c, f"{name}{suffix}", x, 0, stop) for name, x in (("k", k.x), ("v", v)))
        mask = c.g.public(f"causal{suffix}", "tu", np.tri(stop - start, stop, start, dtype=np.int64))
        scores = c.product(f"scores{suffix}", "sbtgqj,sbugj->sbgqtu", queries, keys)
        p, _ = softmax(c, f"attn{suffix}", scores, c.m.widths["probability"], c.exponent("attn.g"), mask)
        bands.append(Band(start, stop, suffix, queries, keys, values, p))
        part = c.product(f"Pv{suffix}", "sbgqtu,sbugj->sbtgqj", p, values)
        mixed.append(_place(c, f"Pv.placed{suffix}", part, start))
    return Attention(q, k, v, tuple(bands), c.rounded("O", "sbtgqj", mixed, "activation", to=v.f))


def attention_backward(
    c: Context, att: Attention, d_out: Fixed, need_q: bool, need_k: bool, need_v: bool
) -> tuple[Fixed | None, Fixed | None, Fixed | None]:
    """Committed gradients of Z_q [s,b,t,g,q,j], Z_k and Z_v [s,b,t,g,j]; None where not needed."""
    of_q, of_k, of_v = list[Fixed](), list[Fixed](), list[Fixed]()  # what each band adds
    row = c.product("dO_O", "sbtgqj,sbtgqj->sbgqt", d_out, att.out) if need_q or need_k else None
    for band in att.bands:
        suffix, side = band.suffix, (band.start, band.stop)
        d_band = _cut(c, f"dO{suffix}", d_out, *side)
        if row is not None:
            d_p = c.product(f"dP{suffix}", "sbtgqj,sbugj->sbgqtu", d_band, band.v)
            mean = _cut(c, f"dO_O{suffix}", row, *side)
            centred = Fixed(c.g.linear(f"dP.centred{suffix}", "sbgqtu", (1, d_p.t), (-1, mean.t)), d_p.f)
            exact = c.product(f"P_dP{suffix}", "sbgqtu,sbgqtu->sbgqtu", band.p, centred)
            ds = c.rounded(f"dS{suffix}", "sbgqtu", [exact], "gradient", to=c.exponent("dS"))
            if need_q:
                part = c.product(f"dS_k{suffix}", "sbgqtu,sbugj->sbtgqj", ds, band.k)
                of_q.append(_place(c, f"dS_k.placed{suffix}", part, band.start))
            if need_k:
                # The key's own position is u in dS; named t here, because dk is indexed like k.
                part = c.product(f"dS_q{suffix}", "sbgqut,sbugqj->sbtgj", ds, band.q)
                of_k.append(_place(c, f"dS_q.placed{suffix}", part, 0))
        if need_v:
            part = c.product(f"P_dO{suffix}", "sbgqut,sbugqj->sbtgj", band.p, d_band)
            of_v.append(_place(c, f"P_dO.placed{suffix}", part, 0))
    dq = _turn_backward(c, "q", att.q, c.add("dS_k.sum", "sbtgqj", *of_q)) if of_q else None
    dk = _turn_backward(c, "k", att.k, c.add("dS_q.sum", "sbtgj", *of_k)) if of_k else None
    return dq, dk, c.rounded("dv", "sbtgj", of_v, "gradient") if of_v else None
