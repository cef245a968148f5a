"""Range checks and rescaling: how an exact integer becomes a committed one (arithmetic.md, section 1).

    rescale(Z, s):  Y = ⌊(Z + 2^(s−1)) / 2^s⌋   ⟺   R = Z + 2^(s−1) − 2^s·Y ∈ [0, 2^s)

R is virtual and range-checked with exactly s bits, Y with its declared width. More than 16 bits are split in limbs of
16 bits, the top one exactly as wide as what remains; upper limbs are committed, the lowest is virtual. R has bounds
below 2^62 in magnitude (the graph refuses others) and p > 2^63, so the congruence is an equation of integers.
"""

from protocol.relation.graph import WITNESS, Graph, Tensor
from protocol.relation.tables import round_shift

LIMB = 16


def range_check(g: Graph, t: Tensor, bits: int, name: str) -> None:
    """Asserts 0 ≤ t < 2^bits in every cell."""
    if bits <= LIMB:
        g.lookup(f"range:{bits}", t)
        return
    count = -(-bits // LIMB)
    widths = [LIMB] * (count - 1) + [bits - LIMB * (count - 1)]
    limbs = [g.commit(f"{name}.limb{i}", t.axes, t.shape, 0, (1 << widths[i]) - 1) for i in range(1, count)]
    for i, limb in enumerate(limbs, 1):
        g.hint("limb", [t], [limb], shift=LIMB * i, bits=widths[i])
        g.lookup(f"range:{widths[i]}", limb)
    lowest = g.linear(f"{name}.limb0", t.axes, (1, t), *[(-1 << LIMB * i, x) for i, x in enumerate(limbs, 1)])
    g.lookup(f"range:{LIMB}", lowest)


def signed_check(g: Graph, t: Tensor, bits: int, name: str) -> None:
    """Asserts −2^(bits−1) ≤ t < 2^(bits−1)."""
    range_check(g, g.linear(f"{name}.offset", t.axes, (1, t), const=1 << bits - 1), bits, name)


def declare(
    g: Graph, name: str, axes: str, shape: tuple[int, ...], bits: int, commitment: str = WITNESS, signed: bool = True
) -> Tensor:
    """A committed tensor with bounds that `bits` bits allow; whoever attaches its rescale proves them."""
    lo, hi = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return g.commit(name, axes, shape, lo, hi, commitment)


def attach(g: Graph, z: Tensor, shift: int, y: Tensor) -> None:
    """Asserts y = rescale(z, shift) without a range check of y; shift ≤ 0 is the exact y = z·2^−shift."""
    if shift > 0:
        g.hint("round_shift", [z], [y], shift=shift)
        rest = g.linear(f"{y.name}.rest", z.axes, (1, z), (-1 << shift, y), const=1 << shift - 1)
        range_check(g, rest, shift, f"{y.name}.rest")
    else:
        g.hint("round_shift", [z], [y], shift=shift)
        g.zero(g.linear(f"{y.name}.equal", z.axes, (1 << -shift, z), (-1, y)))


def rescale(
    g: Graph, z: Tensor, shift: int, bits: int, name: str, commitment: str = WITNESS, signed: bool = True,
    given: Tensor | None = None,
) -> Tensor:
    """Y of `bits` bits with its range check. `given` is a Y declared earlier (recurrences over steps)."""
    y = declare(g, name, z.axes, z.shape, bits, commitment, signed) if given is None else given
    attach(g, z, shift, y)
    (signed_check if signed else range_check)(g, y, bits, y.name)
    return y


def rounded_bounds(z: Tensor, shift: int) -> tuple[int, int]:
    """Bounds of rescale(z, shift) that follow from those of z."""
    return round_shift(z.lo, shift), round_shift(z.hi, shift)


def commit_copy(g: Graph, t: Tensor, bits: int, name: str, commitment: str) -> Tensor:
    """A signed committed tensor equal to the virtual `t`."""
    return rescale(g, t, 0, bits, name, commitment)
