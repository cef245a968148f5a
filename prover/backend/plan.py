"""Tables of the transforms in prover/kernels/ntt.h for one row code, whatever its blinding; made once and kept by the CPU backend.

inverse, forward: 8 words w_16^j, then the twiddles of each pass from the top (see ntt.h), first one pass of radix 2 or 4
that brings the size to 64·8^k, then radix 8 down to 64, then radix 4 (below 64: radix 2 once if needed, then radix 4).
scale[c]: s_c^k / ell at the bit-reversed place of k. powers[c] = s_c^ell.
order: the bit-reversed places of k < ell. Here s_c = shift·g^c, g of order n, c < n/ell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.code import Code
from protocol.field import I64, U64, Field

# exponents of a pass's twiddles: places 1 … R-1 of a bit-reversed order for R = 8, the natural order for R = 4
_EXPONENTS = {2: (1,), 4: (1, 2, 3), 8: (4, 2, 6, 1, 5, 3, 7)}


@dataclass(frozen=True)
class Plan:
    inverse: U64
    forward: U64
    scale: U64
    powers: U64
    order: I64


def make_plan(code: Code) -> Plan:
    f, ell = code.field, code.ell
    log = ell.bit_length() - 1
    reverse, root, shift_ell = _bit_reverse(log), f.root_of_unity(log), pow(code.shift, ell, f.p)
    turns = f.powers(f.root_of_unity(code.n.bit_length() - 1), code.n)  # g^i, in which s_c^k = shift^k·g^(ck)
    c = np.arange(code.n // ell)
    scale = f.mul(f.powers(code.shift, ell)[reverse], turns[c[:, None] * reverse % code.n])
    return Plan(
        inverse=_twiddles(f, log, pow(root, -1, f.p), inverse=True),
        forward=_twiddles(f, log, root, inverse=False),
        scale=f.mul(scale, np.asarray(np.uint64(pow(ell, -1, f.p)))),
        powers=f.mul(turns[c * ell], np.asarray(np.uint64(shift_ell))),
        order=reverse,
    )


def _twiddles(f: Field, log: int, root: int, inverse: bool) -> U64:
    sixteenth = f.root_of_unity(4)
    parts = [f.powers(pow(sixteenth, -1, f.p) if inverse else sixteenth, 8)]
    ell = 1 << log
    powers = f.powers(root, ell)
    size = ell
    for radix in _radices(log):
        j = np.arange(size // radix) * (ell // size)
        parts += [powers[j * e] for e in _EXPONENTS[radix]]
        size //= radix
    return np.concatenate(parts)


def _radices(log: int) -> list[int]:
    """Radices of the passes from the top, as first_radix, dif and dit in ntt.h choose them."""
    if log < 6:
        return [2] * (log % 2) + [4] * (log // 2)
    first = [2] if log % 3 == 1 else [4] if log % 3 == 2 else []
    return first + [8] * (log // 3 - 2) + [4, 4, 4]


def _bit_reverse(log: int) -> I64:
    out = np.zeros(1, dtype=np.int64)
    for _ in range(log):
        out = np.concatenate([2 * out, 2 * out + 1])
    return out
