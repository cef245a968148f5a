"""Listings of runs: filters, pages, numbers of rows; nothing here is evidence, it is what the ledger says.

A run's state follows from its rows:
    overflow   an `overflow` event: training left a declared range and stopped
    finished   a `finished` event, and every statement has its proof
    proving    otherwise, if there is a statement
    training   otherwise
Newest runs first. A page ends at `limit` runs; `after` is the cursor of the last one (its creation time and id), so pages stay
in place while runs are appended. Functions on a connection; called by storage/ledger.py, for the API and the command line.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from storage import models
from storage.errors import BadQuery
from storage.models import WHOLE_RUN, RunRow

STATES = ("training", "proving", "finished", "overflow")
MAX_LIMIT = 1000


@dataclass(frozen=True)
class Counts:
    """Numbers of rows of one run; verdicts and accepted count verdicts on the whole run."""

    commitments: int
    statements: int
    proofs: int
    proof_bytes: int
    openings: int
    verdicts: int
    accepted: int
    events: int


@dataclass(frozen=True)
class RunSummary:
    """One run in a listing; `model` and `dataset_id` repeat its manifest, `accepted` counts whole-run verdicts by anybody."""

    run_id: str
    manifest_digest: str
    created: datetime
    model: str
    dataset_id: str
    state: str
    statements: int
    proofs: int
    accepted: int
    verifiers: tuple[str, ...]

    @property
    def cursor(self) -> str:
        """What `after` takes to go on behind this run."""
        return f"{self.created.isoformat()}~{self.run_id}"


def index_values(run: RunRow) -> dict[str, str]:
    """The run_index row of a run: what its manifest says, "" where it is not as a manifest should be."""
    try:
        manifest = json.loads(run.manifest)
        model, dataset = manifest.get("name"), manifest.get("commitments", {}).get("dataset")
    except (ValueError, AttributeError, RecursionError):
        model = dataset = None
    return {"run_id": run.run_id, "model": _indexed(model), "dataset_id": _indexed(dataset)}


def _indexed(value: object) -> str:
    """What fits into an index of either database."""
    return value.replace("\x00", "")[:200] if isinstance(value, str) else ""


def summaries(
    connection: sa.Connection, *, model: str | None, dataset: str | None, since: datetime | None, until: datetime | None,
    state: str | None, verifier: str | None, limit: int, after: str | None, run_id: str | None = None,
) -> list[RunSummary]:
    """One page; since ≤ created < until, `verifier` is somebody who gave a verdict on the run."""
    if not 1 <= limit <= MAX_LIMIT:
        raise BadQuery(f"limit {limit}: give a number from 1 to {MAX_LIMIT}")
    runs, index = models.runs, models.run_index
    where: list[sa.ColumnElement[bool]] = []
    if run_id is not None:
        where.append(runs.c.run_id == run_id)
    if model is not None:
        where.append(index.c.model == model)
    if dataset is not None:
        where.append(index.c.dataset_id == dataset)
    if since is not None:
        where.append(runs.c.created >= since)
    if until is not None:
        where.append(runs.c.created < until)
    if verifier is not None:
        where.append(_some(models.verdicts, models.verdicts.c.verifier == verifier))
    if state is not None:
        where.append(_in_state(state))
    if after is not None:
        created, run_id = parse_cursor(after)
        where.append((runs.c.created < created) | ((runs.c.created == created) & (runs.c.run_id < run_id)))
    query = (
        sa.select(runs.c.run_id, runs.c.manifest_digest, runs.c.created, index.c.model, index.c.dataset_id)
        .select_from(runs.outerjoin(index, index.c.run_id == runs.c.run_id))
        .where(*where).order_by(runs.c.created.desc(), runs.c.run_id.desc()).limit(limit)
    )
    page = list(connection.execute(query))
    ids = [row.run_id for row in page]
    statements, proofs = _numbers(connection, ids, False), _numbers(connection, ids, True)
    events = _events(connection, ids)
    receipts = _receipts(connection, ids)
    return [
        RunSummary(
            row.run_id, row.manifest_digest, row.created, row.model or "", row.dataset_id or "",
            _state(events.get(row.run_id, set()), statements.get(row.run_id, 0), proofs.get(row.run_id, 0)),
            statements.get(row.run_id, 0), proofs.get(row.run_id, 0),
            sum(accepted for _, accepted in receipts.get(row.run_id, [])),
            tuple(sorted({name for name, _ in receipts.get(row.run_id, [])})),
        )
        for row in page
    ]


def counts(connection: sa.Connection, run_id: str) -> Counts:
    """Numbers of rows of one run, zeros if there is none."""
    statements, proofs, openings, verdicts = models.statements, models.proofs, models.openings, models.verdicts

    def number(table: sa.Table, *where: Any) -> int:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.run_id == run_id, *where)) or 0)

    proved = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(proofs.c.size), 0)).select_from(
        statements.join(proofs, proofs.c.statement_id == statements.c.statement_id)
    ).where(statements.c.run_id == run_id)
    opened = sa.select(sa.func.count()).select_from(
        statements.join(openings, openings.c.statement_id == statements.c.statement_id)
    ).where(statements.c.run_id == run_id)
    proof_count, proof_bytes = connection.execute(proved).one()
    whole = verdicts.c.subject == WHOLE_RUN
    return Counts(
        number(models.commitments), number(statements), int(proof_count), int(proof_bytes), int(connection.scalar(opened) or 0),
        number(verdicts, whole), number(verdicts, whole, verdicts.c.accepted), number(models.run_events),
    )


def parse_cursor(text: str) -> tuple[datetime, str]:
    """Creation time and run id out of RunSummary.cursor."""
    created, separator, run_id = text.partition("~")
    try:
        if not separator:
            raise ValueError
        return datetime.fromisoformat(created), run_id
    except ValueError:
        raise BadQuery(f"after {text[:80]!r} is no cursor: take the `cursor` of the last run of the page before") from None


def _state(events: set[str], statements: int, proofs: int) -> str:
    if "overflow" in events:
        return "overflow"
    if "finished" in events and statements == proofs:
        return "finished"
    return "proving" if statements else "training"


def _in_state(state: str) -> "sa.ColumnElement[bool]":
    """_state as SQL, on the run of the query around it."""
    if state not in STATES:
        raise BadQuery(f"state {state[:80]!r}: give one of {', '.join(STATES)}")
    events, statements, proofs = models.run_events, models.statements, models.proofs
    overflow = _some(events, events.c.kind == "overflow")
    proof = sa.exists().where(proofs.c.statement_id == statements.c.statement_id)
    finished = _some(events, events.c.kind == "finished") & ~_some(statements, ~proof)
    started = _some(statements)
    return {
        "overflow": overflow, "finished": ~overflow & finished, "proving": ~overflow & ~finished & started,
        "training": ~overflow & ~finished & ~started,
    }[state]


def _some(table: sa.Table, *where: "sa.ColumnElement[bool]") -> "sa.ColumnElement[bool]":
    return sa.exists().where(table.c.run_id == models.runs.c.run_id, *where).correlate(models.runs)


def _numbers(connection: sa.Connection, ids: list[str], proved: bool) -> dict[str, int]:
    """Statements by run, or those with a proof."""
    statements, proofs = models.statements, models.proofs
    source = statements.join(proofs, proofs.c.statement_id == statements.c.statement_id) if proved else statements
    query = sa.select(statements.c.run_id, sa.func.count()).select_from(source)
    return {run: int(n) for run, n in connection.execute(query.where(statements.c.run_id.in_(ids)).group_by(statements.c.run_id))}


def _events(connection: sa.Connection, ids: list[str]) -> dict[str, set[str]]:
    events: dict[str, set[str]] = {}
    table = models.run_events
    for run, kind in connection.execute(sa.select(table.c.run_id, table.c.kind).where(table.c.run_id.in_(ids)).distinct()):
        events.setdefault(run, set()).add(kind)
    return events


def _receipts(connection: sa.Connection, ids: list[str]) -> dict[str, list[tuple[str, bool]]]:
    receipts: dict[str, list[tuple[str, bool]]] = {}
    table = models.verdicts
    query = sa.select(table.c.run_id, table.c.verifier, table.c.accepted).where(table.c.run_id.in_(ids), table.c.subject == WHOLE_RUN)
    for run, verifier, accepted in connection.execute(query):
        receipts.setdefault(run, []).append((verifier, accepted))
    return receipts
