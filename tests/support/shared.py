"""A ledger on PostgreSQL and two buckets, as several machines and several people share them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.ledger import Ledger, open_ledger
from storage.log import LogPublisher
from storage.object_store import ObjectStore, open_object_store
from storage.private import PrivateStore, open_private_store
from tests.support import postgres
from tests.support.buckets import new_bucket, s3_server
from tests.support.postgres import Server

RUN_YAML = """base_model: model
dataset: data.jsonl
training: {{learning_rate: 0.1}}
storage: {{ledger: "{ledger}", objects: "{objects}", private: "{private}"}}
"""


@dataclass(frozen=True)
class Shared:
    """Where everything is; URLs by role and by machine."""

    folder: Path
    server: Server
    database: str
    public: str
    secret: str
    query: str

    def ledger_url(self, role: str = "writer") -> str:
        return self.server.url(self.database, f"verilora_{role}")

    @property
    def objects_url(self) -> str:
        return f"s3://{self.public}/audit{self.query}"

    def private_url(self, machine: int = 1) -> str:
        """The private bucket, with the key file and the lock files of one machine."""
        return f"s3://{self.secret}/secrets{self.query}{'&' if self.query else '?'}key={self.keys(machine)}"

    def keys(self, machine: int) -> Path:
        return self.folder / f"machine-{machine}" / "private.key"

    def ledger(self, role: str = "writer", read_only: bool = False) -> Ledger:
        return open_ledger(self.ledger_url(role), read_only=read_only)

    def objects(self, read_only: bool = False) -> ObjectStore:
        return open_object_store(self.objects_url, read_only=read_only)

    def private(self, machine: int = 1) -> PrivateStore:
        """The private store of one machine, which was given a copy of the first one's key file."""
        if machine > 1 and not self.keys(machine).exists():
            self.private()
            self.keys(machine).parent.mkdir(mode=0o700)
            shutil.copy(self.keys(1), self.keys(machine))
        return open_private_store(self.private_url(machine))

    def publisher(self, machine: int = 1) -> LogPublisher:
        return LogPublisher(self.ledger(), self.objects(), self.private(machine))

    def as_role(self, role: str) -> list[str]:
        """Options of a command that somebody of this role gives."""
        return ["--ledger", self.ledger_url(role), "--objects", self.objects_url]

    def run_yaml(self) -> list[str]:
        """Options of a command that the provider gives on the first machine."""
        path = self.folder / "run.yaml"
        path.write_text(RUN_YAML.format(ledger=self.ledger_url(), objects=self.objects_url, private=self.private_url()))
        return ["--config", str(path)]


@contextmanager
def shared(folder: Path, kind: str = "moto") -> Iterator[Shared]:
    """An empty ledger and empty buckets on a server of this kind (tests/support/buckets.py); skips the test without PostgreSQL."""
    server = postgres.server()
    with pytest.MonkeyPatch.context() as monkeypatch, s3_server(kind, monkeypatch) as query:
        yield Shared(folder, server, server.ledger(), new_bucket(query), new_bucket(query), query)
