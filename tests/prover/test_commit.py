"""A commitment is the same whether its codeword is kept or encoded again, in one piece or in strips, on every backend."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from protocol import merkle
from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from protocol.layout import CommitmentLayout
from prover.argument.opening import codeword
from prover.backend import select
from prover.backend.base import Backend
from prover.backend.integers import INTEGERS
from prover.commitment.commit import commit, physical_starts, place_blocks, place_of
from tests.support.device import device

CODE = Code(F, 16, 64, 5)
LAYOUT = CommitmentLayout.pack([("a", (24, 17)), ("b", (3, 5))], CODE)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {slot.name: rng.integers(-1000, 1000, slot.tensor.shape) for slot in LAYOUT.slots}


def extra(rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.integers(0, F.p, (rows // 2, 64), dtype=np.uint64), rng.integers(0, F.p, (rows - rows // 2, 64), dtype=np.uint64)]


@pytest.mark.parametrize("backend", [select("cpu"), select("reference"), device(0, 32)], ids=lambda b: b.name)
@pytest.mark.parametrize("more", [0, 1, 6, 7])
def test_kept_or_not(backend: Backend, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = commit(select("reference"), LAYOUT, tensors(), bytes(32), extra(more))
    positions = np.array([0, 5, 31, 63])
    expected = whole.query(positions)
    assert whole.codeword is not None and len(whole.rows) > 24
    leaf = merkle.leaf_digest(whole.salts[5].tobytes(), F.to_bytes(whole.codeword[:, 5]))
    assert whole.levels[0][5].tobytes() == leaf and expected.columns.shape == (len(whole.rows) + more, 4)
    for strip_bytes in (1, 16 * 64 * 8, 1 << 26):  # eight rows, sixteen, all of them
        monkeypatch.setattr(backend, "strip_bytes", strip_bytes)
        for kept_bytes in (0, 8 * 64 * (len(whole.rows) + more) - 1, 8 * 64 * (len(whole.rows) + more)):
            made = commit(backend, LAYOUT, tensors(), bytes(32), extra(more), kept_bytes)
            assert (made.codeword is None) == (kept_bytes < 8 * 64 * (len(whole.rows) + more))
            assert made.id == whole.id
            found = made.query(positions)
            assert np.array_equal(found.columns, expected.columns)
            assert (found.salts, found.siblings) == (expected.salts, expected.siblings)


def test_what_is_kept_follows_from_the_backends_memory() -> None:
    backend = select("cpu")
    rows = len(LAYOUT.rows)
    backend.kept_bytes = 8 * 64 * rows - 1
    assert commit(backend, LAYOUT, tensors(), bytes(32)).codeword is None
    backend.kept_bytes += 1
    assert commit(backend, LAYOUT, tensors(), bytes(32)).codeword is not None


@pytest.mark.parametrize("backend", [select("cpu"), select("reference"), device(0, 32)], ids=lambda b: b.name)
def test_integers_of_any_width_are_committed_alike(backend: Backend) -> None:
    layout = CommitmentLayout.pack([(str(k), (4, 1 + k)) for k in range(6)], CODE)
    wide = {slot.name: np.random.default_rng(k).integers(0, 100, slot.tensor.shape) for k, slot in enumerate(layout.slots)}
    expected = commit(backend, layout, wide, bytes(32)).id
    for kind in INTEGERS:
        assert commit(backend, layout, {name: x.astype(kind) for name, x in wide.items()}, bytes(32)).id == expected


@pytest.mark.parametrize("seed", range(8))
def test_places(seed: int) -> None:
    """Where `place_of` says that a tensor lies is where its blocks begin."""
    random = np.random.default_rng(seed)
    shapes = [tuple(int(n) for n in random.choice([1, 1, 2, 3, 4, 6, 8, 12, 20, 43], random.integers(0, 4))) for _ in range(12)]
    layout = CommitmentLayout.pack([(str(k), shape) for k, shape in enumerate(shapes)], CODE)
    kinds = set()
    for slot in layout.slots:
        place, shape = place_of(layout, slot.name), slot.tensor.shape
        starts = physical_starts(layout, slot.name)[:, None] + np.arange(1 << slot.tensor.block_bits)
        found = np.empty(len(layout.rows) * CODE.ell, dtype=np.int64)
        place_blocks(layout, found, slot.name, slot.tensor.arrange(np.arange(prod(shape)).reshape(shape)))
        odd = [axis for axis, n in enumerate(slot.tensor.odd) if n > 1]
        if place is None:
            assert len(odd) > 1 or odd[0] < len(shape) - 1
            continue
        kinds.add(place.piece > 0)
        cells = np.arange(prod(shape))
        n, piece = (shape[-1] if shape else 1), place.piece or (shape[-1] if shape else 1)
        i, j = cells // n, cells % n
        where = place.start + i * piece + j // piece * place.apart + j % piece
        assert np.array_equal(np.sort(where), np.sort(starts.reshape(-1))) and np.array_equal(found[where], cells)
    assert kinds


@pytest.mark.parametrize("backend", [select("cpu"), select("reference"), device(0, 32)], ids=lambda b: b.name)
def test_masks_of_any_length_are_encoded(backend: Backend) -> None:
    """With and without blinding, shorter than the message or as long."""
    code, rng = Code(F, 8, 64, 4), np.random.default_rng(5)
    for length in range(1, code.n + 1):
        coefs = rng.integers(0, F.p, (2, length), dtype=np.uint64)
        found = backend.to_host(codeword(backend, code, coefs))
        np.testing.assert_array_equal(found, code.codeword(coefs))
