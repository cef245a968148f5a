"""Any sequence of appends, openings, checkpoints and reopenings against a model in memory, on both databases."""

import dataclasses
import hashlib
import shutil
import tempfile
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from storage.errors import BudgetExhausted, LedgerConflict, LedgerError
from storage.ledger import Ledger, open_ledger
from storage.models import NONE, CommitmentRow, EventRow, OpeningRow, ProofRow, Row, RunRow, StatementRow, VerdictRow, leaf, row_key
from tests.storage.rows import digest
from tests.support import postgres

RUNS, TEXTS, SMALL = st.sampled_from(["run-1", "run-2"]), st.sampled_from(["{}", '{"a":1}', "ä"]), st.integers(0, 2)
BUDGETS = st.sampled_from([2, None])


def run(run_id: str, text: str) -> RunRow:
    return RunRow(run_id, hashlib.sha256(text.encode()).hexdigest(), text)


def identity(run_id: str, window: int) -> str:
    return digest(f"{run_id} {window}")


ROWS: st.SearchStrategy[Any] = st.one_of(
    st.builds(run, RUNS, TEXTS),
    st.builds(lambda r, w, t: StatementRow(identity(r, w), r, "layer", w, 0, NONE, t), RUNS, SMALL, TEXTS),
    st.builds(lambda r, w, s: ProofRow(identity(r, w), digest("o"), s, "cpu", s / 3, "{}"), RUNS, SMALL, SMALL),
    st.builds(lambda r, w, b: CommitmentRow(r, "state", w, 0, digest(f"c{w}"), digest("r"), "{}", b), RUNS, SMALL, BUDGETS),
    st.builds(lambda r, s, a: VerdictRow("pass", r, identity(r, s), "me", a, ""), RUNS, SMALL, st.booleans()),
    st.builds(EventRow, RUNS, st.just("finished"), SMALL, TEXTS),
)


class Machine(RuleBasedStateMachine):
    """The model: rows by table and key in the order of appending, opening slots by commitment, checkpoints by size."""

    database: ClassVar[str]

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.mkdtemp()
        server = postgres.server() if self.database == "postgresql" else None
        self.url = server.url(server.ledger()) if server else f"sqlite:///{self.folder}/ledger.db"
        self.ledger: Ledger = open_ledger(self.url)
        self.rows: dict[tuple[str, str], Row] = {}
        self.notes: dict[int, str] = {}

    def holds(self, kind: type, key: str) -> bool:
        return (kind.__name__, key) in self.rows

    def refers_to_nothing(self, row: Row) -> bool:
        if isinstance(row, RunRow):
            return False
        if isinstance(row, ProofRow | OpeningRow):
            return not self.holds(StatementRow, f'["{row.statement_id}"]')
        return not self.holds(RunRow, f'["{row.run_id}"]')

    @rule(row=ROWS)
    def append(self, row: Row) -> None:
        place = (type(row).__name__, row_key(row))
        if place in self.rows:
            if self.rows[place] == row:
                assert self.ledger.append(row) is False
            else:
                with pytest.raises(LedgerConflict):
                    self.ledger.append(row)
        elif self.refers_to_nothing(row):
            with pytest.raises(LedgerError, match="not in the ledger"):
                self.ledger.append(row)
        else:
            assert self.ledger.append(row) is True
            self.rows[place] = row

    @rule(run_id=RUNS, window=SMALL, commitment=SMALL, budget=BUDGETS)
    def spend(self, run_id: str, window: int, commitment: int, budget: int | None) -> None:
        committed = digest(f"c{commitment}")
        budgets = {row.budget for row in self.rows.values() if isinstance(row, CommitmentRow) and row.commitment_id == committed}
        spent = sum(isinstance(row, OpeningRow) and row.commitment_id == committed for row in self.rows.values())
        row = OpeningRow(committed, spent, identity(run_id, window), "attempt")

        def ask() -> int:
            return self.ledger.spend_opening(committed, budget, row.statement_id, row.attempt)

        if budgets != {budget}:
            with pytest.raises(LedgerError):
                ask()
        elif budget is not None and spent >= budget:
            with pytest.raises(BudgetExhausted):
                ask()
        elif self.refers_to_nothing(row):
            with pytest.raises(LedgerError, match="not in the ledger"):
                ask()
        else:
            assert ask() == spent
            self.rows["OpeningRow", row_key(row)] = row

    @rule(size=SMALL, note=TEXTS)
    def checkpoint(self, size: int, note: str) -> None:
        if self.notes.get(size, note) != note:
            with pytest.raises(LedgerConflict):
                self.ledger.append_checkpoint(size, note)
        else:
            assert self.ledger.append_checkpoint(size, note) is (size not in self.notes)
            self.notes[size] = note

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = open_ledger(self.url)

    @invariant()
    def the_log_is_the_rows_in_order(self) -> None:
        if not hasattr(self, "ledger"):
            return
        leaves = self.ledger.log_leaves(0, self.ledger.log_size())
        assert leaves == [leaf(row) for row in self.rows.values()]
        assert self.ledger.log_hashes(0, len(leaves)) == [hashlib.sha256(b"\x00" + data).digest() for data in leaves]
        assert {row.size: row.note for row in self.ledger.checkpoints()} == self.notes

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger.unlogged_rows() == []
        for found in self.ledger.query_runs():
            record = self.ledger.record(found.run_id)
            logged = record.rows()
            assert {leaf(row) for row in logged} == {data for _, data in self.ledger.log_positions(found.run_id)}
            assert all(dataclasses.replace(row, created=None) == self.rows[type(row).__name__, row_key(row)] for row in logged)
            assert (found.statements, found.proofs) == (len(record.statements), len(record.proofs))
        self.ledger.close()
        shutil.rmtree(self.folder)


QUICK = settings(max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


class OnSqlite(Machine):
    database = "sqlite"


class OnPostgresql(Machine):
    database = "postgresql"


class TestOnSqlite(OnSqlite.TestCase):
    settings = QUICK


class TestOnPostgresql(OnPostgresql.TestCase):
    settings = QUICK
