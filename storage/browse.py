"""Bounded questions about a ledger, for pages and listings: rows by key and cursor, counts, groups; never a whole large table.

Ledger.record() returns everything about a run, which is what a verifier needs. A page needs forty lines of it, and a server
must answer each request in bounded time: every query here has a LIMIT or returns one line per group, and is given up after
STATEMENT_SECONDS. Nothing here writes. Listings are in the order of a unique key; `after` is the key of the last line seen.
Called by api/ and cli/ledger.py.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from storage.engine import explain_database_errors
from storage.errors import StorageError
from storage.models import (
    TABLES,
    WHOLE_RUN,
    CheckpointRow,
    EventRow,
    OpeningRow,
    RunRow,
    StatementRow,
    VerdictRow,
    commitments,
    openings,
    proofs,
    run_events,
    run_index,
    runs,
)
from storage.models import checkpoints as heads
from storage.models import log_entries as log
from storage.models import statements as stated
from storage.models import verdicts as judged
from storage.query import STATES

STATEMENT_SECONDS = 10
MAX_ROWS = 5000  # of any answer that has no cursor

Place = tuple[str, int, int, int]  # kind, window, layer, part: a statement's key within its run


class QueryTimeout(StorageError):
    """A question that took longer than STATEMENT_SECONDS."""


@dataclass(frozen=True)
class TaskLine:
    """A statement without its content, and its proof (None: not recorded)."""

    statement_id: str
    kind: str
    window: int
    layer: int
    part: int
    object_digest: str | None
    size: int | None
    prover: str | None
    seconds: float | None
    created: datetime | None

    @property
    def place(self) -> Place:
        return self.kind, self.window, self.layer, self.part


@dataclass(frozen=True)
class CommitmentLine:
    """A commitment and how many of its openings are spent, in all runs that share it."""

    name: str
    window: int
    layer: int
    commitment_id: str
    root: str
    budget: int | None
    spent: int


@dataclass(frozen=True)
class ProofGroup:
    """All proofs of one kind whose recorded soundness is the same text."""

    kind: str
    soundness: str
    proofs: int
    total_bytes: int
    largest: int
    seconds: float


@dataclass(frozen=True)
class Verification:
    """One verification pass: the verdict on the whole run, and how many task verdicts came with it."""

    verification: str
    verifier: str
    accepted: bool
    reason: str
    signature: str | None
    created: datetime | None
    tasks_accepted: int
    tasks_rejected: int


@dataclass(frozen=True)
class EntryLine:
    """One line of the log: which row of which table, and the leaf hash recorded when it was appended."""

    position: int
    leaf_hash: str
    row_table: str
    row_key: str


@dataclass(frozen=True)
class Overview:
    """A whole ledger in a few numbers: runs by state, those that somebody's verdict rejects, length of the log, entries under its newest
    checkpoint, and when the last of these was appended."""

    states: dict[str, int]
    rejected: int
    entries: int
    signed: int
    signed_at: datetime | None


Line = TypeVar("Line")


class Browse:
    """Read-only questions on one engine; safe to use from several threads at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def may_write(self) -> bool:
        """Whether the database would let this connection append a run (PostgreSQL: the role's privilege)."""
        if self._engine.dialect.name != "postgresql":
            return False  # an SQLite ledger opened read-only has no way to write
        with self._connection() as connection:
            return bool(connection.scalar(sa.text("SELECT has_table_privilege(current_user, 'runs', 'INSERT')")))

    def run(self, run_id: str) -> RunRow | None:
        """One run, or None."""
        return next(iter(self._lines(RunRow, sa.select(*_columns(runs, RunRow)).where(runs.c.run_id == run_id))), None)

    def overview(self) -> Overview:
        """Counted without looking at every statement: a run is finished if its event says so."""

        def some(table: sa.Table, *where: Any) -> "sa.ColumnElement[bool]":
            return sa.exists().where(table.c.run_id == runs.c.run_id, *where).correlate(runs)

        state = sa.case(
            (some(run_events, run_events.c.kind == "overflow"), "overflow"),
            (some(run_events, run_events.c.kind == "finished"), "finished"),
            (some(stated), "proving"), else_="training",
        ).label("state")
        rejected = sa.select(sa.func.count(sa.distinct(judged.c.run_id))).where(judged.c.subject == WHOLE_RUN, ~judged.c.accepted)
        of_runs = sa.select(state).select_from(runs).subquery()
        with self._connection() as connection:
            found = dict(connection.execute(sa.select(of_runs.c.state, sa.func.count()).group_by(of_runs.c.state)).tuples().all())
            last = connection.scalar(sa.select(sa.func.max(log.c.position)))
            signed = int(connection.scalar(sa.select(sa.func.max(heads.c.size))) or 0)
            return Overview(
                {name: int(found.get(name, 0)) for name in STATES}, int(connection.scalar(rejected) or 0),
                0 if last is None else int(last) + 1, signed, _appended(connection, signed - 1) if signed else None,
            )

    def runs_on(self, dataset_id: str, limit: int) -> list[str]:
        """Ids of runs whose manifest names this dataset commitment."""
        query = sa.select(run_index.c.run_id).where(run_index.c.dataset_id == dataset_id).order_by(run_index.c.run_id).limit(limit)
        with self._connection() as connection:
            return list(connection.scalars(query))

    def tasks(
        self, run_id: str, *, windows: tuple[int, int] | None = None, kind: str | None = None, after: Place | None = None,
        limit: int = MAX_ROWS,
    ) -> list[TaskLine]:
        """Statements of a run by (kind, window, layer, part); `windows` = first and last, both included."""
        key = (stated.c.kind, stated.c.window, stated.c.layer, stated.c.part)
        of_proof = (proofs.c[name] for name in ("object_digest", "size", "prover", "seconds", "created"))
        query = (
            sa.select(stated.c.statement_id, *key, *of_proof)
            .select_from(stated.outerjoin(proofs, proofs.c.statement_id == stated.c.statement_id))
            .where(stated.c.run_id == run_id).order_by(*key).limit(limit)
        )
        if windows is not None:
            query = query.where(stated.c.window.between(*windows))
        if kind is not None:
            query = query.where(stated.c.kind == kind)
        if after is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, after)))
        return self._lines(TaskLine, query)

    def last_window(self, run_id: str) -> int:
        """The largest window of any statement of a run; −1 if there is none."""
        query = sa.select(sa.func.max(stated.c.window)).where(stated.c.run_id == run_id)
        with self._connection() as connection:
            found = connection.scalar(query)
        return -1 if found is None else int(found)

    def contents(
        self, run_id: str, *, kind: str | None = None, windows: tuple[int, int] | None = None, limit: int = MAX_ROWS
    ) -> list[StatementRow]:
        """Statements with their content by (window, layer, kind, part)."""
        query = sa.select(*_columns(stated, StatementRow)).where(stated.c.run_id == run_id)
        if kind is not None:
            query = query.where(stated.c.kind == kind)
        if windows is not None:
            query = query.where(stated.c.window.between(*windows))
        return self._lines(StatementRow, query.order_by(stated.c.window, stated.c.layer, stated.c.kind, stated.c.part).limit(limit))

    def commitments(
        self, run_id: str, *, window: int | None = None, after: tuple[str, int, int] | None = None, limit: int = MAX_ROWS
    ) -> list[CommitmentLine]:
        """Commitments of a run by (name, window, layer), with openings spent."""
        key = (commitments.c.name, commitments.c.window, commitments.c.layer)
        query = (
            sa.select(*key, commitments.c.commitment_id, commitments.c.root, commitments.c.budget, _spent())
            .where(commitments.c.run_id == run_id).order_by(*key).limit(limit)
        )
        if window is not None:
            query = query.where(commitments.c.window == window)
        if after is not None:
            query = query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, after)))
        return self._lines(CommitmentLine, query)

    def openings_by_name(self, run_id: str) -> list[tuple[str, int, int, int | None]]:
        """For every name ("x/0", "state/3", …): number of commitments, openings spent by the one most opened, least budget."""
        query = (
            sa.select(commitments.c.name, sa.func.count(), sa.func.max(_spent()), sa.func.min(commitments.c.budget))
            .where(commitments.c.run_id == run_id).group_by(commitments.c.name).order_by(commitments.c.name).limit(MAX_ROWS)
        )
        with self._connection() as connection:
            return [(name, int(count), int(most), budget) for name, count, most, budget in connection.execute(query)]

    def proof_groups(self, run_id: str) -> list[ProofGroup]:
        """Proofs of a run by kind and recorded soundness."""
        key = (stated.c.kind, proofs.c.soundness)
        query = (
            sa.select(*key, sa.func.count(), sa.func.sum(proofs.c.size), sa.func.max(proofs.c.size), sa.func.sum(proofs.c.seconds))
            .select_from(proofs.join(stated, stated.c.statement_id == proofs.c.statement_id))
            .where(stated.c.run_id == run_id).group_by(*key).order_by(*key).limit(MAX_ROWS)
        )
        return self._lines(ProofGroup, query)

    def verifications(self, run_id: str, limit: int = 50) -> list[Verification]:
        """Verification passes appended for a run, newest first."""
        of_pass = sa.alias(judged)

        def tasks(accepted: bool) -> "sa.ScalarSelect[int]":
            return sa.select(sa.func.count()).where(
                of_pass.c.verification == judged.c.verification, of_pass.c.run_id == judged.c.run_id,
                of_pass.c.subject != WHOLE_RUN, of_pass.c.accepted == sa.literal(accepted),
            ).scalar_subquery()

        columns = (judged.c[name] for name in ("verification", "verifier", "accepted", "reason", "signature", "created"))
        query = sa.select(*columns, tasks(True), tasks(False)).where(judged.c.run_id == run_id, judged.c.subject == WHOLE_RUN)
        return self._lines(Verification, query.order_by(judged.c.created.desc(), judged.c.verification).limit(limit))

    def verdicts(
        self, run_id: str, *, subject: str | None = None, after: tuple[str, str] | None = None, limit: int = MAX_ROWS
    ) -> list[VerdictRow]:
        """Verdict rows of a run by (verification, subject)."""
        query = sa.select(*_columns(judged, VerdictRow)).where(judged.c.run_id == run_id)
        if subject is not None:
            query = query.where(judged.c.subject == subject)
        if after is not None:
            query = query.where(sa.tuple_(judged.c.verification, judged.c.subject) > sa.tuple_(*map(sa.literal, after)))
        return self._lines(VerdictRow, query.order_by(judged.c.verification, judged.c.subject).limit(limit))

    def verdict_counts(self, run_id: str, subjects: Sequence[str]) -> dict[str, tuple[int, int]]:
        """By statement id: how many verdict rows say accepted, and how many rejected; only statements that have one."""
        counts: dict[str, tuple[int, int]] = {}
        rejected = sa.func.sum(sa.case((judged.c.accepted, 0), else_=1))
        with self._connection() as connection:
            for start in range(0, len(subjects), 500):  # an IN list that any database takes
                some = (judged.c.run_id == run_id, judged.c.subject.in_(subjects[start : start + 500]))
                query = sa.select(judged.c.subject, sa.func.count(), rejected).where(*some).group_by(judged.c.subject)
                counts |= {subject: (int(total) - int(bad), int(bad)) for subject, total, bad in connection.execute(query)}
        return counts

    def openings(self, statement_id: str) -> list[OpeningRow]:
        """Openings that attempts at one statement spent."""
        query = sa.select(*_columns(openings, OpeningRow)).where(openings.c.statement_id == statement_id)
        return self._lines(OpeningRow, query.order_by(openings.c.commitment_id, openings.c.slot).limit(MAX_ROWS))

    def events(self, run_id: str) -> list[EventRow]:
        """What happened to a run, oldest first."""
        query = sa.select(*_columns(run_events, EventRow)).where(run_events.c.run_id == run_id)
        return self._lines(EventRow, query.order_by(run_events.c.created, run_events.c.window, run_events.c.kind).limit(MAX_ROWS))

    def entries(self, start: int, stop: int) -> list[EntryLine]:
        """Log entries start ≤ position < stop."""
        query = sa.select(*_columns(log, EntryLine)).where(log.c.position >= start, log.c.position < stop)
        return self._lines(EntryLine, query.order_by(log.c.position).limit(MAX_ROWS))

    def checkpoints(self, *, below: int | None = None, limit: int = MAX_ROWS) -> list[CheckpointRow]:
        """Signed tree heads, largest first, smaller than `below`."""
        query = sa.select(heads.c.size, heads.c.note).order_by(heads.c.size.desc()).limit(limit)
        return self._lines(CheckpointRow, query if below is None else query.where(heads.c.size < below))

    def _lines(self, line: type[Line], query: "sa.Select[Any]") -> list[Line]:
        with self._connection() as connection:
            return [line(*values) for values in connection.execute(query)]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """A connection whose statements are interrupted after STATEMENT_SECONDS."""
        with explain_database_errors(self._engine), self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(sa.text(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"))
                yield connection
                return
            driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
            end = time.monotonic() + STATEMENT_SECONDS
            driver.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            try:
                yield connection
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                    raise QueryTimeout(f"the ledger did not answer within {STATEMENT_SECONDS} s: ask for less") from error
                raise
            finally:
                driver.set_progress_handler(None, 0)


def _columns(table: sa.Table, line: type) -> "Iterator[sa.Column[Any]]":
    return (table.c[field.name] for field in fields(line))


def _appended(connection: sa.Connection, position: int) -> datetime | None:
    """When the row of a log entry was appended; None if either is gone."""
    entry = connection.execute(sa.select(log.c.row_table, log.c.row_key).where(log.c.position == position)).first()
    table = next((table for table in TABLES.values() if entry and table.name == entry.row_table), None)
    if entry is None or table is None:
        return None
    key = zip(table.primary_key, json.loads(entry.row_key))
    return connection.scalar(sa.select(table.c.created).where(*(column == value for column, value in key)))


def _spent() -> "sa.ScalarSelect[int]":
    """Openings of the commitment of the same line: slots are 0, 1, 2, …, so the last one tells how many."""
    last = sa.select(sa.func.max(openings.c.slot)).where(openings.c.commitment_id == commitments.c.commitment_id).correlate(commitments)
    return sa.func.coalesce(last.scalar_subquery() + 1, 0)  # type: ignore[return-value]
