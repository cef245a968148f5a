"""Clipping by the global norm of all gradients of a step (arithmetic.md, section 4; torch.nn.utils.clip_grad_norm_).

    layer task   n_l = Σ_matrices Σ_rows rescale(Σ_r gn²)             at the common exponent f_N = exponents["norm"], even
    clip(w)      φ = nearest integer of 2^16·M / max(D, M),  D = ⌊√(2^12·Σ_l n_l)⌋ + 10^−6,  M = max_grad_norm
    layer task   gn ← rescale(gn·φ)                               at the exponent calibrated for clipped gradients

D and M have f_N/2 + 6 fractional bits; max(D, M) is committed: not below either and equal to one of them. n_l and φ
are commitments of their own, norm/{l} and clip, so they stay secret. f_N is the provider's choice, so it is bounded from below: all
rows that round to 0 together have a norm of at most 8·M, else no gradient might ever be clipped. Called by layer.py, parts.py and model.py.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod

from protocol.manifest import RunManifest
from protocol.relation.base import axis_sizes
from protocol.relation.context import Context, Fixed
from protocol.relation.graph import RelationError
from protocol.relation.rounding import declare, divide, isqrt, range_check, rescale, rounded_bounds
from protocol.relation.update import MATRICES, Parameter, axes_of, finish

ROW_BITS, NORM_BITS, ROOT_BITS, FACTOR_BITS = 36, 40, 6, 16
EPSILON = Fraction(1, 10**6)
UNSEEN = 8  # times max_grad_norm: the largest norm that may be lost in rounding


def norm_exponent(c: Context) -> int:
    f = c.exponent("/norm")
    if f % 2:
        raise RelationError(f"exponent norm is {f}: it has to be even, because its half is the norm's")
    return f


def squared_norm(c: Context, means: Sequence[tuple[Parameter, Fixed]]) -> None:
    """Commits n_l [s] of a layer's mean gradients as the output norm."""
    g, f, sums = c.g, norm_exponent(c), []
    for p, gn in means:
        rest = p.axes.replace("r", "")
        square = g.product(f"{p.name}.squares", f"s{p.axes},s{p.axes}->s{rest}", gn.t, gn.t)
        shift = 2 * gn.f - f
        bits = min(ROW_BITS, max(rounded_bounds(square, shift)[1].bit_length(), 1))  # few where gradients are small beside others'
        rows = rescale(g, square, shift, bits, f"{p.name}.row_norm", signed=False)
        sums.append((1, g.linear(f"{p.name}.norm", "s", (1, rows))))
    rescale(g, g.linear("norm.sum", "s", *sums), 0, NORM_BITS, "n", "norm", signed=False)


def clipped(c: Context, p: Parameter, gn: Fixed) -> Fixed:
    """gn times the step's clip factor."""
    factor = c.g.input("clip", "factor", "s", (c.steps.count,), 0, (1 << FACTOR_BITS + 1) - 1)
    exact = c.g.product(f"{p.name}.times_factor", f"s{p.axes},s->s{p.axes}", gn.t, factor)
    return c.rounded(f"{p.name}.clipped", f"s{p.axes}", [Fixed(exact, gn.f + FACTOR_BITS)], "moment")


def settle(c: Context, means: Sequence[tuple[Parameter, Fixed]], initial: bool, final: bool) -> None:
    """A layer's updates from its mean gradients."""
    if c.m.optimizer.clips:
        squared_norm(c, means)
    for p, gn in means:
        finish(c, p, clipped(c, p, gn) if c.m.optimizer.clips else gn, initial, final)


def squared_rows(m: RunManifest) -> int:
    """How many rounded squares are summed for one norm."""
    size = axis_sizes(m)
    kept = [[size[a] for a in axes_of(module, x) if a != "r"] for module in m.lora.target_modules for x in MATRICES]
    return m.model.layers * sum(prod(lengths) for lengths in kept)


def build_clip(c: Context) -> None:
    """Inputs norm0 … norm{L−1}, output clip."""
    unseen = squared_rows(c.m) * Fraction(2) ** -(norm_exponent(c) + 1)
    if unseen > (UNSEEN * Fraction(c.m.optimizer.max_grad_norm)) ** 2:
        raise RelationError(f"exponent norm is {norm_exponent(c)}: rounding could hide gradients of norm {float(unseen) ** 0.5:.3g}, "
                            f"and max_grad_norm is {c.m.optimizer.max_grad_norm}")
    g, shape, scale = c.g, (c.steps.count,), Fraction(2) ** (norm_exponent(c) // 2 + ROOT_BITS)
    norms = [(1 << 2 * ROOT_BITS, g.input(f"norm{n}", "n", "s", shape, 0, (1 << NORM_BITS) - 1)) for n in range(c.m.model.layers)]
    root = isqrt(g, g.linear("total", "s", *norms), "root")
    distance = g.linear("distance", "s", (1, root), const=round(EPSILON * scale))
    limit = max(1, round(Fraction(c.m.optimizer.max_grad_norm) * scale))
    bits = max(distance.hi, limit).bit_length()
    greater = g.commit("greater", "s", shape, limit, (1 << bits) - 1)
    g.hint("maximum", [distance], [greater], limit=limit)
    over = g.linear("over", "s", (1, greater), (-1, distance))
    above = g.linear("above", "s", (1, greater), const=-limit)
    range_check(g, over, bits, "over")
    range_check(g, above, bits, "above")
    g.zero(g.product("either", "s,s->s", over, above))
    factor = declare(g, "factor", "s", shape, FACTOR_BITS + 1, "clip", signed=False)
    divide(g, g.public("limit", "s", [limit << FACTOR_BITS] * c.steps.count), greater, factor)
    range_check(g, factor, FACTOR_BITS + 1, "factor")
