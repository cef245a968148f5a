"""A GPU that fails in the middle of a task: no proof is stored, nothing is lost, and it is said what happened."""

from pathlib import Path
from typing import Any

import pytest

import tasks.prove
import tasks.train
from cli.output import UNAVAILABLE, exit_code
from flows.work import is_transient
from protocol.statement import task_list
from prover.backend.cuda import CudaBackend
from tasks.context import RunContext
from tasks.gpu_fault import GpuFailed
from tasks.plan import start
from tasks.prove import prove_statement
from tasks.shortage import OutOfMemory
from tasks.train import train_window
from tests.support import card
from tests.support.device import card_only, module
from tests.tasks.toy_run import toy_draft, toy_run


class CUDARuntimeError(RuntimeError):
    """As CuPy's: `status` is the runtime's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


LOST = CUDARuntimeError(700, "cudaErrorIllegalAddress: an illegal memory access was encountered\nmore of it")


def failing(error: Exception) -> Any:
    def fails(*_: object, **__: object) -> None:
        raise error

    return fails


def test_a_fault_in_a_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    task = task_list(run.manifest)[0]
    with monkeypatch.context() as broken:
        broken.setattr(tasks.prove, "prove_task", failing(LOST))
        with pytest.raises(GpuFailed) as caught:
            prove_statement(run, task)
    assert str(caught.value).startswith(
        f"{task} was not finished: the GPU failed (cudaErrorIllegalAddress: an illegal memory access was encountered), and this process")
    assert "another worker, or the same run again, goes on" in str(caught.value) and "more of it" not in str(caught.value)
    assert caught.value.__suppress_context__ and not is_transient(caught.value) and exit_code(caught.value) == UNAVAILABLE
    before = run.stores.ledger.record(run.run_id)
    assert not before.proofs and prove_statement(run, task).fresh
    after = run.stores.ledger.record(run.run_id)
    assert set(before.rows()) < set(after.rows()) and len(after.proofs) == 1


@card_only
def test_a_real_one(tmp_path: Path) -> None:
    """A kernel fails in the middle of a proof, and everything after it; another process, here the host's backend, proves the same."""
    run = toy_run(tmp_path)
    train_window(run, 0)
    layer = next(task for task in task_list(run.manifest) if task.kind == "layer")
    there = RunContext(run.stores, run.run_id, run.manifest, CudaBackend(module(), 256, 32))
    try:
        for launches in (500, 0):
            card.fail_after(launches)
            with pytest.raises(GpuFailed, match=r"layer\(0, 0\) was not finished: the GPU failed \(cudaErrorLaunchFailure"):
                prove_statement(there, layer)
    finally:
        card.mend()
    assert not run.stores.ledger.record(run.run_id).proofs and prove_statement(run, layer).fresh


def test_a_fault_in_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(run, "commit", failing(LOST))
        with pytest.raises(GpuFailed, match="^training window 0 was not finished: the GPU failed"):
            train_window(run, 0)
    assert train_window(run, 0)
    with monkeypatch.context() as broken:
        broken.setattr("tasks.plan.commit", failing(LOST))
        with pytest.raises(GpuFailed, match="^committing to model and dataset was not finished: the GPU failed"):
            start(run.stores, toy_draft())


@pytest.mark.parametrize("kind", ["CUDARuntimeError", "CUDADriverError"])
def test_a_driver_without_memory_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Pinned memory, a context, a kernel's own: CuPy's pool allocates none of them, so the driver's error comes as it is."""
    run, short = toy_run(tmp_path), type(kind, (CUDARuntimeError,), {})(2, "cudaErrorMemoryAllocation: out of memory")
    monkeypatch.setattr(tasks.prove, "prove_task", failing(short))
    with pytest.raises(OutOfMemory, match=r"ran out of memory \(cudaErrorMemoryAllocation: out of memory\)"):
        prove_statement(run, task_list(run.manifest)[0])


def test_other_errors_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    monkeypatch.setattr(tasks.prove, "prove_task", failing(RuntimeError("CUDA is a word")))
    with pytest.raises(RuntimeError, match="^CUDA is a word$"):
        prove_statement(run, task_list(run.manifest)[0])
