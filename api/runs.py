"""JSON about runs, statements and objects under /api/v1: what the ledger says, page by page; nothing here is a verdict.

Called by api/app.py.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import Response, StreamingResponse

from api.claims import json_object, losses, soundness, task_name
from api.http import NotHere
from api.listing import DEFAULT_LIMIT, cursor, find_runs, place
from api.schemas import (
    CommitmentItem,
    EventItem,
    LossItem,
    OpeningItem,
    Page,
    RunDocument,
    RunItem,
    StatementDocument,
    TaskItem,
    VerdictItem,
    VerificationItem,
)
from api.services import After, Day, Digest, Limit, Open, RunId, Services, State, Text, known_parameters
from protocol.errors import VerificationError
from storage.browse import TaskLine, Verification
from storage.models import RunRow, VerdictRow
from verifier.receipt import receipt_about, receipt_id

CHUNK = 1 << 18  # bytes of an object sent at once
MAX_VERDICTS = 200  # on one statement
BINARY = {"schema": {"type": "string", "format": "binary"}}
BYTES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/octet-stream": BINARY}}}

runs = APIRouter(prefix="/api/v1", dependencies=[Depends(known_parameters)], tags=["runs"])


@runs.get("/runs", summary="Runs, newest first")
def list_runs(
    found: Open, model: Text = None, dataset: Text = None, since: Day = None, until: Day = None, state: State = None,
    verifier: Text = None, limit: Limit = DEFAULT_LIMIT, after: After = None,
) -> Page[RunItem]:
    """Every filter is an exact value."""
    items, following = find_runs(
        found.ledger, model=model, dataset=dataset, since=since, until=until, state=state, verifier=verifier, limit=limit, after=after
    )
    return Page(items=[RunItem.of(run) for run in items], next=following)


@runs.get("/runs/{run_id}", summary="One run")
def show_run(found: Open, run_id: RunId) -> RunDocument:
    """Manifest, numbers of rows, the loss that statements claim, events, and verdicts as their verifiers appended them."""
    return run_document(found, run_id)


@runs.get("/runs/{run_id}/manifest", summary="The manifest, byte for byte", response_class=Response, responses={
    200: {"content": {"application/json": {"schema": {}}}, "description": "Its SHA-256 is `manifest_sha256` of the run."},
})
def show_manifest(found: Open, run_id: RunId) -> Response:
    """The recorded bytes."""
    return Response(found.run(run_id).manifest.encode(), media_type="application/json")


@runs.get("/runs/{run_id}/statements", summary="Statements of a run and their proofs")
def list_statements(found: Open, run_id: RunId, kind: Text = None, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[TaskItem]:
    """By kind, window, layer, part."""
    found.run(run_id)
    key = place(after, str, int, int, int)
    lines = found.rows.tasks(run_id, kind=kind, after=None if key is None else (key[0], key[1], key[2], key[3]), limit=limit + 1)
    more = len(lines) > limit
    return Page(items=[task_item(line) for line in lines[:limit]], next=cursor(lines[limit - 1].place) if more else None)


@runs.get("/runs/{run_id}/commitments", summary="Commitments of a run, openings against budgets")
def list_commitments(found: Open, run_id: RunId, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[CommitmentItem]:
    """By name, window, layer."""
    found.run(run_id)
    key = place(after, str, int, int)
    lines = found.rows.commitments(run_id, after=None if key is None else (key[0], key[1], key[2]), limit=limit + 1)
    items = [
        CommitmentItem(name=line.name, window=line.window, layer=line.layer, commitment=line.commitment_id, root=line.root,
                       budget=line.budget, openings=line.spent) for line in lines[:limit]
    ]
    last = items[-1] if len(lines) > limit else None
    return Page(items=items, next=cursor([last.name, last.window, last.layer]) if last else None)


@runs.get("/runs/{run_id}/verdicts", summary="Verdict rows of a run")
def list_verdicts(found: Open, run_id: RunId, limit: Limit = DEFAULT_LIMIT, after: After = None) -> Page[VerdictItem]:
    """By verification and subject."""
    found.run(run_id)
    key = place(after, str, str)
    rows = found.rows.verdicts(run_id, after=None if key is None else (key[0], key[1]), limit=limit + 1)
    more = len(rows) > limit
    following = cursor([rows[limit - 1].verification, rows[limit - 1].subject]) if more else None
    return Page(items=[verdict_item(row) for row in rows[:limit]], next=following)


@runs.get("/statements/{statement_id}", summary="One statement")
def show_statement(found: Open, statement_id: Digest) -> StatementDocument:
    """Content, proof, openings, verdicts, and where it stands in the log."""
    return statement_document(found, statement_id)


@runs.get("/objects/{digest}", summary="An object by its SHA-256", response_class=Response, responses=BYTES)
def show_object(found: Open, digest: Digest) -> StreamingResponse:
    """A proof, hashed again before the first byte is sent."""
    data = found.objects.get(digest)
    headers = {
        "etag": f'"{digest}"', "content-length": str(len(data)), "cache-control": "public, max-age=31536000, immutable",
        "content-disposition": f'attachment; filename="{digest}"',
    }
    return StreamingResponse(_chunks(data), headers=headers, media_type="application/octet-stream")


def _chunks(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[start : start + CHUNK]) for start in range(0, len(data), CHUNK))


def run_item(found: Services, run_id: str) -> RunItem:
    """The listing's line of one run."""
    for item in found.ledger.query_runs(run_id=run_id, limit=1):
        return RunItem.of(item)
    raise NotHere(f"there is no run {run_id!r} in this ledger")


def run_document(found: Services, run_id: str) -> RunDocument:
    """Everything of bounded size about one run."""
    run = found.run(run_id)
    manifest = json_object(run.manifest)
    points = losses(manifest, found.rows.contents(run_id, kind="head"))
    counts = vars(found.ledger.counts(run_id))
    events = [EventItem(kind=row.kind, window=row.window, created=row.created, detail=row.detail) for row in found.rows.events(run_id)]
    return RunDocument(
        **run_item(found, run_id).model_dump(), manifest=manifest, counts=counts, events=events,
        loss=[LossItem(step=point.step, loss=point.loss, statement=point.statement_id) for point in points],
        verifications=[verification_item(row, run) for row in found.rows.verifications(run_id)],
    )


def statement_document(found: Services, statement_id: str) -> StatementDocument:
    """Everything about one statement."""
    row = found.ledger.statement(statement_id)
    if row is None:
        raise NotHere(f"there is no statement {statement_id} in this ledger")
    proof = found.ledger.proof(statement_id)
    claimed = soundness(proof.soundness) if proof else None
    return StatementDocument(
        statement=row.statement_id, kind=row.kind, window=row.window, layer=row.layer, part=row.part,
        proof=proof.object_digest if proof else None, bytes=proof.size if proof else None, prover=proof.prover if proof else None,
        seconds=proof.seconds if proof else None, proved=proof.created if proof else None,
        run=row.run_id, task=task_name(row.kind, row.window, row.layer, row.part), created=row.created, content=row.content,
        soundness={"bits": claimed.bits, "total_bits": claimed.total_bits, "centibits": dict(claimed.centibits)} if claimed else None,
        openings=[OpeningItem(commitment=item.commitment_id, slot=item.slot, attempt=item.attempt)
                  for item in found.rows.openings(statement_id)],
        verdicts=[verdict_item(item) for item in found.rows.verdicts(row.run_id, subject=statement_id, limit=MAX_VERDICTS)],
        log_position=found.ledger.log_position(row),
    )


def task_item(line: TaskLine) -> TaskItem:
    """A line of a list of statements."""
    return TaskItem(
        statement=line.statement_id, kind=line.kind, window=line.window, layer=line.layer, part=line.part, proof=line.object_digest,
        bytes=line.size, prover=line.prover, seconds=line.seconds, proved=line.created,
    )


def verdict_item(row: VerdictRow) -> VerdictItem:
    """A verdict row without its receipt."""
    return VerdictItem(verification=row.verification, subject=row.subject, verifier=row.verifier, accepted=row.accepted,
                       reason=row.reason, created=row.created)


def verification_item(row: Verification, run: RunRow) -> VerificationItem:
    """A verification pass; its receipt's signature is checked here, and must be about this verdict on this run."""
    return VerificationItem(
        verification=row.verification, verifier=row.verifier, accepted=row.accepted, reason=row.reason, created=row.created,
        tasks_accepted=row.tasks_accepted, tasks_rejected=row.tasks_rejected, receipt=row.signature, signed_by=signer(row, run),
    )


def signer(row: Verification, run: RunRow, task: VerdictRow | None = None) -> str | None:
    """The public key of a receipt on this run that is validly signed, appended once, and says the same as the row, and as the row
    of one of its tasks; None otherwise. Whoever writes rows can put any receipt beside any of them."""
    envelope = (row.signature or "").encode()
    try:
        said = receipt_about(envelope, run.run_id, run.manifest.encode())
    except VerificationError:
        return None
    name, reason = said["verifier"]["name"][:200], said["reason"] or ("" if said["accepted"] else said["state"])
    same = (receipt_id(envelope), name, said["accepted"], reason) == (row.verification, row.verifier, row.accepted, row.reason)
    if same and task is not None:
        tasks = {item["statement"]: (item["accepted"], item["reason"]) for item in said["tasks"]}
        same = tasks.get(task.subject) == (task.accepted, task.reason) and task.verifier == name
    return str(said["verifier"]["key"]) if same else None


def sha256(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, which pages show beside what the ledger says."""
    return hashlib.sha256(text.encode()).hexdigest()
