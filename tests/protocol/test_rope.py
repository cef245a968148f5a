"""RoPE's integer tables against 60-digit decimal arithmetic."""

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest

from protocol.rope import ROPE_BITS, query_bits, query_tables, rope_tables

getcontext().prec = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def cosine(x: Decimal) -> Decimal:
    x = x % (2 * PI)
    term, total, k = Decimal(1), Decimal(0), 0
    while abs(term) > Decimal("1e-50"):
        total += term
        k += 2
        term = -term * x * x / ((k - 1) * k)
    return total


def nearest(x: Decimal) -> int:
    return int((x + Decimal("0.5")).to_integral_value(rounding="ROUND_FLOOR"))


@pytest.mark.parametrize(("head_dim", "theta", "positions"), [(2, 10000, 5), (4, 10000, 40), (16, 500000, 33), (6, 3, 20)])
def test_tables_are_the_nearest_integers(head_dim: int, theta: int, positions: int) -> None:
    cos, sin = rope_tables(head_dim, Fraction(theta), positions)
    q_cos, q_sin = query_tables(head_dim, Fraction(theta), positions)
    root, q_scale = Decimal(head_dim).sqrt(), Decimal(2) ** query_bits(head_dim)
    for j in range(head_dim):
        frequency = Decimal(theta) ** (Decimal(-2 * (j % (head_dim // 2))) / head_dim)
        for t in range(positions):
            angle = t * frequency
            exact_cos, exact_sin = cosine(angle), cosine(angle - PI / 2)
            assert cos[t, j] == nearest(exact_cos * 2**ROPE_BITS)
            assert sin[t, j] == nearest(exact_sin * 2**ROPE_BITS)
            assert q_cos[t, j] == nearest(exact_cos / root * q_scale)
            assert q_sin[t, j] == nearest(exact_sin / root * q_scale)


@pytest.mark.parametrize("head_dim", [2, 8, 64, 96, 128, 256])
def test_query_tables_use_their_bits(head_dim: int) -> None:
    cos, _ = query_tables(head_dim, Fraction(10000), 2)
    assert 1 << ROPE_BITS - 1 < np.abs(cos).max() <= 1 << ROPE_BITS
