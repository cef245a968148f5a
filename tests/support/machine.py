"""Another machine that publishes the same log, as a process: light imports, because a test starts several."""

from multiprocessing.synchronize import Barrier
from pathlib import Path

from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.models import EventRow
from storage.object_store import open_object_store
from storage.private import LocalPrivateStore


def event(number: int, kind: str = "note") -> EventRow:
    return EventRow("run-1", kind, number, "{}")


def publish_from_machine(ledger: str, folder: Path, number: int, together: Barrier) -> None:
    """The same database and stores, lock files of its own."""
    private = LocalPrivateStore(folder / "private")
    private.locks = folder / f"machine-{number}"
    log = LogPublisher(open_ledger(ledger), open_object_store(f"file:{folder / 'objects'}"), private)
    together.wait()
    for n in range(8):
        log.ledger.append(event(n, f"m{number}"))
        log.publish()
