"""What a verifier is given: one run's public record, read from ledger and object store, with everything wrong about it.

    ledger rows + objects  →  Collected(record, faults)

The record itself (manifest, roots, statements, proofs) is what verifier/run.py judges; nothing here is believed. Faults are
differences between what the ledger says beside that (ids, geometries, budgets, sizes, digests) and what follows from the
record, and objects that are missing or do not hash to their name: each of them makes the verdict a rejection. Imports no
prover code. Called by tasks/verify.py and the command line.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocol.encoding import canonical_json, parse_canonical
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.soundness import Soundness
from protocol.statement import PUBLIC_BASE, Name, Task, commitment_layout, task_list
from storage.errors import IntegrityError, LedgerError, MissingObject, UnknownRun
from storage.ledger import Ledger
from storage.ledger import RunRecord as LedgerRecord
from storage.models import NONE, CommitmentRow, ProofRow, RunRow, StatementRow
from storage.object_store import ObjectStore
from verifier.run import RunRecord
from verifier.task import Evidence


class AmbiguousRun(LedgerError):
    """The beginning of a run id that more than one run has."""


@dataclass(frozen=True)
class Collected:
    """One run: what the verifier judges, the ledger's rows by statement id, faults by statement id or WHOLE, and events
    ("finished …", "overflow …") as the ledger tells them."""

    run_id: str
    record: RunRecord
    statements: Mapping[str, StatementRow]
    proofs: Mapping[str, ProofRow]
    faults: Mapping[str, str]
    events: tuple[str, ...] = ()


WHOLE = ""  # the key of a fault that is not one statement's


def find_run(ledger: Ledger, text: str) -> RunRow:
    """The run whose id is `text` or, if only one does, begins with it; UnknownRun lists those that exist."""
    runs = ledger.runs()
    found = [row for row in runs if row.run_id == text] or [row for row in runs if text and row.run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousRun(f"{text!r} begins several run ids: {', '.join(row.run_id for row in found)}. Give more of it")
    known = ", ".join(row.run_id for row in runs) or "none, the ledger is empty"
    raise UnknownRun(f"no run {text!r} in the ledger. Known runs: {known}")


def commitment_roots(rows: Iterable[CommitmentRow]) -> tuple[dict[str, bytes], str]:
    """Roots by commitment name, and what is wrong with the rows ("" if nothing); a root that is no hex becomes empty."""
    roots: dict[str, bytes] = {}
    fault = ""
    for row in rows:
        text = str(Name(row.name, row.window))
        if text in roots:
            fault = fault or f"commitment-row: {text} is recorded twice"
        try:
            roots[text] = bytes.fromhex(row.root)
        except ValueError:
            fault = fault or f"commitment-row: {text} has the root {row.root[:80]!r}, which is no SHA-256 digest"
            roots[text] = b""
    return roots, fault


def collect(ledger: Ledger, store: ObjectStore, run_id: str) -> Collected:
    """Everything about one run. Damage becomes a fault; only an unusable ledger or an unknown run raises."""
    rows = ledger.record(run_id)
    faults: dict[str, str] = {}
    manifest = rows.run.manifest.encode()
    if hashlib.sha256(manifest).hexdigest() != rows.run.manifest_digest:
        faults[WHOLE] = f"manifest-digest: the manifest recorded does not hash to {rows.run.manifest_digest}"
    roots, fault = commitment_roots(rows.commitments)
    if fault:
        faults.setdefault(WHOLE, fault)
    statements = {row.statement_id: row for row in rows.statements}
    proofs = {row.statement_id: row for row in rows.proofs}
    evidence = {}
    for identity, recorded in proofs.items():
        content, proof = statements[identity].content.encode(), b""
        try:
            proof = store.get(recorded.object_digest)
        except MissingObject as error:
            faults[identity] = f"missing-object: {error}"
        except IntegrityError as error:
            faults[identity] = f"damaged-object: {error}"
        else:
            if len(proof) != recorded.size:
                faults[identity] = f"proof-row: the ledger says {recorded.size} bytes, the proof has {len(proof)}"
        evidence[identity] = Evidence(content, proof)
    record = RunRecord(manifest, roots, evidence)
    events = tuple(f"{event.kind} {event.detail}" for event in rows.events)
    collected = Collected(rows.run.run_id, record, statements, proofs, faults, events)
    return replace(collected, faults=_with_row_faults(collected, rows))


def _with_row_faults(collected: Collected, rows: LedgerRecord) -> dict[str, str]:
    """Faults, with those of columns that repeat what the manifest implies."""
    faults = dict(collected.faults)
    try:
        manifest = RunManifest.from_json(collected.record.manifest)
        known = {str(name): name for task in task_list(manifest) for _, name in task.commitments}
        for row in rows.commitments:
            name = known.get(str(Name(row.name, row.window)))
            if name is not None and WHOLE not in faults:  # the verifier itself rejects a foreign name
                fault = _commitment_fault(manifest, name, row, collected.record.roots[str(name)])
                faults |= {WHOLE: fault} if fault else {}
    except VerificationError:
        pass  # an unusable manifest is the verifier's to reject, with its reason
    return faults


def _commitment_fault(manifest: RunManifest, name: Name, row: CommitmentRow, root: bytes) -> str:
    layout = commitment_layout(manifest, name)
    _, slash, number = name.base.partition("/")
    public = name.kind in PUBLIC_BASE and manifest.base_visibility == "public"
    expected = {
        "layer": int(number) if slash else NONE,
        "root": root.hex(),
        "commitment_id": layout.identity(root),
        "geometry": canonical_json(layout.geometry()).decode(),
        "budget": None if public else manifest.budgets[name.kind],
    }
    for column, value in expected.items():
        if getattr(row, column) != value:
            return f"commitment-row: {name}: {column} is recorded as {str(getattr(row, column))[:120]}, expected {str(value)[:120]}"
    return ""


def statement_fault(collected: Collected, identity: str, task: Task, soundness: Soundness) -> str:
    """What the rows of an accepted statement say that its statement and proof do not; "" if nothing."""
    row = collected.statements[identity]
    expected = {"kind": task.kind, "window": task.window, "layer": task.layer, "part": task.part}
    for column, value in expected.items():
        if getattr(row, column) != value:
            return f"statement-row: {column} is recorded as {getattr(row, column)!r}, expected {value!r}"
    return _overstated(collected.proofs[identity].soundness, soundness)


def _overstated(recorded: str, soundness: Soundness) -> str:
    """The ledger may say less than is proved (calculators get better) but never more."""
    computed: dict[str, Any] = soundness.to_json()
    try:
        claimed = parse_canonical(recorded.encode(), "soundness")
        pairs = [(name, claimed[name], computed[name]) for name in ("bits", "total_bits")]
        pairs += [(name, claimed["centibits"].get(name, 0), bits) for name, bits in computed["centibits"].items()]
        for name, said, bits in pairs:
            if type(said) is not int or said > bits:
                return f"proof-row: soundness: {name} is recorded as {str(said)[:20]}, computed {bits}"
    except (VerificationError, KeyError, TypeError, AttributeError) as error:
        return f"proof-row: soundness is recorded as {recorded[:120]!r}: {error}"
    return ""
