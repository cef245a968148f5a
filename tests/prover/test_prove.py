"""Whole proofs: every backend makes the same bytes, and what the schedule counts is what it uses."""

import numpy as np
import pytest

from protocol.channel import VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.params import PROFILES, Params, query_bits
from protocol.relation.graph import Graph, IntArray
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from prover.argument.prove import prove_task
from prover.backend.base import Backend
from prover.backend.cpu import CpuBackend
from prover.backend.cuda import CudaBackend
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import commit
from tests.support.device import device, module

TOY = Params("toy", GOLDILOCKS, 32, 128, 12)


def example() -> tuple[Graph, list[IntArray], dict[str, IntArray]]:
    """Every kind of operation once: product, one-hot, gather, axis map, public factor, lookup, zero, published value."""
    rng, g = np.random.default_rng(5), Graph()
    values: list[IntArray] = []

    def put(array: IntArray) -> None:
        values.append(np.asarray(array, dtype=np.int64))

    table, ids = rng.integers(-50, 50, (7, 3)), rng.integers(0, 7, (4, 2))
    order = np.array([[2, 0], [3, 1], [1, 1]])
    e = g.input("table", "E", "vd", (7, 3), -50, 50)
    t = g.input("data", "ids", "et", (4, 2), 0, 6)
    put(table), put(ids)
    batch = g.gather("batch", t, "sb", order)
    put(ids[order])
    first = g.axis_map("first", batch, "t", 1, [0], [1])
    put(ids[order][..., 1:])
    high, low = g.commit("high", "sbti", (3, 2, 1, 3), 0, 1), g.commit("low", "sbtk", (3, 2, 1, 3), 0, 1)
    picked = ids[order][..., 1:]
    put(np.eye(3, dtype=np.int64)[picked // 3]), put(np.eye(3, dtype=np.int64)[picked % 3])
    for digit in (high, low):
        g.lookup("range:1", digit)
    weights = [g.axis_map(n, d, a, 1, np.zeros(3), np.arange(3), np.arange(3) * w)
               for n, d, a, w in (("h", high, "i", 3), ("l", low, "k", 1))]
    put(3 * (picked // 3)[..., None]), put((picked % 3)[..., None])
    g.zero(g.linear("same", "sbt", (1, weights[0]), (1, weights[1]), (-1, first)))
    put(np.zeros((3, 2, 1)))
    hot = g.one_hot("hot", high, low, "v", 7)
    put(np.eye(7, dtype=np.int64)[picked])
    rows = g.product("rows", "sbtv,vd->sbtd", hot, e)
    put(table[picked])
    sign = g.public("sign", "td", np.array([[1, -1, 1]]))
    put(np.array([[1, -1, 1]]))
    signed = g.product("signed", "sbtd,td->sbtd", rows, sign)
    put(table[picked] * np.array([1, -1, 1]))
    g.lookup("range:7", g.linear("shifted", "sbtd", (1, signed), const=64))
    put(table[picked] * np.array([1, -1, 1]) + 64)
    total = g.linear("total", "s", (1, signed, "sbtd"))
    put((table[picked] * np.array([1, -1, 1])).sum(axis=(1, 2, 3)))
    g.publish(total, "total")
    return g, values, {"total": values[-1]}


def prove(backend: Backend) -> tuple[bytes, list[Committed], Graph, dict[str, IntArray]]:
    g, values, published = example()
    shape = TaskShape(g, GOLDILOCKS)
    inputs = []
    for role, name, array in (("table", "E", values[0]), ("data", "ids", values[1])):
        layout = CommitmentLayout.pack([(name, array.shape)], TOY.code(2))
        inputs.append((role, commit(backend, layout, {name: array}, b"i" * 32)))
    proof = prove_task(backend, shape, b"statement", inputs, values, published, TOY,
                       b"s" * 32, lambda: None)
    return proof, [Committed(role, data.layout, data.root) for role, data in inputs], g, published


def verify(proof: bytes, committed: list[Committed], g: Graph, published: dict[str, IntArray], statement: bytes = b"statement") -> None:
    shape, channel = TaskShape(g, GOLDILOCKS), VerifyingChannel(GOLDILOCKS, proof)
    run_task(channel, shape, statement, committed, TOY, published, None)
    channel.finish()


def test_backends_make_the_same_proof_and_it_verifies() -> None:
    proof, committed, g, published = prove(ReferenceBackend(GOLDILOCKS))
    assert prove(CpuBackend())[0] == proof
    for hand_over, threads in ((0, 32), (64, 128)):
        assert prove(device(hand_over, threads))[0] == proof
    for backend in (CpuBackend(), CudaBackend(module(), threads=32)):
        backend.kept_bytes = 0  # columns are encoded again
        assert prove(backend)[0] == proof
    verify(proof, committed, g, published)


def test_statement_and_published_values_are_bound() -> None:
    proof, committed, g, published = prove(CpuBackend())
    with pytest.raises(VerificationError, match="opening-relation"):
        verify(proof, committed, g, published, b"statemenu")
    with pytest.raises(VerificationError, match="opening-relation"):
        verify(proof, committed, g, {"total": published["total"] + np.array([0, 1, 0])})
    with pytest.raises(VerificationError, match="published-shape"):
        verify(proof, committed, g, {"total": published["total"][:2]})


def test_public_commitment_without_blinding() -> None:
    g, values, published = example()
    backend, shape, inputs = CpuBackend(), TaskShape(g, GOLDILOCKS), []
    for role, name, array, openings in (("table", "E", values[0], 0), ("data", "ids", values[1], 2)):
        layout = CommitmentLayout.pack([(name, array.shape)], TOY.code(openings))
        inputs.append((role, commit(backend, layout, {name: array}, b"i" * 32)))
    proof = prove_task(backend, shape, b"statement", inputs, values, published, TOY,
                       b"s" * 32, lambda: None)
    verify(proof, [Committed(role, data.layout, data.root) for role, data in inputs], g, published)


def test_every_registered_profile_reaches_100_bits_at_its_largest_budget() -> None:
    for params in PROFILES.values():
        k = params.max_openings
        assert k >= 2
        assert query_bits((params.ell + k * params.queries) / params.n, params.queries) >= 100
        assert query_bits((params.ell + (k + 1) * params.queries) / params.n, params.queries) < 100
