"""A shift begins with a statement of the machine's own (prover/rehearsal.py), before it claims anything."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prefect.client.schemas.objects import State, StateType

import flows.prove as shift
from protocol.params import profile
from prover.backend import select
from tasks.context import RunError
from tasks.gpu_fault import GpuFailed


class Claimed(Exception):
    """The shift came to its first claim."""


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This machine's, in a shift of a run whose backlog says when it is asked for a statement."""
    found = select("cpu")

    def claims(*_: Any) -> Any:
        raise Claimed
        yield

    context = SimpleNamespace(backend=found, params=profile("goldilocks-2^10"))
    backlog = SimpleNamespace(context=context, finished=False, left=1, claims=claims)
    session = SimpleNamespace(
        stopped=threading.Event(), join=lambda run: None, config=SimpleNamespace(orchestration=SimpleNamespace(patience=1.0)))
    monkeypatch.setattr(shift, "REST_SECONDS", 0.0)
    monkeypatch.setattr(shift, "open_session", lambda path: session)
    monkeypatch.setattr(shift, "Backlog", lambda context: backlog)
    return found


def test_a_machine_that_proves_wrongly_claims_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = backend.hash_rows
    monkeypatch.setattr(backend, "hash_rows", lambda *given: np.bitwise_xor(right(*given), np.uint8(1)))
    with pytest.raises(RunError, match="small statement made on this machine does not verify"):
        shift.prove.fn("run.yaml", "run")


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    status = 700


def test_a_shift_whose_gpu_fails_ends_as_a_killed_one_does(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The crew takes a failed shift for an error of the run, and a crashed one for a loss (tests/flows/test_crew.py)."""
    def fails(*_: object) -> None:
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    monkeypatch.setattr(backend, "hash_rows", fails)
    state = shift.prove.fn("run.yaml", "run")
    assert isinstance(state, State) and state.type == StateType.CRASHED
    assert state.message is not None and "small statement of this machine's own was not finished: the GPU failed (cudaErr" in state.message


def test_the_statement_of_a_gpu_that_fails_is_free_while_its_worker_rests(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = list[str]()

    def claims(*_: object) -> Any:
        held.append("id")
        try:
            yield "id", "layer(0, 0)"
        finally:
            held.remove("id")

    def fails(*_: object) -> None:
        assert held == ["id"]
        raise GpuFailed("the GPU failed")

    rests = list[tuple[float, list[str]]]()
    monkeypatch.setattr(shift, "Backlog", lambda _: SimpleNamespace(
        context=SimpleNamespace(backend=backend, params=profile("goldilocks-2^10")), finished=False, left=1, claims=claims))
    monkeypatch.setattr(shift, "prove_task", fails)
    monkeypatch.setattr(shift, "REST_SECONDS", 7.0)
    monkeypatch.setattr(shift.time, "sleep", lambda seconds: rests.append((seconds, held.copy())))
    state = shift.prove.fn("run.yaml", "run")
    assert isinstance(state, State) and state.message == "the GPU failed" and rests == [(7.0, [])]


def test_a_worker_without_the_gpu_that_it_was_given_proves_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERILORA_SLOT", "gpu:host:7")
    state = shift.prove.fn("run.yaml", "run")
    assert isinstance(state, State) and state.type == StateType.CRASHED
    assert state.message is not None and "this worker was given gpu:host:7 (`verilora worker --gpu`), and finds no CUDA" in state.message


def test_one_that_is_right_does(backend: Any) -> None:
    with pytest.raises(Claimed):
        shift.prove.fn("run.yaml", "run")
