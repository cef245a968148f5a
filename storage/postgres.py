"""PostgreSQL for the ledger: connections, the lock that orders appends, and what its errors mean for the reader of a message.

A password comes from the URL, PGPASSWORD or PGPASSFILE and appears in no message: messages name user, host and database only.
Every appending transaction begins with pg_advisory_xact_lock(LOCK) at READ COMMITTED. PostgreSQL frees the lock after the
commit is visible, so whoever gets it next reads the newest slot and position; SERIALIZABLE would need retries for the same.
A read-only ledger uses read-only transactions with a statement timeout, whatever its role may do. Publishers of the log on several
machines take turns by a second advisory lock, PUBLISHING, in a transaction that does nothing else; runs are held by further ones.
Called by storage/engine.py.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from migrations.postgres import LOCK, ROLES, grant_statements, role_statements
from storage import models
from storage.errors import LedgerError, LedgerUnavailable, StoreFull

_CONNECT_SECONDS = 10
_LOCK_SECONDS = 60
READ_SECONDS = 30  # a reader's longest statement
PUBLISHING = LOCK + 1
_PUBLISH_SECONDS = 600  # the first publisher of a process hashes every row, and uploads may be slow

_APPEND = (
    f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'; "
    # an acknowledged row survives a power cut, also where the server's default is not to wait for the disk
    "SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
    "ELSE current_setting('synchronous_commit') END, true); "
    f"SELECT pg_advisory_xact_lock({LOCK})"
)
_PUBLISH = (
    f"SET LOCAL lock_timeout = '{_PUBLISH_SECONDS}s'; SET LOCAL statement_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = 0; "  # idle is all that this transaction is
    f"SELECT pg_advisory_xact_lock({PUBLISHING})"
)
_READ = f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{READ_SECONDS}s'"

# what libpq says when it cannot connect (it gives no code), what that means, what to do
_REFUSALS = (
    ("password authentication failed", "the password is wrong", "check the URL's password, PGPASSWORD or PGPASSFILE"),
    ("no password supplied", "it asks for a password", "put one into PGPASSWORD, a PGPASSFILE or the URL"),
    ("pg_hba.conf", "the server does not let this user in from here", "ask its administrator for a rule in pg_hba.conf"),
    ("authentication failed", "the server does not accept this user", "check user and way of authentication"),
    ("not permitted to log in", "this role may not log in", "use a role with LOGIN, or ALTER ROLE … LOGIN"),
    ("permission denied for database", "this user may not connect to the database", "GRANT CONNECT ON DATABASE … TO …"),
    ("could not translate host name", "the host is not known", "check the host's name"),
    ("failed to resolve host", "the host is not known", "check the host's name"),
    ("too many connections", "it has no connection left", "close other clients or raise max_connections"),
    ("remaining connection slots", "it has no connection left", "close other clients or raise max_connections"),
    ("starting up", "the server is starting", "try again in a moment"),
    ("shutting down", "the server is shutting down", "start it again"),
    ("timeout", f"there was no answer within {_CONNECT_SECONDS} s", "check host, port and network"),
    ("Connection refused", "no server answers there", "start it, or check host and port"),
    ("No such file or directory", "no server listens on that socket", "start it, or check the socket's folder"),
)


def make_engine(url: sa.URL, read_only: bool, appending: str) -> sa.Engine:
    """An engine; `appending` is the execution option of transactions that append."""
    if not url.database or "@" in (url.host or "") or "password" in {k.lower() for k in url.query}:
        raise LedgerError(
            "storage.ledger: a PostgreSQL URL is postgresql+psycopg://USER@HOST/DATABASE; special characters of a password are "
            "percent-encoded (@ is %40), or it is in PGPASSWORD or PGPASSFILE"
        )
    settings = {"application_name": "verilora", "connect_timeout": _CONNECT_SECONDS}
    arguments = {key: value for key, value in settings.items() if key not in url.query}
    engine = sa.create_engine(
        url, isolation_level="READ COMMITTED", connect_args=arguments, pool_pre_ping=True, pool_timeout=_LOCK_SECONDS,
        hide_parameters=True,
    )

    several = {"no_parameters": True}  # several statements in one message

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if read_only:
            connection.exec_driver_sql(_READ, execution_options=several)
        elif connection.get_execution_options().get(appending):
            connection.exec_driver_sql(_APPEND, execution_options=several)

    return engine


@contextlib.contextmanager
def publishing(engine: sa.Engine) -> Iterator[None]:
    """Hold the publishers' lock. It is free again when the block ends, the process dies or the connection breaks.

    A broken connection is an error when the block ends. READ COMMITTED keeps no snapshot, so the wait holds up no vacuum.
    """
    with engine.begin() as connection:
        connection.exec_driver_sql(_PUBLISH, execution_options={"no_parameters": True})
        yield


@contextlib.contextmanager
def holding(engine: sa.Engine, key: str) -> Iterator[bool]:
    """Whether this connection got the lock of a key (hexadecimal digits); it keeps it until the block ends or the process dies.

    A session's lock, because a run takes hours: a connection that breaks meanwhile frees it and is no error. Two integers
    are a key space of their own beside LOCK and PUBLISHING.
    """
    numbers = ", ".join(str(int.from_bytes(bytes.fromhex(part), "big", signed=True)) for part in (key[:8], key[8:16]))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        try:
            connection.exec_driver_sql("SET idle_session_timeout = 0")
            yield bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({numbers})").scalar())
        finally:
            connection.invalidate()  # closes it for good, in whatever state it is


def roles_sql() -> str:
    """SQL that makes the roles and gives them their rights: for the superuser of a server whose ledger's owner may not."""
    statements = role_statements() + grant_statements([*sorted(models.metadata.tables), "alembic_version"], list(ROLES))
    return ";\n".join(statements) + ";\n"


def place(url: sa.URL) -> str:
    """Where a ledger is, without its password."""
    host = url.host or url.query.get("host") or "the default server"
    user = f" as {url.username}" if url.username else ""
    return f"the ledger in database {url.database!r} on {host}{f':{url.port}' if url.port else ''}{user}"


def explain(error: sa.exc.DBAPIError, where: str) -> LedgerError | StoreFull:
    """A database error as the storage error that says what to do."""
    state: Any = getattr(error.orig, "sqlstate", None)
    text = str(error.orig).strip()
    said = text.splitlines()[0] if text else type(error.orig).__name__
    if state == "53100":
        return StoreFull(
            f"{where}: the server has no room left ({said}). Every row acknowledged so far is kept: free some, then start the same "
            "command again"
        )
    if state == "42501":
        return LedgerError(
            f"{where}: {said}. This role may not do that: append with verilora_writer (verdicts also with verilora_auditor), "
            "migrate as the owner of the tables; `verilora ledger roles` prints the grants"
        )
    if state == "25006":
        return LedgerError(f"{where}: this ledger was opened read-only")
    if state == "55P03":
        return LedgerUnavailable(
            f"{where}: another client kept the ledger's lock for {_LOCK_SECONDS} s, or the log's for {_PUBLISH_SECONDS} s: wait for it, or "
            "see pg_locks"
        )
    if state == "57014":
        return LedgerUnavailable(f"{where}: a query took too long and was cancelled: ask for less")
    lost = state is None or state[:2] in ("08", "28", "3D", "53", "57")  # what libpq itself says has no code
    if lost and isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
        return LedgerUnavailable(f"{where} cannot be reached: {_refusal(text, said)}")
    return LedgerError(f"{where}: the database reports: {said}")


def _refusal(text: str, said: str) -> str:
    if "database" in text and "does not exist" in text and "role" not in text:
        return "the database does not exist; create it (createdb) or check its name"
    if "role" in text and "does not exist" in text:
        return "the user does not exist on the server; create the role or check its name"
    for part, meaning, advice in _REFUSALS:
        if part in text:
            return f"{meaning}; {advice}"
    return f"{said}; nothing acknowledged is lost, start the same command again once it is back"
