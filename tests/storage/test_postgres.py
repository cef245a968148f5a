"""The ledger on PostgreSQL as its users meet it: errors that say what to do without a password, lost connections, the lock."""

import dataclasses
import socket
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from storage import log_rows
from storage import postgres as pg
from storage.errors import LedgerConflict, LedgerError, LedgerUnavailable, StoreFull
from storage.ledger import Ledger, open_ledger
from tests.storage.rows import COMMITMENT, EVENT, PUBLIC, ROWS, RUN, STATEMENT
from tests.support import postgres
from tests.support.postgres import PASSWORD, Server


@pytest.fixture
def server() -> Server:
    return postgres.server()


@pytest.fixture
def name(server: Server) -> str:
    return server.ledger()


@pytest.fixture
def ledger(server: Server, name: str) -> Iterator[Ledger]:
    ledger = open_ledger(server.url(name))
    for row in ROWS:
        ledger.append(row)
    yield ledger
    ledger.close()


def refused(url: str, kind: type[LedgerError] = LedgerUnavailable) -> str:
    """The message; nothing that can be printed about the error has a password."""
    with pytest.raises(kind) as caught:
        open_ledger(url, read_only=True)
    everything = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "hunter2"):
        assert secret not in everything
    return str(caught.value)


def test_what_keeps_a_user_out(server: Server, name: str) -> None:
    assert "the password is wrong; check the URL's password" in refused(server.url(name, "guarded", "hunter2"))
    assert "it asks for a password; put one into PGPASSWORD" in refused(server.url(name, "guarded"))
    assert "does not let this user in" in refused(server.url(name, "outcast", "hunter2"))
    assert "the user does not exist" in refused(server.url(name, "nobody_knows", "hunter2"))
    assert "the database does not exist" in refused(server.url("no_such_database", password="hunter2"))
    message = refused(server.url(name, "guarded", "hunter2"))
    assert name in message and str(server.folder) in message and "guarded" in message


def test_where_no_server_is(tmp_path: Path) -> None:
    assert "no server listens on that socket" in refused(f"postgresql+psycopg://u:hunter2@/d?host={tmp_path}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    assert f"127.0.0.1:{port} as u cannot be reached: no server answers there" in refused(f"postgresql+psycopg://u:hunter2@127.0.0.1:{port}/d")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        port = silent.getsockname()[1]
        url = f"postgresql+psycopg://u:hunter2@127.0.0.1:{port}/d?connect_timeout=2"  # libpq's shortest
        assert "there was no answer" in refused(url)


@pytest.mark.parametrize("how", ["url", "environment", "file"])
def test_a_password_comes_from_url_environment_or_file(
    server: Server, name: str, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with server.connect(name) as admin:
        admin.execute("GRANT verilora_writer TO guarded")
    url = server.url(name, "guarded")
    if how == "url":
        url = server.url(name, "guarded", quote(PASSWORD, safe=""))
    elif how == "environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    else:
        file = tmp_path / "pgpass"
        file.write_text(f"*:*:*:guarded:{PASSWORD}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
    ledger = open_ledger(url)
    assert ledger.append(RUN) and ledger.log_size() == 1
    assert PASSWORD not in repr(ledger._engine) + str(ledger._engine.url)
    ledger.close()


def test_a_user_without_rights_is_told_so(server: Server, name: str) -> None:
    assert "may not do that" in refused(server.url(name, "plain"), LedgerError)
    with pytest.raises(LedgerError, match="permission denied for schema public.*migrate as the owner"):
        open_ledger(server.url(server.database(), "plain"))
    other = server.database()
    with server.connect(other) as admin:
        admin.execute(f"REVOKE CONNECT ON DATABASE {other} FROM PUBLIC")
    assert "may not connect to the database" in refused(server.url(other, "plain"))


def test_a_lost_connection_is_made_again(server: Server, name: str, ledger: Ledger) -> None:
    with server.connect("postgres") as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    assert ledger.append(dataclasses.replace(EVENT, window=9))


@pytest.mark.parametrize("persisted", [False, True])
def test_a_connection_lost_while_appending(
    server: Server, name: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, persisted: bool
) -> None:
    """Before the commit nothing is there; after it, unacknowledged, everything is. Either way the same append sets it right."""
    row = dataclasses.replace(EVENT, window=9)
    original = log_rows.append_entry

    def cut(connection, appended) -> None:  # type: ignore[no-untyped-def]
        original(connection, appended)
        if persisted:
            connection.connection.commit()  # the driver's, behind the transaction's back
        with server.connect("postgres") as admin:
            admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.exec_driver_sql("SELECT 1")

    with monkeypatch.context() as patch:
        patch.setattr(log_rows, "append_entry", cut)
        with pytest.raises(LedgerUnavailable, match="terminat|lost|closed"):
            ledger.append(row)
    assert (ledger.log_position(row) is not None) == persisted
    assert ledger.append(row) is not persisted
    assert ledger.log_size() == len(ROWS) + 1 and ledger.unlogged_rows() == []


def test_a_lock_that_nobody_gives_back_is_an_error(
    server: Server, name: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pg, "_APPEND", pg._APPEND.replace(f"{pg._LOCK_SECONDS}s", "30ms"))
    with server.connect(name) as other:
        other.execute(f"SELECT pg_advisory_lock({pg.LOCK})")
        assert len(open_ledger(server.url(name)).record("run-1").events) == 1  # readers do not wait
        with pytest.raises(LedgerUnavailable, match="another client kept the ledger's lock"):
            ledger.append(dataclasses.replace(EVENT, window=9))
    assert ledger.append(dataclasses.replace(EVENT, window=9))


def test_defaults_of_the_server_do_not_weaken_an_append(server: Server, name: str) -> None:
    """A default of SERIALIZABLE would read a snapshot from before the lock; one of synchronous_commit = off loses rows."""
    with server.connect("postgres") as admin:
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    ledger = open_ledger(server.url(name))
    for row in ROWS:
        ledger.append(row)
    with ledger._appending() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
    with ThreadPoolExecutor(6) as pool:
        slots = list(pool.map(lambda i: ledger.spend_opening(PUBLIC.commitment_id, None, STATEMENT.statement_id, str(i)), range(60)))
    assert sorted(slots) == list(range(60)) and ledger.log_size() == len(ROWS) + 60


def test_a_read_only_ledger_is_so_for_every_role(server: Server, name: str, ledger: Ledger) -> None:
    reader = open_ledger(server.url(name), read_only=True)  # as superuser
    for write in (
        lambda: reader.append(dataclasses.replace(EVENT, window=9)), lambda: reader.append_checkpoint(1, "n"),
        lambda: reader.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1"),
    ):
        with pytest.raises(LedgerError, match="opened read-only"):
            write()
    with reader._reading() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == f"{pg.READ_SECONDS}s"
    assert ledger.log_size() == len(ROWS)


def test_a_query_that_takes_too_long(server: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pg, "_READ", "SET LOCAL statement_timeout = '20ms'")
    reader = open_ledger(server.url(name), read_only=True)
    with pytest.raises(LedgerUnavailable, match="took too long"), reader._reading() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(5)")


def test_text_that_postgresql_cannot_hold_is_explained(ledger: Ledger) -> None:
    for change in ({"detail": "a\x00b"}, {"kind": "k" * 201}):
        with pytest.raises(LedgerError, match="database reports: .*(NUL|too long)"):
            ledger.append(dataclasses.replace(EVENT, window=9, **change))
    assert ledger.log_size() == len(ROWS)
    with pytest.raises(LedgerConflict):
        ledger.append(dataclasses.replace(EVENT, detail="other"))


class Said(Exception):
    """A server's error as psycopg reports it."""

    def __init__(self, sqlstate: str | None, text: str) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(("error", "kind", "text"), [
    (Said("53100", "could not extend file: No space left on device"), StoreFull, "no room left"),
    (Said("53300", "too many connections"), LedgerUnavailable, "no connection left"),
    (Said("57P03", "the database system is starting up"), LedgerUnavailable, "starting; try again"),
    (Said("08006", "server closed the connection unexpectedly"), LedgerUnavailable, "nothing acknowledged is lost"),
    (Said("XX001", "invalid page in block 7"), LedgerError, "reports: invalid page in block 7"),
    (Said(None, ""), LedgerUnavailable, "Said"),
])
def test_what_the_servers_errors_mean(error: Said, kind: type[Exception], text: str) -> None:
    explained = pg.explain(sa.exc.OperationalError("", {}, error), "the ledger")
    assert type(explained) is kind and text in str(explained)
