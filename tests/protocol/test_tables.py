"""Lookup tables at the edges of what they allow, against 60-digit decimal arithmetic."""

import hashlib
from decimal import ROUND_FLOOR, Decimal, getcontext

import pytest

from protocol.relation.graph import RelationError
from protocol.relation.tables import GUARD, _exp_fixed, cos_sin, half_turn, round_shift, softmax_limit, table_columns

getcontext().prec = 60
HALF = Decimal("0.5")
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def floor(x: Decimal) -> int:
    return int(x.to_integral_value(rounding=ROUND_FLOOR))


def test_rounding_is_to_nearest_with_ties_upwards() -> None:
    for shift in range(-3, 6):
        for value in range(-70, 70):
            assert round_shift(value, shift) == floor(Decimal(value) / Decimal(2) ** shift + HALF)


@pytest.mark.parametrize(("g", "bits"), [(0, 2), (0, 24), (5, 7), (10, 12), (10, 24)])
def test_exponentials(g: int, bits: int) -> None:
    """Rows (x, T[x], T[x−1]), T the nearest integers; the last is (…, 0, 0) and the first three values differ."""
    x, here, before = (column.tolist() for column in table_columns(f"exp:{g}:{bits}"))
    assert x == list(range(1 << 16)) and len(here) == len(before) == 1 << 16 and before[1:] == here[:-1] and here[-1] == before[-1] == 0
    assert before[0] > here[0] == 1 << bits > here[1]
    for row in (0, 1, 2, 7, 100, 1023, 1025, 5000, 20000, 65535):
        exact = (-Decimal(row) / (1 << g)).exp() * (1 << bits)
        assert here[row] == floor(exact + HALF)
        assert before[row] == floor(exact * (1 / Decimal(1 << g)).exp() + HALF)


@pytest.mark.parametrize(("f_in", "f_out", "f_grad"), [(12, 17, 14), (8, 8, 0), (-3, -3, 16), (-1, 3, 14), (16, 0, 16), (0, 12, 5)])
def test_silu_and_its_slope(f_in: int, f_out: int, f_grad: int) -> None:
    index, values, slopes = (column.tolist() for column in table_columns(f"silu:{f_in}:{f_out}:{f_grad}"))
    assert index == list(range(-(1 << 15), 1 << 15)) and len(values) == len(slopes) == 1 << 16
    for i in (-(1 << 15), 1 - (1 << 15), -5000, -300, -17, -2, -1, 0, 1, 2, 3, 17, 300, 5000, 32766, 32767):
        x = Decimal(i) / Decimal(2) ** f_in
        sigma = 1 / (1 + (-x).exp())
        assert values[i + (1 << 15)] == floor(x * sigma * Decimal(2) ** f_out + HALF)
        assert slopes[i + (1 << 15)] == floor((sigma + x * sigma * (1 - sigma)) * Decimal(2) ** f_grad + HALF)


@pytest.mark.parametrize("bits", [8, 12, 15])
def test_the_middle_of_a_silu_table(bits: int) -> None:
    middle = slice((1 << 15) - (1 << bits - 1), (1 << 15) + (1 << bits - 1))
    for some, every in zip(table_columns(f"silu:8:6:14:{bits}"), table_columns("silu:8:6:14"), strict=True):
        assert some.tolist() == every[middle].tolist()


def test_every_party_has_the_same_series() -> None:
    """Within 2^−120 of e^−2^−g, π, cos and sin, and to the last of 128 bits what other parties have."""
    found = [_exp_fixed(g) for g in range(17)]
    for g, value in enumerate(found):
        assert abs(value - (-1 / Decimal(1 << g)).exp() * (1 << GUARD)) < 256
    assert abs(half_turn() - PI * (1 << GUARD)) < 256
    angles = [0, 1, 1 << GUARD - 1, 1 << GUARD, 3 << GUARD, half_turn()]
    for angle in angles:
        cos, sin = cos_sin(angle)
        assert abs(cos * cos + sin * sin - (1 << 2 * GUARD)) >> GUARD < 256
        found += [cos, sin]
    assert abs(cos_sin(half_turn() // 3)[0] - (1 << GUARD - 1)) < 256 and cos_sin(0) == (1 << GUARD, 0)
    digest = hashlib.sha256(repr([*found, half_turn()]).encode()).hexdigest()
    assert digest == "82d4c813935079dbcb45d37a8ee632be87dba0252640690c16f88a18d30c08da"


def test_the_sum_of_a_row_has_the_limit_of_half_a_step() -> None:
    """K = ⌊2^fP · exp(2^−(g+1))⌋."""
    for g in range(11):
        for bits in (g + 2, 16, 20, 24):
            assert softmax_limit(g, bits) == floor((1 / Decimal(2 << g)).exp() * (1 << bits))


@pytest.mark.parametrize("name", [
    "range:0", "range:17", "range:4:4", "ranges:4", "exp:-1:16", "exp:11:24", "exp:0:1", "exp:5:6", "exp:5:25", "exp:5", "silu:-4:8:14",
    "silu:17:8:14", "silu:8:-4:14", "silu:8:18:14", "silu:8:8:-1", "silu:8:8:17", "silu:8:8", "silu:8:8:14:7",
    "silu:8:8:14:16", "silu:8:8:14:17", "silu:8:8:14:12:1", "cos:4",
])
def test_tables_that_do_not_exist(name: str) -> None:
    with pytest.raises(RelationError):
        table_columns(name)


@pytest.mark.parametrize("width", [1, 5, 16])
def test_ranges(width: int) -> None:
    assert [c.tolist() for c in table_columns(f"range:{width}")] == [list(range(1 << width))]
