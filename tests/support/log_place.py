"""A ledger, an object store and a private store in one folder, and publishers of the log over them."""

import contextlib
import sqlite3
from pathlib import Path

from storage import models
from storage.checkpoint import load_keys
from storage.ledger import Ledger, open_ledger
from storage.local import LocalObjectStore
from storage.log import LogPublisher
from storage.models import EventRow
from storage.object_store import ObjectStore
from storage.private import PrivateStore, open_private_store
from tests.storage.rows import RUN
from verifier.note import Policy


class Place:
    """Ledger, objects and private store in one folder, and publishers on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger: Ledger = open_ledger(f"sqlite:///{folder / 'ledger.db'}")
        self.objects = LocalObjectStore(folder / "objects")
        self.private: PrivateStore = open_private_store(f"file:{folder / 'private'}")

    def publisher(self, objects: ObjectStore | None = None) -> LogPublisher:
        return LogPublisher(self.ledger, objects or self.objects, self.private)

    def grow(self, number: int) -> None:
        """Append rows as the ledger does, but in one transaction; the first call starts the run."""
        if not self.ledger.log_size():
            self.ledger.append(RUN)
        start = self.ledger.log_size()
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for n in range(start, start + number):
                row = EventRow("run-1", "note", n, f'{{"n":{n}}}')
                entry = (n, models.leaf_hash(models.leaf(row)), "run_events", models.row_key(row))
                event = (row.run_id, row.kind, row.window, row.detail)
                connection.execute("INSERT INTO run_events (run_id, kind, window, detail) VALUES (?, ?, ?, ?)", event)
                connection.execute("INSERT INTO log_entries (position, leaf_hash, row_table, row_key) VALUES (?, ?, ?, ?)", entry)
            connection.execute("COMMIT")

    def rewrite(self, sql: str) -> None:
        """What the database's owner can do."""
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.db", isolation_level=None)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            assert connection.execute(sql).rowcount

    @property
    def policy(self) -> Policy:
        keys = load_keys(self.private)
        assert keys
        return keys.policy
