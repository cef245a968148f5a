"""The ledger on SQLite and on PostgreSQL: idempotent appends, conflicts, opening budgets under concurrency, clear errors."""

import dataclasses
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy as sa
from alembic import command

from storage.engine import migration_config
from storage.errors import BudgetExhausted, LedgerConflict, LedgerError, LedgerVersionError, StoreFull, UnknownRun
from storage.ledger import Ledger, open_ledger
from storage.models import CommitmentRow, OpeningRow, ProofRow, RunRow
from tests.storage.rows import COMMITMENT, EVENT, PROOF, PUBLIC, ROWS, RUN, STATEMENT, VERDICT, WHOLE, digest


def same(row: object, expected: object) -> bool:
    return dataclasses.replace(row, created=None) == expected and row.created is not None


def test_everything_comes_back(ledger: Ledger, url: str) -> None:
    slots = [ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, str(i)) for i in range(2)]
    record = open_ledger(url, read_only=True).record("run-1")
    assert same(record.run, RUN)
    assert all(map(same, record.commitments, [PUBLIC, COMMITMENT]))
    assert all(map(same, record.statements, [STATEMENT]))
    assert all(map(same, record.proofs, [PROOF]))
    assert all(map(same, record.verdicts, sorted([VERDICT, WHOLE], key=lambda row: row.subject)))
    assert all(map(same, record.events, [EVENT]))
    assert slots == [0, 1] and [(row.slot, row.attempt) for row in record.openings] == [(0, "0"), (1, "1")]
    assert [len(rows) for rows in (record.commitments, record.statements, record.proofs, record.verdicts, record.events)] == [2, 1, 1, 2, 1]
    assert same(ledger.proof(STATEMENT.statement_id), PROOF) and ledger.proof(digest("none")) is None
    assert same(ledger.statement(STATEMENT.statement_id), STATEMENT)
    assert same(ledger.commitment("run-1", "base", layer=0), COMMITMENT) and ledger.commitment("run-1", "base") is None


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_same_row_again_is_nothing_other_content_is_a_conflict(ledger: Ledger, row) -> None:
    before = ledger.record("run-1")
    assert ledger.append(row) is False
    other = {
        "RunRow": {"manifest": "{}", "manifest_digest": digest("{}")}, "CommitmentRow": {"root": digest("other")},
        "StatementRow": {"content": "{}"}, "ProofRow": {"object_digest": digest("other")},
        "VerdictRow": {"accepted": not getattr(row, "accepted", True)}, "EventRow": {"detail": "{}"},
    }[type(row).__name__]
    with pytest.raises(LedgerConflict, match=r"holds other content under .*recorded .* now "):
        ledger.append(dataclasses.replace(row, **other))
    assert ledger.record("run-1") == before


def test_second_unique_key_is_a_conflict(ledger: Ledger) -> None:
    with pytest.raises(LedgerConflict, match="kind='layer', window=0"):
        ledger.append(dataclasses.replace(STATEMENT, statement_id=digest("another id for the same place")))


def test_rows_need_what_they_refer_to(ledger: Ledger) -> None:
    for row in (dataclasses.replace(COMMITMENT, run_id="run-2"), ProofRow(digest("unknown"), digest("o"), 1, "cpu", 1.0, "{}")):
        with pytest.raises(LedgerError, match="not in the ledger"):
            ledger.append(row)
    with pytest.raises(LedgerError, match="not the SHA-256"):
        ledger.append(RunRow("run-2", digest("x"), "{}"))
    with pytest.raises(LedgerError, match="spend_opening"):
        ledger.append(OpeningRow(COMMITMENT.commitment_id, 7, STATEMENT.statement_id, "1"))


def test_budget_is_kept(ledger: Ledger) -> None:
    spend = [ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "same attempt") for _ in range(3)]
    assert spend == [0, 1, 2]
    with pytest.raises(BudgetExhausted, match="all 3 openings"):
        ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "4")
    assert ledger.openings_spent(COMMITMENT.commitment_id) == 3
    assert [ledger.spend_opening(PUBLIC.commitment_id, None, STATEMENT.statement_id, "1") for _ in range(5)] == list(range(5))


def test_opening_needs_the_recorded_budget_commitment_and_statement(ledger: Ledger) -> None:
    with pytest.raises(LedgerConflict, match="budget recorded"):
        ledger.spend_opening(COMMITMENT.commitment_id, 1000, STATEMENT.statement_id, "1")
    with pytest.raises(LedgerError, match="append it first"):
        ledger.spend_opening(digest("unknown"), 3, STATEMENT.statement_id, "1")
    with pytest.raises(LedgerError, match="statement .* is not in the ledger"):
        ledger.spend_opening(COMMITMENT.commitment_id, 3, digest("unknown"), "1")
    assert ledger.openings_spent(COMMITMENT.commitment_id) == 0


def test_budget_of_one_commitment_in_two_runs_is_shared(ledger: Ledger) -> None:
    ledger.append(RunRow("run-2", RUN.manifest_digest, RUN.manifest))
    ledger.append(dataclasses.replace(COMMITMENT, run_id="run-2"))
    assert [ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1") for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BudgetExhausted):
        ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1")


def test_threads_never_share_a_slot(ledger: Ledger, url: str) -> None:
    shared = CommitmentRow("run-1", "state", 0, 0, digest("state"), digest("r"), "{}", 190)
    ledger.append(shared)

    def spend(worker: int) -> list[int]:
        own = open_ledger(url)
        slots = []
        for i in range(50):
            try:
                slots.append(own.spend_opening(shared.commitment_id, 190, STATEMENT.statement_id, f"{worker}-{i}"))
            except BudgetExhausted:
                slots.append(-1)
        return slots

    with ThreadPoolExecutor(4) as pool:
        slots = [slot for part in pool.map(spend, range(4)) for slot in part]
    assert sorted(slots) == [-1] * 10 + list(range(190))


def test_of_a_thousand_racing_attempts_one_row_is_left(ledger: Ledger) -> None:
    ledger.append(dataclasses.replace(STATEMENT, statement_id=digest("s1"), window=1))
    before = ledger.log_size()
    start = Barrier(8)

    def attempts(worker: int) -> list[str]:
        start.wait()
        outcomes = []
        for _ in range(125):
            proof = dataclasses.replace(PROOF, statement_id=digest("s1"), object_digest=digest(f"object {worker % 4}"))
            try:
                outcomes.append("appended" if ledger.append(proof) else "there already")
            except LedgerConflict:
                outcomes.append("conflict")
        return outcomes

    with ThreadPoolExecutor(8) as pool:
        outcomes = [outcome for part in pool.map(attempts, range(8)) for outcome in part]
    assert [outcomes.count(kind) for kind in ("appended", "there already", "conflict")] == [1, 249, 750]
    assert len([row for row in ledger.record("run-1").proofs if row.statement_id == digest("s1")]) == 1
    assert ledger.log_size() == before + 1


def test_racing_new_statements_are_all_kept_once(ledger: Ledger) -> None:
    start = Barrier(4)
    rows = [dataclasses.replace(STATEMENT, statement_id=digest(f"race {i}"), window=100 + i) for i in range(25)]

    def attempts(_: int) -> int:
        start.wait()
        return sum(ledger.append(row) for row in rows)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(attempts, range(4))) == len(rows)
    assert len(ledger.record("run-1").statements) == 1 + len(rows)


def test_processes_create_one_ledger(empty_url: str) -> None:
    script = (
        "import sys; from storage.ledger import open_ledger; from storage.models import RunRow; import hashlib\n"
        "open_ledger(sys.argv[1]).append(RunRow(sys.argv[2], hashlib.sha256(b'{}').hexdigest(), '{}'))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, empty_url, f"run-{i}"]) for i in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    ledger = open_ledger(empty_url)
    assert sorted(row.run_id for row in ledger.runs()) == [f"run-{i}" for i in range(4)]
    assert len(ledger.log_hashes(0, 4)) == ledger.log_size() == 4


def test_unknown_run_lists_known_ones(ledger: Ledger, tmp_path: Path) -> None:
    for ask in (ledger.run, ledger.record):
        with pytest.raises(UnknownRun, match=r"'run-9'.*Known runs: run-1"):
            ask("run-9")
    with pytest.raises(UnknownRun, match="the ledger is empty"):
        open_ledger(f"sqlite:///{tmp_path}/empty.db").run("x")


def test_newer_schema_is_refused_and_left_alone(ledger: Ledger, url: str) -> None:
    with ledger._engine.begin() as raw:
        raw.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for read_only in (False, True):
        with pytest.raises(LedgerVersionError, match=r"'9999'.*up to '\d+'.*newer release"):
            open_ledger(url, read_only=read_only)


def test_an_older_schema_is_not_read_but_upgraded(ledger: Ledger, url: str) -> None:
    config = migration_config()
    with ledger._engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with pytest.raises(LedgerVersionError, match="'0001', older than"):
        open_ledger(url, read_only=True)
    assert open_ledger(url).log_size() == len(ROWS)
    assert len(open_ledger(url, read_only=True).record("run-1").statements) == 1


def test_an_empty_database_is_no_ledger_to_read(empty_url: str) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        open_ledger(empty_url, read_only=True)


def test_what_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(LedgerError, match="not a database"):
        open_ledger(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(LedgerError, match="there is no ledger"):
        open_ledger(f"sqlite:///{tmp_path}/none.db", read_only=True)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    with pytest.raises(LedgerError, match="holds no ledger"):
        open_ledger(f"sqlite:///{tmp_path}/empty.db", read_only=True)
    for url, reason in {
        "postgresql://u:secret@h/d": "postgresql is not supported", "mysql://u:secret@h/d": "mysql is not supported",
        "sqlite://": "no plain file", "sqlite://u:secret@h/d": "no plain file", "var/ledger.db": "no database URL",
        "postgresql+psycopg//u:secret@h/d": "no database URL", "postgresql+psycopg://u:x@secret@h/d": "percent-encoded",
        "postgresql+psycopg://h/d?password=secret": "PGPASSFILE",
        "postgresql+psycopg://u:secret@h": "URL is",
    }.items():
        with pytest.raises(LedgerError, match=reason) as caught:
            open_ledger(url)
        assert "sec" not in str(caught.value)


def test_read_only_changes_nothing(ledger: Ledger, url: str) -> None:
    reader = open_ledger(url, read_only=True)
    with pytest.raises(LedgerError, match="read-?only"):
        reader.append(dataclasses.replace(EVENT, window=5))
    assert len(reader.record("run-1").events) == 1


def test_full_disk_is_explained_and_loses_nothing(tmp_path: Path) -> None:
    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 60")

    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = open_ledger(url)
    for row in ROWS:
        ledger.append(row)
    before = ledger.record("run-1")
    full = open_ledger(url)
    sa.event.listen(full._engine, "connect", limit)
    with pytest.raises(StoreFull, match="free some space"):
        full.append(dataclasses.replace(STATEMENT, statement_id=digest("big"), window=7, content="x" * 1_000_000))
    assert ledger.record("run-1") == before
