"""One task's schedule from statement to end of proof, on a small graph with every operation: what a proof binds, and what it counts."""

from dataclasses import replace

import numpy as np
import pytest

from protocol.channel import CountingChannel, Transcript
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.params import profile
from protocol.relation.graph import IntArray
from protocol.schedule.opening import tail_code, tail_count
from protocol.schedule.task import PAD_GRANULE, TaskShape, run_task
from tests.support.evil import EvilChannel, EvilProver, Lie
from tests.support.stage import PARAMS, backend, seed, verify
from tests.support.tiny import Tiny, tiny_graph

F = GOLDILOCKS


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    found = Tiny(tiny_graph(2, 2, 3), 3)
    assert all(values.all() for values in found.published.values())
    return found


@pytest.fixture(scope="module")
def proof(tiny: Tiny) -> bytes:
    return bytes(tiny.prove().proof)


def witness(tiny: Tiny) -> CommitmentLayout:
    return TaskShape(tiny.graph, F).witness_layout(PARAMS)


def judged(tiny: Tiny, proof: bytes, statement: bytes | None = None, published: dict[str, IntArray] | None = None) -> str:
    try:
        said = tiny.published if published is None else published
        verify(TaskShape(tiny.graph, F), statement or tiny.statement, tiny.committed, said, proof)
    except VerificationError as error:
        return error.reason
    return "accepted"


def test_a_proof_made_now_and_one_made_before_are_accepted(tiny: Tiny, proof: bytes) -> None:
    assert judged(tiny, proof) == "accepted"
    again = bytes(tiny.prove().proof)
    assert again == proof and judged(tiny, again) == "accepted"


def test_a_proof_is_about_its_statement_and_its_witness(tiny: Tiny, proof: bytes) -> None:
    assert judged(tiny, proof, statement=tiny.statement + b" ") == "opening-relation"
    for at in (0, 31):
        changed = bytearray(proof)
        changed[at] ^= 1
        assert judged(tiny, bytes(changed)) == "opening-relation"
    assert judged(tiny, proof[:-1]) == "truncated" and judged(tiny, proof + b"\0") == "trailing"
    assert judged(tiny, proof[:32]) == judged(tiny, b"") == "truncated"


def test_a_proof_is_about_what_is_published(tiny: Tiny, proof: bytes) -> None:
    """The statement names the values as well; here it is the schedule alone that must notice."""
    for cell in (0, 1):
        other = tiny.published["squares"].copy()
        other[cell] += 1
        assert judged(tiny, proof, published={"squares": other}) == "opening-relation"
    for wrong in (tiny.published["squares"][:1], tiny.published["squares"][None], np.zeros(0, dtype=np.int64)):
        assert judged(tiny, proof, published={"squares": wrong}) == "published-shape"
    assert judged(tiny, proof, published={}) == "published-shape"


def test_a_verifier_finds_the_counts_by_verifying(tiny: Tiny, proof: bytes) -> None:
    """As a run without data finds them, without running the reduction a second time."""
    shape = TaskShape(tiny.graph, F)
    verify(shape, tiny.statement, tiny.committed, tiny.published, proof)
    assert vars(shape)["counts"] == TaskShape(tiny.graph, F).counts


def test_batches_and_rounds_are_those_of_the_transcript(tiny: Tiny) -> None:
    drawn: list[str] = []

    class Listing(Transcript):
        def draw(self, tag: str, words: int, below: int) -> list[int]:
            drawn.append(tag)
            return super().draw(tag, words, below)

    counts, channel = TaskShape(tiny.graph, F).counts, CountingChannel(F, Listing())
    zeros = {name: np.zeros_like(values) for name, values in tiny.published.items()}
    run_task(channel, TaskShape(tiny.graph, F), b"", tiny.committed, PARAMS, zeros, None)
    reduction = drawn[: drawn.index("opening/lambda")]
    assert counts.batches == reduction.count("products/rho") == 3
    assert counts.rounds == sum(tag.endswith("/round") for tag in reduction) > 3


@pytest.mark.parametrize("row", ["v1", "v2"])
def test_opened_rows_are_those_of_the_commitments(tiny: Tiny, row: str) -> None:
    """v + X^ℓ − 1 holds the same message under another blinding: only the columns can tell."""
    ell = PARAMS.ell if row == "v1" else tail_code(F, PARAMS.code(1), tail_count([c.layout for c in tiny.committed] + [witness(tiny)])).ell

    def other(message: bytes) -> bytes:
        coefs = F.kfrom_bytes(message)
        coefs[0, ell] += np.uint64(1)
        coefs[0, 0] -= np.uint64(1)
        return F.kto_bytes(coefs)

    proof = bytes(tiny.prove(Lie(messages={f"opening/{row}": other})).proof)
    with pytest.raises(VerificationError) as caught:
        verify(TaskShape(tiny.graph, F), tiny.statement, tiny.committed, tiny.published, proof)
    assert (caught.value.reason, caught.value.where) == ("column-check", f"opening/{row}")


def test_a_budget_is_spent_before_positions_are_known(tiny: Tiny) -> None:
    """Once, after the masked rows were sent and before any column is opened."""
    shape, spent = TaskShape(tiny.graph, F), list[int]()
    prover = EvilProver(
        backend(), shape, tiny.committed_data, witness(tiny), tiny.values, seed("spent"), lambda: spent.append(len(channel.proof))
    )
    channel = EvilChannel(prover, {})
    run_task(channel, shape, tiny.statement, tiny.committed, PARAMS, tiny.published, prover)
    assert spent == [next(offset for tag, offset, _ in channel.log if tag.startswith("columns/"))]


@pytest.mark.parametrize(("pads", "products", "cells"), [
    (1, 1, (1, 1)), (PAD_GRANULE, 128, (1, 1)), (PAD_GRANULE + 1, 129, (2, 2)), (2 * PAD_GRANULE, 256, (2, 2)), (700, 257, (3, 3)),
])
def test_pads_and_products_are_committed_up_to_a_granule(tiny: Tiny, pads: int, products: int, cells: tuple[int, int]) -> None:
    """T pairs, the masking one among them, need 2T − 1 values: C has degree 2T − 2."""
    shape = TaskShape(tiny.graph, F)
    vars(shape)["counts"] = replace(shape.counts, pads=pads, products=((0, 0),) * products)
    assert (shape.pads, shape.products) == (cells[0] * PAD_GRANULE, cells[1] * PAD_GRANULE)
    sizes = dict(shape.witness_tensors())
    assert (sizes["pad"], sizes["product"]) == ((shape.pads, 2), (shape.products, 2))


def test_the_witness_is_opened_once(tiny: Tiny) -> None:
    params = profile("goldilocks-2^12")
    layout = TaskShape(tiny.graph, F).witness_layout(params)
    assert layout.code == params.code(1) and layout.code.blinding == params.queries
    assert {s.name: s.tensor.shape for s in layout.slots} == dict(TaskShape(tiny.graph, F).witness_tensors())
