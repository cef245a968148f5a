"""RMSNorm over the last axis and its backward pass; γ is applied by whoever comes behind (arithmetic.md, sections 2, 3).

    V  = rescale(Σ h² + d·eps·2^(2f_h), s_V)                          27 bits without sign
    r  : (2r−1)²·V ≤ C < (2r+1)²·V,  C = d·2^(2(f_r+1) + 2f_h − s_V)   16 bits; r·2^−f_r = 1/rms to nearest
    x̂  = rescale(h·r)
    G' = r·dx̂ − t·x̂ + G,   t = r·mean(dx̂∘x̂)                          G the gradient of the skip connection

h is [s,b,t,d], or a projection's [s,b,t,g,q,j] with q/k norm (one norm per head); d its last length. V, r, t have the other
axes. Exponents: `key`.V is s_V, `key`.r is f_r, `key`.out that of x̂. The mean and t have exponents that follow.
"""

from dataclasses import dataclass
from fractions import Fraction

from protocol.relation.context import Context, Fixed
from protocol.relation.graph import WITNESS, RelationError
from protocol.relation.rounding import range_check, rescale

V_BITS, R_BITS, GAP_BITS = 27, 16, 48
MEAN_GUARD = 8  # extra fractional bits of mean(dx̂∘x̂); |mean| ≤ rms(dx̂)·rms(x̂), and rms(x̂) ≈ 1: 24 bits suffice
INVERSE_BITS = 12


@dataclass(frozen=True)
class Norm:
    r: Fixed
    out: Fixed


def norm_forward(c: Context, key: str, h: Fixed) -> Norm:
    g, d, axes = c.g, h.t.shape[-1], h.t.axes
    rows = axes[:-1]
    s_v, f_r = c.exponent(key + ".V"), c.exponent(key + ".r")
    power = 2 * (f_r + 1) + 2 * h.f - s_v
    if power < 0 or d << power >= 1 << 61:
        raise RelationError(f"{c.prefix}{key}: exponents V {s_v}, r {f_r} put d·2^{power} out of [1, 2^61)")
    square = g.product(f"{key}.square", f"{axes},{axes}->{rows}", h.t, h.t)
    eps = round(d * c.m.model.eps * Fraction(2) ** (2 * h.f))
    v = rescale(g, g.linear(f"{key}.sum", rows, (1, square), const=eps), s_v, V_BITS, f"{key}.V", signed=False)
    target = d << power
    r = g.commit(f"{key}.r", rows, v.shape, 0, (1 << R_BITS) - 1)
    g.hint("rsqrt", [v], [r], target=target)
    range_check(g, r, R_BITS, f"{key}.r")
    rv = g.product(f"{key}.rV", f"{rows},{rows}->{rows}", r, v)
    rrv = g.product(f"{key}.rrV", f"{rows},{rows}->{rows}", r, rv)
    below = g.linear(f"{key}.below", rows, (-4, rrv), (4, rv), (-1, v), const=target)
    above = g.linear(f"{key}.above", rows, (4, rrv), (4, rv), (1, v), const=-1 - target)
    range_check(g, below, GAP_BITS, f"{key}.below")
    range_check(g, above, GAP_BITS, f"{key}.above")
    scale = Fixed(r, f_r)
    out = c.product(f"{key}.scaled", f"{axes},{rows}->{axes}", h, scale)
    return Norm(scale, c.rounded(f"{key}.out", axes, [out], "activation"))


def _inverse(d: int) -> tuple[int, int]:
    """(n, k) with 1/d ≈ n·2^−k, exact for powers of two."""
    if d & (d - 1) == 0:
        return 1, d.bit_length() - 1
    k = d.bit_length() + INVERSE_BITS
    return round(Fraction(1 << k, d)), k


def norm_backward(
    c: Context, key: str, norm: Norm, dx: Fixed, skip: Fixed | None, name: str, to: int, commitment: str = WITNESS,
    tensor_name: str | None = None,
) -> Fixed:
    """The gradient of h from dx̂ and the skip gradient, committed as `name` with `to` fractional bits."""
    axes = dx.t.axes
    rows = axes[:-1]
    n, k = _inverse(dx.t.shape[-1])
    inner = c.product(f"{key}.inner", f"{axes},{axes}->{rows}", dx, norm.out)
    mean_exact = Fixed(inner.t if n == 1 else c.g.linear(f"{key}.sum_n", rows, (n, inner.t)), inner.f + k)
    mean = c.rounded(f"{key}.mean", rows, [mean_exact], "row", to=dx.f + MEAN_GUARD)
    scaled_mean = c.product(f"{key}.r_mean", f"{rows},{rows}->{rows}", norm.r, mean)
    # This exponent puts t·x̂ on the scale of r·dx̂, so that neither is shifted before they are added.
    t = c.rounded(f"{key}.t", rows, [scaled_mean], "row", to=dx.f + norm.r.f - norm.out.f)
    direct = c.product(f"{key}.r_dx", f"{axes},{rows}->{axes}", dx, norm.r)
    radial = c.product(f"{key}.t_out", f"{axes},{rows}->{axes}", norm.out, t)
    minus = Fixed(c.g.linear(f"{key}.minus", axes, (1, direct.t), (-1, radial.t)), direct.f)
    terms = [minus] if skip is None else [minus, skip]
    return c.rounded(name, axes, terms, "gradient", to, commitment, tensor_name)
