"""Integer tables of RoPE: cos and sin of t·θ^(−2i/head_dim), by fixed-point arithmetic with guard bits.

    freq_i = (θ^(−2/head_dim))^i,  the first by an exact integer root;  cos, sin of freq_i by Taylor series;
    position t + 1 from t by the addition theorem (error below t·2^−126).

llama3 scaling (factor, low, high, context), as in transformers' ROPE_INIT_FUNCTIONS["llama3"]:

    freq_i ← freq_i·(s + (1 − s)/factor),  s = (context·freq_i/2π − low) / (high − low) clamped to [0, 1]

`rope_tables` gives int64 [t, j] with ROPE_BITS fractional bits (index j uses frequency j mod head_dim/2, as Hugging
Face's rotate_half), `query_tables` the same divided by √head_dim, with `query_bits` fractional bits. Called by
protocol/relation/attention.py.
"""

from fractions import Fraction
from functools import lru_cache
from math import floor, isqrt

import numpy as np

from protocol.relation.graph import IntArray
from protocol.relation.tables import GUARD, cos_sin, half_turn, round_shift

ROPE_BITS = 14


def _root(value: int, n: int) -> int:
    """⌊value^(1/n)⌋ by Newton's method from above."""
    x = 1 << -(-value.bit_length() // n)
    while True:
        y = ((n - 1) * x + value // x ** (n - 1)) // n
        if y >= x:
            return x
        x = y


def frequencies(head_dim: int, theta: Fraction, scaling: tuple[Fraction, ...] = ()) -> list[int]:
    """[i] → 2^GUARD·freq_i."""
    half = head_dim // 2
    ratio = _root((theta.denominator << GUARD * half) // theta.numerator, half)
    found, plain = [], 1 << GUARD
    for _ in range(half):
        found.append(plain)
        if scaling:
            factor, low, high, context = scaling
            turns = context * plain / (2 * half_turn())
            share = min(max((turns - low) / (high - low), Fraction(0)), Fraction(1))
            found[-1] = floor(plain * (share + (1 - share) / factor))
        plain = plain * ratio >> GUARD
    return found


@lru_cache(maxsize=4)
def _exact(
    head_dim: int, theta: Fraction, positions: int, scaling: tuple[Fraction, ...]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """[i][t] → 2^GUARD·(cos, sin)(t·freq_i)."""
    rows = []
    for frequency in frequencies(head_dim, theta, scaling):
        (c1, s1), (c, s), row = cos_sin(frequency), (1 << GUARD, 0), []
        for _ in range(positions):
            row.append((c, s))
            c, s = (c * c1 - s * s1) >> GUARD, (s * c1 + c * s1) >> GUARD
        rows.append(tuple(row))
    return tuple(rows)


def query_bits(head_dim: int) -> int:
    """Fractional bits of the query tables: entries stay below 2^ROPE_BITS."""
    return ROPE_BITS + (head_dim.bit_length() - 1) // 2


def _rounded(exact: tuple[tuple[tuple[int, int], ...], ...], factor: int, bits: int) -> tuple[IntArray, IntArray]:
    table = [[[round_shift(v * factor, 2 * GUARD - bits) for v in pair] for pair in row] for row in exact]
    half = np.array(table, dtype=np.int64).transpose(2, 1, 0)  # [cos or sin, t, i]
    both = np.concatenate([half, half], axis=2)
    return both[0], both[1]


@lru_cache(maxsize=4)
def rope_tables(
    head_dim: int, theta: Fraction, positions: int, scaling: tuple[Fraction, ...] = ()
) -> tuple[IntArray, IntArray]:
    """cos, sin [t, j] with ROPE_BITS fractional bits."""
    return _rounded(_exact(head_dim, theta, positions, scaling), 1 << GUARD, ROPE_BITS)


@lru_cache(maxsize=4)
def query_tables(
    head_dim: int, theta: Fraction, positions: int, scaling: tuple[Fraction, ...] = ()
) -> tuple[IntArray, IntArray]:
    """cos/√head_dim, sin/√head_dim [t, j] with query_bits(head_dim) fractional bits."""
    exact = _exact(head_dim, theta, positions, scaling)
    return _rounded(exact, isqrt((1 << 2 * GUARD) // head_dim), query_bits(head_dim))
