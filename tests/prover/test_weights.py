"""Weights of claims, made for some rows at a time, against the sum of outer products written to every cell of the virtual index."""

import numpy as np
import pytest

from protocol.code import Code
from protocol.field import GOLDILOCKS as F
from protocol.field import U64, Ext
from protocol.layout import CommitmentLayout
from protocol.schedule.constraints import Box, CellTerm, whole
from prover.argument.weights import Weights, pieces
from prover.backend.base import Backend
from prover.backend.cpu import CpuBackend
from prover.backend.reference import ReferenceBackend
from tests.prover.test_kernels import rng  # noqa: F401 - a fixture
from tests.support.device import device

ELL = 8
SHAPES: dict[str, tuple[int, ...]] = {
    "all in order": (4, 8), "one odd axis in front": (5, 4, 2), "an odd last axis": (4, 12), "odd behind low bits": (4, 6, 4),
    "two odd axes": (6, 10), "three": (3, 2, 5),
    "a vector": (24,), "a row of its own": (8,), "less than a row": (3,), "a cell": (1, 1), "wide": (2, 32),
}


def random_term(rng: np.random.Generator, name: str, box: Box) -> CellTerm:  # noqa: F811
    weights = []
    for n, (start, stop) in zip(SHAPES[name], box, strict=True):
        w = F.zeros(2, n)
        w[:, start:stop] = rng.integers(0, F.p, (2, stop - start), dtype=np.uint64)
        weights.append(w)
    coef = Ext(*rng.integers(0, F.p, 2, dtype=np.uint64).tolist(), F)
    return CellTerm(coef, ("witness", name), tuple(weights), box)


def random_box(rng: np.random.Generator, shape: tuple[int, ...]) -> Box:  # noqa: F811
    found = []
    for n in shape:
        start = int(rng.integers(0, n))
        found.append((start, int(rng.integers(start + 1, n + 1))))
    return tuple(found)


def dense(layout: CommitmentLayout, terms: list[CellTerm]) -> U64:
    """W at every virtual cell: the outer products of all axes, placed by the tensors' own block order."""
    out, plain = F.zeros(2, 1 << layout.variables), ReferenceBackend(F)
    for term in terms:
        slot = layout.by_name[term.place[1]]
        values = F.kscale(plain.outer(list(term.weights)), term.coef).reshape(2, *slot.tensor.shape)
        cells = slot.offset + (slot.tensor.blocks[:, None] << slot.tensor.block_bits) + np.arange(1 << slot.tensor.block_bits)
        out[:, cells] = F.add(out[:, cells], slot.tensor.arrange(values))
    return out


@pytest.fixture(params=[lambda: ReferenceBackend(F), CpuBackend, lambda: device(0, 32)], ids=["numpy", "cpu", "device"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.param()
    return found


@pytest.mark.parametrize("boxes", ["whole", "some", "one", "none"])
def test_any_rows_are_those_of_all_outer_products(backend: Backend, boxes: str, rng: np.random.Generator) -> None:  # noqa: F811
    layout = CommitmentLayout.pack(list(SHAPES.items()), Code(F, ELL, 4 * ELL, 3))
    terms = []
    for name, shape in SHAPES.items():
        if boxes == "whole" or boxes == "none" and name in ("two odd axes", "less than a row"):
            terms += [random_term(rng, name, whole(shape)) for _ in range(3)]
        elif boxes == "some":
            terms += [random_term(rng, name, random_box(rng, shape)) for _ in range(4)]
        elif boxes == "one":  # with holes: the second entry of each axis that has one but the last
            terms.append(random_term(rng, name, tuple((min(1, n - 1), min(2, n)) for n in shape[:-1]) + ((0, shape[-1]),)))
    terms += [CellTerm(Ext(5, 7, F), term.place, term.weights, term.box) for term in terms[:2]]  # the same vectors again
    for term in terms.copy() if boxes != "one" else []:  # the same on the last axis alone: it is added to what may lie in another box
        other = random_term(rng, term.place[1], random_box(rng, SHAPES[term.place[1]]))
        box = (*other.box[:-1], term.box[-1])
        terms.append(CellTerm(other.coef, term.place, (*other.weights[:-1], term.weights[-1]), box))
    expected, rows = dense(layout, terms).reshape(2, -1, ELL), 1 << layout.variables - layout.column_bits
    weights = Weights(backend, layout, terms)
    for step in (1, 3, rows // 4, rows):
        for first in range(0, rows, step):
            ranges = [(first, min(rows, first + step)), (rows - 1 - first, rows - first)]
            out = backend.to_device(rng.integers(0, F.p, (2, sum(b - a for a, b in ranges) * ELL), dtype=np.uint64))
            weights.rows(ranges, out)
            wanted = np.concatenate([expected[:, a:b] for a, b in ranges], axis=1)
            np.testing.assert_array_equal(backend.to_host(out).reshape(wanted.shape), wanted)


def test_pieces_are_all_cells_once() -> None:
    layout = CommitmentLayout.pack(list(SHAPES.items()), Code(F, ELL, 4 * ELL, 3))
    for name, shape in SHAPES.items():
        slot, seen = layout.by_name[name], np.zeros(shape, dtype=int)
        for piece in pieces(layout, slot):
            seen[tuple(slice(a, b) for a, b in piece.ranges)] += 1
        assert (seen == 1).all()
