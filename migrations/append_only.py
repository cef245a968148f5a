"""Triggers that make a table append-only in the database itself, whatever client writes to it.

SQLite: UPDATE and DELETE are rejected; INSERT OR REPLACE deletes without firing a DELETE trigger unless recursive_triggers
is on, so a BEFORE INSERT guard also rejects a row whose key is taken. A batch copy of a table drops its triggers: a
revision that uses one calls protect() again afterwards.
"""

from collections.abc import Sequence

from alembic import op


def protect(table: str, *keys: Sequence[str]) -> None:
    """Create the triggers of one table; `keys` are all its unique column sets, the primary key first."""
    _require_sqlite()
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'append-only: {verb} on {table}'); END"
        )
    taken = " OR ".join("(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys)
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken}) "
        f"BEGIN SELECT RAISE(ABORT, 'append-only: {table} already holds a row with this key'); END"
    )


def release(table: str) -> None:
    """Drop the triggers of one table, before a revision drops or rebuilds it."""
    _require_sqlite()
    for trigger in ("no_update", "no_delete", "no_replace"):
        op.execute(f"DROP TRIGGER {table}_{trigger}")


def _require_sqlite() -> None:
    dialect = op.get_context().dialect.name
    if dialect != "sqlite":
        raise NotImplementedError(f"append-only triggers are defined for SQLite, not for {dialect}")
