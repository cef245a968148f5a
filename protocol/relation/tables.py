"""Public lookup tables, computed by integer arithmetic only, so that every machine gets the same rows.

    range:w           [0, 2^w), w = 1…16
    exp:g:fP          rows (x, T[x], T[x−1]), T[x] = round(2^fP · exp(−x · 2^−g)), x in [0, 2^16)
    silu:fi:fo:fd     rows (i, round(2^fo·a), round(2^fd·a')) with x = i·2^−fi, a = x·σ(x), a' its derivative,
                      i in [−2^15, 2^15); silu:fi:fo:fd:b has the 2^b rows in the middle, b = 8…15

e^−x by fixed-point recurrence with guard bits, the sigmoid by integer division (arithmetic.md, opening
section). A table's identity in the fingerprint is its position in `table_id`; called by the relation
(widths), the executor (values) and the lookup argument (rows).
"""

from functools import lru_cache

import numpy as np

from protocol.relation.graph import IntArray, RelationError

GUARD = 128  # fractional bits of the recurrence; 2^16 steps lose at most 17 of them


def _exp_fixed(shift: int) -> int:
    """floor-accurate 2^GUARD·exp(−2^−shift), shift ≥ 0, by the Taylor series."""
    one = 1 << GUARD
    term, total, k = one, 0, 0
    while term:
        total += term if k % 2 == 0 else -term
        k += 1
        term = term // k >> shift
    return total


def cos_sin(angle: int) -> tuple[int, int]:
    """2^GUARD·(cos, sin) of angle·2^−GUARD for 0 ≤ angle ≤ π, by the Taylor series."""
    term, k, sums = 1 << GUARD, 0, [0, 0]
    while term:
        sums[k & 1] += term if k % 4 < 2 else -term
        k += 1
        term = (term * angle >> GUARD) // k
    return sums[0], sums[1]


def half_turn() -> int:
    """2^GUARD·π by Machin's formula 16·arctan(1/5) − 4·arctan(1/239)."""
    total = 0
    for factor, n in ((16, 5), (-4, 239)):
        power, k = (factor << GUARD) // n, 1
        while power not in (0, -1):
            total += power // k if k % 4 == 1 else -(power // k)
            power, k = power // (n * n), k + 2
    return total


def round_shift(value: int, shift: int) -> int:
    """⌊(value + 2^(shift−1)) / 2^shift⌋: ties upwards, as everywhere."""
    return (value + (1 << shift - 1)) >> shift if shift > 0 else value << -shift


@lru_cache(maxsize=8)
def exp_table(g: int, f_p: int) -> tuple[IntArray, IntArray, IntArray]:
    """Columns (x, T[x], T[x−1]) of exp:g:fP, each int64[2^16]. With these g and fP T[−1] > T[0] > T[1], and T vanishes at its end."""
    if not 0 <= g <= 10 or not g + 2 <= f_p <= 24:
        raise RelationError(f"exp table: granularity {g} and probability bits {f_p} need g+2 ≤ fP ≤ 24, 0 ≤ g ≤ 10")
    step = _exp_fixed(g)
    inverse = (1 << 2 * GUARD) // step  # exp(+2^−g)
    values, current = [round_shift(inverse, GUARD - f_p)], 1 << GUARD
    while values[-1]:
        values.append(round_shift(current, GUARD - f_p))
        current = current * step >> GUARD
    table = np.zeros((1 << 16) + 1, dtype=np.int64)
    table[: len(values)] = values
    return np.arange(1 << 16, dtype=np.int64), table[1:], table[:-1]


def softmax_limit(g: int, f_p: int) -> int:
    """K = ⌊2^fP · exp(2^−(g+1))⌋, the row-sum bound that makes the softmax shift unique."""
    return ((1 << 2 * GUARD) // _exp_fixed(g + 1)) >> (GUARD - f_p)


@lru_cache(maxsize=8)
def silu_table(f_in: int, f_out: int, f_grad: int, bits: int = 16) -> tuple[IntArray, IntArray, IntArray]:
    """Columns (i, silu, silu') of silu:fi:fo:fd, each int64[2^bits], i from −2^(bits−1)."""
    if not (-3 <= f_in <= 16 and 0 <= f_out + 3 <= 20 and 0 <= f_grad <= 16 and 8 <= bits <= 16):
        raise RelationError(f"silu table: fractional bits {f_in}, {f_out}, {f_grad} or 2^{bits} rows are out of range")
    half, one = 1 << bits - 1, 1 << GUARD
    step, decay = _exp_fixed(f_in) if f_in >= 0 else _exp_fixed(0) ** (1 << -f_in) >> GUARD * ((1 << -f_in) - 1), one
    out, grad = [0] * (2 * half), [0] * (2 * half)
    for i in range(half + 1):  # decay = 2^GUARD · exp(−i·2^−fi)
        sigma_pos = (one << GUARD) // (one + decay)
        for index, sigma in ((i, sigma_pos), (-i, one - sigma_pos)):
            if -half <= index < half:
                out[index + half] = round_shift(index * sigma, GUARD + f_in - f_out)
                slope = (sigma << f_in if f_in >= 0 else sigma >> -f_in) + (index * sigma * (one - sigma) >> GUARD)
                grad[index + half] = round_shift(slope, GUARD + f_in - f_grad)
        decay = decay * step >> GUARD
    return np.arange(-half, half, dtype=np.int64), np.array(out, dtype=np.int64), np.array(grad, dtype=np.int64)


@lru_cache(maxsize=64)
def table_columns(name: str) -> tuple[IntArray, ...]:
    """The columns of a table by name; `RelationError` if there is no such table."""
    kind, *params = name.split(":")
    numbers = [int(x) for x in params]
    if kind == "range" and len(numbers) == 1 and 1 <= numbers[0] <= 16:
        return (np.arange(1 << numbers[0], dtype=np.int64),)
    if kind == "exp" and len(numbers) == 2:
        return exp_table(*numbers)
    if kind == "silu" and len(numbers) in (3, 4) and numbers[3:] != [16]:  # which has that name already
        return silu_table(*numbers)
    raise RelationError(f"no table named {name!r}")
