"""A PostgreSQL server for tests (examples/postgres.py), started once for a test session.

`server()` gives the running server or skips the test with the reason; `Server.database()` makes an empty database and returns
its ledger URL as superuser, `url(database, user)` one for another user. fsync is off: these tests are about transactions, not
about power cuts. Every user is trusted on the socket, but `guarded` needs its password.
"""

import atexit
import functools
import itertools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from examples.postgres import Postgres, binaries
from storage.ledger import open_ledger

PASSWORD = "correct horse/battery@staple"
_OPTIONS = {
    "fsync": "off", "full_page_writes": "off", "max_connections": "200", "shared_buffers": "16MB",
    "max_wal_size": "64MB", "log_min_messages": "panic",
}
_RULES = "local all guarded scram-sha-256\nlocal all outcast reject\nlocal all all trust\n"


@dataclass(frozen=True)
class Server:
    """Where it listens; databases are numbered."""

    folder: Path
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count, compare=False)

    def url(self, database: str, user: str = "super", password: str | None = None) -> str:
        """A ledger URL."""
        secret = f":{password}" if password else ""
        return f"postgresql+psycopg://{user}{secret}@/{database}?host={self.folder}"

    def connect(self, database: str, user: str = "super") -> "psycopg.Connection[tuple[object, ...]]":
        """A client of its own, past the program; each statement is its own transaction."""
        return psycopg.connect(host=str(self.folder), dbname=database, user=user, autocommit=True)

    def database(self, template: str = "template0") -> str:
        """A new database's name; `template` is another one of this server, without connections."""
        name = f"ledger_{next(self._numbers)}"
        with self.connect("postgres") as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def ledger(self) -> str:
        """The name of a new database that holds an empty ledger, copied from one that was migrated."""
        return self.database(_template(self))


@functools.cache
def _template(made: Server) -> str:
    name = made.database()
    open_ledger(made.url(name)).close()
    return name


def server() -> Server:
    """The session's server; the test is skipped if PostgreSQL is not installed."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed: make services")
    return _start(folder)


@functools.cache
def _start(programs: Path) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="verilora-pg-"))
    made = Postgres(folder, programs, _RULES, **_OPTIONS)
    made.create()
    made.start()

    def stop() -> None:
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    with made.connect("postgres") as admin:
        admin.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("CREATE ROLE outcast LOGIN")
        admin.execute("CREATE ROLE plain LOGIN")
    return Server(folder)
