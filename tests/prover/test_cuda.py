"""The CUDA backend (on tests/support/card, or a GPU) against the NumPy definition: the tests of the CPU kernels, and its own."""

from __future__ import annotations

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from prover.backend.cuda import CudaBackend
from prover.backend.leaves import Place
from prover.backend.tiled import TILE, Tiled
from tests.prover.test_kernels import (  # noqa: F401 - tests that run here again, on this file's fixture `cpu`
    REFERENCE,
    elements,
    integers,
    neighbours,
    rng,
    same,
    scalar,
    test_all_edge_products,
    test_count,
    test_elementwise,
    test_eq_table,
    test_fold_axis,
    test_fractions,
    test_many_columns_carry,
    test_open,
    test_outer,
    test_product_rounds,
    test_sums_carry,
    test_sums_of_a_tile_carry,
    test_tables,
    test_wrong_shapes_are_refused,
    weights,
)
from tests.prover.test_kernels_commit import (  # noqa: F401
    test_encode,
    test_hash_columns,
    test_hash_in_portions,
    test_merkle_levels,
)
from tests.prover.test_kernels_integers import (  # noqa: F401
    test_integers_of_every_width,
    test_leaves_of_integers_of_every_width,
    test_tiles_of_integers_of_every_width,
    test_what_is_no_integer_is_refused,
)
from tests.prover.test_kernels_outer import test_outer_of_vectors, test_outer_sums, test_outer_sums_carry, test_outer_sums_that_do_not_fit  # noqa: F401
from tests.prover.test_rounds import test_rounds_of_fractions_in_one_call, test_rounds_of_products_in_one_call  # noqa: F401
from tests.support.device import REAL, Carried, asked, card_only, device, module

DEVICE_ONLY, CPU = device(hand_over=0, threads=32), CpuBackend()


@pytest.fixture(scope="module", params=[(0, 32), (64, 128)], ids=["device alone", "handing over"])
def cpu(request: pytest.FixtureRequest) -> Carried:
    return Carried(device(*request.param))


@pytest.mark.parametrize("shape", [(200, 5, 1), (1, 70_000, 1), (3, 9_001, 2), (40, 1, 1), (500, 130, 1)])
def test_folds_in_parts(cpu: Carried, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:  # noqa: F811
    """More rows than blocks, and fewer outputs than threads."""
    w = elements(rng, 2, shape[1])
    for x in (integers(rng, *shape), elements(rng, *shape), elements(rng, 2, *shape)):
        same(cpu.fold_axis(x, w), REFERENCE.fold_axis(x, w))


@pytest.mark.parametrize("n", [1, 5, 300])
def test_conversions(cpu: Carried, rng: np.random.Generator, n: int) -> None:  # noqa: F811
    x, f = integers(rng, 2, n), elements(rng, 2, n)
    x[x == -(2**63)] += 1
    for each in (x, f):
        same(cpu.lift(each), REFERENCE.lift(each))
    same(cpu.embed(x), REFERENCE.embed(x))
    mine, theirs = f.reshape(-1), f.reshape(-1).copy()
    for backend, out in ((cpu, mine), (REFERENCE, theirs)):
        backend.embed(x[0], out[1 : 1 + n])
    same(mine, theirs)
    with pytest.raises(ValueError, match="shape"):
        cpu.embed(x, f[:1])


def test_committed_integers_in_runs(rng: np.random.Generator) -> None:  # noqa: F811
    """One after the other, and rows in pieces: of one entry, of vectors' lengths and more, of one row and of many."""
    shapes = [(3, 5), (0,), (40,), (1,), (), (2, 3, 8), (1, 6), (5, 96), (300, 24), (7, 48)]
    pieces = [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (2, 15), (1, 1), (32, 200), (8, 2400), (16, 113)]
    x, places, at = [integers(rng, *shape) for shape in shapes], list[Place](), 3
    for a, (piece, apart) in zip(x, pieces, strict=True):
        places.append(Place(at, piece, apart))
        at += (a.shape[-1] // piece) * apart if piece else a.size + 2
    size, place = at, DEVICE_ONLY.to_device
    theirs, mine, there = (elements(np.random.default_rng(1), size) for _ in range(3))
    for a, to in zip(x, places, strict=True):  # entry by entry
        for k, value in enumerate(a.reshape(-1).tolist()):
            i, j = divmod(k, a.shape[-1] if a.ndim else 1)
            theirs[to.start + (i * to.piece + j // to.piece * to.apart + j % to.piece if to.piece else k)] = value % F.p
    reference, out = elements(np.random.default_rng(1), size), place(there)
    REFERENCE.embed_runs(x, places, reference)
    CPU.embed_runs(x, places, mine)
    placed = [place(a) for a in x]
    found = asked(lambda: DEVICE_ONLY.embed_runs(placed, places, out))
    assert REAL or found[0] == 1
    for made in (reference, mine, np.array(DEVICE_ONLY.to_host(out))):
        same(made, theirs)
    for wrong, message in ((Place(size - 479), "from"), (Place(-1), "from"), (Place(0, 32, 159), "intervals"), (Place(0, 3, 20), "pieces"),
                           (Place(0, 64, 400), "pieces"), (Place(size - 559, 32, 200), "from")):
        for backend, a, room in ((CPU, x[7], mine), (DEVICE_ONLY, placed[7], out)):
            with pytest.raises(ValueError, match=message):
                backend.embed_runs([a], [wrong], room)


@pytest.mark.parametrize("shape", [(1,), (5,), (8,), (3, 4), (4, 3), (2, 8), (3, 1, 5), (5, 2, 3, 7), (1, 1, 1), (3, 2, 3, 2, 3, 2)])
def test_padded_axes(cpu: Carried, rng: np.random.Generator, shape: tuple[int, ...]) -> None:  # noqa: F811
    """In their order and in another one."""
    a, backend = elements(rng, 2, *shape), cpu.backend
    orders = [[0, *range(1, a.ndim)], [0, *range(a.ndim - 1, 0, -1)], [0, *range(2, a.ndim), *range(1, min(2, a.ndim))]]
    for order in orders:
        expected, there = REFERENCE.pad(a.transpose(order)), backend.to_device(a).transpose(order)
        found = asked(lambda: same(backend.to_host(backend.pad(there)), expected))  # noqa: B023 - called at once
        assert REAL or found[0] <= 1
        same(CPU.pad(a.transpose(order)), expected)
    with pytest.raises(ValueError, match="axes"):
        backend.pad(backend.to_device(elements(rng, 2, *[3] * 7)))


def test_many_equal_integers_are_counted(cpu: Carried, rng: np.random.Generator) -> None:  # noqa: F811
    """Places that share a slot, of many blocks, and integers without a place."""
    x = np.concatenate([np.full(30_000, 5), rng.integers(-3, 3, 5_000), rng.integers(-1000, 9000, 30_000), 5 + 2048 * np.arange(-4, 9)])
    rng.shuffle(x)
    arrays = np.split(x, [7, 7, 50_000])
    mine = rng.integers(0, 5, 9000)
    theirs = mine.copy()
    cpu.count(arrays, 0, mine)
    REFERENCE.count(arrays, 0, theirs)
    same(mine, theirs)


def test_leaves_of_many_runs(cpu: Carried, rng: np.random.Generator) -> None:  # noqa: F811
    """All in one launch, into a table whose flags lie on the host while it is written."""
    backend = cpu.backend
    for columns in (1, 2):
        runs, _, size = neighbours(rng, columns)
        there = [run.placed(backend.to_device) for run in runs]
        mine = backend.fingerprints(there[::2], Tiled.filled(size, 1, backend.xp))
        made = list[Tiled]()
        found = asked(lambda: made.append(backend.fingerprints(there[3::4], mine)))  # noqa: B023 - called at once
        assert REAL or found[0] == 1
        [mine] = made
        theirs = REFERENCE.fingerprints(runs[3::4], REFERENCE.fingerprints(runs[::2], Tiled.filled(size, 1)))
        assert mine.uniform is not None and mine.uniform.tolist() == theirs.uniform.tolist()
        same(mine.placed(lambda a: np.array(backend.to_host(a))).dense().cells, theirs.dense().cells)


@pytest.mark.parametrize("log", [12, 13, 14, 15, 16, 17, 19, 20])
def test_rows_that_do_not_fit_a_block(cpu: Carried, rng: np.random.Generator, log: int) -> None:  # noqa: F811
    """Passes through memory before a block finishes: none, of radix 2 and 4, 8, of two at once, and more below these."""
    code, rows = Code(F, 1 << log, 2 << log, 70), 2 if log < 17 else 1
    messages, blinding = elements(rng, rows, code.ell), elements(rng, rows, code.blinding)
    expected, positions = CPU.encode(code, messages, blinding), rng.integers(0, code.n, 20)
    same(cpu.encode(code, messages, blinding), expected)
    same(np.array(cpu.columns(code, messages, blinding, positions)), expected[:, positions])


def test_rows_are_encoded_in_portions(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("prover.backend.cuda.SCRATCH", 8 * (64 + 256) * 3)
    code = Code(F, 64, 256, 7)
    messages, blinding = elements(rng, 10, 64), elements(rng, 10, 7)
    same(Carried(DEVICE_ONLY).encode(code, messages, blinding), REFERENCE.encode(code, messages, blinding))
    positions = np.arange(0, 256, 3)
    same(Carried(DEVICE_ONLY).columns(code, messages, blinding, positions), REFERENCE.columns(code, messages, blinding, positions))


def test_small_tables_are_handed_to_the_host(rng: np.random.Generator) -> None:  # noqa: F811
    backend, r = device(64, 128), scalar(rng)
    place = backend.to_device
    assert isinstance(backend.fold_top(place(elements(rng, 2, 128)), r), np.ndarray)
    assert isinstance(backend.fold_top(place(elements(rng, 2, 256)), r), backend.xp.ndarray)
    tables = [Tiled(place(elements(rng, 2, 128))) for _ in range(4)]
    assert all(isinstance(t.cells, np.ndarray) for t in backend.fraction_layer(*tables[:2]))
    suffixes = backend.eq_suffixes(elements(rng, 2, 8))
    assert [isinstance(t, np.ndarray) for t in suffixes] == [True] * 7 + [False] * 2
    assert REAL or asked(lambda: backend.kmul(elements(rng, 2, 8), elements(rng, 2, 8)))[0] == 0


@card_only
def test_a_round_is_one_launch_and_one_wait(rng: np.random.Generator) -> None:  # noqa: F811
    h = 4 * TILE
    tables = [Tiled(DEVICE_ONLY.to_device(elements(rng, 2, 4 * h))) for _ in range(4)]
    low, high = map(DEVICE_ONLY.to_device, weights(rng, h))
    assert asked(lambda: DEVICE_ONLY.fraction_fold_round(tables, scalar(rng), low, high, scalar(rng))) == (1, 1, 0)


@card_only
def test_a_layer_waits_for_nothing_until_the_host_needs_it(rng: np.random.Generator) -> None:  # noqa: F811
    backend = device(64, 32)
    for size, waits in ((4 * TILE, 0), (128, 1)):
        p, q = (Tiled(backend.to_device(elements(rng, 2, size))) for _ in range(2))
        assert asked(lambda: backend.fraction_layer(p, q)) == (1, waits, 0)  # noqa: B023 - called at once


def test_weights_are_brought_over_once_a_level(rng: np.random.Generator) -> None:  # noqa: F811
    """Tables of eq on the host weigh tables on the device: the same sums as with copies of their own."""
    backend, lam, h = device(64, 32), scalar(rng), 4 * TILE
    point = elements(rng, 2, h.bit_length() - 1)
    low, high = backend.eq_suffixes(point[:, 2:]), backend.eq_suffixes(point[:, :2])
    tables = [Tiled(backend.to_device(elements(rng, 2, 2 * h))) for _ in range(4)]
    for k in (2, 1, 0):
        size = TILE << k
        parts = [Tiled(t.cells[:, : 2 * size]) for t in tables]
        expected = backend.fraction_round(parts, F.eq_table(point[:, 2:]), F.eq_table(point[:, 2 - k : 2]), lam)[1]
        same(backend.fraction_round(parts, low[9], high[k], lam)[1], expected)


def test_small_arrays_pass_through_pinned_memory(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """They may be changed at once, and there may be more of them than fit."""
    monkeypatch.setattr("prover.backend.device.STAGING", 1 << 10)
    backend, size = CudaBackend(module(), 0, 32), 24
    arrays = [integers(rng, 3, size)[:, ::2] for _ in range(20)] + [np.arange(3) > k for k in range(3)] + [np.full((), 7), np.zeros((0, 2))]
    expected, there = [a.copy() for a in arrays], []
    for a in arrays:
        there.append(backend.to_device(a))
        a[...] = 0
    for a, b in zip(there, expected, strict=True):
        assert a.dtype == b.dtype and a.flags.c_contiguous
        np.testing.assert_array_equal(backend.to_host(a), b)


def test_large_arrays_come_back_through_pinned_memory(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("prover.backend.device.LARGE", 64)
    for array in (integers(rng, 3, 40), elements(rng, 2, 9), rng.integers(0, 256, (9, 32), dtype=np.uint8)):
        there = DEVICE_ONLY.to_device(array)
        same(DEVICE_ONLY.to_host(there), array)
        same(DEVICE_ONLY.to_host(there[:, 1:]), array[:, 1:])
        assert not DEVICE_ONLY.to_host(there).flags.writeable and DEVICE_ONLY.to_host(array) is array


def test_integers_at_addresses_that_a_device_does_not_load_from_are_refused() -> None:
    words = DEVICE_ONLY.xp.zeros(9, dtype=np.uint8)
    with pytest.raises(ValueError, match="odd address"):
        DEVICE_ONLY.embed(words[1:].view(np.int16))
    same(DEVICE_ONLY.to_host(DEVICE_ONLY.embed(words[1:])), np.zeros(8, dtype=np.uint64))


def test_nothing_crosses_unasked(rng: np.random.Generator) -> None:  # noqa: F811
    """A host array where the device's is needed, and the other way round, is refused."""
    a = elements(rng, 2, 8)
    there = DEVICE_ONLY.to_device(a)
    with pytest.raises(TypeError, match="host"):
        DEVICE_ONLY.kdot(there, a)
    with pytest.raises(TypeError, match="conversion"):
        np.asarray(there)
    with pytest.raises(TypeError):
        a + there
    assert DEVICE_ONLY.to_device(there) is there
