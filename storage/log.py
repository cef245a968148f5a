"""The transparency log over the ledger's rows: tree, tiles, signed checkpoints, and proofs about entries.

    rows → tiles (created once) → checkpoint row → log/checkpoint (replaced)

In this order, so that a process that dies anywhere leaves something the next one completes. Before it signs, a publisher
recomputes the leaf of every entry from the row as it is now (all of them when the process starts, afterwards the new ones) and the
root of every earlier checkpoint; a ledger that contradicts itself or what was published is never signed. What it relies on it keeps in
the private store (log/seen), and before anything is appended or an opening is used (`agree`, `remember`) it refuses a ledger that
does not begin with that: one restored from an older copy has forgotten openings. Files under log/:

    tile/L/N[.p/W]   storage/tree.py            checkpoint   the newest signed tree head
    cosigned         the newest one that cosigners signed too

Without the private store a publisher cannot sign, but gives proofs. Threads, processes and machines may share a ledger: each
publishes, all with the same bytes, one after the other (a lock file on one machine, the database's lock among several), so that
log/checkpoint never goes back. Called by tasks/, flows/, cli/ and storage/bundle.py.
"""

import base64
import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

from protocol.errors import VerificationError
from storage.checkpoint import LogKeys, Seen, create_keys, lines_of, load_keys, load_seen, locked, with_lines
from storage.errors import IntegrityError, LedgerConflict, MissingObject, StorageConflict, StorageError
from storage.ledger import Ledger
from storage.models import CheckpointRow
from storage.object_store import ObjectStore
from storage.private import PrivateStore
from storage.tree import Tree
from verifier.log import EMPTY_ROOT, leaf_hash, verify_inclusion
from verifier.note import (
    Checkpoint,
    Policy,
    VerifierKey,
    parse_base64,
    parse_checkpoint,
    parse_number,
    signed_by,
    split_note,
)

NEWEST, COSIGNED = "log/checkpoint", "log/cosigned"
PROOF_HEADER = "c2sp.org/tlog-proof@v1"
MAX_LOG_PROOF = 1 << 26
_CHUNK = 1024  # entries in one query


class LogPublisher:
    """One ledger's log. `private` holds the signing key; None for a reader."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, private: PrivateStore | None = None) -> None:
        self.ledger, self.objects, self._private = ledger, objects, private
        self._tree = Tree()
        self._checked = 0  # entries whose rows were hashed again by this process
        self._signed = Checkpoint("", 0, EMPTY_ROOT)  # newest checkpoint in the ledger that this process has checked
        self._announced = self._held = False  # the newest checkpoint is published; this thread holds the lock file
        self._agreed = False  # this process has compared the ledger with what was seen of it
        self._lock = threading.RLock()

    def publish(self) -> Checkpoint | None:
        """Sign and publish what the ledger has grown by; None if nothing. IntegrityError if the ledger contradicts the log."""
        with self._exclusive() as private:
            known = load_keys(private)
            if known is None and not self.ledger.log_size():
                return None  # the key is made with the first row, so that until then its owner may name the log
            keys = known or self.keys()
            size = self._catch_up(keys)
            self._note(private, size)
            note = b"" if self._announced else self.newest_note()
            if size > self._signed.size:
                new = Checkpoint(keys.current.name, size, self._tree.root(size))
                self._write_tiles(new.size, self._signed.size)
                note = keys.sign(new)
                try:
                    self.ledger.append_checkpoint(size, note.decode())
                except LedgerConflict:  # signed by another publisher with a key that has been exchanged meanwhile
                    self._catch_up(keys)
                    note = self.newest_note()
                grown, self._signed, self._announced = new, new, False
            else:
                grown = None
            if note:
                self._announce(note, keys)
            self._announced = True
            return grown

    def agree(self) -> None:
        """Refuse a ledger that lacks entries which private store or published checkpoint have seen; before anything is appended to it."""
        if self._agreed or self._private is None:
            return
        keys, seen = load_keys(self._private) or self.keys(), load_seen(self._private)
        self._begins_with(seen.size, seen.root, f"the private store {self._private.where}")
        published = self._published(keys)
        self._begins_with(published.size, published.root, f"{NEWEST} in {self.objects.where}")
        self._agreed = True

    def remember(self) -> None:
        """Have the private store know every entry up to now: after openings were spent, before query positions are drawn."""
        with self._exclusive() as private:
            self._note(private, self._catch_up(load_keys(private) or self.keys()))

    def newest_note(self, cosigned: bool = False) -> bytes:
        """The newest checkpoint's bytes, b"" if there is none; with `cosigned` the newest that cosigners signed."""
        if not cosigned:
            row = self.ledger.newest_checkpoint()
            return row.note.encode() if row else b""
        with contextlib.suppress(MissingObject):
            return self.objects.read(COSIGNED)
        return b""

    def inclusion_proof(self, position: int, size: int) -> list[bytes]:
        """The path from entry `position` to the root of the first `size` entries."""
        return self.tree(size).inclusion(position, size)

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """The path that shows the log's first `first` entries as the beginning of its first `second`."""
        return self.tree(second).consistency(first, second)

    def tree(self, size: int) -> Tree:
        """The tree of at least `size` entries, from the hashes that the ledger recorded."""
        with self._lock:
            for start in range(self._tree.size, size, _CHUNK):
                self._tree.extend(self.ledger.log_hashes(start, min(start + _CHUNK, size)))
            return self._tree

    def prove(self, position: int, cosigned: bool = False) -> bytes:
        """A self-contained tlog-proof of one entry under the newest checkpoint: leaf, path and signatures in one file."""
        note = self.newest_note(cosigned)
        if not note or position >= (size := split_note(note)[0].size):
            kind = "cosigned checkpoint" if cosigned else "checkpoint"
            raise StorageError(f"entry {position} of the log is under no {kind} yet: `verilora log checkpoint` signs one")
        [leaf] = self.ledger.log_leaves(position, position + 1)
        path = "".join(f"{base64.b64encode(node).decode()}\n" for node in self.inclusion_proof(position, size))
        return f"{PROOF_HEADER}\nextra {base64.b64encode(leaf).decode()}\nindex {position}\n{path}\n".encode() + note

    def add_cosignature(self, note: bytes, key: VerifierKey) -> Checkpoint:
        """Publish a cosigner's line on one of this log's checkpoints; VerificationError if it is not one, or not signed."""
        with self._exclusive():
            checkpoint, lines = split_note(note)
            held = {row.size: row.note.encode() for row in self.ledger.checkpoints(after=checkpoint.size - 1)}
            ours = held.get(checkpoint.size)
            if ours is None or split_note(ours)[0] != checkpoint:
                raise VerificationError("checkpoint", "note", "a checkpoint that this ledger holds", f"one of {checkpoint.size} entries")
            if not signed_by(key, checkpoint, lines):
                raise VerificationError("cosignature", key.name, f"a line of {key}", "none")
            cosigned = self.newest_note(cosigned=True)
            if cosigned and (size := split_note(cosigned)[0].size) >= checkpoint.size:
                if size > checkpoint.size:
                    raise StorageConflict(f"the log has a newer cosigned checkpoint, of {size} entries: cosign that one or a newer one")
                ours = cosigned
            merged = with_lines(ours, lines_of(note, key))
            self.objects.publish(COSIGNED, merged, replace=True)
            if checkpoint.size == max(held):
                self.objects.publish(NEWEST, merged, replace=True)
            return checkpoint

    def keys(self, origin: str = "") -> LogKeys:
        """The log's keys, made if the log has never been signed; `origin` may name the log then."""
        with self._exclusive() as private:
            if load_keys(private) is None and self.ledger.newest_checkpoint():
                raise StorageError(
                    f"the private store {private.where} has no key of this ledger's log, which has signed checkpoints: use the private "
                    "store that belongs to the ledger, or restore log/key from a copy of it"
                )
            return create_keys(private, origin)

    def rotate_key(self) -> LogKeys:
        """Sign everything with the present key, then exchange it. The checkpoint at the handover carries both signatures."""
        with self._exclusive() as private:
            self.publish()
            new = self.keys().rotated(self._signed.size)
            new.save(private)
            if note := self.newest_note():
                self.objects.publish(NEWEST, with_lines(note, [new.current.line(self._signed)]), replace=True)
            return new

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[PrivateStore]:
        """This log for this thread alone. Lock file first: so no machine waits in the database with more than one connection."""
        if self._private is None:
            raise StorageError("the log's signing key is in the private store: give the run.yaml that names it")
        with self._lock:
            if self._held:  # a method that calls another
                yield self._private
                return
            try:
                with locked(self._private.locks / ".log.lock"), self.ledger.publishing():
                    self._held = True
                    yield self._private
            except BaseException:
                self._announced = False  # also if the database's lock was lost: what others published meanwhile is looked at again
                raise
            finally:
                self._held = False

    def _catch_up(self, keys: LogKeys) -> int:
        """Check rows and checkpoints that this process has not checked yet; the log's size."""
        while True:
            growth = self.ledger.log_growth(self._checked, self._signed.size, _CHUNK)
            seen = max([self._signed.size, self._checked, *(row.size for row in growth.checkpoints)])
            if growth.size < seen:
                raise _contradiction(f"the ledger has {growth.size} log entries, but {seen} were seen: rows were removed")
            for position, (node, leaf) in enumerate(zip(growth.hashes, growth.leaves, strict=True), self._checked):
                if leaf_hash(leaf) != node or (position < self._tree.size and node != self._tree.leaf(position)):
                    now = leaf.decode()[:200] if leaf else "gone"
                    raise _contradiction(f"the row at log entry {position} is not the one that was appended; it is now {now}")
            self._tree.extend(growth.hashes[self._tree.size - self._checked:])
            self._checked += len(growth.hashes)
            if self._checked == growth.size:
                break
        for row in growth.checkpoints:
            self._signed, self._announced = self._own(row, keys), False  # whoever appended it may have died before publishing
        return growth.size

    def _note(self, private: PrivateStore, size: int) -> None:
        seen = load_seen(private)
        self._begins_with(seen.size, seen.root, f"the private store {private.where}")
        if size > seen.size:
            Seen(size, self._tree.root(size)).save(private)

    def _begins_with(self, size: int, root: bytes, who: str) -> None:
        here = self.ledger.log_size() if size > self._tree.size else size
        if size <= here and (not size or self.tree(size).root(size) == root):
            return
        shorter = f"has {here} log entries, but {who} has seen {size}"
        what = shorter if size > here else f"begins with other entries than the {size} that {who} has seen"
        raise IntegrityError(
            f"the ledger {what}: it was restored from an older copy, or is another one. Openings that were spent in the missing entries "
            "would be spent again, and reveal what they hide, so nothing is proved with it. Use the ledger as it was, bring the entries "
            "back with `verilora repair --from COPY`, or keep this one for reading and start a new ledger with new stores "
            "(docs/operations.md, Restore)"
        )

    def _own(self, row: CheckpointRow, keys: LogKeys) -> Checkpoint:
        """A checkpoint of the ledger, which must be this log's."""
        try:
            found = parse_checkpoint(row.note.encode(), keys.policy)
        except VerificationError as error:
            raise _contradiction(f"the ledger's checkpoint of {row.size} entries is not signed by this log: {error}") from error
        if found.size != row.size or found.root != self._tree.root(row.size):
            raise _contradiction(f"the ledger's first {row.size} entries are not the ones that were signed: root {found.root.hex()}")
        return found

    def _write_tiles(self, size: int, known: int) -> None:
        for path, data in self._tree.tiles(size, known):
            try:
                self.objects.publish(path, data)
            except StorageConflict as error:
                raise _contradiction(f"{path} in {self.objects.where} holds other hashes than the ledger") from error

    def _announce(self, note: bytes, keys: LogKeys) -> None:
        """Make a checkpoint the published one, unless a newer one of this log is."""
        new = split_note(note)[0]
        there = self._published(keys)
        unknown = there.size > self._tree.size and there.size > self.ledger.log_size()
        if unknown or (there.size <= self._tree.size and there.root != self._tree.root(there.size)):
            raise _contradiction(
                f"{NEWEST} in {self.objects.where}, of {there.size} entries, is signed with this log's key, but is not of this ledger. One "
                "log has one ledger: a new ledger needs new folders for objects and private store too"
            )
        if there.size < new.size:
            self.objects.publish(NEWEST, note, replace=True)

    def _published(self, keys: LogKeys) -> Checkpoint:
        try:
            return parse_checkpoint(self.objects.read(NEWEST), keys.policy)
        except (MissingObject, VerificationError):  # none, or not this log's: anybody may write into an untrusted store
            return Checkpoint(keys.current.name, 0, EMPTY_ROOT)


class LogProof(NamedTuple):
    """One entry with everything that shows it stands in the log: a tlog-proof whose extra data is the leaf."""

    leaf: bytes
    position: int
    path: tuple[bytes, ...]
    note: bytes


def parse_log_proof(data: bytes) -> LogProof:
    """The parts of a tlog-proof; VerificationError("log-proof-format") if it has another form."""
    head, separator, note = data[:MAX_LOG_PROOF + 1].partition(b"\n\n")
    lines = head.decode(errors="replace").split("\n")
    form = [line.partition(" ")[0] for line in lines[:3]] == [PROOF_HEADER, "extra", "index"]
    if len(data) > MAX_LOG_PROOF or not separator or not form:
        raise VerificationError("log-proof-format", "file", f"{PROOF_HEADER}, extra, index, hashes, a checkpoint", lines[0][:100])
    leaf, *path = (parse_base64(text, "log proof") for text in (lines[1][6:], *lines[3:]))
    return LogProof(leaf, parse_number(lines[2][6:], "index"), tuple(path), note)


def verify_log_proof(proof: LogProof, policy: Policy) -> Checkpoint:
    """The checkpoint under which the proof's leaf stands in the log; VerificationError if it does not."""
    checkpoint = parse_checkpoint(proof.note, policy)
    verify_inclusion(leaf_hash(proof.leaf), proof.position, checkpoint.size, proof.path, checkpoint.root)
    return checkpoint


def _contradiction(what: str) -> IntegrityError:
    return IntegrityError(
        f"{what}. Nothing was signed. Somebody changed ledger, log or key behind the program's back: run `verilora fsck`, restore the "
        "ledger from a copy that agrees with a checkpoint you trust, and start the command again"
    )
