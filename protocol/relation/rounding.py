"""Range checks and rescaling: how an exact integer becomes a committed one (arithmetic.md, section 1).

    rescale(Z, s):  Y = ⌊(Z + 2^(s−1)) / 2^s⌋   ⟺   R = Z + 2^(s−1) − 2^s·Y ∈ [0, 2^s)

R is virtual and range-checked with exactly s bits, Y with its declared width. More than 16 bits are split in limbs of
16 bits, the top one exactly as wide as what remains; upper limbs are committed, the lowest is virtual. R has bounds
below 2^62 in magnitude (the graph refuses others) and p > 2^63, so the congruence is an equation of integers.

    isqrt(V):   s = ⌊√V⌋  ⟺  V − s² ≥ 0 and s² + 2s − V ≥ 0
    divide(N, D): y = ⌊(2N + D) / 2D⌋, the nearest integer of N/D  ⟺  0 ≤ R < 2D,  R = 2N + D − 2D·y

Both sides of each pair are range-checked, so the value is unique; D is at least 1 by its declared bounds.
"""

from protocol.relation.graph import WITNESS, Graph, RelationError, Tensor
from protocol.relation.tables import round_shift

LIMB = 16


def range_check(g: Graph, t: Tensor, bits: int, name: str, limb: int | None = None) -> None:
    """Asserts 0 ≤ t < 2^bits in every cell. Smaller limbs suit a graph with fewer cells than a table of 2^16 has rows."""
    limb = limb or LIMB
    if bits <= limb:
        g.lookup(f"range:{bits}", t)
        return
    count = -(-bits // limb)
    widths = [limb] * (count - 1) + [bits - limb * (count - 1)]
    limbs = [g.commit(f"{name}.limb{i}", t.axes, t.shape, 0, (1 << widths[i]) - 1) for i in range(1, count)]
    for i, upper in enumerate(limbs, 1):
        g.hint("limb", [t], [upper], shift=limb * i, bits=widths[i])
        g.lookup(f"range:{widths[i]}", upper)
    lowest = g.linear(f"{name}.limb0", t.axes, (1, t), *[(-1 << limb * i, x) for i, x in enumerate(limbs, 1)])
    g.lookup(f"range:{limb}", lowest)


def signed_check(g: Graph, t: Tensor, bits: int, name: str, limb: int | None = None) -> None:
    """Asserts −2^(bits−1) ≤ t < 2^(bits−1)."""
    range_check(g, g.linear(f"{name}.offset", t.axes, (1, t), const=1 << bits - 1), bits, name, limb)


def declare(
    g: Graph, name: str, axes: str, shape: tuple[int, ...], bits: int, commitment: str = WITNESS, signed: bool = True
) -> Tensor:
    """A committed tensor with bounds that `bits` bits allow; whoever attaches its rescale proves them."""
    lo, hi = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return g.commit(name, axes, shape, lo, hi, commitment)


def attach(g: Graph, z: Tensor, shift: int, y: Tensor, limb: int | None = None) -> None:
    """Asserts y = rescale(z, shift) without a range check of y; shift ≤ 0 is the exact y = z·2^−shift."""
    if shift > 0:
        g.hint("round_shift", [z], [y], shift=shift)
        rest = g.linear(f"{y.name}.rest", z.axes, (1, z), (-1 << shift, y), const=1 << shift - 1)
        range_check(g, rest, shift, f"{y.name}.rest", limb)
    else:
        g.hint("round_shift", [z], [y], shift=shift)
        g.zero(g.linear(f"{y.name}.equal", z.axes, (1 << -shift, z), (-1, y)))


def rescale(
    g: Graph, z: Tensor, shift: int, bits: int, name: str, commitment: str = WITNESS, signed: bool = True,
    given: Tensor | None = None, limb: int | None = None,
) -> Tensor:
    """Y of `bits` bits with its range check. `given` is a Y declared earlier (recurrences over steps)."""
    y = declare(g, name, z.axes, z.shape, bits, commitment, signed) if given is None else given
    attach(g, z, shift, y, limb)
    (signed_check if signed else range_check)(g, y, bits, y.name, limb)
    return y


def rounded_bounds(z: Tensor, shift: int) -> tuple[int, int]:
    """Bounds of rescale(z, shift) that follow from those of z."""
    return round_shift(z.lo, shift), round_shift(z.hi, shift)


def commit_copy(g: Graph, t: Tensor, bits: int, name: str, commitment: str) -> Tensor:
    """A signed committed tensor equal to the virtual `t`."""
    return rescale(g, t, 0, bits, name, commitment)


def exact_copy(g: Graph, t: Tensor, name: str, bound: int, commitment: str) -> None:
    """A committed tensor equal to `t`, whose own bounds are within ±bound: it needs no range check, and nobody who reads it does."""
    if t.magnitude > bound:
        raise RelationError(f"{name}: values of {commitment} may reach {t.magnitude}, and {bound} is declared")
    attach(g, t, 0, g.commit(name, t.axes, t.shape, -bound, bound, commitment))


def isqrt(g: Graph, v: Tensor, name: str) -> Tensor:
    """⌊√v⌋ of a tensor without negative values, committed with just the bits that v's bound allows."""
    if v.lo < 0:
        raise RelationError(f"{name}: the root of a tensor that may be negative")
    bits = max((v.hi.bit_length() + 1) // 2, 1)
    s = declare(g, name, v.axes, v.shape, bits, signed=False)
    g.hint("isqrt", [v], [s])
    range_check(g, s, bits, name)
    square = g.product(f"{name}.square", f"{s.axes},{s.axes}->{s.axes}", s, s)
    range_check(g, g.linear(f"{name}.below", v.axes, (1, v), (-1, square)), bits + 1, f"{name}.below")
    range_check(g, g.linear(f"{name}.above", v.axes, (1, square), (2, s), (-1, v)), bits + 1, f"{name}.above")
    return s


def divide(g: Graph, numerator: Tensor, divisor: Tensor, y: Tensor) -> None:
    """Asserts that the declared y is the nearest integer of numerator / divisor (ties upwards), without a range check of y."""
    if divisor.lo < 1:
        raise RelationError(f"{y.name}: the divisor may be {divisor.lo}")
    axes, name, bits = y.axes, y.name, (2 * divisor.hi - 1).bit_length()
    doubled = g.linear(f"{name}.numerator", axes, (2, numerator), (1, divisor))
    twice = g.linear(f"{name}.divisor", axes, (2, divisor))
    g.hint("divide", [doubled, twice], [y])
    product = g.product(f"{name}.times", f"{axes},{axes}->{axes}", twice, y)
    rest = g.linear(f"{name}.remainder", axes, (1, doubled), (-1, product))
    range_check(g, rest, bits, rest.name)
    range_check(g, g.linear(f"{name}.room", axes, (1, twice), (-1, rest), const=-1), bits, f"{name}.room")
