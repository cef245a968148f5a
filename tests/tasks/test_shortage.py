"""A proof that runs out of memory: told in words, nothing lost or kept, never tried again by itself; with more memory the run goes on."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks.prove
from flows.work import is_transient
from protocol.statement import task_list
from prover.backend.cuda import CudaBackend
from prover.backend.memory import SHARES
from tasks.context import RunContext
from tasks.prove import prove_statement
from tasks.shortage import OutOfMemory, shortage_told
from tasks.train import train_window
from tests.support.cuda import stand_in
from tests.tasks.toy_run import toy_run


def test_a_share_of_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in, "pool", stand_in.Pool())
    monkeypatch.setattr(stand_in, "_allocators", [stand_in.pool.malloc])
    monkeypatch.setattr("prover.backend.device_memory._torch", lambda: None)  # which works on the host here
    monkeypatch.setenv(SHARES, "8")
    run = toy_run(tmp_path)
    train_window(run, 0)
    layer = next(task for task in task_list(run.manifest) if task.kind == "layer")

    def context(memory: int) -> RunContext:
        return RunContext(run.stores, run.run_id, run.manifest, CudaBackend(stand_in.module(memory=8 * memory), 256, 32))

    small, held, used = context(1 << 21), list[OutOfMemory](), list[int]()
    for _ in range(3):
        with pytest.raises(OutOfMemory) as caught:
            prove_statement(small, layer)
        held.append(caught.value)
        small._cache.clear()
        stand_in.settle()
        gc.collect()
        used.append(stand_in.pool.used_bytes())
    assert used[0] == used[1] == used[2]  # tables of the backend: an error that is kept keeps no array of the proof
    for words in ("layer(0, 0) ran out of memory (Out of memory allocating", "may use 2.1 MB of this GPU, one of 8 equal shares of its",
                  "Nothing is lost: start the provers with fewer `--processes`", "orchestration.prover_memory or more audit.parts"):
        assert words in str(caught.value)
    assert not is_transient(caught.value)
    before = run.stores.ledger.record(run.run_id)
    assert not before.proofs
    assert prove_statement(context(1 << 30), layer).fresh
    after = run.stores.ledger.record(run.run_id)
    assert set(before.rows()) <= set(after.rows()) and len(after.proofs) == 1


@pytest.mark.parametrize("raised", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")])
def test_errors_of_every_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception) -> None:
    """With all of a host's memory; arrays of the failed work are gone although its error is kept."""
    monkeypatch.delenv(SHARES, raising=False)
    run, freed = toy_run(tmp_path), list[int]()

    class Watched(np.ndarray):
        def __del__(self) -> None:
            freed.append(1)

    def fails(*_: object, **__: object) -> None:
        held = np.zeros(3).view(Watched)
        raise raised.with_traceback(None) if held.size else AssertionError

    monkeypatch.setattr(tasks.prove, "prove_task", fails)
    with pytest.raises(OutOfMemory, match="of this machine, all of its memory.*with nothing else beside it") as caught:
        prove_statement(run, task_list(run.manifest)[0])
    assert freed and caught.value.__suppress_context__
    assert "Tried to allocate" not in str(caught.value) and "GPU 0" not in str(caught.value)


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    with pytest.raises(RuntimeError, match="^another$"), shortage_told("a task", run.backend):
        raise RuntimeError("another")
