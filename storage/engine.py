"""Opening the ledger's database, SQLite or PostgreSQL: connections, transactions, schema version. The only place that knows which.

One transaction appends at a time, so a writer that read the next free slot or log position is the only one that can take it:
    SQLite      BEGIN IMMEDIATE; WAL mode with synchronous=FULL (an acknowledged row survives a power cut), foreign keys and
                recursive triggers on (so that REPLACE fires DELETE triggers); a read-only ledger is opened with mode=ro
    PostgreSQL  an advisory lock taken first, kept until commit, at READ COMMITTED: each query after it sees all that was
                committed before it (storage/postgres.py)
A transaction that appends is begun with execution option APPENDING; others only read and wait for nobody.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage import postgres
from storage.disk import make_folder
from storage.errors import BadPlace, LedgerError, LedgerUnavailable, LedgerVersionError, StoreFull

APPENDING = "verilora_appending"
_BUSY_SECONDS = 60
_EXAMPLES = "use sqlite:///PATH (for example sqlite:///var/ledger.db) or postgresql+psycopg://USER@HOST/DATABASE"


def open_engine(url: str, read_only: bool) -> sa.Engine:
    """An engine on a ledger of the newest schema; created or upgraded first unless read_only."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        engine = postgres.make_engine(parsed, read_only, APPENDING)
    else:
        engine = _sqlite_engine(_sqlite_path(parsed), read_only)
    with explain_database_errors(engine):
        _check_version(engine, read_only)
    return engine


@contextlib.contextmanager
def explain_database_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn a database error (other than a broken constraint) into a storage error that says what to do, without passwords."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.TimeoutError as error:
        raise LedgerUnavailable(f"{_place(engine)}: no connection became free in time; too many are in use at once") from error
    except sa.exc.DBAPIError as error:
        if engine.dialect.name == "postgresql":
            raise postgres.explain(error, _place(engine)) from error
        raise _explain_sqlite(error.orig) from error


@contextlib.contextmanager
def publishing(engine: sa.Engine) -> Iterator[None]:
    """Be the log's only publisher on any machine that shares this database; on SQLite a lock file of the caller's is enough."""
    if engine.dialect.name == "postgresql":
        with explain_database_errors(engine), postgres.publishing(engine):
            yield
    else:
        yield


@contextlib.contextmanager
def holding(engine: sa.Engine, key: str) -> Iterator[bool]:
    """Whether no other machine that shares this database holds `key`, and none will until the block ends; as above on SQLite."""
    if engine.dialect.name == "postgresql":
        with explain_database_errors(engine), postgres.holding(engine, key) as free:
            yield free
    else:
        yield True


def migration_config() -> Config:
    """Alembic's configuration for the revisions installed with this program."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def _check_version(engine: sa.Engine, read_only: bool) -> None:
    config = migration_config()
    scripts = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in scripts.walk_revisions()}
    head = scripts.get_current_head()
    place = _place(engine)
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return
    if current is not None and current not in known:
        raise LedgerVersionError(
            f"{place} has schema version {current!r}; this program knows versions up to {head!r}. It was written by a newer "
            "release: install that one; or it is another program's database. It was not changed"
        )
    if read_only and current is None:
        raise LedgerError(f"{place} holds no ledger: check storage.ledger in run.yaml, or start a run first")
    if read_only:
        raise LedgerVersionError(f"{place} has schema version {current!r}, older than {head!r}: open it once for writing")
    with engine.execution_options(**{APPENDING: True}).begin() as connection:  # nothing is left to do if another process was faster
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _place(engine: sa.Engine) -> str:
    """Where a ledger is, for messages; never a password."""
    return postgres.place(engine.url) if engine.dialect.name == "postgresql" else f"the ledger {engine.url.database}"


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        shown = f"{url.partition(':')[0]}:…" if "@" in url else url  # what lies before @ may be a password
        raise BadPlace(f"storage.ledger {shown!r} is no database URL: {_EXAMPLES}") from None
    if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        raise BadPlace(f"storage.ledger: {parsed.drivername} is not supported: {_EXAMPLES}")
    return parsed


def _sqlite_path(url: sa.URL) -> Path:
    if not url.database or url.database == ":memory:" or url.query or url.host:
        raise BadPlace(f"storage.ledger: this sqlite URL names no plain file: {_EXAMPLES}")
    return Path(url.database)


def _sqlite_engine(path: Path, read_only: bool) -> sa.Engine:
    if read_only and not path.is_file():
        raise LedgerError(f"there is no ledger at {path}: check storage.ledger in run.yaml, or start a run first")
    if not read_only:
        make_folder(path.parent, 0o755)
    mode = "ro" if read_only else "rwc"
    location = path.absolute().as_uri() + f"?mode={mode}"

    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver starts no transactions of its own, _begin does
        return sqlite3.connect(location, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    # the URL's path is for messages, connect() is what opens it
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, creator=connect, poolclass=sa.NullPool, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: Any) -> None:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA recursive_triggers = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        appending = connection.get_execution_options().get(APPENDING) and not read_only
        connection.exec_driver_sql("BEGIN IMMEDIATE" if appending else "BEGIN")

    return engine


def _explain_sqlite(error: BaseException | None) -> Exception:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(
            "no space left for the ledger. Every row acknowledged so far is kept: free some space and start the same "
            "command again; it continues where it stopped"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerUnavailable(f"another process kept the ledger locked for {_BUSY_SECONDS} s: wait for it or stop it, then start again")
    return LedgerError(f"the ledger's database reports: {error}. Is storage.ledger a SQLite ledger on a working disk?")
