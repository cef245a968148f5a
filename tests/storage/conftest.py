"""Ledgers for tests: each one on SQLite and, where PostgreSQL is installed, on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.ledger import Ledger, open_ledger
from tests.storage.rows import ROWS
from tests.support import postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """Which database a test runs on."""
    return str(request.param)


@pytest.fixture
def empty_url(database: str, tmp_path: Path) -> str:
    """Where nothing is yet."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path}/var/ledger.db"
    server = postgres.server()
    return server.url(server.database())


@pytest.fixture
def url(database: str, tmp_path: Path) -> str:
    """An empty ledger."""
    if database == "sqlite":
        url = f"sqlite:///{tmp_path}/var/ledger.db"
        open_ledger(url).close()
        return url
    server = postgres.server()
    return server.url(server.ledger())


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """A ledger with a row of each table but openings."""
    ledger = open_ledger(url)
    for row in ROWS:
        assert ledger.append(row) is True
    yield ledger
    ledger.close()
