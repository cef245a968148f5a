"""Integer tables of RoPE: cos and sin of t·θ^(−2i/head_dim), by fixed-point arithmetic with guard bits.

    freq_i = (θ^(−2/head_dim))^i,  the first by an exact integer root;  cos, sin of freq_i by Taylor series;
    position t + 1 from t by the addition theorem (error below t·2^−126).

`rope_tables` gives int64 [t, j] with ROPE_BITS fractional bits (index j uses frequency j mod head_dim/2, as Hugging
Face's rotate_half), `query_tables` the same divided by √head_dim, with `query_bits` fractional bits. Called by
protocol/relation/attention.py.
"""

from fractions import Fraction
from functools import lru_cache
from math import isqrt

import numpy as np

from protocol.relation.graph import IntArray
from protocol.relation.tables import round_shift

GUARD = 128
ROPE_BITS = 14


def _root(value: int, n: int) -> int:
    """⌊value^(1/n)⌋ by Newton's method from above."""
    x = 1 << -(-value.bit_length() // n)
    while True:
        y = ((n - 1) * x + value // x ** (n - 1)) // n
        if y >= x:
            return x
        x = y


def _cos_sin(angle: int) -> tuple[int, int]:
    """2^GUARD·(cos, sin) of angle·2^−GUARD for 0 ≤ angle ≤ 1."""
    term, k, sums = 1 << GUARD, 0, [0, 0]
    while term:
        sums[k & 1] += term if k % 4 < 2 else -term
        k += 1
        term = (term * angle >> GUARD) // k
    return sums[0], sums[1]


@lru_cache(maxsize=4)
def _exact(head_dim: int, theta: Fraction, positions: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """[i][t] → 2^GUARD·(cos, sin)(t·freq_i)."""
    half = head_dim // 2
    ratio = _root((theta.denominator << GUARD * half) // theta.numerator, half)
    frequency, rows = 1 << GUARD, []
    for _ in range(half):
        (c1, s1), (c, s), row = _cos_sin(frequency), (1 << GUARD, 0), []
        for _ in range(positions):
            row.append((c, s))
            c, s = (c * c1 - s * s1) >> GUARD, (s * c1 + c * s1) >> GUARD
        rows.append(tuple(row))
        frequency = frequency * ratio >> GUARD
    return tuple(rows)


def query_bits(head_dim: int) -> int:
    """Fractional bits of the query tables: entries stay below 2^ROPE_BITS."""
    return ROPE_BITS + (head_dim.bit_length() - 1) // 2


def _rounded(head_dim: int, theta: Fraction, positions: int, factor: int, bits: int) -> tuple[IntArray, IntArray]:
    rows = _exact(head_dim, theta, positions)
    table = [[[round_shift(v * factor, 2 * GUARD - bits) for v in pair] for pair in row] for row in rows]
    half = np.array(table, dtype=np.int64).transpose(2, 1, 0)  # [cos or sin, t, i]
    both = np.concatenate([half, half], axis=2)
    return both[0], both[1]


@lru_cache(maxsize=4)
def rope_tables(head_dim: int, theta: Fraction, positions: int) -> tuple[IntArray, IntArray]:
    """cos, sin [t, j] with ROPE_BITS fractional bits."""
    return _rounded(head_dim, theta, positions, 1 << GUARD, ROPE_BITS)


@lru_cache(maxsize=4)
def query_tables(head_dim: int, theta: Fraction, positions: int) -> tuple[IntArray, IntArray]:
    """cos/√head_dim, sin/√head_dim [t, j] with query_bits(head_dim) fractional bits."""
    return _rounded(head_dim, theta, positions, isqrt((1 << 2 * GUARD) // head_dim), query_bits(head_dim))
