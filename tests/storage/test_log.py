"""The log's publisher: every growth signed and provable, crashes, several publishers, a ledger that contradicts itself."""

import contextlib
import multiprocessing
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import storage.log
import storage.tree
from protocol.errors import VerificationError
from storage.checkpoint import KEY_NAME, SEEN_NAME, create_keys, load_keys, locked
from storage.errors import IntegrityError, MissingObject, StorageError, StoreUnavailable
from storage.ledger import Ledger, open_ledger
from storage.local import LocalObjectStore
from storage.log import NEWEST, LogPublisher, parse_log_proof, verify_log_proof
from storage.models import EventRow, RunRow
from storage.tree import read_tree, tile_path
from tests.storage.rows import RUN, digest
from tests.support.log_place import Place
from tests.support.merkle import NaiveTree
from verifier.log import leaf_hash, node_hash, parse_leaf, verify_inclusion
from verifier.note import Checkpoint, check_growth, parse_checkpoint, split_note


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def naive(ledger: Ledger, size: int) -> NaiveTree:
    return NaiveTree(ledger.log_leaves(0, size))


# publishing

def test_a_publisher_that_hangs_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was stopped in the middle holds the lock as long as it is there; nothing is lost."""
    place.grow(3)
    place.publisher().publish()
    place.grow(2)
    monkeypatch.setattr("storage.checkpoint.WAIT_SECONDS", 0.2)
    log = place.publisher()
    with locked(place.private.locks / ".log.lock"), pytest.raises(StoreUnavailable, match=r"locked for 0\.2 s .*`fuser .*\.log\.lock`"):
        log.publish()
    log.publish()
    assert split_note(log.newest_note())[0].size == place.ledger.log_size()


def test_every_growth_is_signed_and_provable(place: Place) -> None:
    log = place.publisher()
    assert log.publish() is None and log.newest_note() == b""
    seen = None
    for number in (1, 0, 3, 7, 250, 20):
        place.grow(number)
        found = log.publish()
        size = place.ledger.log_size()
        if number == 0:
            assert found is None
            continue
        assert found == Checkpoint(found.origin, size, naive(place.ledger, size).root(0, size))
        assert found == parse_checkpoint(place.objects.read(NEWEST), place.policy)
        assert log.newest_note() == place.objects.read(NEWEST)
        assert read_tree(place.objects, size).root(size) == found.root
        for position, leaf in enumerate(place.ledger.log_leaves(0, size)):
            verify_inclusion(leaf_hash(leaf), position, size, log.inclusion_proof(position, size), found.root)
        if seen:
            check_growth(seen, found, log.consistency_proof(seen.size, found.size))
        seen = found
    assert log.publish() is None
    assert [row.size for row in place.ledger.checkpoints()] == [2, 5, 12, 262, 282]


def test_the_key_is_made_once_and_private(place: Place) -> None:
    place.grow(1)
    place.publisher().publish()
    mode = (place.folder / "private" / KEY_NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    keys = create_keys(place.private)
    assert load_keys(place.private) == keys and keys.current.seed.hex() not in repr(keys)
    with pytest.raises(ValueError, match="cannot change"):
        create_keys(place.private, "example.com/other")
    public = [path.read_bytes() for path in (place.folder / "objects").rglob("*") if path.is_file()]
    assert public and not any(keys.current.seed.hex().encode() in data or keys.current.seed in data for data in public)


def test_an_origin_can_be_chosen_at_first(place: Place) -> None:
    for wrong in ("a b", "a+b", "a\nb", "a\u2028b", "x" * 201):
        with pytest.raises(ValueError, match="cannot name a key"):
            create_keys(place.private, wrong)
    assert create_keys(place.private, "example.com/log").current.name == "example.com/log"


def test_a_lost_key_is_not_replaced(place: Place) -> None:
    place.grow(1)
    place.publisher().publish()
    place.private.remove(KEY_NAME)
    place.grow(1)
    with pytest.raises(StorageError, match="restore log/key"):
        place.publisher().publish()
    place.private.put(KEY_NAME, b'{"origin":1}')
    with pytest.raises(IntegrityError, match="damaged"):
        place.publisher().publish()


def test_a_reader_proves_and_does_not_sign(place: Place) -> None:
    place.grow(5)
    place.publisher().publish()
    reader = LogPublisher(open_ledger(f"sqlite:///{place.folder / 'ledger.db'}", read_only=True), place.objects)
    proof = parse_log_proof(reader.prove(3))
    assert verify_log_proof(proof, place.policy).size == 6
    assert parse_leaf(proof.leaf) == ("run_events", {"run_id": "run-1", "kind": "note", "window": 3, "detail": '{"n":3}'})
    with pytest.raises(StorageError, match="private store"):
        reader.publish()
    with pytest.raises(StorageError, match="no checkpoint"):
        reader.prove(6)


# crashes and several publishers

class Dies(LocalObjectStore):
    """A store whose `die`-th publish never happens, or happens without an answer."""

    def __init__(self, root: Path, die: int, persisted: bool) -> None:
        super().__init__(root)
        self.left, self.persisted = die, persisted

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> None:
        self.left -= 1
        if self.left == 0 and not self.persisted:
            raise ConnectionError("died")
        super().publish(path, data, replace=replace)
        if self.left == 0:
            raise ConnectionError("died")


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("same_process", [False, True])
@pytest.mark.parametrize("die", [1, 2, 3, 4])
def test_a_publisher_that_dies_is_continued(place: Place, die: int, persisted: bool, same_process: bool) -> None:
    place.grow(199)
    objects = Dies(place.folder / "objects", 0, persisted)
    dying = place.publisher(objects)
    dying.publish()
    place.grow(58)  # a full tile, two partial ones, the checkpoint
    objects.left = die
    with pytest.raises(ConnectionError):
        dying.publish()
    following = dying if same_process else place.publisher()
    following.publish()
    newest = parse_checkpoint(place.objects.read(NEWEST), place.policy)
    assert newest.size == place.ledger.log_size() == 258 == split_note(following.newest_note())[0].size
    assert read_tree(place.objects, 258).root(258) == newest.root
    assert [row.size for row in place.ledger.checkpoints()] == [200, 258]
    assert dict(following.tree(258).tiles(258)).keys() <= {
        path.relative_to(place.folder / "objects").as_posix() for path in (place.folder / "objects").rglob("*")
    }


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_row_that_is_lost_in_flight(place: Place, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    place.grow(3)
    original = place.ledger.append_checkpoint

    def dies(size: int, note: str) -> bool:
        original(size, note)
        raise ConnectionError("died")

    log = place.publisher()
    if before:
        log.publish()
        place.grow(1)
    monkeypatch.setattr(place.ledger, "append_checkpoint", dies)
    with pytest.raises(ConnectionError):
        log.publish()
    with pytest.raises(MissingObject) if not before else contextlib.nullcontext():
        assert place.objects.read(NEWEST) != log.newest_note()
    monkeypatch.undo()
    assert log.publish() is None
    assert place.objects.read(NEWEST) == log.newest_note() != b""


def test_publishers_in_threads_agree(place: Place) -> None:
    place.grow(1)
    faults: list[BaseException] = []

    def work(log: LogPublisher, kind: str) -> None:
        try:
            for n in range(6):
                place.ledger.append(EventRow("run-1", kind, n, "{}"))
                log.publish()
        except BaseException as error:
            faults.append(error)

    shared = place.publisher()
    logs = [shared, shared, place.publisher(), place.publisher()]
    threads = [threading.Thread(target=work, args=(log, f"t{n}")) for n, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    newest = parse_checkpoint(place.objects.read(NEWEST), place.policy)
    assert newest.size == place.ledger.log_size() == 26
    assert newest.root == naive(place.ledger, 26).root(0, 26)
    for row in place.ledger.checkpoints():
        assert parse_checkpoint(row.note.encode(), place.policy).root == naive(place.ledger, row.size).root(0, row.size)


def _first_publish(folder: Path, kind: str) -> None:
    here = Place(folder)
    for n in range(4):
        here.ledger.append(EventRow("run-1", kind, n, "{}"))
        here.publisher().publish()


def test_processes_make_one_key(place: Place) -> None:
    place.ledger.append(RUN)
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_first_publish, args=(place.folder, f"p{n}")) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert parse_checkpoint(place.objects.read(NEWEST), place.policy).size == place.ledger.log_size() == 13


def test_an_older_checkpoint_never_replaces_a_newer(place: Place) -> None:
    log, late = place.publisher(), place.publisher()
    place.grow(2)
    late.publish()
    old = log.newest_note()
    place.grow(2)
    log.publish()
    keys = load_keys(place.private)
    assert keys
    late._announce(old, keys)
    assert parse_checkpoint(place.objects.read(NEWEST), place.policy).size == 5


# contradictions

@pytest.mark.parametrize(("sql", "what"), [
    ("UPDATE run_events SET detail = '{}' WHERE window = 2", "log entry 2 is not the one"),
    ("DELETE FROM run_events WHERE window = 2", "it is now gone"),
    ("UPDATE log_entries SET leaf_hash = '" + digest("x") + "' WHERE position = 2", "log entry 2 is not the one"),
    ("UPDATE log_entries SET row_key = '[\"run-1\",\"note\",3]' WHERE position = 2", ""),
    ("DELETE FROM log_entries WHERE position > 3", "were seen: rows were removed"),
    ("UPDATE checkpoints SET size = 4", "not signed by this log|not the ones that were signed"),
    ("UPDATE checkpoints SET note = replace(note, '— ', '- ')", "not signed by this log"),
])
@pytest.mark.parametrize("more", [0, 2])
def test_a_changed_ledger_is_not_signed(place: Place, sql: str, what: str, more: int) -> None:
    place.grow(5)
    place.publisher().publish()
    before = place.objects.read(NEWEST)
    place.rewrite("UPDATE log_entries SET row_key = 'moved' WHERE position = 3" if "run-1" in sql else sql)
    if "run-1" in sql:
        place.rewrite(sql)
        what = "log entry 2 is not the one"
    if "DELETE FROM log" not in sql:
        place.grow(more)
    with pytest.raises(IntegrityError, match=what) as caught:
        place.publisher().publish()
    assert "Nothing was signed" in str(caught.value)
    assert place.objects.read(NEWEST) == before


def test_a_row_and_its_hash_rewritten_together_contradict_the_checkpoint(place: Place) -> None:
    place.grow(5)
    place.publisher().publish()
    place.rewrite("UPDATE run_events SET detail = '{}' WHERE window = 2")
    [leaf] = place.ledger.log_leaves(2, 3)
    place.rewrite(f"UPDATE log_entries SET leaf_hash = '{leaf_hash(leaf).hex()}' WHERE position = 2")
    place.grow(1)
    with pytest.raises(IntegrityError, match="not the ones that were signed"):
        place.publisher().publish()


def test_a_ledger_without_its_checkpoints_contradicts_the_published_one(place: Place) -> None:
    """A ledger rolled back together with its checkpoints; the object store still has what was signed."""
    place.grow(5)
    log = place.publisher()
    log.publish()
    place.rewrite("DELETE FROM checkpoints")
    place.rewrite("DELETE FROM log_entries WHERE position > 3")
    with pytest.raises(IntegrityError, match="has 4 log entries, but the private store .* has seen 6"):
        place.publisher().publish()
    place.private.remove(SEEN_NAME)
    with pytest.raises(IntegrityError, match="One log has one ledger"):
        place.publisher().publish()
    with pytest.raises(IntegrityError, match="rows were removed"):
        log.publish()  # and a process that was running notices by itself


def test_another_ledger_is_not_signed_with_the_same_key(place: Place, tmp_path: Path) -> None:
    place.grow(5)
    place.publisher().publish()
    for rows in (2, 9):
        other = open_ledger(f"sqlite:///{tmp_path / f'other{rows}.db'}")
        other.append(RunRow("other", digest("{}"), "{}"))
        for n in range(rows):
            other.append(EventRow("other", "note", n, "{}"))
        with pytest.raises(IntegrityError):
            LogPublisher(other, place.objects, place.private).publish()


def test_a_tile_with_other_hashes_is_not_signed_over(place: Place) -> None:
    place.grow(3)
    place.objects.publish(tile_path(0, 0, 4), bytes(128))
    with pytest.raises(IntegrityError, match="holds other hashes"):
        place.publisher().publish()
    assert place.ledger.checkpoints() == []


def test_what_others_put_in_place_of_the_checkpoint_is_replaced(place: Place) -> None:
    place.grow(3)
    for rubbish in (b"", b"\xff", b"x\n5\n\n"):
        place.objects.publish(NEWEST, rubbish, replace=True)
        place.grow(1)
        log = place.publisher()
        log.publish()
        assert place.objects.read(NEWEST) == log.newest_note()


# tlog-proof files

def change(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


def test_a_proof_file_has_one_form(place: Place) -> None:
    place.grow(6)
    log = place.publisher()
    log.publish()
    data = log.prove(4)
    assert verify_log_proof(parse_log_proof(data), place.policy).size == 7
    cases: list[tuple[Callable[[], bytes], set[str]]] = [
        (lambda: change(data, b"index 4", b"index 5"), {"inclusion"}),
        (lambda: change(data, b"index 4", b"index 04"), {"number"}),
        (lambda: change(data, b"index 4", b"index 7"), {"inclusion"}),
        (lambda: change(data, b"extra ", b"extra AAAA"), {"inclusion", "base64"}),
        (lambda: change(data, b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v2"), {"log-proof-format"}),
        (lambda: change(data, b"\n\n", b"\n"), {"log-proof-format", "base64"}),
        (lambda: change(data, b"index 4\n", b"index 4\n\n"), {"checkpoint-format"}),
        (lambda: data + b"\n", {"checkpoint-format"}), (lambda: b"", {"log-proof-format"}),
        (lambda: data.replace(b"\n7\n", b"\n8\n"), {"checkpoint-signature"}),
    ]
    for make, reasons in cases:
        with pytest.raises(VerificationError) as caught:
            verify_log_proof(parse_log_proof(make()), place.policy)
        assert caught.value.reason in reasons
    for n in range(0, len(data), 3):
        with pytest.raises(VerificationError):
            verify_log_proof(parse_log_proof(data[:n] + bytes([data[n] ^ 2]) + data[n + 1:]), place.policy)


def test_publishing_does_not_hash_everything_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.grow(9_999)
    log = place.publisher()
    assert log.publish() and place.ledger.log_size() == 10_000
    hashed = []
    monkeypatch.setattr(storage.tree, "node_hash", lambda left, right: hashed.append(1) or node_hash(left, right))
    monkeypatch.setattr(storage.log, "leaf_hash", lambda leaf: hashed.append(1) or leaf_hash(leaf))
    seconds = []
    for _ in range(20):
        place.grow(1)
        started = time.perf_counter()
        log.publish()
        seconds.append(time.perf_counter() - started)
    assert len(hashed) < 20 * 4 * 14  # a few times the height of the tree
    print(f"{1000 * sorted(seconds)[10]:.1f} ms for each publish")
