"""The log in the ledger, on both databases: an entry with every row, no gaps, and leaves that tell what was changed."""

import dataclasses
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import sqlalchemy as sa

from protocol.encoding import canonical_json
from storage import log_rows, models
from storage.errors import LedgerConflict, LedgerError, UnknownRun
from storage.ledger import Ledger, open_ledger
from storage.models import CheckpointRow, OpeningRow, ProofRow, RunRow, VerdictRow, leaf
from tests.storage.rows import COMMITMENT, EVENT, PROOF, PUBLIC, ROWS, RUN, STATEMENT, VERDICT, digest


def tamper(ledger: Ledger, *statements: str) -> None:
    """What a database's owner can do: change rows with the triggers out of the way."""
    with ledger._engine.begin() as raw:
        if raw.dialect.name == "postgresql":
            raw.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table in models.metadata.tables:
                for trigger in ("no_change", "no_truncate"):
                    raw.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER {table}_{trigger}")
            raw.exec_driver_sql("ALTER TABLE log_entries DISABLE TRIGGER log_entries_no_gap")
        else:
            for (name,) in raw.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
                raw.exec_driver_sql(f"DROP TRIGGER {name}")
        for statement in statements:
            raw.exec_driver_sql(statement)


def hashes_of(leaves: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(b"\x00" + data).digest() for data in leaves]


def test_every_row_has_an_entry_in_the_order_of_appending(ledger: Ledger) -> None:
    slot = ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "first")
    opening = OpeningRow(COMMITMENT.commitment_id, slot, STATEMENT.statement_id, "first")
    assert ledger.log_size() == 9
    assert ledger.log_leaves(0, 9) == [leaf(row) for row in [*ROWS, opening]]
    assert ledger.log_hashes(0, 9) == hashes_of(ledger.log_leaves(0, 9))
    assert ledger.log_leaves(3, 5) == [leaf(ROWS[3]), leaf(ROWS[4])] and ledger.log_hashes(4, 4) == ledger.log_leaves(4, 4) == []
    assert [ledger.log_position(row) for row in (RUN, STATEMENT, opening)] == [0, 3, 8]
    assert ledger.log_position(RunRow("none", "", "")) is None
    ledger.append(EVENT)
    assert ledger.log_size() == 9 and ledger.unlogged_rows() == []


def test_a_leaf_is_canonical_and_says_everything_but_the_time() -> None:
    row = VerdictRow("pass", "run-1", "run", "wer — \"auch\"\n", True, "")
    expected = {
        "table": "verdicts", "row": {
            "verification": "pass", "run_id": "run-1", "subject": "run", "verifier": "wer — \"auch\"\n", "accepted": 1,
            "reason": "", "signature": "",
        },
    }
    assert leaf(row) == canonical_json(expected)
    proof = ProofRow("s", "o", 5, "cpu", 1, "{}")
    assert json.loads(leaf(proof))["row"]["seconds"] == "1.000000"
    assert leaf(proof) == leaf(dataclasses.replace(proof, seconds=1.0)) != leaf(dataclasses.replace(proof, seconds=1.1))
    assert json.loads(leaf(PUBLIC))["row"]["budget"] == "" and json.loads(leaf(COMMITMENT))["row"]["budget"] == 3
    for column in ("seconds", "size"):
        assert leaf(dataclasses.replace(proof, **{column: "no number"})) != leaf(proof)


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 0.1 + 0.2, 1 / 3, 12345.6789012345, 1e15])
def test_a_float_comes_back_with_the_same_leaf(ledger: Ledger, seconds: float) -> None:
    ledger.append(dataclasses.replace(STATEMENT, statement_id=digest("timed"), window=3))
    row = dataclasses.replace(PROOF, statement_id=digest("timed"), seconds=seconds)
    ledger.append(row)
    last = ledger.log_size()
    assert ledger.log_leaves(last - 1, last) == [leaf(row)]


@pytest.mark.parametrize(("change", "position", "lost"), [
    ("UPDATE runs SET manifest = '{}'", 0, False),
    ("UPDATE commitments SET budget = 4 WHERE budget = 3", 1, False),
    ("UPDATE commitments SET budget = 0 WHERE budget IS NULL", 2, False),
    ("UPDATE statements SET part = 0", 3, False),
    ("UPDATE proofs SET seconds = 0.5", 4, False),
    ("UPDATE verdicts SET accepted = NOT accepted WHERE subject = 'run'", 6, False),
    ("UPDATE verdicts SET signature = 'forged' WHERE subject = 'run'", 6, False),
    ("UPDATE run_events SET \"window\" = 2", 7, True),
    ("DELETE FROM run_events", 7, True),
    ("UPDATE log_entries SET row_key = 'no JSON' WHERE position = 7", 7, True),
    ("UPDATE log_entries SET row_key = '[\"run-1\",7,\"x\"]' WHERE position = 7", 7, True),
    ("UPDATE log_entries SET row_table = 'elsewhere' WHERE position = 7", 7, True),
])
def test_a_changed_row_no_longer_hashes_to_its_entry(ledger: Ledger, change: str, position: int, lost: bool) -> None:
    """Whoever may disable triggers can rewrite rows; leaves and hashes then differ at the row's position alone."""
    before = ledger.log_hashes(0, 8)
    tamper(ledger, change)
    now = ledger.log_leaves(0, 8)
    assert ledger.log_hashes(0, 8) == before
    assert [i for i, (a, b) in enumerate(zip(before, hashes_of(now), strict=True)) if a != b] == [position]
    assert (now[position] == b"") == lost


def test_missing_entries_and_broken_hashes_are_errors(ledger: Ledger) -> None:
    tamper(ledger, "UPDATE log_entries SET leaf_hash = 'nothing' WHERE position = 5", "DELETE FROM log_entries WHERE position = 2")
    for ask in (ledger.log_hashes, ledger.log_leaves):
        with pytest.raises(LedgerError, match="has no entry 2"):
            ask(0, 8)
        with pytest.raises(LedgerError, match="has no entry 8"):
            ask(6, 9)
    with pytest.raises(LedgerError, match="entry 5 .*'nothing'"):
        ledger.log_hashes(3, 8)
    assert ledger.unlogged_rows() == [dataclasses.replace(PUBLIC, created=None)]


def test_rows_written_past_the_program_are_found(ledger: Ledger) -> None:
    tamper(ledger, "INSERT INTO run_events (run_id, kind, \"window\", detail) VALUES ('run-1', 'finished', -1, '{}')")
    assert [(row.kind, row.run_id) for row in ledger.unlogged_rows()] == [("finished", "run-1")]
    assert len(ledger.log_positions("run-1")) == ledger.log_size() == 8


def test_positions_of_a_run(ledger: Ledger) -> None:
    ledger.append(RunRow("run-2", RUN.manifest_digest, RUN.manifest))
    ledger.append(dataclasses.replace(STATEMENT, run_id="run-2", statement_id=digest("other"), window=0))
    ledger.spend_opening(COMMITMENT.commitment_id, 3, digest("other"), "1")
    ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1")
    leaves = ledger.log_leaves(0, 12)
    assert ledger.log_positions("run-1") == [(i, leaves[i]) for i in (0, 1, 2, 3, 4, 5, 6, 7, 11)]
    assert ledger.log_positions("run-2") == [(i, leaves[i]) for i in (8, 9, 10)]
    with pytest.raises(UnknownRun):
        ledger.log_positions("run-3")


def test_row_and_entry_are_one_transaction(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no power")

    before = ledger.record("run-1")
    with monkeypatch.context() as patch:
        patch.setattr(log_rows, "append_entry", fails)
        with pytest.raises(OSError):
            ledger.append(dataclasses.replace(EVENT, window=9))
        with pytest.raises(OSError):
            ledger.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1")
    assert ledger.record("run-1") == before and ledger.log_size() == 8 and ledger.unlogged_rows() == []


def test_positions_have_no_gap_when_many_append(ledger: Ledger, url: str) -> None:
    start = Barrier(6)

    def work(worker: int) -> None:
        own = open_ledger(url)
        start.wait()
        for i in range(12):
            own.append(dataclasses.replace(EVENT, kind=f"kind {worker}", window=i))
            if i % 4 == 0:
                with pytest.raises(LedgerConflict):  # a transaction that takes no position
                    own.append(dataclasses.replace(EVENT, detail="other"))
                own.spend_opening(PUBLIC.commitment_id, None, STATEMENT.statement_id, f"{worker} {i}")
        own.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    size = 8 + 6 * 15
    assert ledger.log_size() == size and ledger.unlogged_rows() == []
    assert ledger.log_hashes(0, size) == hashes_of(ledger.log_leaves(0, size))


def test_a_position_taken_twice_or_skipped_is_refused_by_the_database(ledger: Ledger) -> None:
    for position in (0, 7, 9, -1):
        with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger._engine.begin() as raw:
            values = {"position": position, "leaf_hash": "h", "row_table": "runs", "row_key": "k"}
            raw.execute(sa.insert(models.log_entries).values(values))


def test_checkpoints(ledger: Ledger) -> None:
    assert ledger.checkpoints() == []
    assert ledger.append_checkpoint(8, "note 8\n") and ledger.append_checkpoint(3, "note 3\n")
    assert not ledger.append_checkpoint(8, "note 8\n")
    with pytest.raises(LedgerConflict, match="another note for size 8"):
        ledger.append_checkpoint(8, "another\n")
    assert ledger.checkpoints() == [CheckpointRow(3, "note 3\n"), CheckpointRow(8, "note 8\n")]
    assert ledger.log_size() == 8


def test_verdicts_of_any_text_can_be_logged(ledger: Ledger) -> None:
    """PostgreSQL recomputes a verdict's leaf before it takes the entry: both sides escape alike."""
    for i, text in enumerate(['"\\/', "\n\r\t\b\f\x01\x1f\x7f", "ä — 漢 🜁 \u2028", "", "'; DROP TABLE runs; --", "%s :x"]):
        row = dataclasses.replace(VERDICT, verification=f"{text}{i}", verifier=text, reason=text, signature=text)
        assert ledger.append(row)
        assert ledger.log_leaves(ledger.log_size() - 1, ledger.log_size()) == [leaf(row)]
