"""The compiled kernels against their NumPy definition, word for word, on odd sizes, edge values and every CPU level."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from prover.backend import select
from prover.backend.cpu import CpuBackend
from prover.backend.leaves import COLUMNS, Run
from prover.backend.reference import ReferenceBackend
from prover.backend.tiled import TILE, TILE_BITS, Narrow, Tiled
from prover.kernels import build
from tests.support.device import module as cupy

P = F.p
EDGES = [0, 1, 2, P - 1, P - 2, P - 2**32, 2**32 - 1, 2**32, 2**32 + 1, P - 2**32 - 1, 2**63, 2**48, P - 7]
INT_EDGES = [0, 1, -1, 2**62, -(2**62), 2**31, -(2**31), 2**63 - 1, -(2**63), 2**32, 2**31 - 1]
REFERENCE = ReferenceBackend(F)


def usable_levels() -> list[str]:
    known = build.levels()
    return known[known.index(build.host_level()) :]


@pytest.fixture(scope="module", params=usable_levels())
def cpu(request: pytest.FixtureRequest) -> CpuBackend:
    return CpuBackend(request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def elements(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random canonical words, half of them edge values."""
    words = rng.integers(0, P, shape, dtype=np.uint64)
    return np.where(rng.random(shape) < 0.5, rng.choice(np.array(EDGES, dtype=np.uint64), shape), words)


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    words = rng.integers(-(2**62), 2**62, shape)
    return np.where(rng.random(shape) < 0.5, rng.choice(np.array(INT_EDGES), shape), words)


def scalar(rng: np.random.Generator):
    return F.ext(*elements(rng, 2).tolist())


def same(a, b) -> None:
    if isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    else:
        assert a == b


SIZES = [1, 2, 7, 8, 9, 17, 64, 300, 20_000]


@pytest.mark.parametrize("n", SIZES)
def test_elementwise(cpu: CpuBackend, rng: np.random.Generator, n: int) -> None:
    a, b = elements(rng, 2, n), elements(rng, 2, n)
    same(cpu.kmul(a, b), REFERENCE.kmul(a, b))
    same(cpu.kdot(a, b), REFERENCE.kdot(a, b))
    same(cpu.kdot(a[:, ::-1], b[:, : n]), REFERENCE.kdot(a[:, ::-1], b))
    coefs = [scalar(rng) for _ in range(4)]
    wide, small = [integers(rng, n) for _ in range(4)], [rng.integers(-(2**31), 2**31, n) for _ in range(4)]
    runs = [Run(columns[:k], coefs[:k], scalar(rng), i * (n + 3)) for i, (columns, k) in enumerate(product((wide, small), (1, 3, 4)))]
    same(written(cpu, [*runs, Run([wide[0][:0]], coefs[:1], coefs[1], 1)], 6 * (n + 3)), written(REFERENCE, runs, 6 * (n + 3)))


def test_all_edge_products(cpu: CpuBackend) -> None:
    grid = np.array(EDGES, dtype=np.uint64)
    a, b = (x.reshape(1, -1).repeat(2, axis=0).copy() for x in np.meshgrid(grid, grid))
    for planes in ((a, b), (a[::-1].copy() * 0 + a, np.stack([b[0], a[0]]))):
        same(cpu.kmul(*planes), REFERENCE.kmul(*planes))


def written(backend: CpuBackend, runs: list[Run], size: int) -> np.ndarray:
    """A table of runs, 7 elsewhere."""
    out = np.full((2, size), 7, dtype=np.uint64)
    backend.lincombs(runs, out)
    return out


def test_many_columns_carry(cpu: CpuBackend, rng: np.random.Generator) -> None:
    """The largest words in all columns: the unreduced sums must hold them, and no more columns are taken."""
    for word, coef in ((-1, F.ext(P - 1, P - 1)), (2**63 - 1, F.ext(P - 2**32, 2**52 - 1)), (-(2**63), F.ext(2**63 + 2**52 - 1, P - 1))):
        columns, coefs = [np.full(17, word)] * COLUMNS, [coef] * COLUMNS
        run = Run(columns, coefs, coef, 0)
        same(written(cpu, [run], 17), written(REFERENCE, [run], 17))
        with pytest.raises(ValueError, match=f"{COLUMNS + 1} columns"):
            written(cpu, [Run([*columns, columns[0]], [*coefs, coef], coef, 0)], 17)


@pytest.mark.parametrize("m", SIZES)
def test_tables(cpu: CpuBackend, rng: np.random.Generator, m: int) -> None:
    a, b, r = elements(rng, 2, 2 * m), elements(rng, 2, 2 * m), scalar(rng)
    same(cpu.product_round(a, b), REFERENCE.product_round(a, b))
    same(cpu.fold_top(a, r), REFERENCE.fold_top(a, r))


def tiled(rng: np.random.Generator, n: int, kinds: str) -> Tiled:
    """A table of n entries whose tiles are, in turn: d dense, n narrow, u uniform with a random value, 0 and 1 uniform with that."""
    table = Tiled.filled(n, 0)
    if table.uniform is None or table.values is None:
        return Tiled(elements(rng, 2, n))
    table.cells[...] = elements(rng, 2, n)  # what lies in the cells of uniform and narrow tiles must not matter
    words = np.where(rng.random(n) < 0.5, rng.choice([0, 1, 2**15, 2**16 - 1], n), rng.integers(0, 2**16, n)).astype(np.uint16)
    narrow = Narrow(np.zeros(n // TILE, dtype=np.bool_), elements(rng, 2, n // TILE), words)
    for tile in range(n // TILE):
        kind = kinds[tile % len(kinds)]
        table.uniform[tile] = kind not in "dn"
        narrow.tiles[tile] = kind == "n"
        table.values[:, tile] = (int(kind), 0) if kind in "01" else elements(rng, 2)
    return replace(table, narrow=narrow) if "n" in kinds else table


def copied(tables: list[Tiled]) -> list[Tiled]:
    """Folding consumes its tables."""
    return [t.placed(np.copy) for t in tables]


def cells(tables) -> tuple[np.ndarray, ...]:
    return tuple(t.dense().cells for t in tables)


def weights(rng: np.random.Generator, h: int) -> tuple[np.ndarray, np.ndarray]:
    """eq of h entries: within tiles, and of the tiles."""
    bits = h.bit_length() - 1
    point = elements(rng, 2, bits)
    cut = max(0, bits - TILE_BITS)
    return F.eq_table(point[:, cut:]), F.eq_table(point[:, :cut])


# kinds of p0, p1, q0, q1: all dense; leaves of lookups; a free right half; halves of each; nothing but constants; mixtures
KINDS = [("d", "d", "d", "d"), ("1", "1", "d", "d"), ("1", "0", "d", "1"), ("u", "d", "u", "d"), ("0", "1", "u", "1"),
         ("u", "u", "u", "du"), ("1d", "1u", "d1", "du0"), ("0d1", "10d", "u1d", "dd1u")]
# the same where denominators are leaves of one column: both halves; one free; of constants; of cells; all kinds at once
NARROW = [("1", "1", "n", "n"), ("1", "0", "n", "1"), ("0", "1", "1", "n"), ("u", "u", "n", "nnd"), ("d", "1", "n", "n"),
          ("1d", "1u", "nn1n", "dnnu"), ("u1", "u1", "nnd1", "n0"), ("n", "n", "n", "n")]


@pytest.mark.parametrize("h", [1, 2, 4, 8, 64, 256, 512, 1024, 4096])
def test_fractions(cpu: CpuBackend, rng: np.random.Generator, h: int) -> None:
    check_fractions(cpu, rng, h)


@pytest.mark.parametrize("h", [256, 512, 1024, 4096, 16384])
def test_fractions_of_narrow_tiles(cpu: CpuBackend, rng: np.random.Generator, h: int) -> None:
    check_fractions(cpu, rng, h, NARROW)


def test_leaves_of_one_column_are_narrow(cpu: CpuBackend, rng: np.random.Generator) -> None:
    """Integers that fit into 16 bits, from 0 or from -2^15 on, tile by tile; others are written to the cells."""
    const, minus_one = scalar(rng), -F.one
    ends = [(0, 2**16 - 1), (-(2**15), 2**15 - 1), (0, 2**16), (-(2**15) - 1, 0), (-1, 2**15), (2**40, 2**40), (-(2**63), 2**63 - 1)]
    column = np.concatenate([rng.choice(np.array(pair), TILE) for pair in ends] + [np.array([*pair, *[1] * (TILE - 2)]) for pair in ends])
    run = Run([column], [minus_one], const, TILE)
    made = [x.fingerprints([run], Tiled.filled(16 * TILE, 1)) for x in (cpu, REFERENCE)]
    assert made[0].narrow is not None and made[0].narrow.tiles.tolist() == [False, *[True, True, *[False] * 5] * 2, False]
    same(*(t.dense().cells for t in made))
    for columns, coefs, start in (([column], [F.one], TILE), ([column], [minus_one], 1), ([column, column], [minus_one, const], 0)):
        other = Run(columns, coefs, const, start)
        mine, theirs = (x.fingerprints([other], Tiled.filled(16 * TILE, 1)) for x in (cpu, REFERENCE))
        assert mine.narrow is None
        same(mine.dense().cells, theirs.dense().cells)


def test_leaves_of_many_runs(cpu: CpuBackend, rng: np.random.Generator) -> None:
    """Runs that begin and end within tiles, of one column and of several, and whole tiles among them; the rest of the table is kept."""
    for columns in (1, 2):
        runs, end, size = neighbours(rng, columns)
        made = [x.fingerprints(runs[::2], Tiled.filled(size, 1)) for x in (cpu, REFERENCE)]
        again = [x.fingerprints(runs[1::2], q).dense().cells for x, q in zip((cpu, REFERENCE), made, strict=True)]
        same(*again)
        assert (again[0][0, end:] == 1).all() and not again[0][1, end:].any()


def neighbours(rng: np.random.Generator, columns: int) -> tuple[list[Run], int, int]:
    """Runs one after the other, where the last one ends, and entries enough for them."""
    cuts = [0, 3, TILE, 3 * TILE, 3 * TILE + 5, 4 * TILE, 4 * TILE, 6 * TILE + 1, 7 * TILE, 9 * TILE, 20 * TILE]
    coefs, runs = [-F.one, scalar(rng)][:columns], list[Run]()
    for start, end in zip(cuts, cuts[1:], strict=False):
        x = rng.integers(0, 2**16, end - start) if rng.random() < 0.5 else integers(rng, end - start)
        runs.append(Run([x] * columns, coefs, scalar(rng), start))
    return runs, cuts[-1], 32 * TILE


def check_fractions(cpu: CpuBackend, rng: np.random.Generator, h: int, cases: list[tuple[str, str, str, str]] = KINDS) -> None:
    lam = scalar(rng)
    for kinds in cases:
        p, q = (tiled(rng, 2 * h, k) for k in ("".join(kinds[:2]), "".join(kinds[2:])))
        same(cells(cpu.fraction_layer(*copied([p, q]))), cells(REFERENCE.fraction_layer(p, q)))
        low, high = weights(rng, h)
        tables = [tiled(rng, 2 * h, k) for k in kinds]
        for factor in (lam, F.one):
            mine = cpu.fraction_round(copied(tables), low, high, factor)[1]
            same(mine, REFERENCE.fraction_round(copied(tables), low, high, factor)[1])
        check_rounds(cpu, [tiled(rng, 2 * h, k) for k in kinds], rng, lam)
    for backend in (cpu, REFERENCE):
        with pytest.raises(ZeroDivisionError):
            backend.fraction_round(tables, low, high, F.zero)


def check_rounds(cpu: CpuBackend, tables: list[Tiled], rng: np.random.Generator, lam) -> None:
    """The first rounds of a level, up to four."""
    point = elements(rng, 2, (tables[0].size // 2).bit_length() - 1)
    mine, theirs = copied(tables), copied(tables)
    for k in range(min(4, point.shape[1] + 1)):
        left = point[:, k:]
        cut = max(0, left.shape[1] - TILE_BITS)
        low, high, r = F.eq_table(left[:, cut:]), F.eq_table(left[:, :cut]), scalar(rng)
        if k:
            (mine, g), (theirs, expected) = (
                x.fraction_fold_round(t, r, low, high, lam) for x, t in ((cpu, mine), (REFERENCE, theirs)))
        else:
            (mine, g), (theirs, expected) = (x.fraction_round(t, low, high, lam) for x, t in ((cpu, mine), (REFERENCE, theirs)))
        same(g, expected)
    same(cells(mine), cells(theirs))


@pytest.mark.parametrize("start,end", [(0, 1), (0, TILE), (5, 2 * TILE + 5), (TILE, 4 * TILE), (3 * TILE - 1, 3 * TILE + 1), (7, 9)])
def test_tiles_are_set_and_opened(start: int, end: int) -> None:
    for size in (4 * TILE, 8 * TILE):
        table, plain = Tiled.filled(size, 1), np.zeros((2, size), dtype=np.uint64)
        plain[0] = 1
        table.set(start, end, 0)
        plain[0, start:end] = 0
        table.open(start + 1, end)
        table.cells[:, start + 1 : end] = plain[:, start + 1 : end] = 9
        same(table.dense().cells, plain)


def test_sums_of_a_tile_carry(cpu: CpuBackend) -> None:
    """The largest words in every cell of a tile: the unreduced sums must hold them."""
    for word in (P - 1, P - 2**32, 2**52 - 1, 2**63 + 2**52 - 1):
        full = np.full((2, TILE), word, dtype=np.uint64)
        tables = [Tiled(np.full((2, 4 * TILE), word, dtype=np.uint64)) for _ in range(4)]
        arguments = (F.ext(word, word), full, full[:, :1], F.ext(word, P - 1))
        mine, theirs = (x.fraction_fold_round(copied(tables), *arguments) for x in (cpu, REFERENCE))
        same(cells(mine[0]), cells(theirs[0]))
        same(mine[1], theirs[1])


@pytest.mark.parametrize("m", [0, 1, 3, 5, 11])
def test_eq_table(cpu: CpuBackend, rng: np.random.Generator, m: int) -> None:
    point = elements(rng, 2, m)
    same(cpu.eq_table(point), REFERENCE.eq_table(point))
    same(tuple(cpu.eq_suffixes(point)), tuple(REFERENCE.eq_suffixes(point)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (2, 9, 7), (1, 17, 16), (5, 3, 33), (2, 40, 8), (1, 300, 64), (3, 1000, 1)])
def test_fold_axis(cpu: CpuBackend, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
    w = elements(rng, 2, shape[1])
    small = rng.integers(-(2**31), 2**31, shape)
    for x in (integers(rng, *shape), small, elements(rng, *shape), elements(rng, 2, *shape)):
        same(cpu.fold_axis(x, w), REFERENCE.fold_axis(x, w))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 8), (4, 33), (130, 150)])
def test_outer(cpu: CpuBackend, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    u, v = elements(rng, 2, shape[0]), elements(rng, 2, shape[1])
    x = integers(rng, *shape)
    same(cpu.weight(x, u, v), REFERENCE.weight(x, u, v))


def test_product_rounds(cpu: CpuBackend, rng: np.random.Generator) -> None:
    sizes, fold = [1, 2, 2, 16, 64, 64, 40_000, 40_000], [False, False, True, True, False, True, True, False]
    pairs = [(elements(rng, 2, n), elements(rng, 2, n)) for n in sizes]
    coefs, r = [scalar(rng) for _ in sizes], scalar(rng)
    copies = [(a.copy(), b.copy()) for a, b in pairs]
    for flags, challenge in (([False] * len(sizes), None), (fold, r)):
        expected, theirs = REFERENCE.product_rounds(pairs, coefs, flags, challenge)
        made, mine = cpu.product_rounds(copies, coefs, flags, challenge)
        same(mine, theirs)
        for one, two in zip(made, expected, strict=True):
            same(tuple(np.ascontiguousarray(x) for x in one), two)
    assert cpu.product_rounds([], [], [], r) == ([], (F.zero, F.zero))
    with pytest.raises(ValueError, match="halves"):
        cpu.product_rounds([(elements(rng, 2, 7), elements(rng, 2, 7))], [r], [True], r)


@pytest.mark.parametrize("first", [-7, 0, 3, -(2**63), 2**63 - 5])
def test_count(cpu: CpuBackend, rng: np.random.Generator, first: int) -> None:
    x = np.concatenate([rng.integers(-20, 20, 1001), np.array(INT_EDGES)]).reshape(2, -1)
    mine = rng.integers(0, 5, 11)
    theirs = mine.copy()
    cpu.count([x, x[:, :0], x[0, 5:]], first, mine)
    REFERENCE.count([x, x[0, 5:]], first, theirs)
    same(mine, theirs)
    assert cpu.count([np.array([first, first + 4, first])], first, mine) is None and mine[0] == theirs[0] + 2


@pytest.mark.parametrize("ell", [1, 2, 4, 8, 64, 1024])
def test_open(cpu: CpuBackend, rng: np.random.Generator, ell: int) -> None:
    f, w, eq = elements(rng, 6, ell), elements(rng, 2, 12 * ell), elements(rng, 2, 4)
    rows = np.array([[0, 1, -1], [-1, 4, -1], [2, 2, -1], [-1, 5, -1]])
    same(cpu.open_sums(f, rows, w), REFERENCE.open_sums(f, rows, w))
    mine, theirs = (elements(rng, 2, 2, 3 * ell + 5) for _ in range(2))
    for backend, out in ((cpu, mine), (REFERENCE, theirs)):
        backend.open_fold(f, rows, w, eq, out[0][:, 2 : 3 * ell + 2], out[1][:, 3 : 3 * ell + 3])
    same(mine[0][:, 2 : 3 * ell + 2], theirs[0][:, 2 : 3 * ell + 2])
    same(mine[1][:, 3 : 3 * ell + 3], theirs[1][:, 3 : 3 * ell + 3])


def test_open_refuses(cpu: CpuBackend, rng: np.random.Generator) -> None:
    f, w, eq, out = elements(rng, 6, 8), elements(rng, 2, 32), elements(rng, 2, 4), elements(rng, 2, 8)
    good = np.array([[0], [1], [2], [-1]])
    for rows in (good + 4, good - 1, good[:3]):
        with pytest.raises(ValueError, match="row indices"):
            cpu.open_sums(f, rows, w)
    for wrong in (lambda: cpu.open_sums(f, good, w[:, 1:]), lambda: cpu.open_fold(f, good, w, eq[:, 1:], out, out),
                  lambda: cpu.open_fold(f, good, w, eq, out, out[:, 1:])):
        with pytest.raises(ValueError, match="shape"):
            wrong()


def test_sums_carry(cpu: CpuBackend) -> None:
    """The largest products, summed: no carry may be lost."""
    for n in (33, 70_000):
        top = np.full((2, n), P - 1, dtype=np.uint64)
        same(cpu.kdot(top, top), REFERENCE.kdot(top, top))
        a, b = top[:, : n // 2 * 2], np.full((2, n // 2 * 2), P - 2**32, dtype=np.uint64)
        same(cpu.product_round(a, b), REFERENCE.product_round(a, b))


def test_wrong_shapes_are_refused(cpu: CpuBackend, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="shape"):
        cpu.kdot(elements(rng, 2, 8), elements(rng, 2, 9))
    with pytest.raises(ValueError, match="shape"):
        cpu.encode(Code(F, 8, 32, 2), elements(rng, 1, 8), elements(rng, 1, 3))
    with pytest.raises(ValueError, match="halves"):
        cpu.fold_top(elements(rng, 2, 7), F.one)
    with pytest.raises(ValueError, match="shape"):
        cpu.encode(Code(F, 8, 32, 2), elements(rng, 1, 8), elements(rng, 1, 2), elements(rng, 2, 32))
    with pytest.raises(ValueError, match="contiguous"):
        cpu.encode(Code(F, 8, 32, 2), elements(rng, 1, 8), elements(rng, 1, 2), elements(rng, 1, 64)[:, ::2])
    with pytest.raises(ValueError, match="counts"):
        cpu.count([integers(rng, 3)], 0, elements(rng, 4))
    for columns, start in (([integers(rng, 4)], 5), ([integers(rng, 4)], -1), ([integers(rng, 4), integers(rng, 3)], 0)):
        with pytest.raises(ValueError, match="entries from|shape"):
            written(cpu, [Run(columns, [F.one] * len(columns), F.one, start)], 8)


def test_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select("cpu").name == "cpu" and select("reference").name == "reference"
    for module, name in ((None, "cpu"), (cupy(), "cuda")):
        monkeypatch.setattr("prover.backend.cuda_module", lambda module=module: module)
        assert select("auto").name == name
    monkeypatch.setattr("prover.backend.cuda_module", lambda: None)
    with pytest.raises(RuntimeError, match="no CUDA device"):
        select("cuda")
    with pytest.raises(ValueError, match="unknown backend"):
        select("abacus")
    monkeypatch.setenv("VERILORA_KERNEL_LEVEL", "x86-64-v9")
    with pytest.raises(ValueError, match="choose one of"):
        build.host_level()
