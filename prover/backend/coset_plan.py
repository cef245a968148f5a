"""Tables of the encoding in prover/kernels/cosets.h, for a code of rate 1/4; made once and kept by the CPU backend.

A pass of radix R takes blocks of s words; sizes from the top are ell = 16^b·8^a, radix 8 first. h = g^4 generates the ell-th roots, g the
codeword's domain, e(k) is the bit-reversed place k < R. (R, S: this pass's radix, the radix of the pass above.)
inverse: for each pass below the top, h^(−j·e(k)·ell/s') for place k < S of a block of s' = S·s words and j < s; of the last, divided by
ell, 4 blocks of R words are transposed.
forward: for each pass from the top, (shift·g^(4j + c))^(e(k)·ell/s): [j < s/R][0 < k < R][c < 4].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocol.code import Code
from protocol.field import U64, Field

SMALLEST = 64  # two passes


@dataclass(frozen=True)
class CosetPlan:
    inverse: U64
    forward: U64


def make_coset_plan(code: Code, lanes: int) -> CosetPlan:
    f, ell = code.field, code.ell
    log = ell.bit_length() - 1
    eights = -log % 4
    radices = [8] * eights + [16] * ((log - 3 * eights) // 4)
    backward = f.powers(pow(f.root_of_unity(log), -1, f.p), ell)
    points = f.mul(f.powers(f.root_of_unity(log + 2), 4 * ell // radices[0]), np.asarray(np.uint64(code.shift)))  # shift·g^i
    inverse, forward, size, above = [], [], ell, 0
    for radix in radices:
        if above:
            inverse.append(backward[np.outer(_reversed(above), np.arange(size) * (ell // (size * above)))].reshape(-1))
        forward.append(_forward(f, np.resize(points[: 4 * size // radix], max(4 * size // radix, lanes)), radix, lanes))
        size, above = size // radix, radix
        for _ in range(radix.bit_length() - 1):
            points = f.mul(points, points)
    last = f.mul(inverse[-1], np.asarray(np.uint64(pow(ell, -1, f.p))))
    inverse[-1] = last.reshape(-1, lanes, above).transpose(0, 2, 1).reshape(-1)
    return CosetPlan(np.concatenate(inverse), np.concatenate(forward))


def _forward(f: Field, points: U64, radix: int, lanes: int) -> U64:
    powers = [np.ones_like(points)]
    for _ in range(radix - 1):
        powers.append(f.mul(powers[-1], points))
    chosen = np.stack([powers[e] for e in _reversed(radix)[1:]])
    return np.ascontiguousarray(chosen.reshape(radix - 1, -1, lanes).transpose(1, 0, 2)).reshape(-1)


def _reversed(radix: int) -> list[int]:
    return [0, 4, 2, 6, 1, 5, 3, 7] if radix == 8 else [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15]
