"""Derive everything again from rows and objects, and name each row, object or file that is wrong.

    rows and log (fsck_log.py)  →  each run against its manifest (fsck_run.py)  →  every byte of every object against its name

Nothing is changed, and no tensor is loaded: objects are hashed piece by piece. Memory: one run's rows, 64 bytes for each row of
the ledger, 100 for each proof. An outage of database or store is an error, not a finding. Called by `verilora fsck`.
"""

from collections.abc import Iterator

from storage.errors import IntegrityError, MissingObject, StorageError
from storage.findings import Finding, Progress, not_a_condition, silent
from storage.fsck_log import check_log
from storage.fsck_run import check_run
from storage.ledger import Ledger, RunRecord
from storage.models import ProofRow, RunRow
from storage.object_store import ObjectStore
from verifier.note import Policy


def fsck(ledger: Ledger, objects: ObjectStore, policy: Policy | None = None, progress: Progress = silent) -> Iterator[Finding]:
    """Everything that is wrong, as it is found; `policy` says whose signatures checkpoints must have (None: not checked)."""
    yield from check_log(ledger, objects, policy, progress)
    runs = ledger.runs()
    total = sum(ledger.counts(run.run_id).proofs for run in runs)
    seen: set[bytes] = set()
    done = 0
    for run in runs:
        record = _record(ledger, run)
        if isinstance(record, Finding):
            yield record
            continue
        try:
            yield from check_run(record, ledger.openings_spent)
        except StorageError as error:
            raise not_a_condition(error) from None
        except Exception as error:  # rows that somebody wrote may hold anything; the rest is still looked at
            yield Finding("unreadable-row", f"runs {run.run_id}", f"its rows cannot be processed: {type(error).__name__}: {error}")
        for proof in record.proofs:
            yield from _check_object(objects, proof, seen)
            done += 1
            progress("objects", done, total)
    for number, digest in enumerate(objects.digests(), 1):
        if bytes.fromhex(digest) not in seen:
            yield from _check_unreferenced(objects, digest)
        progress("names", number, 0)


def _record(ledger: Ledger, run: RunRow) -> RunRecord | Finding:
    try:
        return ledger.record(run.run_id)
    except StorageError as error:
        raise not_a_condition(error) from None
    except Exception as error:  # a value that its column's type cannot be
        return Finding("unreadable-row", f"runs {run.run_id}", f"its rows cannot be read: {type(error).__name__}: {error}")


def object_fault(objects: ObjectStore, row: ProofRow) -> Finding | None:
    """What is wrong with the object that a proof's row names."""
    digest, of = str(row.object_digest), f"the proof of statement {row.statement_id}"
    try:
        size = objects.check(digest)
    except MissingObject as error:
        return Finding("missing-object", f"object {digest}", f"{of}: {error}")
    except IntegrityError as error:
        return Finding("damaged-object", f"object {digest}", f"{of}: {error}")
    except StorageError as error:
        return Finding("unreadable-object", f"object {digest[:80]}", f"{of}: {not_a_condition(error)}")
    if size != row.size:
        return Finding("object-size", f"proofs {row.statement_id}", f"its object {digest} has {size} bytes, recorded are {row.size}")
    return None


def _check_object(objects: ObjectStore, row: ProofRow, seen: set[bytes]) -> Iterator[Finding]:
    if fault := object_fault(objects, row):
        yield fault
    try:
        seen.add(bytes.fromhex(row.object_digest))
    except ValueError:
        return  # no object's name: reported above


def _check_unreferenced(objects: ObjectStore, digest: str) -> Iterator[Finding]:
    try:
        objects.check(digest)
    except MissingObject:
        return  # removed meanwhile
    except StorageError as error:
        yield Finding("damaged-object", f"object {digest}", f"no row names it, and {not_a_condition(error)}")
    else:
        yield Finding("unreferenced-object", f"object {digest}", "no row names it; a writer that stopped may have left it", harmless=True)
