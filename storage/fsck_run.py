"""Is one run what its manifest implies? Every id and every column that follows from something else, derived again.

    manifest → digest, run id, commitment names, statement ids          root and geometry → commitment id, budget
    openings → slots 0, 1, 2 … within the budget, at least one for each commitment of a proved statement

What a proof proves is not looked at: that is `verilora verify`. Called by storage/fsck.py.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.statement import Name, Task, statement_id, task_list
from storage.derive import commitment_row
from storage.findings import Finding
from storage.ledger import RunRecord
from storage.models import CommitmentRow, StatementRow


def check_run(record: RunRecord, openings_spent: Callable[[str], int]) -> Iterator[Finding]:
    """Everything that is wrong about one run's rows; `openings_spent` counts a commitment's openings in the whole ledger."""
    run, where = record.run, f"runs {record.run.run_id}"
    digest = hashlib.sha256(run.manifest.encode()).hexdigest()
    if digest != run.manifest_digest:
        yield Finding("manifest-digest", where, f"the manifest hashes to {digest}, recorded is {run.manifest_digest}")
    try:
        manifest = RunManifest.from_json(run.manifest.encode())
        tasks = {statement_id(manifest, task): task for task in task_list(manifest)}
    except VerificationError as error:
        yield Finding("manifest", where, f"{error}; nothing else about this run can be derived")
        return
    if run.run_id != manifest.run_id:
        yield Finding("run-id", where, f"its manifest's run id is {manifest.run_id}")
    ids = yield from _commitments(record, manifest, tasks)
    yield from _statements(record, manifest, tasks, ids)
    yield from _openings(record, tasks, ids, openings_spent)
    if any(event.kind == "finished" for event in record.events):
        proved = {row.statement_id for row in record.proofs}
        for identity, task in tasks.items():
            if identity not in proved:
                yield Finding("unfinished", f"proofs {identity}", f"run {run.run_id} is said to be finished, but {task} has no proof")


def _commitments(record: RunRecord, manifest: RunManifest, tasks: dict[str, Task]) -> Iterator[Any]:
    """Findings; returns the ids by name."""
    names = {str(name): name for task in tasks.values() for _, name in task.commitments}
    ids: dict[str, str] = {}
    for row in record.commitments:
        text, where = str(Name(row.name, row.window)), f"commitments {row.run_id} {Name(row.name, row.window)}"
        if text not in names or text in ids:
            yield Finding("foreign-row", where, "its manifest has no such commitment" if text not in ids else "it is recorded twice")
            continue
        try:
            expected = commitment_row(manifest, row.run_id, names[text], bytes.fromhex(row.root))
        except (ValueError, VerificationError) as error:
            yield Finding("commitment-row", where, f"root {row.root[:80]!r}: {error}")
            continue
        ids[text] = expected.commitment_id
        for column, found, wanted in _differences(row, expected):
            yield Finding("commitment-row", where, f"{column} is recorded as {found}, expected {wanted}")
        if text in manifest.commitments and manifest.commitments[text] != expected.commitment_id:
            yield Finding("commitment-id", where, f"its root gives {expected.commitment_id}, not {manifest.commitments[text]}")
    return ids


def _differences(row: CommitmentRow, expected: CommitmentRow) -> Iterator[tuple[str, str, str]]:
    for column in (field.name for field in dataclasses.fields(row) if field.name != "created"):
        found, wanted = getattr(row, column), getattr(expected, column)
        if found != wanted or type(found) is not type(wanted):
            yield column, repr(found)[:120], repr(wanted)[:120]


def _statements(record: RunRecord, manifest: RunManifest, tasks: dict[str, Task], ids: dict[str, str]) -> Iterator[Finding]:
    for row in record.statements:
        where = f"statements {row.statement_id}"
        task = tasks.get(row.statement_id)
        if task is None:
            yield Finding("foreign-row", where, f"the manifest of run {row.run_id} has no such statement")
            continue
        for column in ("kind", "window", "layer", "part"):
            if getattr(row, column) != getattr(task, column):
                wanted = getattr(task, column)
                yield Finding("statement-row", where, f"{column} is recorded as {getattr(row, column)!r}, expected {wanted!r}")
        yield from _content(row, manifest, task, ids, where)


def _content(row: StatementRow, manifest: RunManifest, task: Task, ids: dict[str, str], where: str) -> Iterator[Finding]:
    """The statement's text, but for the relation's digest and the published values, which the verifier derives and proves."""
    try:
        content = json.loads(row.content)
        if canonical_json(content).decode() != row.content or not isinstance(content, dict):
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, RecursionError, VerificationError) as error:
        yield Finding("statement-row", where, f"its content is no statement: {error}")
        return
    expected = {
        "version": 1, "manifest": manifest.digest(), "profile": manifest.profile, "kind": task.kind, "window": task.window,
        "layer": task.layer, "part": task.part, "commitments": [[role, str(name), ids.get(str(name))] for role, name in task.commitments],
    }
    for key, value in expected.items():
        if content.get(key) != value:
            yield Finding("statement-row", where, f"{key} in its content is {str(content.get(key))[:200]}, expected {str(value)[:200]}")


def _openings(
    record: RunRecord, tasks: dict[str, Task], ids: dict[str, str], openings_spent: Callable[[str], int]
) -> Iterator[Finding]:
    opened = {(row.commitment_id, row.statement_id) for row in record.openings}
    slots: dict[str, list[int]] = {}
    for row in record.openings:
        slots.setdefault(row.commitment_id, []).append(row.slot)
        task = tasks.get(row.statement_id)
        if task is not None and row.commitment_id not in {ids.get(str(name)) for _, name in task.commitments}:
            where = f"openings {row.commitment_id} {row.slot}"
            yield Finding("foreign-row", where, f"statement {row.statement_id} ({task}) does not open this commitment")
    budgets = {row.commitment_id: row.budget for row in record.commitments}
    for identity, found in slots.items():
        spent, budget = openings_spent(identity), budgets.get(identity)
        if max(found) >= spent or min(found) < 0:
            what = f"slot {max(found)} is taken, but {spent} openings are recorded: rows are gone"
            yield Finding("opening-gap", f"openings {identity}", what)
        if budget is not None and max(spent, max(found) + 1) > budget:
            what = f"{spent} openings were spent of a budget of {budget}: columns may reveal its content"
            yield Finding("budget", f"openings {identity}", what)
    for proof in record.proofs:
        task = tasks.get(proof.statement_id)
        for _, name in task.commitments if task else ():
            if (ids.get(str(name)), proof.statement_id) not in opened:
                what = f"it is proved, but no opening of {name} was recorded for it"
                yield Finding("missing-opening", f"proofs {proof.statement_id}", what)
