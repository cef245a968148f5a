"""What benchmarks/launches.py counts on a card that computes nothing is what a proof asks of one that computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.launches import commitments, prove, totals
from prover.argument.counting import count
from prover.argument.prove import drained, prove_task
from prover.backend.base import Backend
from prover.backend.cuda import CudaBackend
from prover.commitment.commit import CommitmentData, commit
from prover.witness.task import kept_values, read_by_proof
from tests.prover.test_cuda_proofs import every_kind  # noqa: F401 - a fixture
from tests.support import card
from tests.support.device import card_only, module
from tests.support.stage import PARAMS, Case, seed


@pytest.fixture(autouse=True)
def a_card_that_computes_afterwards() -> Iterator[None]:
    yield
    module()


def inputs(backend: Backend, case: Case) -> list[tuple[str, CommitmentData]]:
    return [(role, commit(backend, case.stage.layout(name), case.stage.arrays[str(name)], seed(str(name))))
            for role, name in case.task.commitments]


@card_only
@pytest.mark.parametrize("kind", ["layer", "embed", "range"])
@pytest.mark.parametrize("hand_over", [64, 4096])
def test_an_idle_card_is_asked_the_same(every_kind: dict[str, Case], kind: str, hand_over: int) -> None:  # noqa: F811
    case = every_kind[kind]
    busy = CudaBackend(module(), hand_over)
    read = {t.index for t in read_by_proof(case.graph)}
    made, values = inputs(busy, case), kept_values(busy, case.graph, (x if k in read else None for k, x in enumerate(case.values)))
    real = card.watched(lambda: prove_task(
        busy, case.shape, b"", made, drained(values), case.published(), PARAMS, seed("attempt"), lambda: None))

    idle = CudaBackend(module(mode=card.Mode.IDLE), hand_over)
    count(case.shape)
    made = commitments(idle, [(role, case.stage.layout(name)) for role, name in case.task.commitments])
    found = card.watched(lambda: prove(idle, case.shape.graph, made, PARAMS, case.shape))
    assert _launches(found) == _launches(real)
    mine, theirs = totals(found), totals(real)
    assert mine.pop("library") >= theirs.pop("library")  # a few only where tiles are uniform, which all are on an idle card
    assert mine == theirs


def _launches(found: Counter[str]) -> dict[str, int]:
    return {name: n for name, n in found.items() if name.startswith("launch vl_")}
