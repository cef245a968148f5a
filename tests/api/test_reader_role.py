"""The service on PostgreSQL with the reader's role: all it answers, and that the role could change nothing; slow questions end."""

from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient

import storage.browse
from api.app import create_app, open_services
from storage.browse import Browse, QueryTimeout
from storage.engine import open_engine
from tests.api.pretend import Pretended, make
from tests.support import postgres

RUN = "8c1f0e77a2d4b690"
API = f"/api/v1/runs/{RUN}"
PATHS = (
    "/", f"/runs/{RUN}", f"/runs/{RUN}/statements", f"/runs/{RUN}/windows/1", "/log", "/log/entries/7", "/healthz",
    "/api/v1/runs?state=finished", API, f"{API}/statements?limit=3", f"{API}/commitments?limit=3", f"{API}/verdicts", f"{API}/bundle",
    "/api/v1/log", "/api/v1/log/checkpoints", "/api/v1/log/entries/7", "/api/v1/log/consistency?first=3&second=30",
)


def test_the_readers_role_is_enough_and_can_change_nothing(tmp_path: Path) -> None:
    server = postgres.server()
    name = server.ledger()
    made = make(tmp_path, server.url(name))
    reader = server.url(name, "verilora_reader")
    services = open_services(reader, made.objects_url)
    assert not services.rows.may_write() and Browse(open_engine(made.ledger_url, read_only=True)).may_write()
    client = TestClient(create_app(services))
    for path in PATHS:
        assert client.get(path).status_code == 200, path
    items, after = [], ""
    while after is not None:
        page = client.get(f"/api/v1/runs/{RUN}/statements?limit=10{after and '&after=' + after}").json()
        items, after = items + page["items"], page["next"]
    assert len({item["statement"] for item in items}) == len(items) == 36
    with server.connect(name, "verilora_reader") as connection:
        for table in ("runs", "statements", "verdicts", "log_entries", "checkpoints"):
            for verb in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"INSERT INTO {table} DEFAULT VALUES"):
                with pytest.raises(psycopg.Error):
                    connection.execute(verb)


def test_a_sqlite_service_opens_the_file_read_only(pretended: Pretended) -> None:
    services = open_services(pretended.ledger_url, pretended.objects_url)
    engine = services.rows._engine
    with engine.connect() as connection, pytest.raises(Exception, match="readonly|read-only"):
        connection.exec_driver_sql("CREATE TABLE x(y)")


def test_a_slow_question_is_given_up(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Browse(open_engine(pretended.ledger_url, read_only=True))
    monkeypatch.setattr(storage.browse, "STATEMENT_SECONDS", 0.05)
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(QueryTimeout), rows._connection() as connection:
        connection.exec_driver_sql(endless)
    assert rows.run(RUN)
