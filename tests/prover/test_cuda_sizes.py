"""The CUDA backend against the CPU's at sizes of real tasks: the grid of a large card, long walks over it, more than 2^32 entries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from prover.backend import select
from prover.backend.cuda import CudaBackend
from prover.backend.tiled import TILE, TILE_BITS, Tiled
from tests.prover.test_kernels import elements, rng, same, scalar  # noqa: F401
from tests.support.device import REAL, module

CPU = select("cpu")
LOG = 22


@pytest.fixture(scope="module")
def gpu() -> Iterator[CudaBackend]:
    yield CudaBackend(module(multiprocessors=132))
    module()


def leaves(rng: np.random.Generator, size: int) -> tuple[Tiled, Tiled]:  # noqa: F811
    """A tree's leaves: looked up, of tables, free."""
    p, q = Tiled.filled(size, 0), Tiled.filled(size, 1)
    looked, rows = size // 2 + 5 * TILE + 3, size // 8
    p.set(0, looked, 1)
    p.open(looked, looked + rows)
    p.cells[:, looked : looked + rows] = elements(rng, 2, rows)
    q.open(0, looked + rows)
    q.cells[:, : looked + rows] = elements(rng, 2, looked + rows)
    return p, q


def test_a_tree(gpu: CudaBackend, rng: np.random.Generator) -> None:  # noqa: F811
    p, q = leaves(rng, 1 << LOG)
    mine, theirs = [(p.placed(gpu.to_device), q.placed(gpu.to_device))], [(p, q)]
    for levels, backend in ((mine, gpu), (theirs, CPU)):
        while levels[-1][0].size > 1:
            levels.append(backend.fraction_layer(*levels[-1]))
    same(mine[-1][1].cells, theirs[-1][1].cells)
    for level in range(LOG - 1, 5, -5):  # from the leaves up
        point, lam = elements(rng, 2, level - 1), scalar(rng)
        tables, cut = [], max(0, level - 1 - TILE_BITS)
        for levels in (mine, theirs):
            p, q = levels[LOG - 1 - level]
            tables.append([*p.halves(), *q.halves()])
        weights = [(backend.eq_suffixes(point[:, cut:]), backend.eq_suffixes(point[:, :cut])) for backend in (gpu, CPU)]
        r = None
        for left in range(level - 1, -1, -1):
            found = []
            for k, backend in enumerate((gpu, CPU)):
                low, high = weights[k][0][min(left, TILE_BITS)], weights[k][1][max(0, left - TILE_BITS)]
                if r is None:
                    tables[k], g = backend.fraction_round(tables[k], low, high, lam)
                else:
                    tables[k], g = backend.fraction_fold_round(tables[k], r, low, high, lam)
                found.append(g)
            same(*found)
            r = scalar(rng)


def test_products(gpu: CudaBackend, rng: np.random.Generator) -> None:  # noqa: F811
    sizes = [1 << LOG, 1 << LOG, 1 << 14, 64]
    pairs = [(elements(rng, 2, n), elements(rng, 2, n)) for n in sizes]
    there = [(gpu.to_device(a), gpu.to_device(b)) for a, b in pairs]
    coefs, r = [scalar(rng) for _ in sizes], None
    for _ in range(LOG):
        flags = [r is not None and a.shape[1] > 1 for a, _ in pairs]
        pairs, expected = CPU.product_rounds(pairs, coefs, flags, r)
        there, mine = gpu.product_rounds(there, coefs, flags, r)
        same(mine, expected)
        r = scalar(rng)
    a, b = elements(rng, 2, 1 << LOG), elements(rng, 2, 1 << LOG)
    same(gpu.kdot(gpu.to_device(a), gpu.to_device(b)), CPU.kdot(a, b))


@pytest.mark.parametrize("ell", [1 << 16, 1 << 20])
def test_a_commitment(gpu: CudaBackend, rng: np.random.Generator, ell: int) -> None:  # noqa: F811
    code, rows = Code(F, ell, 4 * ell, 300), 16
    messages, rho = elements(rng, rows, ell), elements(rng, rows, code.blinding)
    salts = rng.integers(0, 256, (code.n, 32), dtype=np.uint8)
    expected = CPU.encode(code, messages, rho)
    codeword = gpu.encode(code, gpu.to_device(messages), gpu.to_device(rho))
    same(gpu.to_host(codeword), expected)
    leaves = gpu.hash_columns(codeword, gpu.to_device(salts))
    same(tuple(map(gpu.to_host, gpu.merkle_levels(leaves))), tuple(CPU.merkle_levels(CPU.hash_columns(expected, salts))))


def test_folds_and_counts(gpu: CudaBackend, rng: np.random.Generator) -> None:  # noqa: F811
    for shape in ((1, 1 << 12, 1 << 10), (1 << 12, 1 << 10, 1), (1, 1 << LOG, 1)):
        x, w = rng.integers(-(2**40), 2**40, shape), elements(rng, 2, shape[1])
        same(gpu.to_host(gpu.fold_axis(gpu.to_device(x), gpu.to_device(w))), CPU.fold_axis(x, w))
    x = np.where(rng.integers(0, 4, 1 << LOG) > 0, rng.integers(-2, 2, 1 << LOG), rng.integers(-(2**15), 2**15, 1 << LOG))
    mine, theirs = gpu.to_device(np.zeros(1 << 16, dtype=np.int64)), np.zeros(1 << 16, dtype=np.int64)
    for _ in range(3):
        gpu.count([gpu.to_device(x)], -(2**15), mine)
        CPU.count([x], -(2**15), theirs)
    same(gpu.to_host(mine), theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not REAL, reason="needs a CUDA device, and VERILORA_TEST_GPU=1")
def test_more_entries_than_32_bits_count(gpu: CudaBackend) -> None:
    size = (1 << 32) + 1000
    if gpu.xp.cuda.Device().mem_info[0] < 17 * size:
        pytest.skip("needs 73 GB on the device")
    x = gpu.xp.zeros(size, dtype=np.int64)
    x[-1000:] = -7
    out = gpu.embed(x)
    same(gpu.to_host(out[-1002:]), CPU.embed(np.array([0, 0, *[-7] * 1000])))
    assert int((out != 0).sum()) == 1000
