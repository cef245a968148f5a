"""What benchmarks/launches.py counts on a device that computes nothing is what a proof asks of one that computes."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import idle
from benchmarks.launches import commitments, prove, totals
from prover.argument.counting import count
from prover.argument.prove import drained, prove_task
from prover.backend.cuda import CudaBackend
from prover.commitment.commit import commit
from tests.prover.test_cuda_proofs import every_kind  # noqa: F401 - a fixture
from tests.support.cuda import stand_in
from tests.support.stage import PARAMS, Case, seed


@pytest.mark.parametrize("kind", ["layer", "embed", "range"])
@pytest.mark.parametrize("hand_over", [64, 4096])
def test_an_idle_device_is_asked_the_same(
    every_kind: dict[str, Case], monkeypatch: pytest.MonkeyPatch, kind: str, hand_over: int,  # noqa: F811
) -> None:
    case, asked, counted = every_kind[kind], Counter[str](), stand_in.Counted
    launch = CudaBackend._launch

    def noting(self: CudaBackend, name: str, *arguments: int) -> None:
        asked[f"launch {name}"] += 1
        launch(self, name, *arguments)

    monkeypatch.setattr(CudaBackend, "_launch", noting)
    backend = CudaBackend(stand_in.module(), hand_over)
    counted.launches = counted.waits = counted.copies = 0
    inputs = [(role, commit(backend, case.stage.layout(name), case.stage.arrays[str(name)], seed(str(name))))
              for role, name in case.task.commitments]
    values = [x if x is None else backend.to_device(x) for x in case.values]
    prove_task(backend, case.shape, b"", inputs, drained(values), case.published(), PARAMS, seed("attempt"), lambda: None)
    real, launches, waits, copies = asked.copy(), counted.launches, counted.waits, counted.copies

    asked.clear()
    idle.counted.clear()
    still = CudaBackend(idle.module(2, 1 << 33), hand_over)
    count(case.shape)
    made = commitments(still, [(role, case.stage.layout(name)) for role, name in case.task.commitments])
    prove(still, case.shape.graph, made, PARAMS, case.shape)
    found = totals(idle.counted)
    assert asked == real
    assert (found["launch"], found["waits"], found["back"]) == (launches, waits, copies)
