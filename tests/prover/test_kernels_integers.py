"""Integers of every width and sign in every kernel that takes them, against the NumPy definition on 64 bits; run again on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from prover.backend.integers import INTEGERS
from prover.backend.leaves import COLUMNS, Place, Run
from prover.backend.tiled import TILE, Tiled
from tests.prover.test_kernels import REFERENCE, cpu, elements, rng, same, scalar, written  # noqa: F401

EVERY = [*INTEGERS]
EDGES = sorted({sign * 2**k + d for k in (0, 7, 8, 15, 16, 31, 32, 62, 63) for sign in (-1, 1) for d in (-1, 0, 1)})


def integers(rng: np.random.Generator, kind: np.dtype, *shape: int) -> np.ndarray:  # noqa: F811
    """Of a kind, half of them at the limits of this one and of narrower ones."""
    limits = np.iinfo(kind)
    words = rng.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    some = np.array([x for x in EDGES if limits.min <= x <= limits.max], dtype=kind)
    return np.where(rng.random(shape) < 0.5, rng.choice(some, shape), words)


def there(cpu: Any) -> Any:  # noqa: F811
    """The backend itself, without the coat that moves arrays."""
    return getattr(cpu, "backend", cpu)


def behind(cpu: CpuBackend, x: np.ndarray) -> Any:  # noqa: F811
    """Where the backend computes, behind one entry more: bytes at an odd address, wider integers at odd multiples of their width."""
    return there(cpu).to_device(np.concatenate([x.reshape(-1)[:1], x.reshape(-1)]))[1:].reshape(x.shape)


def test_limits_are_among_them(rng: np.random.Generator) -> None:  # noqa: F811
    for kind in EVERY:
        found, limits = set(integers(rng, kind, 5000).tolist()), np.iinfo(kind)
        assert {limits.min, 0, limits.max} <= found and (limits.min == 0 or -1 in found)


@pytest.mark.parametrize("kind", EVERY, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 64), (37, 130)])
def test_integers_of_every_width(cpu: CpuBackend, rng: np.random.Generator, kind: np.dtype, shape: tuple[int, int]) -> None:  # noqa: F811
    """Read as they are, wherever they begin."""
    narrow, u, v = integers(rng, kind, *shape), elements(rng, 2, shape[0]), elements(rng, 2, shape[1])
    x, wide, size = behind(cpu, narrow), narrow.astype(np.int64), 2 * narrow.size + 9
    same(cpu.embed(x), REFERENCE.embed(wide))
    same(cpu.lift(x), REFERENCE.lift(wide))
    same(cpu.weight(x, u, v), REFERENCE.weight(wide, u, v))
    for w, cut in ((v, (*shape, 1)), (u, (1, *shape)), (v, (1, shape[1], 1))):
        rows = cut[0] * cut[2]
        a, b = (y.reshape(-1)[: rows * cut[1]].reshape(cut) for y in (x, wide))
        same(cpu.fold_axis(a, w), REFERENCE.fold_axis(b, w))
    mine, theirs = (elements(np.random.default_rng(1), size) for _ in range(2))
    places = [Place(size - x.size), Place(2)]
    cpu.embed_runs([x, x[:1]], places, mine)
    REFERENCE.embed_runs([wide, wide[:1]], places, theirs)
    same(mine, theirs)
    for first in (0, -5, int(np.iinfo(kind).min), int(np.iinfo(kind).max) - 9):
        mine, theirs = np.arange(10), np.arange(10)
        cpu.count([x, x[:1]], first, mine)
        REFERENCE.count([wide, wide[:1]], first, theirs)
        same(mine, theirs)


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_leaves_of_integers_of_every_width(cpu: CpuBackend, rng: np.random.Generator, kind: np.dtype) -> None:  # noqa: F811
    """Columns of one kind and of several."""
    coefs, at, n = [scalar(rng) for _ in range(COLUMNS)], EVERY.index(kind), 2 * TILE + 7
    for kinds in ([kind], [kind] * 3, [EVERY[(at + k) % len(EVERY)] for k in range(COLUMNS)]):
        columns = [integers(rng, k, n) for k in kinds]
        mine, theirs = (Run(c, coefs[: len(kinds)], coefs[0], 5) for c in ([behind(cpu, c) for c in columns], columns))
        same(written(cpu, [mine], n + 9), written(REFERENCE, [theirs], n + 9))


@pytest.mark.parametrize("kind", EVERY, ids=str)
def test_tiles_of_integers_of_every_width(cpu: CpuBackend, rng: np.random.Generator, kind: np.dtype) -> None:  # noqa: F811
    """One column whose tiles fit into 16 bits from 0 on, from −2^15 on, or do not: on the CPU the first two stay narrow."""
    limits, const = np.iinfo(kind), scalar(rng)
    ends = [(0, 2**16 - 1), (-(2**15), 2**15 - 1), (-(2**15) - 1, 0), (0, 2**16), (limits.max - 2**15 + 1, limits.max)]
    ends.append((limits.min, limits.max))
    pairs = [(max(low, limits.min), min(high, limits.max)) for low, high in ends]
    column = np.concatenate([rng.choice(np.array(pair, dtype=kind), TILE) for pair in pairs])
    run, wide = (Run([x], [-F.one], const, TILE) for x in (behind(cpu, column), column.astype(np.int64)))
    made = there(cpu).fingerprints([run], Tiled.filled(8 * TILE, 1, there(cpu).xp))
    if cpu.name == "cpu":
        fit = [any(base <= low and high < base + 2**16 for base in (0, -(2**15))) for low, high in pairs]
        assert made.narrow.tiles.tolist() == [False, *fit, False]
    theirs = REFERENCE.fingerprints([wide], Tiled.filled(8 * TILE, 1))
    same(made.placed(lambda a: np.array(there(cpu).to_host(a))).dense().cells, theirs.dense().cells)


@pytest.mark.parametrize("kind", ["uint64", "bool", "float64"])
def test_what_is_no_integer_is_refused(cpu: CpuBackend, rng: np.random.Generator, kind: str) -> None:  # noqa: F811
    """Words of 64 bits without a sign are field elements."""
    x, w = np.ones((2, 3), dtype=kind), elements(rng, 2, 3)
    calls = [lambda: cpu.embed(x), lambda: cpu.weight(x, w[:, :2], w), lambda: cpu.embed_runs([x], [Place(0)], elements(rng, 9)),
             lambda: cpu.count([x], 0, np.zeros(9, dtype=np.int64)), lambda: written(cpu, [Run([x[0]], [F.one], F.one, 0)], 9)]
    if kind != "uint64":
        calls += [lambda: cpu.lift(x), lambda: cpu.fold_axis(x[None], w[:, :2])]
    for call in calls:
        with pytest.raises(TypeError, match=kind):
            call()
