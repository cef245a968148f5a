"""RoPE's integer tables against 60-digit decimal arithmetic."""

from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest

from protocol.relation.tables import GUARD
from protocol.rope import ROPE_BITS, _exact, frequencies, query_bits, query_tables, rope_tables

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


@pytest.mark.parametrize(("head_dim", "theta"), [(4, 10000), (6, 3)])
def test_the_error_before_rounding(head_dim: int, theta: int) -> None:
    """Position 0 is exact, position t within t·2^−126: far from what could change a table's last bit by accident."""
    for frequency, row in zip(frequencies(head_dim, Fraction(theta)), _exact(head_dim, Fraction(theta), 20, ()), strict=True):
        assert len(row) == 20 and row[0] == (1 << GUARD, 0)
        for t, (c, s) in enumerate(row[1:], 1):
            angle, unit = t * Decimal(frequency) / 2**GUARD, Decimal(2) ** GUARD
            assert abs(c - cosine(angle) * unit) <= 4 * t and abs(s - cosine(angle - PI / 2) * unit) <= 4 * t


@pytest.mark.parametrize("head_dim", [2, 8, 64, 96, 128, 256])
def test_query_tables_use_their_bits(head_dim: int) -> None:
    assert ROPE_BITS == 14
    cos, _ = query_tables(head_dim, Fraction(10000), 2)
    assert 1 << ROPE_BITS - 1 < np.abs(cos).max() <= 1 << ROPE_BITS


@pytest.mark.parametrize(
    ("head_dim", "theta", "scaling"),
    [(128, 500000, (8, 1, 4, 8192)), (64, 500000, (32, 1, 4, 8192)), (16, 10000, (8, 1, 4, 16)),
     (10, 10000, (Fraction(5, 2), Fraction(1, 2), 3, 64))],
)
def test_llama3_scaling_is_that_of_transformers(head_dim: int, theta: int, scaling: tuple[Fraction, ...]) -> None:
    """Llama 3.1, Llama 3.2, and toy sizes; frequencies in all three bands."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    rope = {"rope_type": "llama3", "rope_theta": float(theta)} | {n: float(x) for n, x in zip(names, scaling, strict=True)}
    config = transformers.LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, rope_parameters=rope)
    expected, factor = ROPE_INIT_FUNCTIONS["llama3"](config, device=None)
    assert factor == 1.0
    exact = tuple(Fraction(x) for x in scaling)
    found = [f / 2**GUARD for f in frequencies(head_dim, Fraction(theta), exact)]
    plain = [f / 2**GUARD for f in frequencies(head_dim, Fraction(theta))]
    assert np.allclose(found, expected.numpy(), rtol=1e-6, atol=0) and not np.allclose(found, plain, rtol=1e-2)
    bands = {round(f * float(exact[0]) / p, 6) for f, p in zip(found, plain, strict=True)}
    assert 1.0 in bands and len(bands) > 1  # the slowest are divided by factor


def test_scaled_tables_follow_the_frequencies() -> None:
    scaling = tuple(map(Fraction, (8, 1, 4, 16)))
    cos, sin = rope_tables(6, Fraction(10000), 9, scaling)
    for j, frequency in enumerate(frequencies(6, Fraction(10000), scaling)):
        angle = np.arange(9) * (frequency / 2**GUARD)
        assert np.abs(cos[:, j] - np.cos(angle) * 2**ROPE_BITS).max() < 0.51
        assert np.abs(sin[:, j + 3] - np.sin(angle) * 2**ROPE_BITS).max() < 0.51
