"""The schema on SQLite: append-only in the database itself, equal to the declared tables, up and down one revision at a time.

PostgreSQL's are in test_postgres_schema.py.
"""

import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from migrations.append_only import protect
from storage import models
from storage.engine import migration_config
from storage.ledger import open_ledger
from storage.models import OpeningRow
from tests.storage.rows import COMMITMENT, ROWS, RUN, STATEMENT

TABLES = sorted(models.metadata.tables)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    ledger = open_ledger(f"sqlite:///{path}")
    for row in ROWS:
        ledger.append(row)
    ledger.spend_opening(COMMITMENT.commitment_id, COMMITMENT.budget, STATEMENT.statement_id, "1")
    ledger.append_checkpoint(3, "a note")
    return path


def content(raw: sqlite3.Connection) -> dict[str, list[tuple]]:
    return {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def attacks(table: str) -> dict[str, str]:
    keys = models.unique_keys(models.metadata.tables[table])
    columns = [column.name for column in models.metadata.tables[table].columns]
    changed = [name for name in columns if name not in {k for key in keys for k in key}][0]
    values = ", ".join(f"{name} || 'x'" if name == changed else name for name in columns)
    into = f"INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table}"
    return {
        "update": f"UPDATE {table} SET {changed} = {changed} || 'x'",
        "update nothing": f"UPDATE {table} SET {changed} = {changed}",
        "update or replace": f"UPDATE OR REPLACE {table} SET {changed} = {changed} || 'x'",
        "delete": f"DELETE FROM {table}",
        "insert or replace": f"INSERT OR REPLACE {into}",
        "replace": f"REPLACE {into}",
        "insert or ignore": f"INSERT OR IGNORE {into}",
        "upsert": f"INSERT {into} WHERE true ON CONFLICT DO UPDATE SET {changed} = 'x'",
    }


@pytest.mark.parametrize("verb", attacks("runs"))
@pytest.mark.parametrize("table", TABLES)
def test_any_client_can_only_append(path: Path, table: str, verb: str) -> None:
    raw = sqlite3.connect(path)  # a client of its own: recursive_triggers and foreign_keys are off here
    before = content(raw)
    assert before[table]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(attacks(table)[verb])
    raw.rollback()
    assert content(raw) == before
    raw.close()


def test_replace_through_the_second_key_is_rejected(path: Path) -> None:
    raw = sqlite3.connect(path)
    before = content(raw)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(
            "REPLACE INTO statements (statement_id, run_id, kind, window, layer, part, content) "
            "SELECT 'other', run_id, kind, window, layer, part, 'lie' FROM statements"
        )
    assert content(raw) == before
    raw.close()


def test_a_log_position_is_the_next_one(path: Path) -> None:
    raw = sqlite3.connect(path)
    size = raw.execute("SELECT COUNT(*) FROM log_entries").fetchone()[0]
    for position in (-1, size + 1, size + 1000):
        with pytest.raises(sqlite3.IntegrityError, match="next position"):
            raw.execute("INSERT INTO log_entries VALUES (?, 'h', 'runs', 'k')", [position])
    raw.execute("INSERT INTO log_entries VALUES (?, 'h', 'runs', 'k')", [size])
    raw.rollback()
    raw.close()


def test_without_the_guard_replace_would_pass(tmp_path: Path) -> None:
    """The reason for the guard: without it REPLACE destroys a row although DELETE and UPDATE are rejected."""
    path = tmp_path / "ledger.db"
    open_ledger(f"sqlite:///{path}").append(ROWS[0])
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER runs_no_replace")
    raw.execute("REPLACE INTO runs (run_id, manifest_digest, manifest) SELECT run_id, manifest_digest, 'lie' FROM runs")
    assert raw.execute("SELECT manifest FROM runs").fetchall() == [("lie",)]
    raw.close()


def test_connection_settings(path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{path}")
    with ledger._engine.connect() as connection:
        names = ("journal_mode", "foreign_keys", "recursive_triggers", "synchronous")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
    assert found == ["wal", 1, 1, 2]


def schema(connection: sa.Connection) -> list[tuple]:
    query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%' ORDER BY type, name"
    return [tuple(row) for row in connection.exec_driver_sql(query)]


def triggers(connection: sa.Connection) -> set[str]:
    return {name for kind, name, _ in schema(connection) if kind == "trigger"}


def expected_triggers(connection: sa.Connection) -> set[str]:
    tables = {name for kind, name, _ in schema(connection) if kind == "table"}
    gap = {"log_entries_no_gap"} if "log_entries" in tables else set()
    return {f"{table}_no_{verb}" for table in tables for verb in ("update", "delete", "replace")} | gap


def test_stairway(tmp_path: Path) -> None:
    """Every revision up, down, up again leaves the same schema, all triggers and the rows; down to nothing leaves nothing."""
    config = migration_config()
    revisions = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    engine = sa.create_engine(f"sqlite:///{tmp_path}/stairs.db")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        for revision in revisions:
            before = schema(connection)
            command.upgrade(config, revision)
            up = schema(connection)
            assert up != before
            if revision == revisions[0]:
                values = models.content(RUN)
                connection.execute(sa.insert(models.runs).values(values))
            command.downgrade(config, "-1")
            assert schema(connection) == before
            command.upgrade(config, revision)
            assert schema(connection) == up
            # a revision that rebuilt a table (batch) has to protect it again
            assert triggers(connection) == expected_triggers(connection) != set()
        assert set(sa.inspect(connection).get_table_names()) - {"alembic_version"} == set(TABLES)
        command.downgrade(config, "base")
        assert schema(connection) == []


def test_a_batch_copy_loses_the_triggers_until_the_table_is_protected_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_ledger(f"sqlite:///{path}")
    for row in ROWS:
        ledger.append(row)
    with sa.create_engine(f"sqlite:///{path}").begin() as connection:
        context = MigrationContext.configure(connection, opts={"render_as_batch": True})
        with Operations.context(context) as operations:
            with operations.batch_alter_table("run_events", recreate="always") as batch:
                batch.add_column(sa.Column("remark", sa.Text))
            assert expected_triggers(connection) - triggers(connection) == {f"run_events_no_{v}" for v in ("update", "delete", "replace")}
            protect("run_events", ["run_id", "kind", "window"])
        assert triggers(connection) == expected_triggers(connection)
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute("UPDATE run_events SET detail = 'lie'")
    raw.close()


def test_a_ledger_of_the_first_version_gets_log_entries(tmp_path: Path) -> None:
    """Rows from before the log stand in it in the order of their creation, with the leaves that the program makes."""
    url = f"sqlite:///{tmp_path}/old.db"
    config = migration_config()
    with sa.create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for i, row in enumerate([*ROWS, OpeningRow(COMMITMENT.commitment_id, 0, STATEMENT.statement_id, "1")]):
            created = datetime(2026, 1, 1, 0, 0, max(i - 5, 0), tzinfo=UTC)
            connection.execute(sa.insert(models.TABLES[type(row)]).values(models.content(row) | {"created": created}))
    ledger = open_ledger(url)
    size = len(ROWS) + 1
    leaves = ledger.log_leaves(0, size)
    assert ledger.log_size() == size and len(set(leaves)) == size and ledger.unlogged_rows() == []
    assert ledger.log_hashes(0, size) == [bytes.fromhex(models.leaf_hash(leaf)) for leaf in leaves]
    later = [models.leaf(row) for row in ROWS[6:]]
    assert leaves[-3:-1] == later and b'"table":"openings"' in leaves[-1]
    earlier = [json.loads(leaf)["table"] for leaf in leaves[:6]]
    assert earlier == sorted(earlier)
    assert [(run.run_id, run.model) for run in ledger.query_runs()] == [("run-1", "")]


def test_migrated_schema_is_the_declared_one(path: Path) -> None:
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.metadata) == []
        inspector = sa.inspect(connection)
        for table in models.metadata.tables.values():
            assert inspector.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
            found = {(fk["constrained_columns"][0], fk["referred_table"]) for fk in inspector.get_foreign_keys(table.name)}
            assert found == {(fk.parent.name, fk.column.table.name) for fk in table.foreign_keys}


def test_interrupted_creation_leaves_nothing_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"

    steps = iter([False] * 3)  # the third table's triggers are interrupted

    def interrupted() -> bool:
        try:
            return next(steps)
        except StopIteration:
            raise KeyboardInterrupt from None

    with monkeypatch.context() as patch:
        patch.setattr("migrations.append_only.on_postgresql", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_ledger(url)
    raw = sqlite3.connect(tmp_path / "ledger.db")
    assert raw.execute("SELECT name FROM sqlite_master").fetchall() == []
    raw.close()
    assert open_ledger(url).append(ROWS[0])
