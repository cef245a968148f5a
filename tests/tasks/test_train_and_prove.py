"""Windows and statements are recorded once, whatever fails in between; secrets stay in the private store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.statement import Name, Task, statement_id, task_list
from prover.backend import select
from prover.executor.evaluate import RangeOverflow
from storage.errors import BudgetExhausted, MissingObject, StorageError, StoreFull
from tasks.context import RunContext, RunError, TrainingOverflow
from tasks.deliver import load_committed, save_committed
from tasks.prove import find_task, prove_statement
from tasks.record import collect
from tasks.train import overflow_file, train_window, window_file, window_names
from tasks.verify import judge
from tests.tasks.toy_run import toy_run


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return toy_run(tmp_path)


def task_named(run: RunContext, text: str) -> Task:
    return next(t for t in task_list(run.manifest) if str(t) == text)


def roots(run: RunContext) -> dict[str, str]:
    return {f"{row.name}@{row.window}": row.root for row in run.stores.ledger.record(run.run_id).commitments}


def test_secrets_come_back_as_they_were(run: RunContext) -> None:
    tensors = {"q_proj.lora_A": np.array([[1, -2**31], [3, 4]]), "small": np.array([-128, 127])}
    save_committed(run.stores.private, run.run_id, Name("delivered/0", 7), "ab" * 32, b"s" * 32, tensors)
    seed, found = load_committed(run.stores.private, run.run_id, Name("delivered/0", 7), lambda name: "ab" * 32)
    assert seed == b"s" * 32 and list(found) == list(tensors)
    assert all(found[k].dtype == np.int64 and (found[k] == tensors[k]).all() for k in tensors)
    for name, root in ((Name("delivered/0", 8), "ab" * 32), (Name("delivered/0", 7), "cd" * 32)):
        with pytest.raises(MissingObject):
            load_committed(run.stores.private, run.run_id, name, lambda _, root=root: root)


def test_a_window_is_recorded_once(run: RunContext) -> None:
    assert train_window(run, 0)
    before = roots(run)
    assert {str(n) for n in window_names(run, 0)} == {"x/0@0", "x/1@0", "dx/1@0", "state/0@1"} <= set(before)
    assert not train_window(run, 0)
    assert roots(run) == before


@pytest.mark.parametrize(("room", "kept"), [(0, 1), (1, 1), (2, 2), (8, 4)])
def test_commitments_of_earlier_tasks_take_a_32nd_of_the_memory_at_most(run: RunContext, room: int, kept: int) -> None:
    """They are in no plan, which leaves a tenth free. `room` is for so many of four that are nearly of one size."""
    names = [Name("embedding"), Name("head"), Name("base/0"), Name("dataset")]
    backend = type(select("cpu"))()
    backend.memory = 32 * room * max(run.opened(name).size for name in names)
    small = RunContext(run.stores, run.run_id, run.manifest, backend)
    for name in names:
        small.opened(name)
    assert [small.opened(name).data.layout for name in names[-kept:]] == [small.layout(name) for name in names[-kept:]]
    assert len(small._cache) == kept


def test_two_trainers_of_one_window_do_no_harm(tmp_path: Path) -> None:
    """The second one finds the window recorded when it is done: its own commitments count for nothing."""
    first = toy_run(tmp_path)
    late = RunContext(first.stores, first.run_id, first.manifest, first.backend)
    overtaken = late.trainer.run_window

    def slow(*arguments: Any) -> Any:
        late.trainer.run_window = overtaken  # type: ignore[method-assign]
        trace = overtaken(*arguments)
        assert train_window(first, 0)
        return trace

    late.trainer.run_window = slow  # type: ignore[method-assign]
    assert not train_window(late, 0)
    assert len(list(first.stores.private.names(f"runs/{first.run_id}/commitments/state/0/1-"))) == 2
    assert prove_statement(late, task_named(late, "layer(0, 0)")).fresh and train_window(late, 1)


def test_norms_and_clip_factors_are_recorded_and_proved(tmp_path: Path) -> None:
    run = toy_run(tmp_path, kind="adamw", max_grad_norm="0.5", weight_decay="0.01")
    for window in (0, 1):
        train_window(run, window)
        assert {Name("norm/0", window), Name("clip", window)} <= set(window_names(run, window))
    for name in ("clip(1)", "layer(1, 0)"):
        assert prove_statement(run, task_named(run, name)).fresh
    opened = {row.commitment_id for row in run.stores.ledger.record(run.run_id).openings}
    assert {row.commitment_id for n in (Name("norm/0", 1), Name("clip", 1)) if (row := run.recorded(n))} <= opened


@pytest.mark.parametrize("optimizer", [{}, {"kind": "adamw", "max_grad_norm": "0.5", "weight_decay": "0.01"}], ids=["sgd", "adamw"])
def test_a_run_in_parts_is_the_run_in_one(tmp_path: Path, optimizer: dict[str, object]) -> None:
    whole, split = (toy_run(tmp_path / str(parts), profile="goldilocks-2^13", parts=parts, **optimizer) for parts in (1, 2))
    for run in (whole, split):
        for window in (0, 1):
            train_window(run, window)
    [tensors, same] = (run.tensors(Name("delivered/0", 2)) for run in (whole, split))
    assert tensors.keys() == same.keys() and all((tensors[key] == same[key]).all() for key in tensors)
    kinds = {"embed": 4, "layer": 4, "update": 2, "head": 4, "range": 4} | ({"clip": 2} if optimizer else {})
    assert {kind: sum(t.kind == kind for t in task_list(split.manifest)) for kind in kinds} == kinds
    for task in task_list(split.manifest):
        assert prove_statement(split, task).fresh
    for task in task_list(whole.manifest):
        if task.kind == "head":
            prove_statement(whole, task)
    verdict = judge(collect(split.stores.log, split.run_id))
    assert verdict.accepted and verdict.found is not None
    losses = [[json.loads(row.content)["published"] for row in run.stores.ledger.statements(run.run_id, "head")] for run in (whole, split)]
    assert [published for published in losses[1] if published] == losses[0]  # a part's own loss is not published
    assert {row.layer for row in split.stores.ledger.record(split.run_id).commitments if row.name.startswith("loss")} == {-1}


def test_a_window_cut_off_before_its_file_is_trained_again(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, data: bytes) -> bool:
        assert name == window_file(run.run_id, 0)
        raise StoreFull("no space left")

    monkeypatch.setattr(run.stores.private, "create", full)
    with pytest.raises(StoreFull):
        train_window(run, 0)
    assert not any(key.endswith("@0") for key in roots(run))  # nothing of it was published
    monkeypatch.undo()
    assert train_window(run, 0)
    assert prove_statement(run, task_named(run, "embed(0)")).fresh


def test_a_window_cut_off_after_its_file_keeps_its_roots(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    append, appended = run.stores.ledger.append, []

    def dies(row: Any) -> bool:
        if appended:
            raise StorageError("cut off")
        appended.append(row)
        return append(row)

    monkeypatch.setattr(run.stores.ledger, "append", dies)
    with pytest.raises(StorageError):
        train_window(run, 0)
    first = {k: v for k, v in roots(run).items() if k.endswith("@0")}
    assert len(first) == 1
    monkeypatch.undo()
    assert not train_window(RunContext(run.stores, run.run_id, run.manifest, run.backend), 0)
    assert first.items() <= roots(run).items() and len(roots(run)) == 8


def test_a_proof_is_made_once(run: RunContext) -> None:
    task = task_named(run, "range(dataset)")
    first = prove_statement(run, task)
    again = prove_statement(run, task)
    assert first.fresh and not again.fresh and again.object_digest == first.object_digest
    assert len(run.stores.ledger.record(run.run_id).openings) == 1
    assert find_task(run, first.statement_id) == task
    with pytest.raises(RunError, match="no statement"):
        find_task(run, "0" * 64)


def test_a_failed_attempt_spends_its_opening(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_named(run, "range(head)")

    def full(data: bytes) -> str:
        raise StoreFull("no space left")

    for spent in range(1, run.manifest.budgets["head"] + 1):
        monkeypatch.setattr(run.stores.objects, "put", full)
        with pytest.raises(StoreFull):
            prove_statement(run, task)
        assert len(run.stores.ledger.record(run.run_id).openings) == spent
    monkeypatch.undo()
    with pytest.raises(BudgetExhausted):
        prove_statement(run, task)
    assert run.stores.ledger.record(run.run_id).proofs == ()


def test_a_late_attempt_accepts_the_proof_that_stands(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_named(run, "range(embedding)")
    put, others = run.stores.objects.put, []

    def overtaken(data: bytes) -> str:
        monkeypatch.undo()
        others.append(prove_statement(RunContext(run.stores, run.run_id, run.manifest, run.backend), task))
        return put(data)

    monkeypatch.setattr(run.stores.objects, "put", overtaken)
    late = prove_statement(run, task)
    assert others[0].fresh and not late.fresh and late.object_digest == others[0].object_digest
    assert len(run.stores.ledger.record(run.run_id).openings) == 2


def test_a_missing_object_is_reported(run: RunContext) -> None:
    task = task_named(run, "range(dataset)")
    digest = prove_statement(run, task).object_digest
    next(Path(run.stores.objects.root).rglob(digest)).unlink()  # type: ignore[attr-defined]
    with pytest.raises(MissingObject, match=digest):
        prove_statement(run, task)


def test_nothing_is_proved_before_its_commitments_are_recorded(run: RunContext) -> None:
    with pytest.raises(RunError, match="x/0@0"):
        prove_statement(run, task_named(run, "embed(0)"))


def test_another_private_store_is_noticed(run: RunContext) -> None:
    root = run.root(Name("head"))
    seed, tensors = load_committed(run.stores.private, run.run_id, Name("head"), run.root)
    save_committed(run.stores.private, run.run_id, Name("head"), root, seed, {"W": tensors["W"] + 1})
    fresh = RunContext(run.stores, run.run_id, run.manifest, run.backend)
    with pytest.raises(StorageError, match="not what the ledger recorded"):
        prove_statement(fresh, task_named(run, "range(head)"))


def test_an_overflow_stops_the_run_with_an_event_without_its_value(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflows(*arguments: object) -> None:
        raise RangeOverflow("layer/0/q", 3, 987654321, -8, 7)

    monkeypatch.setattr(run.trainer, "run_window", overflows)
    with pytest.raises(TrainingOverflow) as caught:
        train_window(run, 0)
    (event,) = run.stores.ledger.record(run.run_id).events
    assert (event.kind, event.window, event.detail) == ("overflow", 0, '{"step":3,"tensor":"layer/0/q"}')
    assert "987654321" not in str(caught.value)
    assert b"987654321" in run.stores.private.get(overflow_file(run.run_id))


def test_statement_ids_are_the_protocols(run: RunContext) -> None:
    done = prove_statement(run, task_named(run, "range(base/0)"))
    assert done.statement_id == statement_id(run.manifest, task_named(run, "range(base/0)"))
