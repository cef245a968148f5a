"""Opening the ledger's database: connection settings, migrations, version check. The only place that knows SQLite.

SQLite runs in WAL mode with synchronous=FULL (an acknowledged row survives a power cut), foreign keys and recursive
triggers on (so that REPLACE fires DELETE triggers). Transactions start with BEGIN IMMEDIATE: a writer that read the next
free slot is the only one that can take it.
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

from storage.disk import make_folder
from storage.errors import LedgerError, LedgerVersionError, StoreFull

_BUSY_SECONDS = 60


def open_engine(url: str, read_only: bool) -> sa.Engine:
    """An engine on a ledger of the newest schema; created or upgraded first unless read_only."""
    path = _sqlite_path(url)
    if read_only and not path.is_file():
        raise LedgerError(f"there is no ledger at {path}: check storage.ledger in run.yaml, or start a run first")
    if not read_only:
        make_folder(path.parent, 0o755)
    engine = _sqlite_engine(path, read_only)
    with explain_database_errors():
        _check_version(engine, path, read_only)
    return engine


@contextlib.contextmanager
def explain_database_errors() -> Iterator[None]:
    """Turn a database error (other than a broken constraint) into a storage error that says what to do."""
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DatabaseError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StoreFull(
                "no space left for the ledger. Every row acknowledged so far is kept: free some space and start the same "
                "command again; it continues where it stopped"
            ) from error
        raise LedgerError(f"the ledger's database reports: {error.orig}. Is storage.ledger a SQLite ledger on a working disk?") from error


def migration_config() -> Config:
    """Alembic's configuration for the revisions installed with this program."""
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def _check_version(engine: sa.Engine, path: Path, read_only: bool) -> None:
    config = migration_config()
    scripts = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in scripts.walk_revisions()}
    head = scripts.get_current_head()
    with engine.begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise LedgerVersionError(
                f"the ledger {path} has schema version {current!r}; this program knows versions up to {head!r}. It was written "
                "by a newer release: install that one. The ledger was not changed"
            )
        if current == head:
            return
        if read_only:
            raise LedgerVersionError(f"the ledger {path} has schema version {current!r}, older than {head!r}: open it once for writing")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _sqlite_path(url: str) -> Path:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise LedgerError(f"storage.ledger {url!r} is no database URL: use sqlite:///PATH, for example sqlite:///var/ledger.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise LedgerError(f"storage.ledger: {parsed.get_backend_name()} is not supported yet: use sqlite:///PATH")
    if not parsed.database or parsed.database == ":memory:" or parsed.query:
        raise LedgerError(f"storage.ledger {url!r} names no plain file: use sqlite:///PATH, for example sqlite:///var/ledger.db")
    return Path(parsed.database)


def _sqlite_engine(path: Path, read_only: bool) -> sa.Engine:
    mode = "ro" if read_only else "rwc"
    location = path.absolute().as_uri() + f"?mode={mode}"

    def connect() -> sqlite3.Connection:
        # isolation_level None: the driver starts no transactions of its own, _begin does
        return sqlite3.connect(location, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _settings(connection: sqlite3.Connection, _: Any) -> None:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA recursive_triggers = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
