"""The kernels of commitments, encoding and hashing, against their NumPy definition; the backends are those of test_kernels.py."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from tests.prover.test_kernels import REFERENCE, cpu, elements, rng, same  # noqa: F401 - two are fixtures

CODES = [(1, 2, 1), (2, 8, 3), (4, 16, 12), (4, 4, 0), (8, 32, 5), (16, 64, 20), (32, 128, 7), (64, 256, 30), (128, 512, 9),
         (128, 512, 200), (256, 512, 100), (256, 1024, 40), (512, 2048, 600), (512, 2048, 1536), (1024, 4096, 0), (1024, 8192, 33),
         (2048, 4096, 1), (4096, 16384, 151), (8192, 16384, 3), (8192, 32768, 170), (32768, 32768, 0)]


@pytest.mark.parametrize("ell,n,blinding", CODES)
def test_encode(cpu: CpuBackend, rng: np.random.Generator, ell: int, n: int, blinding: int) -> None:  # noqa: F811
    code = Code(F, ell, n, blinding)
    messages, rho = elements(rng, 3, ell), elements(rng, 3, blinding)
    expected = REFERENCE.encode(code, messages, rho)
    same(cpu.encode(code, messages, rho), expected)
    for backend in (cpu, REFERENCE):
        room = elements(rng, 5, n)
        backend.encode(code, messages, rho, room[1:4])
        same(room[1:4], expected)
        positions = rng.integers(0, n, 9)  # some of them twice, where there are few
        same(np.array(backend.columns(code, messages, rho, positions)), expected[:, positions])


@pytest.mark.parametrize("ell,n,blinding", CODES)
def test_transforms(cpu: CpuBackend, rng: np.random.Generator, ell: int, n: int, blinding: int) -> None:  # noqa: F811
    code = Code(F, ell, n, blinding)
    message, rho = elements(rng, 2, ell), elements(rng, 2, blinding)
    given = message.copy()
    coefs = cpu.coefficients(code, message, rho)
    same(coefs, REFERENCE.coefficients(code, message, rho))
    same(message, given)
    same(cpu.message_of(code, coefs), message)
    for length in (ell, ell + blinding, 3 * ell + 1):
        coefs = elements(rng, length)
        same(cpu.message_of(code, coefs), REFERENCE.message_of(code, coefs))


@pytest.mark.parametrize("rows", [*range(1, 18), 40])
def test_hash_columns(cpu: CpuBackend, rng: np.random.Generator, rows: int) -> None:  # noqa: F811
    for n in (1, 2, 4, 64, 2048) if rows == 9 else (2, 32):
        codeword, salts = elements(rng, rows, n), rng.integers(0, 256, (n, 32), dtype=np.uint8)
        same(cpu.hash_columns(codeword, salts), REFERENCE.hash_columns(codeword, salts))


@pytest.mark.parametrize("portions", [(8, 1), (16, 8, 7), (8, 8, 16), (24, 6)])
@pytest.mark.parametrize("n", [1, 2, 16, 1024])
def test_hash_in_portions(cpu: CpuBackend, rng: np.random.Generator, n: int, portions: tuple[int, ...]) -> None:  # noqa: F811
    codeword, salts = elements(rng, sum(portions), n), rng.integers(0, 256, (n, 32), dtype=np.uint8)
    expected = REFERENCE.hash_columns(codeword, salts)
    for backend in (cpu, REFERENCE):
        states, before = None, 0
        for rows in portions:
            part = codeword[before : before + rows]
            states = backend.hash_rows(states, part, salts, before, before + rows == len(codeword))
            before += rows
        same(states, expected)
        for given, rows, earlier, last in ((None, 7, 0, False), (None, 8, 8, False), (states, 8, 4, True), (states, 8, 0, True)):
            with pytest.raises(ValueError, match="rows after"):
                backend.hash_rows(given, codeword[:rows], salts, earlier, last)


@pytest.mark.parametrize("n", [1, 2, 4, 16, 1024])
def test_merkle_levels(cpu: CpuBackend, rng: np.random.Generator, n: int) -> None:  # noqa: F811
    leaves = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    for mine, theirs in zip(cpu.merkle_levels(leaves), REFERENCE.merkle_levels(leaves), strict=True):
        same(mine, theirs)
