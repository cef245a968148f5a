"""The CPU backend's field against protocol/field.py, word for word, with the shapes that the schedule spreads over one another."""

import numpy as np
import pytest

from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from prover.backend.field import address, planes
from tests.prover.test_kernels import cpu, elements, integers, rng, same, scalar  # noqa: F401 (cpu and rng are fixtures)

FLAT = [((5,), (5,)), ((300,), (1,)), ((), (7,)), ((), ()), ((3, 1, 4), (2, 1)), ((0,), (0,)), ((2, 20_000), (20_000,))]
PLANES = [((5,), (5,)), ((300,), (1,)), ((4, 6), (6,)), ((4, 1), (1, 6)), ((2, 3, 4), (3, 1)), ((2,), (2, 1)), ((0,), (0,))]


@pytest.mark.parametrize(("a", "b"), FLAT)
def test_products_over_f(cpu: CpuBackend, rng: np.random.Generator, a: tuple[int, ...], b: tuple[int, ...]) -> None:  # noqa: F811
    x, y = elements(rng, *a), elements(rng, *b)
    same(cpu.field.mul(x, y), F.mul(x, y))
    same(cpu.field.mul(y, x), F.mul(y, x))


@pytest.mark.parametrize(("a", "b"), PLANES)
def test_products_over_k(cpu: CpuBackend, rng: np.random.Generator, a: tuple[int, ...], b: tuple[int, ...]) -> None:  # noqa: F811
    x, y, f, r = elements(rng, 2, *a), elements(rng, 2, *b), elements(rng, *b), scalar(rng)
    same(cpu.field.kmul(x, y), F.kmul(x, y))
    same(cpu.field.kmulf(x, f), F.kmulf(x, f))
    same(cpu.field.kscale(x, r), F.kscale(x, r))
    if a == b:
        same(cpu.field.kdot(x, y), F.kdot(x, y))


def test_slices_and_transposes(cpu: CpuBackend, rng: np.random.Generator) -> None:  # noqa: F811
    x, y = elements(rng, 2, 6, 40), elements(rng, 2, 40, 6)
    same(cpu.field.kmul(x, y.transpose(0, 2, 1)), F.kmul(x, y.transpose(0, 2, 1)))
    same(cpu.field.kscale(x[:, :, 3:30], F.ext(5, 7)), F.kscale(x[:, :, 3:30], F.ext(5, 7)))
    same(cpu.field.mul(x[0, ::2, 1:], y[0].T[::2, 1:]), F.mul(x[0, ::2, 1:], y[0].T[::2, 1:]))
    same(cpu.field.sum(x[:, ::2]), F.sum(x[:, ::2]))


@pytest.mark.parametrize("shape", [(1,), (9,), (4, 300), (2, 3, 5), (2, 70_000), (3, 0)])
def test_sums_and_integers(cpu: CpuBackend, rng: np.random.Generator, shape: tuple[int, ...]) -> None:  # noqa: F811
    x, n = elements(rng, *shape), integers(rng, *shape)
    same(cpu.field.sum(x), F.sum(x))
    same(cpu.field.sum(np.full(shape, F.p - 1, dtype=np.uint64)), F.sum(np.full(shape, F.p - 1, dtype=np.uint64)))
    same(cpu.field.embed(n), F.embed(n))
    same(cpu.field.embed(n.T), F.embed(n.T))


@pytest.mark.parametrize("variables", [0, 1, 3, 11])
def test_eq_table(cpu: CpuBackend, rng: np.random.Generator, variables: int) -> None:  # noqa: F811
    point = elements(rng, 2, variables)
    same(cpu.field.eq_table(point), F.eq_table(point))


def test_addresses(rng: np.random.Generator) -> None:  # noqa: F811
    """Of arrays that can be written, that cannot, that have gaps, that are empty."""
    whole = elements(rng, 2, 6)
    fixed = np.frombuffer(bytes(48), dtype=np.uint64)
    for a in (whole, whole[:, 2:4], whole[1], whole[::-1], whole[:, ::2], whole[0, :0], fixed, fixed[3:], whole[0, 2:3].reshape(())):
        assert address(a) == a.ctypes.data
    for a in (whole, whole[:, 2:4], elements(rng, 2)):
        assert planes(a) == (a.ctypes.data, a[1:].ctypes.data)


@pytest.mark.parametrize("rounds", [0, 1, 2, 13])
def test_sumcheck_end(cpu: CpuBackend, rng: np.random.Generator, rounds: int) -> None:  # noqa: F811
    point, eq_point = ([scalar(rng) for _ in range(rounds)] for _ in range(2))
    messages = [scalar(rng) for _ in range(2 * rounds)]
    for e in (None, eq_point, [F.zero] * rounds, [F.ext(0, F.p - 1)] * rounds):
        assert cpu.field.sumcheck_end(point, e, messages) == F.sumcheck_end(point, e, messages)


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 70_001])  # the last by several threads
def test_powers(cpu: CpuBackend, rng: np.random.Generator, n: int) -> None:  # noqa: F811
    for x in (0, 1, -1, 7, *elements(rng, 2).tolist()):
        same(cpu.field.powers(x, n), F.powers(x, n))
