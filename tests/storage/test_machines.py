"""Several machines and people on one ledger (PostgreSQL) and the same buckets at once: one log, one key, no step back.

Machines are publishers with key files and lock files of their own: they share nothing but the database and the buckets.
"""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.checkpoint import load_keys
from storage.errors import LedgerError, LedgerUnavailable, StorageError
from storage.fsck_log import check_log
from storage.ledger import open_ledger
from storage.log import NEWEST, LogPublisher
from storage.models import WHOLE_RUN, VerdictRow
from storage.object_store import open_object_store
from storage.private import LocalPrivateStore
from storage.tree import read_tree
from tests.storage.rows import RUN
from tests.support import postgres
from tests.support.buckets import BUCKETS
from tests.support.machine import event, publish_from_machine
from tests.support.shared import Shared, shared
from verifier.note import parse_checkpoint, split_note


@pytest.fixture(params=BUCKETS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    with shared(tmp_path, request.param) as found:
        yield found


def one_log(log: LogPublisher) -> None:
    """One key; every checkpoint is signed by it and has the root of the ledger's own entries; the published one is the newest."""
    keys = load_keys(log._private) if log._private else None
    assert keys is not None
    tree = LogPublisher(log.ledger, log.objects).tree(log.ledger.log_size())
    rows = log.ledger.checkpoints()
    for row in rows:
        head = parse_checkpoint(row.note.encode(), keys.policy)
        assert (head.size, head.root) == (row.size, tree.root(row.size))
    assert log.objects.read(NEWEST) == rows[-1].note.encode()
    assert read_tree(log.objects, rows[-1].size).root(rows[-1].size) == tree.root(rows[-1].size)
    assert not [item for item in check_log(log.ledger, log.objects, keys.policy) if not item.harmless]


def test_processes_that_share_no_lock_file_make_one_log(tmp_path: Path) -> None:
    server = postgres.server()
    ledger = server.url(server.ledger(), "verilora_writer")
    book, spawn = open_ledger(ledger), multiprocessing.get_context("spawn")
    book.append(RUN)
    together = spawn.Barrier(2)
    machines = [spawn.Process(target=publish_from_machine, args=(ledger, tmp_path, n, together)) for n in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert [machine.exitcode for machine in machines] == [0, 0]
    log = LogPublisher(book, open_object_store(f"file:{tmp_path / 'objects'}"), LocalPrivateStore(tmp_path / "private"))
    assert log.publish() is None and book.newest_checkpoint() and book.log_size() == 17
    assert {path.name for path in tmp_path.glob("machine-*/.*")} == {".log.lock"}
    one_log(log)


def test_the_key_of_the_faster_machine_is_everybody_s(place: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without the database's lock: the slower machine looked before the faster one's key was there."""
    first, second = place.publisher(1), place.publisher(2)
    import storage.checkpoint as checkpoint

    inner, keys = checkpoint.load_keys, {}

    def late(private: Any) -> Any:
        monkeypatch.setattr(checkpoint, "load_keys", inner)
        keys[1] = checkpoint.create_keys(place.private(1))
        return None

    monkeypatch.setattr(checkpoint, "load_keys", late)
    keys[2] = checkpoint.create_keys(place.private(2))
    assert keys[1] == keys[2] == first.keys() == second.keys()


def test_a_run_is_held_by_one_machine(place: Shared) -> None:
    one, other, key = place.ledger(), place.ledger(), "f" * 64
    with one.holding(key) as free:
        assert free
        with other.holding(key) as taken, other.holding("7" * 64) as another:
            assert not taken and another
        assert one.append(RUN) and other.log_size() == 1
    with other.holding(key) as free:
        assert free
        with place.server.connect("postgres") as superuser:
            superuser.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [place.database])
        with one.holding(key) as taken:  # a connection that breaks frees it: the lock holds off, the ledger's keys decide
            assert taken
    with pytest.raises(RuntimeError, match="work"), one.holding(key):
        raise RuntimeError("work")


def paused(log: LogPublisher, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Stop this publisher's next announcement after it has looked at what is published: (it is there, let it go on)."""
    there, go = threading.Event(), threading.Event()
    read = log.objects.read

    def slow(path: str) -> bytes:
        found = read(path)
        if path == NEWEST and not there.is_set():
            there.set()
            assert go.wait(20)
        return found

    monkeypatch.setattr(log.objects, "read", slow)
    return there, go


def test_a_machine_waits_for_the_other_so_the_published_checkpoint_never_goes_back(place: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = place.publisher(1), place.publisher(2)
    slow.ledger.append(RUN)
    slow.publish()
    there, go = paused(slow, monkeypatch)
    slow.ledger.append(event(1))
    threads = [threading.Thread(target=log.publish) for log in (slow, fast)]
    threads[0].start()
    assert there.wait(20)
    fast.ledger.append(event(2))  # nobody has to wait to append
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive() and fast.ledger.log_size() == 3
    go.set()
    for thread in threads:
        thread.join(20)
    assert split_note(slow.objects.read(NEWEST))[0].size == 3
    one_log(fast)


def test_a_machine_that_loses_the_database_s_lock_says_so_and_repeats(place: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case: the lock is lost between looking and writing, and another machine publishes in between."""
    slow, fast = place.publisher(1), place.publisher(2)
    slow.ledger.append(RUN)
    slow.publish()
    there, go = paused(slow, monkeypatch)
    slow.ledger.append(event(1))
    faults: list[BaseException] = []

    def publish() -> None:
        try:
            slow.publish()
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    assert there.wait(20)
    with place.server.connect("postgres") as superuser:
        superuser.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [place.database])
    fast.ledger.append(event(2))
    fast.publish()
    go.set()
    thread.join(20)
    assert isinstance(faults[0], LedgerUnavailable) and split_note(slow.objects.read(NEWEST))[0].size == 2
    assert slow.publish() is None and split_note(slow.objects.read(NEWEST))[0].size == 3
    one_log(slow)


def verdict(number: int) -> VerdictRow:
    return VerdictRow(f"pass-{number}", "run-1", WHOLE_RUN, "auditor", True, "")


@pytest.mark.parametrize("moment", ["tile", "row", "checkpoint"])
def test_rows_that_arrive_while_the_log_is_published(place: Shared, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """An auditor's verdict and a writer's row between reading the ledger, the tiles, the checkpoint's row and its publication."""
    log, writer, auditor = place.publisher(1), place.ledger(), place.ledger("auditor")
    writer.append(RUN)
    log.publish()
    writer.append(event(1))
    publish, append = log.objects.publish, log.ledger.append_checkpoint

    def arrive() -> None:
        assert auditor.append(verdict(1)) and writer.append(event(2))

    def published(path: str, data: bytes, **more: bool) -> None:
        if (path == NEWEST) == (moment == "checkpoint") and moment != "row" and writer.log_size() == 2:
            arrive()
        publish(path, data, **more)

    def appended(size: int, note: str) -> bool:
        if moment == "row":
            arrive()
        return append(size, note)

    monkeypatch.setattr(log.objects, "publish", published)
    monkeypatch.setattr(log.ledger, "append_checkpoint", appended)
    first = log.publish()
    assert first and first.size == 2 and writer.log_size() == 4
    monkeypatch.undo()
    assert [item.kind for item in check_log(place.ledger("reader", read_only=True), place.objects(read_only=True), None)] == ["unsigned"]
    second = log.publish()
    assert second and second.size == 4 and log.publish() is None
    one_log(log)


def test_everybody_at_once(place: Shared) -> None:
    """Two machines append and publish, an auditor appends verdicts, a reader looks at everything: no fault, no false alarm."""
    place.publisher(1).keys()
    place.ledger().append(RUN)
    place.publisher(1).publish()
    faults: list[object] = []
    over, seen = threading.Event(), [0]

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def body() -> None:
            try:
                work()
            except BaseException as error:
                faults.append(error)

        return threading.Thread(target=body)

    def machine(number: int) -> Callable[[], None]:
        log = place.publisher(number)

        def work() -> None:
            for n in range(8):
                log.ledger.append(event(n, f"m{number}"))
                log.publish()

        return work

    def audit() -> None:
        book = place.ledger("auditor")
        for n in range(8):
            book.append(verdict(n))
            with pytest.raises(LedgerError, match="permission denied"):
                book.append(event(n, "mine"))

    def watch() -> None:
        objects = place.objects(read_only=True)
        while not over.is_set():
            seen.append(split_note(objects.read(NEWEST))[0].size)

    def look() -> None:
        book, objects = place.ledger("reader", read_only=True), place.objects(read_only=True)
        while not over.is_set():
            faults.extend(item for item in check_log(book, objects, None) if not item.harmless)

    workers = [guarded(machine(1)), guarded(machine(2)), guarded(audit)]
    watchers = [guarded(watch), guarded(look)]
    for thread in workers + watchers:
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    for thread in watchers:
        thread.join()
    assert faults == [] and seen == sorted(seen)
    log = place.publisher(1)
    log.publish()
    assert log.ledger.log_size() == 1 + 2 * 8 + 8
    one_log(log)


def test_a_machine_with_a_key_file_of_its_own_is_refused(place: Shared) -> None:
    place.private(1).put("a", b"secret")
    place.keys(2).parent.mkdir(mode=0o700)
    place.keys(2).write_text("0" * 64)
    place.keys(2).chmod(0o600)
    with pytest.raises(StorageError, match="another key than .*machine-2"):
        place.publisher(2)
