"""What is left of a run, and that no two provers do the same unless one of them hangs."""

from pathlib import Path

import pytest

from storage.holding import holding
from storage.models import ProofRow
from tasks.backlog import Backlog
from tasks.context import RunContext
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.tasks.toy_run import toy_run


@pytest.fixture
def run(tmp_path: Path) -> RunContext:
    return toy_run(tmp_path)


def always() -> bool:
    return True


def names(backlog: Backlog) -> list[str]:
    backlog.refresh()
    return [str(task) for _, task in backlog.left]


def test_what_is_left_follows_the_ledger(run: RunContext) -> None:
    backlog = Backlog(run)
    assert names(backlog) == [str(t) for t in run.statements.values() if t.window < 0] and backlog.behind == 0
    train_window(run, 0)
    assert set(names(backlog)) == {str(t) for t in run.statements.values() if t.window <= 0}
    assert (backlog.recorded, backlog.behind, backlog.finished) == (1, 1, False)
    prove_statement(run, next(t for t in run.statements.values() if str(t) == "embed(0)"))
    assert "embed(0)" not in names(backlog) and backlog.behind == 1


def test_a_window_counts_when_its_last_row_is_there(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that dies between the rows of a window has recorded nothing that could be proved."""
    record, count = run.record_commitment, iter(range(100))

    def dies(*arguments: object) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt
        record(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "record_commitment", dies)
    with pytest.raises(KeyboardInterrupt):
        train_window(run, 0)
    assert Backlog(run).recorded == 0
    monkeypatch.undo()
    train_window(run, 0)
    assert Backlog(run).recorded == 1


def test_two_provers_share_the_work(run: RunContext) -> None:
    first, second = Backlog(run).claims(1000, always), Backlog(run).claims(1000, always)
    taken = [next(first)[0], next(second)[0]]
    assert len(set(taken)) == 2
    first.close(), second.close()
    assert next(Backlog(run).claims(1000, always))[0] == taken[0]  # who stops without a proof leaves it to the next


def test_what_is_held_too_long_is_taken_over_and_the_late_original_does_no_harm(run: RunContext) -> None:
    for task in [t for t in run.statements.values() if t.window < 0][1:]:
        prove_statement(run, task)
    [(identity, task)] = Backlog(run).left
    stores = run.stores
    with holding(stores.private, stores.ledger, identity) as original:
        assert original
        backlog = Backlog(run)
        assert list(backlog.claims(1000, always)) == []
        assert next(backlog.claims(0, always))[0] == identity
    takeover, late = prove_statement(run, task), RunContext(stores, run.run_id, run.manifest, run.backend)
    assert takeover.fresh
    # the original had begun before: it makes its own proof, and finds another one recorded
    found, stores.ledger.proof = stores.ledger.proof, lambda identity: None  # type: ignore[method-assign]
    append, seen = stores.ledger.append, list[bool]()

    def appended(row: object) -> bool:
        if isinstance(row, ProofRow):
            stores.ledger.proof = found  # type: ignore[method-assign]
            seen.append(True)
        return append(row)  # type: ignore[arg-type]

    stores.ledger.append = appended  # type: ignore[method-assign]
    late_proof = prove_statement(late, task)
    assert seen and not late_proof.fresh and late_proof.object_digest == takeover.object_digest
    record = stores.ledger.record(run.run_id)
    attempts = {row.attempt for row in record.openings if row.statement_id == identity}
    assert len(attempts) == 2 and sum(row.statement_id == identity for row in record.proofs) == 1


def test_nobody_is_asked_to_go_on_after_the_end_of_a_shift(run: RunContext) -> None:
    left = iter([True, True, False])
    assert len(list(Backlog(run).claims(1000, lambda: next(left)))) == 1
