"""Rounding, isqrt, division and the greater of two: exactly one committed value passes the range checks, and it is the right one.

Exhaustive at small widths (every input, every value that the declared range holds), at the edges for the widths in use.
"""

from collections.abc import Sequence
from math import isqrt as exact_root

import numpy as np
import pytest

from protocol.relation.graph import Committed, Graph, IntArray, RelationError, Tensor
from protocol.relation.rounding import declare, divide, exact_copy, isqrt, rescale, signed_check
from protocol.relation.tables import table_columns
from prover.executor.evaluate import RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps

OPS = ReferenceOps()


def passing(g: Graph, inputs: dict[str, IntArray], given: dict[int, IntArray]) -> IntArray:
    """Per cell, whether every lookup holds; limbs are the honest ones."""
    values = evaluate(g, {("in", k): v for k, v in inputs.items()}, g.tensors, OPS, given)
    good = np.ones(values[0].shape, dtype=bool)
    for item in g.lookups:
        rows = table_columns(item.table)[0]
        cell = values[item.columns[0].index]
        good &= (cell >= rows[0]) & (cell <= rows[-1])
    return good


@pytest.mark.parametrize(("shift", "bits", "limb"), [(3, 5, 2), (5, 4, 3), (4, 6, 6), (7, 5, 1), (2, 7, 16)])
def test_exactly_one_rounded_value_passes(shift: int, bits: int, limb: int) -> None:
    """Remainder and result of one limb and of several, the top one narrower or not."""
    g, top = Graph(), (1 << bits - 1) - 1 << shift
    z, y = grid(range(-top, top + 1), range(-(1 << bits - 1), 1 << bits - 1))
    rounded = rescale(g, g.input("in", "z", "n", z.shape, -top, top), shift, bits, "y", limb=limb)
    assert {item.table for item in g.lookups} <= {f"range:{width}" for width in range(1, limb + 1)}
    good = passing(g, {"z": z}, {rounded.index: y})
    half = 1 << shift - 1
    assert list(zip(z[good].tolist(), y[good].tolist(), strict=True)) == [(a, a + half >> shift) for a in range(-top, top + 1)]


def grid(*sides: Sequence[int]) -> list[IntArray]:
    return [a.ravel() for a in np.meshgrid(*[np.array(s) for s in sides], indexing="ij")]


@pytest.mark.parametrize("top", [0, 1, 2, 3, 15, 16, 63, 200])
def test_exactly_one_root_passes(top: int) -> None:
    g, bits = Graph(), max((top.bit_length() + 1) // 2, 1)
    v, s = grid(range(top + 1), range(1 << bits))
    root = isqrt(g, g.input("in", "v", "n", v.shape, 0, top), "root")
    assert (root.lo, root.hi) == (0, (1 << bits) - 1)
    good = passing(g, {"v": v}, {root.index: s})
    assert [(a, b) for a, b in zip(v[good], s[good], strict=True)] == [(a, exact_root(a)) for a in range(top + 1)]


@pytest.mark.parametrize(("top", "divisors"), [(20, (1, 9)), (37, (3, 6)), (12, (1, 1)), (64, (7, 8))])
def test_exactly_one_quotient_passes(top: int, divisors: tuple[int, int]) -> None:
    """Negative numerators, ties (upwards) and the divisor 1 included."""
    g, bits = Graph(), (2 * top + 1).bit_length() + 1
    n, d, y = grid(range(-top, top + 1), range(divisors[0], divisors[1] + 1), range(-(1 << bits - 1), 1 << bits - 1))
    quotient = quotient_graph(g, n.shape, top, divisors, bits)
    good = passing(g, {"n": n, "d": d}, {quotient.index: y})
    found = list(zip(n[good].tolist(), d[good].tolist(), y[good].tolist(), strict=True))
    assert found == [(a, b, (2 * a + b) // (2 * b)) for a in range(-top, top + 1) for b in range(divisors[0], divisors[1] + 1)]


def quotient_graph(g: Graph, shape: tuple[int, ...], top: int, divisors: tuple[int, int], bits: int) -> Tensor:
    numerator, divisor = g.input("in", "n", "n", shape, -top, top), g.input("in", "d", "n", shape, *divisors)
    y = declare(g, "y", "n", shape, bits)
    divide(g, numerator, divisor, y)
    signed_check(g, y, bits, "y")
    return y


WIDE = [(1 << 56) - 1, (1 << 56) - 2, (1 << 28) ** 2 - (1 << 28), ((1 << 28) - 1) ** 2, ((1 << 28) - 1) ** 2 - 1, 0, 1, (1 << 55) + 12345]


@pytest.mark.parametrize("delta", [-1, 1])
def test_wide_roots_off_by_one_fail(delta: int) -> None:
    """The width of √(2^8·v) with 48-bit v: limbs of 16 bits."""
    v = np.array([x for x in WIDE if 0 < x < (1 << 56) - (1 << 29)])
    g = Graph()
    root = isqrt(g, g.input("in", "v", "n", v.shape, 0, (1 << 56) - 1), "root")
    honest = evaluate(g, {("in", "v"): v}, g.tensors, OPS)
    assert honest[root.index].tolist() == [exact_root(int(x)) for x in v]
    check(g, honest)
    assert not passing(g, {"v": v}, {root.index: honest[root.index] + delta}).any()


@pytest.mark.parametrize("delta", [-1, 1])
def test_wide_quotients_off_by_one_fail(delta: int) -> None:
    rng, top, most = np.random.default_rng(3), 1 << 48, 1 << 36
    d = np.concatenate([[most, 2, 1 << 30], rng.integers(1 << 26, most, 40)])
    y = np.concatenate([[5, -7, 11], rng.integers(-(1 << 12), 1 << 12, 40)])
    n = np.concatenate([[5 * most + most // 2, -15, 11 * (1 << 30)], (y * d + rng.integers(-(1 << 25), 1 << 25, 43))[3:]])
    g = Graph()
    quotient = quotient_graph(g, n.shape, top, (1, most), 24)
    honest = evaluate(g, {("in", "n"): n, ("in", "d"): d}, g.tensors, OPS)
    assert honest[quotient.index].tolist() == [(2 * int(a) + int(b)) // (2 * int(b)) for a, b in zip(n, d, strict=True)]
    assert honest[quotient.index][:2].tolist() == [6, -7]  # ties: 5.5 and −7.5, both upwards
    check(g, honest)
    wrong = honest[quotient.index] + delta
    assert not passing(g, {"n": n, "d": d}, {quotient.index: wrong}).any()


def test_a_root_needs_no_sign_and_a_quotient_no_zero() -> None:
    g = Graph()
    with pytest.raises(RelationError, match="negative"):
        isqrt(g, g.input("in", "v", "n", (1,), -1, 5), "root")
    with pytest.raises(RelationError, match="divisor may be 0"):
        quotient_graph(Graph(), (1,), 5, (0, 3), 4)


def test_the_harness_notices_a_missing_check() -> None:
    """Without the upper inequality smaller roots pass."""
    g = Graph()
    v, s = grid(range(64), range(8))
    root = isqrt(g, g.input("in", "v", "n", v.shape, 0, 63), "root")
    g.lookups = [x for x in g.lookups if "above" not in x.columns[0].name]
    assert passing(g, {"v": v}, {root.index: s}).sum() > 64
    with pytest.raises(RelationBroken):
        check(g, evaluate(g, {("in", "v"): v}, g.tensors, OPS, {root.index: 7 - s}))


@pytest.mark.parametrize(("lo", "hi", "bound"), [(-7, 3, 7), (-7, 3, 8), (0, 1 << 60, 1 << 60), (-5, 9, 9)])
def test_a_copy_needs_no_range_check_where_its_bounds_follow(lo: int, hi: int, bound: int) -> None:
    """The copy has the bounds that its readers declare, and is the tensor in every cell; one less is not implied."""
    g = Graph()
    exact_copy(g, g.input("in", "t", "n", (2,), lo, hi), "t", bound, "gradient")
    (copy,) = [t for t, op in zip(g.tensors, g.ops, strict=True) if isinstance(op, Committed)]
    assert (copy.lo, copy.hi, g.lookups, len(g.zeros)) == (-bound, bound, [], 1)
    values = evaluate(g, {("in", "t"): np.array([lo, hi])}, g.tensors, OPS)
    assert values[copy.index].tolist() == [lo, hi]
    check(g, values)
    for cell in range(2):
        moved = np.array([lo, hi])
        moved[cell] += 1 if hi < bound else -1
        with pytest.raises(RelationBroken, match="zero: t.equal"):
            check(g, dict(values) | evaluate(g, {("in", "t"): np.array([lo, hi])}, g.tensors, OPS, {copy.index: moved}))


@pytest.mark.parametrize(("lo", "hi"), [(-7, 3), (3, 7), (-7, 7)])
def test_a_copy_whose_bounds_do_not_follow_is_refused(lo: int, hi: int) -> None:
    g = Graph()
    t = g.input("in", "t", "n", (2,), lo, hi)
    with pytest.raises(RelationError, match="t: values of adapter may reach 7, and 6 is declared"):
        exact_copy(g, t, "t", 6, "adapter")
    assert len(g.tensors) == 1


def test_a_copy_and_its_tensor_differ_by_less_than_p() -> None:
    """Equal modulo p is equal, because their difference is below 2^62."""
    g = Graph()
    t = g.input("in", "t", "n", (1,), 0, 1 << 61)
    with pytest.raises(RelationError, match="the limit is 2\\^62"):
        exact_copy(g, t, "t", 1 << 61, "gradient")
