"""Triggers that make a table append-only in the database itself, whatever client writes to it.

SQLite: UPDATE and DELETE are rejected; INSERT OR REPLACE deletes without firing a DELETE trigger unless recursive_triggers
is on, so a BEFORE INSERT guard also rejects a row whose key is taken. A batch copy of a table drops its triggers: a
revision that uses one calls protect() again afterwards.
PostgreSQL: UPDATE, DELETE and TRUNCATE are rejected, ENABLE ALWAYS: also in replication and for every role but one that may
disable triggers (the owner, a superuser). What those do is caught by the log (storage/log_rows.py), not here.
Both: a log position that is not the next one is rejected.
"""

from collections.abc import Sequence

from alembic import op

from migrations.postgres import schema


def on_postgresql() -> bool:
    """Which of the two databases this migration runs on."""
    return op.get_context().dialect.name == "postgresql"


def protect(table: str, *keys: Sequence[str]) -> None:
    """Create the triggers of one table; `keys` are all its unique column sets, the primary key first."""
    if on_postgresql():
        _always(table, f"{table}_no_change", "BEFORE UPDATE OR DELETE", "ROW", "append_only")
        _always(table, f"{table}_no_truncate", "BEFORE TRUNCATE", "STATEMENT", "append_only")
        return
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
    for trigger in ("no_change", "no_truncate") if on_postgresql() else ("no_update", "no_delete", "no_replace"):
        op.execute(f"DROP TRIGGER {table}_{trigger}" + (f" ON {table}" if on_postgresql() else ""))


def create_functions() -> None:
    """PostgreSQL's trigger function, before the first protect()."""
    if on_postgresql():
        op.execute(
            "CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'append-only: % on %', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$"
        )


def drop_functions() -> None:
    """The opposite of create_functions, after the last release()."""
    if on_postgresql():
        op.execute("DROP FUNCTION append_only()")


# A verdict's leaf as storage/models.py makes it: an auditor writes into the log, and must not be able to spoil it
_VERDICT_LEAF = (
    """'{"row":{"accepted":' || accepted::int || ',"reason":' || to_json(reason) || ',"run_id":' || to_json(run_id) """
    """|| ',"signature":' || to_json(COALESCE(signature, '')) || ',"subject":' || to_json(subject) """
    """|| ',"verification":' || to_json(verification) || ',"verifier":' || to_json(verifier) || '},"table":"verdicts"}'"""
)
_VERDICT_IS_THERE = (
    "EXISTS (SELECT 1 FROM verdicts WHERE verification = NEW.row_key::json->>0 AND run_id = NEW.row_key::json->>1 "
    "AND subject = NEW.row_key::json->>2 "
    "AND NEW.row_key = '[' || to_json(verification) || ',' || to_json(run_id) || ',' || to_json(subject) || ']' "
    f"AND NEW.leaf_hash = encode(sha256('\\x00'::bytea || convert_to({_VERDICT_LEAF}, 'UTF8')), 'hex'))"
)


def require_next_position() -> None:
    """Let log_entries take the next position alone. PostgreSQL also: of tables the role may insert into; of verdicts as they are."""
    rule = "NEW.position <> (SELECT COALESCE(MAX(position) + 1, 0) FROM log_entries)"
    if not on_postgresql():
        op.execute(
            f"CREATE TRIGGER log_entries_no_gap BEFORE INSERT ON log_entries WHEN {rule} "
            "BEGIN SELECT RAISE(ABORT, 'append-only: log_entries takes the next position alone'); END"
        )
        return
    _run(
        # its own search path: a temporary table named log_entries would otherwise answer the query
        f"CREATE FUNCTION next_position() RETURNS trigger LANGUAGE plpgsql SET search_path = {schema()}, pg_temp AS $$ BEGIN "
        f"IF {rule} THEN RAISE EXCEPTION 'append-only: log_entries takes the next position alone' "
        "USING ERRCODE = 'restrict_violation'; END IF; "
        "IF NOT has_table_privilege(current_user, quote_ident(NEW.row_table), 'INSERT') THEN "
        "RAISE EXCEPTION 'this role may not append to %', NEW.row_table USING ERRCODE = 'insufficient_privilege'; END IF; "
        f"IF NEW.row_table = 'verdicts' AND NOT {_VERDICT_IS_THERE} THEN "
        "RAISE EXCEPTION 'append-only: no verdict has this key and hash' USING ERRCODE = 'restrict_violation'; END IF; "
        "RETURN NEW; END $$"
    )
    _always("log_entries", "log_entries_no_gap", "BEFORE INSERT", "ROW", "next_position")


def release_next_position() -> None:
    """The opposite of require_next_position."""
    op.execute("DROP TRIGGER log_entries_no_gap" + (" ON log_entries" if on_postgresql() else ""))
    if on_postgresql():
        op.execute("DROP FUNCTION next_position()")


def _run(statement: str) -> None:
    """Execute as it is: colons and percent signs in it are not parameters."""
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})


def _always(table: str, trigger: str, when: str, each: str, function: str) -> None:
    op.execute(f"CREATE TRIGGER {trigger} {when} ON {table} FOR EACH {each} EXECUTE FUNCTION {function}()")
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
