"""The audit ledger: append-only rows about runs, commitments, statements, openings, proofs and verdicts, and the log of them.

Order of writing (architecture, "The ledger"): object in the store → statement row → openings (before query positions are
drawn) → proof row. Appending is idempotent: the same content under the same key again does nothing, other content is a
LedgerConflict. Each row and its log entry are one transaction, and one transaction appends at a time (storage/engine.py).
The ledger records; it decides nothing that a verdict depends on. Called by tasks, flows, the API and the command line.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from storage import log_rows, models, query
from storage.engine import APPENDING, explain_database_errors, holding, open_engine, publishing
from storage.errors import BudgetExhausted, LedgerConflict, LedgerError, UnknownRun
from storage.models import (
    TABLES,
    CheckpointRow,
    CommitmentRow,
    EventRow,
    OpeningRow,
    ProofRow,
    Row,
    RunRow,
    StatementRow,
    VerdictRow,
    unique_keys,
)

AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class RunRecord:
    """One run with every row that belongs to it, each list in a fixed order."""

    run: RunRow
    commitments: tuple[CommitmentRow, ...]
    statements: tuple[StatementRow, ...]
    openings: tuple[OpeningRow, ...]
    proofs: tuple[ProofRow, ...]
    verdicts: tuple[VerdictRow, ...]
    events: tuple[EventRow, ...]

    def rows(self) -> list[Row]:
        """All of them."""
        lists = (self.commitments, self.statements, self.openings, self.proofs, self.verdicts, self.events)
        return [self.run, *(row for rows in lists for row in rows)]


@dataclass(frozen=True)
class LogGrowth:
    """What a log's publisher reads: number of entries, some leaf hashes and leaves, some checkpoints."""

    size: int
    hashes: list[bytes]
    leaves: list[bytes]
    checkpoints: list[CheckpointRow]


def open_ledger(url: str, *, read_only: bool = False) -> "Ledger":
    """The ledger at sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE.

    Unless read_only its schema is created, or migrated to the newest version, by a user who may.
    """
    return Ledger(open_engine(url, read_only))


class Ledger:
    """Rows in, rows out; safe to use from several threads and processes at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def append(self, row: Row) -> bool:
        """Append one row; False if it was there already. LedgerConflict if its key holds other content."""
        if isinstance(row, OpeningRow):
            raise LedgerError("openings are appended by spend_opening, which takes the next free slot")
        if isinstance(row, RunRow) and hashlib.sha256(row.manifest.encode()).hexdigest() != row.manifest_digest:
            raise LedgerError(f"run {row.run_id}: manifest_digest is not the SHA-256 of the manifest")
        try:
            with self._appending() as connection:
                if self._present(connection, row):
                    return False
                self._insert(connection, row)
                if isinstance(row, RunRow):
                    connection.execute(sa.insert(models.run_index).values(query.index_values(row)))
                return True
        except sa.exc.IntegrityError as error:
            with self._reading() as connection:  # lost a race against the same row, or names a row that is absent
                if self._present(connection, row):
                    return False
            raise LedgerError(f"{TABLES[type(row)].name}: {row} names a run or statement that is not in the ledger") from error

    def spend_opening(self, commitment_id: str, budget: int | None, statement_id: str, attempt: str) -> int:
        """Take the next opening slot of a commitment, durably, for one attempt at one statement.

        budget: number of openings its blinding allows, None for a public commitment. It must be the budget recorded with the
        commitment. Every call takes a new slot, also when repeated: an attempt that died may have shown its columns.
        """
        table = models.openings
        try:
            with self._appending() as connection:
                self._check_budget(connection, commitment_id, budget)
                last = connection.scalar(sa.select(sa.func.max(table.c.slot)).where(table.c.commitment_id == commitment_id))
                slot = 0 if last is None else int(last) + 1
                if budget is not None and slot >= budget:
                    raise BudgetExhausted(
                        f"commitment {commitment_id}: all {budget} openings are spent, another one would reveal its content. "
                        "Start a new run with fewer windows, or with a larger blinding budget"
                    )
                self._insert(connection, OpeningRow(commitment_id, slot, statement_id, attempt))
                return slot
        except sa.exc.IntegrityError as error:
            raise LedgerError(f"opening of {commitment_id}: statement {statement_id} is not in the ledger, append it first") from error

    def openings_spent(self, commitment_id: str) -> int:
        """How many opening slots of a commitment are taken."""
        spent = sa.select(sa.func.count()).where(models.openings.c.commitment_id == commitment_id)
        with self._reading() as connection:
            return int(connection.scalar(spent) or 0)

    def runs(self) -> list[RunRow]:
        """All runs, oldest first."""
        return self._rows(RunRow, order=("created", "run_id"))

    def run(self, run_id: str) -> RunRow:
        """One run; UnknownRun lists those that exist."""
        found = self._rows(RunRow, run_id=run_id)
        if not found:
            known = ", ".join(row.run_id for row in self.runs()) or "none, the ledger is empty"
            raise UnknownRun(f"no run {run_id!r} in the ledger. Known runs: {known}")
        return found[0]

    def record(self, run_id: str) -> RunRecord:
        """One run with everything that belongs to it; UnknownRun as above."""
        of_run = sa.select(models.statements.c.statement_id).where(models.statements.c.run_id == run_id)
        return RunRecord(
            run=self.run(run_id),
            commitments=tuple(self._rows(CommitmentRow, order=("window", "layer", "name"), run_id=run_id)),
            statements=tuple(self._rows(StatementRow, order=("window", "layer", "kind", "part"), run_id=run_id)),
            openings=tuple(self._rows(OpeningRow, models.openings.c.statement_id.in_(of_run), order=("commitment_id", "slot"))),
            proofs=tuple(self.proofs(run_id)),
            verdicts=tuple(self._rows(VerdictRow, order=("created", "verification", "subject"), run_id=run_id)),
            events=tuple(self.events(run_id)),
        )

    def commitment(self, run_id: str, name: str, window: int = models.NONE, layer: int = models.NONE) -> CommitmentRow | None:
        """One commitment of a run by its name, or None."""
        return next(iter(self._rows(CommitmentRow, run_id=run_id, name=name, window=window, layer=layer)), None)

    def statement(self, statement_id: str) -> StatementRow | None:
        """One statement, or None."""
        return next(iter(self._rows(StatementRow, statement_id=statement_id)), None)

    def proof(self, statement_id: str) -> ProofRow | None:
        """The proof that stands for a statement, or None; asked before proving, and after a LedgerConflict of a late attempt."""
        return next(iter(self._rows(ProofRow, statement_id=statement_id)), None)

    def proved(self, run_id: str) -> set[str]:
        """Ids of a run's statements that have a proof."""
        table = models.proofs.join(models.statements, models.statements.c.statement_id == models.proofs.c.statement_id)
        found = sa.select(models.proofs.c.statement_id).select_from(table).where(models.statements.c.run_id == run_id)
        with self._reading() as connection:
            return set(connection.scalars(found))

    def proof_sizes(self, run_id: str) -> dict[str, int]:
        """Bytes of the proofs of a run by statement id, without anything else of them."""
        table = models.proofs.join(models.statements, models.statements.c.statement_id == models.proofs.c.statement_id)
        found = sa.select(models.proofs.c.statement_id, models.proofs.c.size).select_from(table).where(models.statements.c.run_id == run_id)
        with self._reading() as connection:
            return {identity: int(size) for identity, size in connection.execute(found)}

    def proofs(self, run_id: str) -> list[ProofRow]:
        """Proofs of a run."""
        of_run = sa.select(models.statements.c.statement_id).where(models.statements.c.run_id == run_id)
        return self._rows(ProofRow, models.proofs.c.statement_id.in_(of_run), order=("statement_id",))

    def events(self, run_id: str) -> list[EventRow]:
        """What happened to a run."""
        return self._rows(EventRow, order=("created", "window", "kind"), run_id=run_id)

    def statements(self, run_id: str, kind: str) -> list[StatementRow]:
        """Statements of one kind of a run."""
        return self._rows(StatementRow, run_id=run_id, kind=kind)

    # listings: what the ledger says, for people

    def query_runs(
        self, model: str | None = None, dataset: str | None = None, since: datetime | None = None, until: datetime | None = None,
        state: str | None = None, verifier: str | None = None, limit: int = 50, after: str | None = None, run_id: str | None = None,
    ) -> list[query.RunSummary]:
        """One page of runs, newest first (storage/query.py: filters, states, cursor); BadQuery for filters without a meaning."""
        with self._reading() as connection:
            return query.summaries(
                connection, model=model, dataset=dataset, since=since, until=until, state=state, verifier=verifier,
                limit=limit, after=after, run_id=run_id,
            )

    def counts(self, run_id: str) -> query.Counts:
        """Numbers of rows of one run."""
        with self._reading() as connection:
            return query.counts(connection, run_id)

    # the transparency log: entries are appended with their rows; storage/log.py signs and publishes

    def log_size(self) -> int:
        """Number of log entries."""
        with self._reading() as connection:
            return log_rows.log_size(connection)

    def log_hashes(self, start: int, stop: int) -> list[bytes]:
        """Leaf hashes as recorded, positions start … stop − 1; LedgerError if there is a gap."""
        with self._reading() as connection:
            return log_rows.hashes(connection, start, stop)

    def log_leaves(self, start: int, stop: int) -> list[bytes]:
        """Leaves made from the rows as they are now; a changed row gives other bytes than were hashed, a lost one b""."""
        with self._reading() as connection:
            return log_rows.leaves(connection, start, stop)

    def log_growth(self, known: int, signed: int, limit: int) -> LogGrowth:
        """The next `limit` entries after the first `known`, and checkpoints of more than `signed` entries.

        Checkpoints are read first: on PostgreSQL each query sees what was committed before it, and a checkpoint of more entries
        than the log has means that rows were removed.
        """
        with self._reading() as connection:
            table = models.checkpoints
            found = connection.execute(sa.select(table).where(table.c.size > signed).order_by(table.c.size))
            checkpoints = [CheckpointRow(*row) for row in found]
            size = log_rows.log_size(connection)
            stop = min(size, known + limit)
            return LogGrowth(size, log_rows.hashes(connection, known, stop), log_rows.leaves(connection, known, stop), checkpoints)

    def log_positions(self, run_id: str) -> list[tuple[int, bytes]]:
        """Position and leaf of every row of a run that is in the log, ascending; UnknownRun as above."""
        rows = self.record(run_id).rows()
        with self._reading() as connection:
            return log_rows.positions(connection, rows)

    def log_position(self, row: Row) -> int | None:
        """Where this row stands in the log, or None."""
        with self._reading() as connection:
            return next((position for position, _ in log_rows.positions(connection, [row])), None)

    def unlogged_rows(self) -> list[Row]:
        """Rows that are in no log entry, so somebody wrote them past the program."""
        with self._reading() as connection:
            return log_rows.unlogged(connection)

    def log_entry(self, position: int) -> tuple[str, str]:
        """Table and primary key (canonical JSON) of the row that was appended at a position."""
        with self._reading() as connection:
            return log_rows.entry(connection, position)

    def restore(self, position: int, row: Row) -> None:
        """Put a lost row back under its log entry, or at the log's end as its next entry (storage/repair.py, which has proof)."""
        try:
            with self._appending() as connection:
                if self._present(connection, row):
                    return
                if position == log_rows.log_size(connection):
                    self._insert(connection, row)
                elif log_rows.hashes(connection, position, position + 1) == [bytes.fromhex(models.leaf_hash(models.leaf(row)))]:
                    connection.execute(sa.insert(TABLES[type(row)]).values(models.content(row)))
                else:
                    raise LedgerConflict(f"log entry {position} is not of the row that would be restored")
                if isinstance(row, RunRow) and not self._indexed(connection, row):
                    connection.execute(sa.insert(models.run_index).values(query.index_values(row)))
        except sa.exc.IntegrityError as error:
            raise LedgerError(f"{TABLES[type(row)].name}: {row} names a run or statement that is not in the ledger") from error

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Be the only publisher of this ledger's log among those that hold the same lock file, and on PostgreSQL among all machines."""
        with publishing(self._engine):
            yield

    @contextlib.contextmanager
    def holding(self, key: str) -> Iterator[bool]:
        """Hold a key (hexadecimal digits) against other machines; False if one of them has it (storage/holding.py, its only caller)."""
        with holding(self._engine, key) as free:
            yield free

    def append_checkpoint(self, size: int, note: str) -> bool:
        """Keep a signed tree head; False if it was there already, LedgerConflict if another one of this size is."""
        with self._appending() as connection:
            held = connection.scalar(sa.select(models.checkpoints.c.note).where(models.checkpoints.c.size == size))
            if held is None:
                connection.execute(sa.insert(models.checkpoints).values(size=size, note=note))
                return True
            if held != note:
                raise LedgerConflict(f"checkpoints already holds another note for size {size}: two signed tree heads of one size differ")
            return False

    def checkpoints(self, after: int = -1) -> list[CheckpointRow]:
        """All signed tree heads of more than `after` entries, smallest first."""
        table = models.checkpoints
        query = sa.select(table).where(table.c.size > after).order_by(table.c.size)
        with self._reading() as connection:
            return [CheckpointRow(size, note) for size, note in connection.execute(query)]

    def newest_checkpoint(self) -> CheckpointRow | None:
        """The largest signed tree head, or None."""
        table = models.checkpoints
        with self._reading() as connection:
            found = connection.execute(sa.select(table).order_by(table.c.size.desc()).limit(1)).first()
            return None if found is None else CheckpointRow(*found)

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with explain_database_errors(self._engine), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _appending(self) -> Iterator[sa.Connection]:
        with explain_database_errors(self._engine), self._engine.execution_options(**{APPENDING: True}).begin() as connection:
            yield connection

    def _rows(self, row: type[AnyRow], *where: Any, order: tuple[str, ...] = (), **equal: object) -> list[AnyRow]:
        table = TABLES[row]
        found = sa.select(*(table.c[field.name] for field in dataclasses.fields(row)))
        found = found.where(*where, *(table.c[name] == value for name, value in equal.items()))
        with self._reading() as connection:
            return [row(*values) for values in connection.execute(found.order_by(*(table.c[name] for name in order)))]

    @staticmethod
    def _insert(connection: sa.Connection, row: Row) -> None:
        connection.execute(sa.insert(TABLES[type(row)]).values(models.content(row)))
        log_rows.append_entry(connection, row)

    @staticmethod
    def _indexed(connection: sa.Connection, row: RunRow) -> bool:
        index = models.run_index.c.run_id
        return connection.scalar(sa.select(index).where(index == row.run_id)) is not None

    @staticmethod
    def _present(connection: sa.Connection, row: Row) -> bool:
        """Whether exactly this row is there; LedgerConflict if one of its keys holds another."""
        table = TABLES[type(row)]
        content = models.content(row)
        for key in unique_keys(table):
            same_key = sa.select(*(table.c[name] for name in content)).where(*(table.c[name] == content[name] for name in key))
            found = connection.execute(same_key).mappings().first()
            if found is None:
                continue
            different = [name for name, value in content.items() if found[name] != value]
            if different:
                where = ", ".join(f"{name}={content[name]!r}" for name in key)
                changes = "; ".join(f"{name}: recorded {found[name]!r}, now {content[name]!r}" for name in different)
                raise LedgerConflict(f"{table.name} already holds other content under {where}: {changes}")
            return True
        return False

    @staticmethod
    def _check_budget(connection: sa.Connection, commitment_id: str, budget: int | None) -> None:
        table = models.commitments
        recorded = set(connection.scalars(sa.select(table.c.budget).where(table.c.commitment_id == commitment_id)))
        if not recorded:
            raise LedgerError(f"commitment {commitment_id} is not in the ledger, append it first")
        if recorded != {budget}:
            raise LedgerConflict(f"commitment {commitment_id}: budget recorded {recorded}, asked with {budget}")
