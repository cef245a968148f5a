"""Tables of the encoding in prover/kernels/cosets.h, for a code of rate 1/4; made once and kept by the CPU backend.

A pass of radix R cuts blocks of s words into R parts; from the top, s begins with ell = 8^a·16^b, and passes of radix 8 come first. h
generates the ell-th roots of unity, g with g^4 = h the codeword's domain, i < 4·s/R counts the words of a part on the four cosets, e is the
bit-reversed k < R.
inverse: for each pass but the top one, whose blocks are parts of the pass above it (R, s of that one): h^(−j·e·ell/s), [k < R][j < s/R];
those of the last pass divided by ell, and 8 or 4 of its blocks, as many as a vector has lanes, transposed.
forward: for each pass from the top (shift·g^i)^(e·ell/s), [i / lanes][0 < k < R][i mod lanes]; four words fill a longer vector twice.
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
        words = 4 * size // radix
        forward.append(_forward(f, np.resize(points[:words], max(words, lanes)), radix, lanes))
        size, above = size // radix, radix
        for _ in range(radix.bit_length() - 1):
            points = f.mul(points, points)  # (shift·g^i)^(ell/s)
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
