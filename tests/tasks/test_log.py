"""Every unit of work ends under a signed checkpoint."""

from pathlib import Path

import pytest

from prover.executor.evaluate import RangeOverflow
from storage.checkpoint import load_keys
from storage.log import NEWEST
from storage.tree import read_tree
from tasks.context import RunContext, TrainingOverflow
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.tasks.toy_run import toy_run
from verifier.note import parse_checkpoint


def signed(run: RunContext) -> int:
    """Entries under the published checkpoint, which its tiles confirm."""
    keys = load_keys(run.stores.private)
    assert keys
    found = parse_checkpoint(run.stores.objects.read(NEWEST), keys.policy)
    assert read_tree(run.stores.objects, found.size).root(found.size) == found.root
    return found.size


def test_plan_window_and_proof_are_signed(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    ledger, sizes = run.stores.ledger, [signed(run)]
    assert sizes[0] == ledger.log_size() > 0
    train_window(run, 0)
    sizes.append(signed(run))
    task = next(task for task in run.statements.values() if task.kind == "range")
    assert prove_statement(run, task).fresh
    sizes.append(signed(run))
    assert sizes[0] < sizes[1] < sizes[2] == ledger.log_size()
    assert not prove_statement(run, task).fresh and signed(run) == sizes[2]


def test_an_overflow_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path)

    def overflow(*_: object) -> None:
        raise RangeOverflow("q", 5, 16, 70_000, 0)

    monkeypatch.setattr(run.trainer, "run_window", overflow)
    with pytest.raises(TrainingOverflow):
        train_window(run, 0)
    assert signed(run) == run.stores.ledger.log_size()
