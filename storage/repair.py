"""Restore what can be restored, and say what cannot and what to do about it.

    rows        from a replica of the ledger, if its signed log contains ours: lost rows go back under their entries, a lost end is
                appended again, with its checkpoints. A row that was changed stays: an append-only ledger has no way to mend it.
    objects     from an earlier version that the store kept, or a replica, if the bytes hash to the name. Damaged bytes are moved
                aside, never deleted.
    log files   tiles and log/checkpoint from the ledger's own entries, if these have the root that was signed.

In this order, because each rests on the one before. A replica is believed in nothing: bytes hash to names, rows to the leaves of
a tree whose root is signed by a key of the policy. Safe to repeat. Called by `verilora repair`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from protocol.errors import VerificationError
from storage.errors import IntegrityError, LedgerError, MissingObject, StorageError
from storage.findings import Progress, not_a_condition, silent
from storage.fsck import object_fault
from storage.fsck_log import head_fault, read_head
from storage.ledger import Ledger
from storage.log import NEWEST
from storage.models import TABLES, ProofRow, Row, leaf, row_key
from storage.object_store import ObjectStore
from storage.tree import Tree
from verifier.log import leaf_hash, parse_leaf
from verifier.note import Policy

_CHUNK = 512
_KINDS = {table.name: kind for kind, table in TABLES.items()}


@dataclass(frozen=True)
class Repaired:
    """One row, object or file; if not `done`, `what` says why not and what to do."""

    where: str
    what: str
    done: bool


def repair(
    ledger: Ledger, objects: ObjectStore, replicas: Sequence[ObjectStore] = (), ledgers: Sequence[Ledger] = (),
    policy: Policy | None = None, progress: Progress = silent,
) -> Iterator[Repaired]:
    """Everything that was restored or could not be, as it happens. `policy`: whose signature a replica's log must have."""
    for number, replica in enumerate(ledgers, 1):
        yield from _rows(ledger, replica, f"replica ledger {number}", policy, progress)
    yield from _lost_rows(ledger)
    runs = ledger.runs()
    done, total = 0, sum(ledger.counts(run.run_id).proofs for run in runs)
    for run in runs:
        for proof in ledger.record(run.run_id).proofs:
            yield from _object(objects, replicas, proof)
            done += 1
            progress("objects", done, total)
    with ledger.publishing():  # no other machine publishes while the log's files are looked at and replaced
        yield from _log_files(ledger, objects, policy)


# rows -----------------------------------------------------------------------------------------------------------------


def _rows(ledger: Ledger, replica: Ledger, name: str, policy: Policy | None, progress: Progress) -> Iterator[Repaired]:
    """Rows that are gone here and proved by the replica's log."""
    if policy is None:
        yield Repaired(name, "rows are restored only if a log key that you trust signed them: give --policy FILE", False)
        return
    try:
        tree = read_ledger_tree(replica, replica.log_size())
        heads = [row for row in replica.checkpoints() if not head_fault(row, tree, policy)]
        size, proved = ledger.log_size(), max((row.size for row in heads), default=0)
        ours = read_ledger_tree(ledger, size)
    except LedgerError as error:
        yield Repaired(name, f"no rows can be taken from it: {not_a_condition(error)}", False)
        return
    common = min(size, proved)
    if ours.root(common) != tree.root(common):
        first = next(n for n in range(common) if ours.leaf(n) != tree.leaf(n))
        what = f"its log is another one: entry {first} differs. A checkpoint that was kept elsewhere tells which of the two is right"
        yield Repaired(name, what, False)
        return
    if replica.log_size() > proved:
        what = f"its newest {replica.log_size() - proved} entries are under no checkpoint that is signed and right, and not used"
        yield Repaired(name, what, False)
    for start in range(0, proved, _CHUNK):
        stop = min(start + _CHUNK, proved)
        present = ledger.log_leaves(start, min(stop, size)) if start < size else []
        if len(present) < stop - start or not all(present):
            for position, data in enumerate(replica.log_leaves(start, stop), start):
                if position >= size or not present[position - start]:
                    yield from _restore_row(ledger, position, data, tree.leaf(position), name)
        progress("rows", stop, proved)
    have = {row.size for row in ledger.checkpoints()}
    for row in heads:
        if row.size not in have and ledger.log_size() >= row.size:
            ledger.append_checkpoint(row.size, row.note)
            yield Repaired(f"checkpoint of {row.size} entries", f"appended again from {name}", True)


def _restore_row(ledger: Ledger, position: int, data: bytes, expected: bytes, name: str) -> Iterator[Repaired]:
    where = f"log entry {position}"
    try:
        if leaf_hash(data) != expected:
            yield Repaired(where, f"{name} lost or changed this row too. Try another replica", False)
            return
        row = row_of(data)
        ledger.restore(position, row)
        yield Repaired(f"{TABLES[type(row)].name} {row_key(row)}", f"row appended again from {name}, as log entry {position}", True)
    except (LedgerError, VerificationError) as error:
        if isinstance(error, LedgerError):
            not_a_condition(error)
        yield Repaired(where, f"its row cannot be put back: {error}", False)


def row_of(data: bytes) -> Row:
    """The row that a leaf was made from; VerificationError if it is none."""
    table, values = parse_leaf(data)
    kind = _KINDS.get(table)
    names = [field.name for field in dataclasses.fields(kind) if field.name != "created"] if kind else []
    if kind is None or sorted(names) != sorted(values):
        raise VerificationError("leaf", table[:80], "a table of the ledger with all its columns", str(sorted(values))[:200])
    types = get_type_hints(kind)
    try:
        row: Row = kind(**{name: _value(types[name], values[name]) for name in names})
    except ValueError as error:
        raise VerificationError("leaf", table, "values of the columns' types", str(error)) from None
    if leaf(row) != data:
        raise VerificationError("leaf", table, "the leaf of a row", "values of other types")
    return row


def _value(kind: Any, value: str | int) -> Any:
    if kind is float:
        return float(value)
    if kind is bool:
        return bool(value)
    return None if value == "" and kind not in (str, int) else value  # a column that may be NULL


def read_ledger_tree(ledger: Ledger, size: int) -> Tree:
    """The tree of a ledger's recorded hashes."""
    tree = Tree()
    for start in range(0, size, _CHUNK):
        tree.extend(ledger.log_hashes(start, min(start + _CHUNK, size)))
    return tree


def _lost_rows(ledger: Ledger) -> Iterator[Repaired]:
    """Rows that are still not what was appended."""
    size = ledger.log_size()
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        try:
            pairs = zip(range(start, stop), ledger.log_hashes(start, stop), ledger.log_leaves(start, stop))
        except LedgerError as error:
            what = f"{not_a_condition(error)}. Entries are appended at the log's end alone: replace the ledger by a replica"
            yield Repaired("ledger", what, False)
            return
        for position, recorded, data in pairs:
            if leaf_hash(data) == recorded:
                continue
            table, key = ledger.log_entry(position)
            if data:
                what = "this row was changed, and an append-only ledger has no way to mend it. Replace the ledger by a replica (its file, "
                yield Repaired(f"{table} {key}", what + "or a dump of its database) whose fsck is clean", False)
            else:
                what = f"this row is gone. Give a replica of the ledger that has log entry {position}: verilora repair --from LEDGER"
                yield Repaired(f"{table} {key}", what, False)


# objects --------------------------------------------------------------------------------------------------------------


def _object(objects: ObjectStore, replicas: Sequence[ObjectStore], row: ProofRow) -> Iterator[Repaired]:
    fault = object_fault(objects, row)
    if fault is None:
        return
    if fault.kind not in ("missing-object", "damaged-object"):
        yield Repaired(fault.where, f"{fault.what}. This is no matter of a copy: see what verilora fsck says about the row", False)
        return
    reasons = []
    for name, data in _copies(objects, replicas, row.object_digest):
        if isinstance(data, str):
            reasons.append(f"{name}: {data}")
            continue
        aside = objects.restore(data)
        yield Repaired(fault.where, f"restored from {name}" + (f"; the damaged bytes are now {aside}" if aside else ""), True)
        return
    where = "; ".join(reasons) or "no replica was given"
    what = f"no intact copy ({where}). Without it statement {row.statement_id} cannot be verified: "
    yield Repaired(fault.where, what + "look for another copy of the store, or an exported bundle of the run", False)


def _copies(objects: ObjectStore, replicas: Sequence[ObjectStore], digest: str) -> Iterator[tuple[str, bytes | str]]:
    """Right bytes, or why there are none, by place."""
    found = objects.recover(digest)
    if found is not None:
        yield f"an earlier version in {objects.where}", found
    for replica in replicas:
        try:
            yield replica.where, replica.get(digest)
        except MissingObject:
            yield replica.where, "it has none"
        except IntegrityError:
            yield replica.where, "its copy is damaged too"
        except StorageError as error:
            yield replica.where, str(error)  # also an outage: another replica may have it


# published files of the log -------------------------------------------------------------------------------------------


def _log_files(ledger: Ledger, objects: ObjectStore, policy: Policy | None) -> Iterator[Repaired]:
    row = ledger.newest_checkpoint()
    if row is None:
        return
    try:
        tree = read_ledger_tree(ledger, ledger.log_size())
    except LedgerError:
        return  # told above
    if fault := head_fault(row, tree, policy):
        what = f"{fault}. No files are made from a ledger that contradicts what was signed: repair or replace the ledger first"
        yield Repaired(f"checkpoint of {row.size} entries", what, False)
        return
    for path, data in tree.tiles(row.size):
        if _held(objects, path) != data:
            aside = objects.set_aside(path)
            objects.publish(path, data)
            yield Repaired(path, "published again" + (f"; the wrong bytes are now {aside}" if aside else ""), True)
    published = _held(objects, NEWEST)
    try:
        head = read_head(published, policy) if published is not None else None
    except VerificationError:
        head = None
    if head is not None and head.size > tree.size:
        what = f"it is of {head.size} entries, the ledger has {tree.size}: rows are lost. Give a replica of the ledger"
        yield Repaired(NEWEST, what, False)
    elif head is None or head.size < row.size or head.root != tree.root(head.size):
        aside = objects.set_aside(NEWEST)
        objects.publish(NEWEST, row.note.encode(), replace=True)
        yield Repaired(NEWEST, "published again" + (f"; what was there is now {aside}" if aside else ""), True)


def _held(objects: ObjectStore, path: str) -> bytes | None:
    try:
        return objects.read(path)
    except MissingObject:
        return None
    except StorageError as error:
        not_a_condition(error)
        return b""
