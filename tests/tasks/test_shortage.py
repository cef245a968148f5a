"""Work that runs out of memory: told in words, nothing lost or kept, never tried again by itself; with more memory the run goes on."""

import gc
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks.prove
from flows.session import Session
from flows.work import is_transient
from protocol.relation.graph import IntArray
from protocol.statement import Name, task_list
from prover.backend.cuda import CudaBackend
from prover.backend.memory import SHARES
from tasks.allocators import lack_of_memory
from tasks.context import RunContext, open_stores
from tasks.plan import planned, start
from tasks.prove import prove_statement
from tasks.shortage import PROVING, OutOfMemory, shortage_told
from tasks.train import train_window
from tests.cli.commands import example_run
from tests.support.device import card_only, fresh_pool, module
from tests.tasks.toy_run import toy_draft, toy_run


@pytest.fixture
def pool() -> Iterator[Any]:
    with fresh_pool() as made:
        yield made


@card_only
def test_a_share_of_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    monkeypatch.setattr("prover.backend.device_memory.torch_there", lambda: None)  # which works on the host here
    monkeypatch.setenv(SHARES, "8")
    run = toy_run(tmp_path)
    train_window(run, 0)
    layer = next(task for task in task_list(run.manifest) if task.kind == "layer")

    def context(memory: int) -> RunContext:
        return RunContext(run.stores, run.run_id, run.manifest, CudaBackend(module(memory=8 * memory), 256, 32))

    small, held, used = context(1 << 21), list[OutOfMemory](), list[int]()
    for _ in range(3):
        with pytest.raises(OutOfMemory) as caught:
            prove_statement(small, layer)
        held.append(caught.value)
        small._cache.clear()
        gc.collect()
        used.append(pool.used_bytes())
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
    with pytest.raises(OutOfMemory, match="of this (machine|GPU), all of its memory.*with nothing else beside it") as caught:
        prove_statement(run, task_list(run.manifest)[0])
    assert freed and caught.value.__suppress_context__
    assert "Tried to allocate" not in str(caught.value) and "GPU 0" not in str(caught.value)


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    with pytest.raises(RuntimeError, match="^another$"), shortage_told("a task", PROVING, run.backend):
        raise RuntimeError("another")


def test_the_words_of_every_allocator() -> None:
    """Real ones where a host can be asked for more than it has addresses."""
    for allocate in (lambda: np.empty(1 << 52), lambda: torch.empty(1 << 52), lambda: mmap.mmap(-1, 1 << 52)):
        with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
            allocate()
        said = lack_of_memory(caught.value)
        assert said and "llocat" in said and "alloc_cpu.cpp" not in said, said
    assert lack_of_memory(MemoryError()) == "MemoryError"
    assert lack_of_memory(MemoryError("Unable to allocate 256. MiB for an array")) == "Unable to allocate 256. MiB for an array"
    assert lack_of_memory(RuntimeError("shapes differ")) is None and lack_of_memory(FileNotFoundError(2, "no file")) is None


def test_training_that_runs_out_continues_with_the_same_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)
    train_window(run, 0)
    before = run.stores.ledger.record(run.run_id)
    real, left = run.commit, [2]

    def commit(name: Name, tensors: Mapping[str, IntArray]) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            torch.empty(1 << 52)
        return real(name, tensors)

    monkeypatch.setattr(run, "commit", commit)
    with pytest.raises(OutOfMemory, match="training window 1 ran out of memory .*the same run again continues with this window") as caught:
        train_window(run, 1)
    assert not is_transient(caught.value) and run.stores.ledger.record(run.run_id).rows() == before.rows()
    monkeypatch.undo()
    assert train_window(run, 1)
    assert set(before.rows()) < set(run.stores.ledger.record(run.run_id).rows())


def test_planning_and_committing_that_run_out_record_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores, drafted = open_stores(*(f"{kind}{tmp_path / name}" for kind, name in (
        ("sqlite:///", "ledger.db"), ("file:", "objects"), ("file:", "private")))), toy_draft()

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr("tasks.plan.commit", fails)
        with pytest.raises(OutOfMemory, match="committing to model and dataset ran out of memory .*the same run again starts anew"):
            start(stores, drafted)
    assert planned(stores, drafted.key) is None and not stores.ledger.log_size()
    run_yaml = example_run(tmp_path, "training: {learning_rate: 0.05, max_steps: 1}\n")
    with monkeypatch.context() as short:
        short.setattr("prover.executor.float_model.FloatRun.step", fails)
        with pytest.raises(OutOfMemory, match="planning ran out of memory .*Nothing is recorded yet: start it with nothing else beside it"):
            Session(run_yaml).draft()
    assert start(stores, drafted).run_id == start(stores, drafted).run_id
