"""Softmax of a row without division or maximum (arithmetic.md, sections 1, 2), for attention and for the vocabulary.

    S = rescale(scores) with g fractional bits;  z = min{z : Σ_j T[z − S_j] ≤ K};  x_j = z − S_j;  P_j = T[x_j]
    T[x] = round(2^fP·exp(−x·2^−g)),  K = ⌊2^fP·exp(2^−(g+1))⌋,  certificate Σ T[x_j] ≤ K < Σ T[x_j − 1]

One lookup (x, P, P⁻) in exp:g:fP per cell. Masked cells get x = 65535, where T[x] = T[x−1] = 0 exactly: they add
nothing and nothing after this needs a mask. S needs no range check of its own: in an unmasked cell S = z − x with z
and x range-checked, so S is a small integer and its remainder lookup fixes it; in a masked cell nobody reads S. Its
declared bounds are those of z − x joined with those that an honest value can have.
"""

from protocol.relation.context import Context, Fixed
from protocol.relation.graph import Tensor
from protocol.relation.rounding import attach, range_check, rounded_bounds, signed_check
from protocol.relation.tables import softmax_limit, table_columns

LAST = (1 << 16) - 1


def softmax(c: Context, name: str, scores: Fixed, bits: int, g: int, mask: Tensor | None = None) -> tuple[Fixed, Tensor]:
    """(P with `bits` fractional bits, x) over the last axis of `scores`; `mask` is a public 0/1 tensor."""
    graph, exact = c.g, scores.t
    shift, rows, axes = scores.f - g, exact.axes[:-1], exact.axes
    width = c.m.widths["residual"]
    low, high = rounded_bounds(exact, shift)
    edge = 1 << width - 1
    s = graph.commit(f"{name}.S", axes, exact.shape, min(low, -edge - LAST), max(high, edge))
    attach(graph, exact, shift, s)
    z = graph.commit(f"{name}.z", rows, exact.shape[:-1], -edge, edge - 1)
    graph.hint("softmax_shift", [s] if mask is None else [s, mask], [z], g=g, bits=bits)
    signed_check(graph, z, width, f"{name}.z")
    x = graph.linear(f"{name}.x", axes, (1, z), (-1, s))
    if mask is not None:
        kept = graph.product(f"{name}.kept", f"{axes},{mask.axes}->{axes}", x, mask)
        x = graph.linear(f"{name}.masked_x", axes, (1, kept), (-LAST, mask), const=LAST)
    table = f"exp:{g}:{bits}"
    columns = table_columns(table)
    p = graph.commit(f"{name}.P", axes, exact.shape, 0, int(columns[1][0]))
    before = graph.commit(f"{name}.P_before", axes, exact.shape, 0, int(columns[2][0]))
    graph.hint("table", [x], [p, before], table=table)
    graph.lookup(table, x, p, before)
    limit = softmax_limit(g, bits)
    below = graph.linear(f"{name}.below", rows, (-1, p), const=limit)
    above = graph.linear(f"{name}.above", rows, (1, before), const=-1 - limit)
    range_check(graph, below, bits + 2, f"{name}.below")
    range_check(graph, above, bits + 2, f"{name}.above")
    return Fixed(p, bits), x
