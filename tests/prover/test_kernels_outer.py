"""Outer products: all of a list of vectors, and many sums of them in one call, bit for bit as the NumPy backend defines them."""

# ruff: noqa: F811 - fixtures of another file
from __future__ import annotations

import numpy as np
import pytest

from protocol.field import GOLDILOCKS as F
from protocol.field import Ext
from prover.backend.cpu import CpuBackend
from prover.backend.outer import OuterSum
from tests.prover.test_kernels import REFERENCE, P, cpu, elements, rng, same  # noqa: F401 - fixtures among them


@pytest.mark.parametrize("sizes", [(1,), (7,), (1, 1, 40), (3, 5), (5, 1, 9, 2), (2, 0, 3), (300, 70), (8, 16, 4, 33)])
def test_outer_of_vectors(cpu: CpuBackend, rng: np.random.Generator, sizes: tuple[int, ...]) -> None:
    vectors = [elements(rng, 2, n) for n in sizes]
    vectors[-1] = elements(rng, 2, 2 * sizes[-1])[:, ::2]
    same(cpu.outer(vectors), REFERENCE.outer(vectors))


@pytest.mark.parametrize("terms", [1, 2, 129, 300])  # 128 of them are added up at a time
def test_outer_sums_carry(cpu: CpuBackend, terms: int) -> None:
    top, mine, theirs = np.full((2, 9), P - 1, dtype=np.uint64), np.zeros((2, 81), dtype=np.uint64), np.zeros((2, 81), dtype=np.uint64)
    cpu.outer_sums([OuterSum([top] * terms, [top] * terms, mine)])
    REFERENCE.outer_sums([OuterSum([top] * terms, [top] * terms, theirs)])
    same(mine, theirs)


@pytest.mark.parametrize("seed", range(6))
def test_outer_sums(cpu: CpuBackend, seed: int) -> None:
    """Sums of all sizes in one call: rows in one piece or in several, vectors and results that are parts of larger arrays."""
    random = np.random.default_rng(seed)
    mine, sums = elements(random, 2, 9_000), list[OuterSum]()
    theirs, at, expected = mine.copy(), 3, list[OuterSum]()
    for n0, n1, terms, piece in [(1, 1, 1, 0), (3, 5, 2, 0), (0, 4, 1, 0), (9, 33, 1, 0), (2, 24, 3, 8), (5, 6, 2, 2), (7, 3, 1, 1),
                                 (4, 64, 130, 64), (40, 32, 1, 16), (1, 700, 2, 0), (6, 0, 1, 0)]:
        us = [elements(random, 2, n0 + 4)[:, 2 : 2 + n0] for _ in range(terms)]
        vs = [elements(random, 2, 2 * n1)[:, ::2] if t == 1 else elements(random, 2, n1) for t in range(terms)]
        apart = n0 * piece + int(random.integers(0, 5)) if piece else 0
        size = (n1 // piece - 1) * apart + n0 * piece if piece else n0 * n1
        for out, into in ((mine, sums), (theirs, expected)):
            into.append(OuterSum(us, vs, out[:, at : at + size], piece, apart))
        at += size + int(random.integers(0, 9))
    empty = [slice(at + 700 * k, at + 700 * k + int(random.integers(0, 700))) for k in range(3)]  # sums of nothing
    sums += [OuterSum([], [], mine[:, cells]) for cells in empty]
    order = random.permutation(len(sums))
    assert cpu.outer_sums([sums[k] for k in order]) is None
    for x in expected:  # entry by entry
        piece = x.piece or x.vs[0].shape[1]
        for i, j in np.ndindex(x.us[0].shape[1], x.vs[0].shape[1]):
            parts = [Ext(*u[:, i].tolist(), F) * Ext(*v[:, j].tolist(), F) for u, v in zip(x.us, x.vs, strict=True)]
            x.out[:, i * piece + j // piece * x.apart + j % piece] = sum(parts, F.zero).array()
    for cells in empty:
        theirs[:, cells] = 0
    same(mine, theirs)
    for cells in empty:
        theirs[:, cells] = 1
    REFERENCE.outer_sums([*expected, *(OuterSum([], [], theirs[:, cells]) for cells in empty)])
    same(mine, theirs)
    cpu.outer_sums([])


def test_outer_sums_that_do_not_fit(cpu: CpuBackend, rng: np.random.Generator) -> None:
    out = elements(rng, 2, 24)
    u, v = elements(rng, 2, 2), elements(rng, 2, 12)
    for bad, message in [
        (OuterSum([u], [v], out[:, :23]), "for 24 entries"), (OuterSum([u], [v], out, 4, 9), "for 26 entries"),
        (OuterSum([u, u[:, :1]], [v, v], out), "shapes"), (OuterSum([u, u], [v, v[:, :5]], out), "shapes"),
        (OuterSum([u], [v], out, 8, 16), "pieces"), (OuterSum([u], [v], out, 3, 8), "pieces"), (OuterSum([u], [v], out, 4, 7), "pieces"),
        (OuterSum([u], [v, v], out), "argument 2"), (OuterSum([], [v], out), "argument 2"),
        (OuterSum([u], [v], elements(rng, 2, 48)[:, ::2]), "contiguous"), (OuterSum([u], [v], out.astype(np.int64)), "contiguous"),
    ]:
        with pytest.raises(ValueError, match=message):
            cpu.outer_sums([bad])
