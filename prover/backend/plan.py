"""Tables of the transforms in prover/kernels/ntt.h for one row code; made once per code and kept by the CPU backend.

inverse, forward: 8 words w_16^j; for odd log2(ell) the ell/2 words w_ell^j; then for s = size, size/4, …, 4 the 3·s/4
words w_s^j, w_s^2j, w_s^3j (j < s/4). scale[c]: s_c^k / ell at the bit-reversed place of k. powers[c] = s_c^ell.
slots: bit-reversed places of k < min(blinding, ell). Here s_c = shift·g^c, g of order n, c < n/ell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.code import Code
from protocol.field import I64, U64, Field


@dataclass(frozen=True)
class Plan:
    inverse: U64
    forward: U64
    scale: U64
    powers: U64
    slots: U64


def make_plan(code: Code) -> Plan:
    f, ell = code.field, code.ell
    log = ell.bit_length() - 1
    reverse = _bit_reverse(log)
    root, step = f.root_of_unity(log), f.root_of_unity(code.n.bit_length() - 1)
    shifts = [code.shift * pow(step, c, f.p) % f.p for c in range(code.n // ell)]
    scale = np.stack([f.powers(s, ell)[reverse] for s in shifts])
    return Plan(
        inverse=_twiddles(f, log, pow(root, -1, f.p), inverse=True),
        forward=_twiddles(f, log, root, inverse=False),
        scale=f.mul(scale, np.asarray(np.uint64(pow(ell, -1, f.p)))),
        powers=f.array([pow(s, ell, f.p) for s in shifts]),
        slots=reverse[: min(code.blinding, ell)].astype(np.uint64),
    )


def _twiddles(f: Field, log: int, root: int, inverse: bool) -> U64:
    sixteenth = f.root_of_unity(4)
    parts = [f.powers(pow(sixteenth, -1, f.p) if inverse else sixteenth, 8)]
    ell = 1 << log
    powers = f.powers(root, ell)
    size = ell
    if log % 2:
        parts.append(powers[: ell // 2])
        size //= 2
    while size > 1:
        j = np.arange(size // 4) * (ell // size)
        parts += [powers[j], powers[2 * j], powers[3 * j]]
        size //= 4
    return np.concatenate(parts)


def _bit_reverse(log: int) -> I64:
    out = np.zeros(1, dtype=np.int64)
    for _ in range(log):
        out = np.concatenate([2 * out, 2 * out + 1])
    return out
