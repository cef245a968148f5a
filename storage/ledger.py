"""The audit ledger: append-only rows about runs, commitments, statements, openings, proofs and verdicts.

Order of writing (architecture, "The ledger"): object in the store → statement row → openings (before query positions are
drawn) → proof row. Appending is idempotent: the same content under the same key again does nothing, other content is a
LedgerConflict. The ledger records; it decides nothing that a verdict depends on. Called by tasks, flows and the command line.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from storage import models
from storage.engine import explain_database_errors, open_engine
from storage.errors import BudgetExhausted, LedgerConflict, LedgerError, UnknownRun
from storage.models import (
    TABLES,
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


def open_ledger(url: str, *, read_only: bool = False) -> "Ledger":
    """The ledger at sqlite:///PATH; unless read_only it is created and migrated to the newest schema."""
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
            with self._transaction() as connection:
                if self._present(connection, row):
                    return False
                self._insert(connection, row)
                return True
        except sa.exc.IntegrityError as error:
            with self._transaction() as connection:  # lost a race against the same row, or names a row that is absent
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
            with self._transaction() as connection:
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
        query = sa.select(sa.func.count()).where(models.openings.c.commitment_id == commitment_id)
        with self._transaction() as connection:
            return int(connection.scalar(query) or 0)

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
            proofs=tuple(self._rows(ProofRow, models.proofs.c.statement_id.in_(of_run), order=("statement_id",))),
            verdicts=tuple(self._rows(VerdictRow, order=("created", "verification", "subject"), run_id=run_id)),
            events=tuple(self._rows(EventRow, order=("created", "window", "kind"), run_id=run_id)),
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

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with explain_database_errors(), self._engine.begin() as connection:
            yield connection

    def _rows(self, row: type[AnyRow], *where: Any, order: tuple[str, ...] = (), **equal: object) -> list[AnyRow]:
        table = TABLES[row]
        query = sa.select(*(table.c[field.name] for field in dataclasses.fields(row)))
        query = query.where(*where, *(table.c[name] == value for name, value in equal.items()))
        with self._transaction() as connection:
            return [row(*values) for values in connection.execute(query.order_by(*(table.c[name] for name in order)))]

    @staticmethod
    def _insert(connection: sa.Connection, row: Row) -> None:
        values = {name: value for name, value in dataclasses.asdict(row).items() if name != "created"}
        connection.execute(sa.insert(TABLES[type(row)]).values(values))

    @staticmethod
    def _present(connection: sa.Connection, row: Row) -> bool:
        """Whether exactly this row is there; LedgerConflict if one of its keys holds another."""
        table = TABLES[type(row)]
        content = {name: value for name, value in dataclasses.asdict(row).items() if name != "created"}
        for key in unique_keys(table):
            query = sa.select(*(table.c[name] for name in content)).where(*(table.c[name] == content[name] for name in key))
            found = connection.execute(query).mappings().first()
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
