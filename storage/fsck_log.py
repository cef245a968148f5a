"""Is the ledger its own log? Rows against leaf hashes, hashes against signed checkpoints, checkpoints against published files.

    every row → leaf → leaf hash recorded → tree → root in every signed checkpoint → tiles and log/checkpoint in the object store

Any row that was changed, removed or slipped in is named, also while others append and publish: what was signed is read before the
entries that it is compared with. Without a policy signatures are not checked, only roots. Memory: the
tree, 64 bytes a row, and 100 for each statement. Called by storage/fsck.py.
"""

import time
from collections.abc import Generator, Iterator
from typing import Any

from protocol.errors import VerificationError
from storage.errors import LedgerError, MissingObject, StorageError
from storage.findings import Finding, Progress, not_a_condition, silent
from storage.ledger import Ledger
from storage.log import NEWEST
from storage.models import TABLES, CheckpointRow, row_key
from storage.object_store import ObjectStore
from storage.tree import Tree
from verifier.log import leaf_hash, parse_leaf
from verifier.note import Checkpoint, Policy, parse_checkpoint, split_note

_CHUNK = 512
_AGAIN_SECONDS = 1.0
_TABLES = {table.name: table for table in TABLES.values()}


def check_log(ledger: Ledger, objects: ObjectStore, policy: Policy | None, progress: Progress = silent) -> Iterator[Finding]:
    """Everything that is wrong between rows, log entries, checkpoints and published files."""
    heads, published = ledger.checkpoints(), _read_published(objects)
    size, tree, known, whole = ledger.log_size(), Tree(), _Known(), True
    for start in range(0, size, _CHUNK):
        for position, recorded, leaf in _entries(ledger, start, min(start + _CHUNK, size)):
            if isinstance(recorded, LedgerError):
                whole = False
                yield Finding("log-gap", f"log entry {position}", str(recorded))
                continue
            if whole:
                tree.extend([recorded])
            if leaf_hash(leaf) != recorded:
                yield _wrong_row(ledger, position, leaf)
            if leaf:
                yield from known.check(leaf)
        progress("rows", min(start + _CHUNK, size), size)
    for row in ledger.unlogged_rows():
        table = TABLES[type(row)].name
        yield Finding("unlogged-row", f"{table} {row_key(row)}", "no log entry was ever made for this row: it was written past the program")
    if whole:
        newest = yield from _check_heads(heads, tree, policy)
        if newest > _size(published):  # its publisher may have been between the two
            time.sleep(_AGAIN_SECONDS)
            published = _read_published(objects)
            tree.extend(ledger.log_hashes(tree.size, ledger.log_size()))
        yield from _check_published(objects, published, tree, newest, policy)
        yield from _check_tiles(objects, tree, newest, progress)


def _entries(ledger: Ledger, start: int, stop: int) -> Iterator[tuple[int, Any, bytes]]:
    """Position, recorded hash (or what is wrong with the entry) and leaf."""
    try:
        yield from zip(range(start, stop), ledger.log_hashes(start, stop), ledger.log_leaves(start, stop))
    except LedgerError as error:
        not_a_condition(error)
        for position in range(start, stop):  # one by one, so that only the wrong ones are named
            try:
                yield position, ledger.log_hashes(position, position + 1)[0], ledger.log_leaves(position, position + 1)[0]
            except LedgerError as gap:
                yield position, not_a_condition(gap), b""


def _wrong_row(ledger: Ledger, position: int, leaf: bytes) -> Finding:
    table, key = ledger.log_entry(position)
    if leaf:
        shown = leaf.decode(errors="replace")[:300]
        return Finding("changed-row", f"{table} {key}", f"it is not the row that log entry {position} was made for; now it is {shown}")
    return Finding("missing-row", f"{table} {key}", f"log entry {position} was made for it, and the row is gone")


class _Known:
    """Rows that name a run or statement which stands before them, as the database's own rules demand."""

    def __init__(self) -> None:
        self._runs: set[str] = set()
        self._statements: set[str] = set()

    def check(self, leaf: bytes) -> Iterator[Finding]:
        try:
            table, row = parse_leaf(leaf)
        except VerificationError as error:
            yield Finding("unreadable-row", leaf.decode(errors="replace")[:100], str(error))
            return
        run, statement = str(row.get("run_id")), str(row.get("statement_id"))
        where = f"{table} [{', '.join(str(row.get(column.name)) for column in _TABLES[table].primary_key)}]"
        if table == "runs":
            self._runs.add(run)
        elif "run_id" in row and run not in self._runs:
            yield Finding("foreign-row", where, f"the ledger has no run {run} before it")
        if table == "statements":
            self._statements.add(statement)
        elif "statement_id" in row and statement not in self._statements:
            yield Finding("foreign-row", where, f"the ledger has no statement {statement} before it")


def read_head(note: bytes, policy: Policy | None) -> Checkpoint:
    """What a signed note says, with its signature checked if there is a policy; VerificationError if it is none."""
    return split_note(note)[0] if policy is None else parse_checkpoint(note, policy)


def head_fault(row: CheckpointRow, tree: Tree, policy: Policy | None) -> str:
    """What is wrong with a checkpoint of the ledger, "" if nothing."""
    try:
        head = read_head(row.note.encode(), policy)
    except VerificationError as error:
        return str(error)
    if head.size != row.size:
        return f"the note is of {head.size} entries"
    if head.size > tree.size:
        return f"it was signed when the ledger had {head.size} entries; now it has {tree.size}: rows were removed"
    if head.root != tree.root(head.size):
        return f"the signed root is {head.root.hex()}; the ledger's entries have {tree.root(head.size).hex()}"
    return ""


def _check_heads(heads: list[CheckpointRow], tree: Tree, policy: Policy | None) -> Generator[Finding, None, int]:
    """The size of the newest checkpoint that is right."""
    newest = 0
    for row in heads:
        if fault := head_fault(row, tree, policy):
            yield Finding("log-rollback" if row.size > tree.size else "checkpoint", f"checkpoint of {row.size} entries", fault)
        else:
            newest = row.size
    if tree.size > newest:
        yield Finding("unsigned", "log", f"the newest {tree.size - newest} entries are under no signed checkpoint yet", harmless=True)
    return newest


def _check_tiles(objects: ObjectStore, tree: Tree, newest: int, progress: Progress) -> Iterator[Finding]:
    for done, (path, data) in enumerate(tree.tiles(newest), 1):
        progress("tiles", done, 0)
        try:
            if objects.read(path) != data:
                yield Finding("damaged-tile", path, "it does not hold the hashes of the ledger's log entries")
        except MissingObject:
            yield Finding("missing-tile", path, f"it is not in {objects.where}")
        except StorageError as error:
            yield Finding("damaged-tile", path, str(not_a_condition(error)))


def _read_published(objects: ObjectStore) -> bytes | StorageError:
    try:
        return objects.read(NEWEST)
    except StorageError as error:
        return not_a_condition(error)


def _size(published: bytes | StorageError) -> int:
    """Of how many entries the published checkpoint is; 0 if it is none."""
    try:
        return split_note(published)[0].size if isinstance(published, bytes) else 0
    except VerificationError:
        return 0


def _check_published(
    objects: ObjectStore, published: bytes | StorageError, tree: Tree, newest: int, policy: Policy | None
) -> Iterator[Finding]:
    if isinstance(published, MissingObject):
        if newest:
            yield Finding("missing-checkpoint", NEWEST, f"it is not in {objects.where}")
        return
    try:
        if isinstance(published, StorageError):
            raise published
        head = read_head(published, policy)
    except (StorageError, VerificationError) as error:
        yield Finding("checkpoint", NEWEST, str(error))
        return
    if head.size > tree.size:
        yield Finding("log-rollback", NEWEST, f"it is of {head.size} entries, the ledger has {tree.size}: rows were removed")
    elif head.root != tree.root(head.size):
        yield Finding("checkpoint", NEWEST, f"its root is {head.root.hex()}; the ledger's entries have {tree.root(head.size).hex()}")
    elif head.size < newest:
        yield Finding("stale-checkpoint", NEWEST, f"it is of {head.size} entries, the ledger has a newer one of {newest}")
