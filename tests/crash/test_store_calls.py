"""Each call of a store fails, at every place of a run: once before anything was written, once after everything was.

The same stage is tried again as flows/work.py does, and every so often by a process that knows nothing (new stores, new context).
Arithmetic is done once for each statement: what a retry computes again is the same function of the same input.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks.prove
from flows.work import is_transient
from protocol.params import PROFILES
from protocol.statement import task_list
from prover.executor.calibrate import Calibration
from prover.executor.prepare import Prepared
from storage.errors import LedgerUnavailable, StoreUnavailable
from storage.fsck import fsck
from storage.ledger import Ledger
from storage.local import LocalObjectStore
from storage.log import LogPublisher
from storage.private import LocalPrivateStore
from tasks.budgets import with_budgets
from tasks.context import RunContext, Stores
from tasks.estimate import Estimate
from tasks.plan import Draft, planned, start
from tasks.prove import prove_statement
from tasks.record import collect
from tasks.train import train_window, window_names
from tasks.verify import judge
from tests.tasks.toy_run import stores
from tests.toy import EVEN, toy

KEY = "6" * 64
PROFILES_OF = {1: "goldilocks-2^13", 2: "goldilocks-2^14"}  # by windows: with openings enough for an attempt at each call
CALLS = (
    (Ledger, "append"), (Ledger, "spend_opening"), (Ledger, "append_checkpoint"), (LocalObjectStore, "put"), (LocalObjectStore, "publish"),
    (LocalPrivateStore, "put"), (LocalPrivateStore, "create"), (LogPublisher, "publish"),
)
MODES = ("not persisted", "persisted")


class Faults:
    """Fails every call of every stage once; a call is known by its stage, its method, and its number in this attempt."""

    def __init__(self, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mode, self.stage = mode, ""
        self.failed: list[tuple[str, str, int]] = []
        self._count: Counter[str] = Counter()
        for owner, method in CALLS:
            monkeypatch.setattr(owner, method, self._around(owner, method))

    def attempt(self, stage: str) -> None:
        self.stage = stage
        self._count.clear()

    def _around(self, owner: type, method: str) -> Callable[..., Any]:
        inner, name = getattr(owner, method), f"{owner.__name__}.{method}"

        def called(this: Any, *arguments: Any, **named: Any) -> Any:
            self._count[name] += 1
            key = (self.stage, name, self._count[name])
            fails = bool(self.stage) and key not in self.failed
            if fails:
                self.failed.append(key)
            if fails and self.mode == "not persisted":
                raise self._error(owner)
            found = inner(this, *arguments, **named)
            if fails:
                raise self._error(owner)
            return found

        return called

    def _error(self, owner: type) -> Exception:
        return (LedgerUnavailable if owner is Ledger else StoreUnavailable)(f"{self.mode}: {self.failed[-1]}")


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Witness, proof and verification of a statement are computed once."""
    memory: dict[Any, Any] = {}

    def remembered(name: str, key: Callable[..., Any], spends: bool = False, given: Callable[[Any], Any] = lambda made: made) -> None:
        inner = getattr(tasks.prove, name)

        def called(*arguments: Any) -> Any:
            known = (name, key(*arguments))
            if known not in memory:
                memory[known] = inner(*arguments[:-1], lambda: None) if spends else inner(*arguments)
            if spends:
                arguments[-1]()
            return given(memory[known])

        monkeypatch.setattr(tasks.prove, name, called)

    remembered("_witness", lambda context, task, opened: str(task), given=lambda made: (made[0], list(made[1])))  # proving empties it
    remembered("prove_task", lambda *arguments: arguments[2], spends=True)
    remembered("verify_task", lambda manifest, task, roots, ids, evidence: (evidence.content, evidence.proof))


def draft(windows: int) -> Draft:
    """Windows of one step; if there are several, everything secret is copied before each one."""
    found = toy(layers=1, steps=windows, window_steps=1, sizes=EVEN, target_modules=("q_proj",))
    name = PROFILES_OF[windows]
    manifest = replace(found.manifest, profile=name, rotation_windows=1 if windows > 1 else found.manifest.rotation_windows)
    manifest = with_budgets(manifest)
    manifest = replace(manifest, budgets=dict.fromkeys(manifest.budgets, PROFILES[name].max_openings))
    prepared = Prepared(manifest, found.base, found.tokens, found.mask, Calibration(manifest.exponents, [], []))
    return Draft(manifest, prepared, Estimate(name, manifest.parts, manifest.budgets, 0, ()), KEY)


class Run:
    """A run that is tried again and again."""

    def __init__(self, folder: Path, faults: Faults, windows: int) -> None:
        self.folder, self.faults, self.drafted = folder, faults, draft(windows)
        self.attempts = 0
        self.stores: Stores = stores(folder)
        self.context: RunContext | None = None

    def stage(self, name: str, work: Callable[[RunContext], object]) -> None:
        """Until it comes through; every fault is one that the flow's tasks try again after."""
        while True:
            self.attempts += 1
            try:
                self.faults.attempt(name)
                work(self.context or self.open())
                return
            except (LedgerUnavailable, StoreUnavailable) as error:
                assert is_transient(error)
                if self.attempts % 5 == 0:  # a process that knows nothing
                    self.stores.ledger.close()
                    self.stores, self.context = stores(self.folder), None

    def open(self) -> RunContext:
        self.context = planned(self.stores, KEY) or start(self.stores, self.drafted)
        return self.context

    def stages(self) -> Iterator[tuple[str, Callable[[RunContext], object]]]:
        yield "plan", lambda context: None
        manifest = self.open().manifest
        for window in range(-1, len(manifest.windows())):
            if window >= 0:
                yield f"window {window}", lambda context, window=window: train_window(context, window)  # type: ignore[misc]
            for task in task_list(manifest):
                if task.window == window:
                    yield str(task), lambda context, task=task: prove_statement(context, task)  # type: ignore[misc]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("windows", [1, pytest.param(2, marks=pytest.mark.cluster)])
@pytest.mark.usefixtures("once")
def test_every_call_fails_once(tmp_path: Path, windows: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(mode, monkeypatch)
    run = Run(tmp_path, faults, windows)
    for name, work in run.stages():
        run.stage(name, work)
    faults.attempt("")
    methods = {name for _, name, _ in faults.failed}
    assert methods == {f"{owner.__name__}.{method}" for owner, method in CALLS} and len(faults.failed) > 80 * windows
    context = run.open()
    ledger, manifest = run.stores.ledger, context.manifest
    record = ledger.record(context.run_id)
    tasks_ = task_list(manifest)
    assert len(ledger.runs()) == 1 and len(record.proofs) == len(record.statements) == len(tasks_)
    added = sum(len(window_names(context, window)) for window in range(len(manifest.windows())))
    assert len(record.commitments) == len(manifest.commitments) + added
    for row in record.commitments:
        assert row.budget is None or ledger.openings_spent(row.commitment_id) <= row.budget
    assert not [item for item in fsck(ledger, run.stores.objects, run.stores.log.keys().policy, lambda *_: None) if not item.harmless]
    verdict = judge(collect(run.stores.log, context.run_id))
    assert verdict.accepted, verdict.reason
    size = ledger.log_size()
    for _, work in run.stages():  # a re-run adds nothing
        run.stage("", work)
    assert ledger.log_size() == size and ledger.record(context.run_id) == record
