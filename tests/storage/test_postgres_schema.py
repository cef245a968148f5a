"""The schema on PostgreSQL: who may do what, triggers that hold for owner and superuser, up and down one revision at a time."""

import dataclasses
import logging
import subprocess

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

from cli import app
from migrations import postgres as roles
from storage import models
from storage.engine import migration_config
from storage.errors import LedgerError
from storage.ledger import open_ledger
from storage.models import VerdictRow
from tests.storage.rows import COMMITMENT, ROWS, RUN, STATEMENT, VERDICT, WHOLE
from tests.support import postgres
from tests.support.postgres import Server

TABLES = sorted(models.metadata.tables)
DENIED, KEPT = "denied", "append-only"


@pytest.fixture(scope="module")
def server() -> Server:
    return postgres.server()


@pytest.fixture(scope="module")
def filled(server: Server) -> str:
    """A ledger with a row in each table."""
    name = server.ledger()
    ledger = open_ledger(server.url(name))
    for row in ROWS:
        ledger.append(row)
    ledger.spend_opening(COMMITMENT.commitment_id, COMMITMENT.budget, STATEMENT.statement_id, "1")
    ledger.append_checkpoint(3, "a note")
    ledger.close()
    return name


def verbs(table: str) -> dict[str, str]:
    keys = models.unique_keys(models.metadata.tables[table])
    columns = [column.name for column in models.metadata.tables[table].columns]
    changed = [name for name in columns if name not in {k for key in keys for k in key}][0]
    first = ", ".join(f'"{name}"' for name in keys[0])
    same = " AND ".join(f't."{name}" = s."{name}"' for name in keys[0])
    return {
        "select": f"SELECT * FROM {table}",
        "insert": f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1",
        "update": f"UPDATE {table} SET {changed} = {changed}",
        "delete": f"DELETE FROM {table}",
        "truncate": f"TRUNCATE {table} CASCADE",
        "upsert": f"INSERT INTO {table} SELECT * FROM {table} ON CONFLICT ({first}) DO UPDATE SET {changed} = EXCLUDED.{changed}",
        "merge": f"MERGE INTO {table} t USING {table} s ON {same} WHEN MATCHED THEN DELETE",
        "disable triggers": f"ALTER TABLE {table} DISABLE TRIGGER ALL",
        "drop": f"DROP TABLE {table} CASCADE",
    }


def outcome(server: Server, name: str, user: str, statement: str) -> str:
    """What the database says to one statement, which is rolled back."""
    with server.connect(name, user) as client:
        client.execute("BEGIN READ WRITE")  # a reader may try
        try:
            client.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return DENIED
        except psycopg.errors.RestrictViolation as error:
            assert "append-only" in str(error)
            return KEPT
        except psycopg.errors.UniqueViolation:
            return "done"  # the right was there, the row too
        finally:
            client.execute("ROLLBACK")
        return "done"


def expected(user: str, table: str, verb: str) -> str:
    may_insert = user in ("verilora_writer", "super") or (user == "verilora_auditor" and table in ("verdicts", "log_entries"))
    if verb == "select":
        return DENIED if user == "plain" else "done"
    if verb == "insert":
        # an entry that repeats an old position gets past the right and is refused by the trigger
        return (KEPT if table == "log_entries" else "done") if may_insert else DENIED
    if user != "super":
        return DENIED
    return "done" if verb in ("disable triggers", "drop") else KEPT  # see test_what_the_owner_rewrites_is_seen


@pytest.mark.parametrize("user", ["super", "plain", *roles.ROLES])
@pytest.mark.parametrize("table", TABLES)
def test_who_may_do_what(server: Server, filled: str, user: str, table: str) -> None:
    tried = {verb: outcome(server, filled, user, statement) for verb, statement in verbs(table).items()}
    assert tried == {verb: expected(user, table, verb) for verb in tried}


@pytest.mark.parametrize("user", roles.ROLES)
def test_nobody_but_the_owner_touches_the_version_or_makes_tables(server: Server, filled: str, user: str) -> None:
    for statement in (
        "UPDATE alembic_version SET version_num = '9'", "DELETE FROM alembic_version", "INSERT INTO alembic_version VALUES ('9')",
        "CREATE TABLE lies (x int)", "CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "SET session_replication_role = replica", "SET ROLE super", "CREATE ROLE mine",
    ):
        assert outcome(server, filled, user, statement) == DENIED, statement
    assert outcome(server, filled, user, "SELECT * FROM alembic_version") == "done"


@pytest.mark.parametrize("verb", ["update", "delete", "truncate"])
@pytest.mark.parametrize("table", TABLES)
def test_replication_mode_does_not_silence_the_triggers(server: Server, filled: str, table: str, verb: str) -> None:
    statement = f"SET LOCAL session_replication_role = replica; {verbs(table)[verb]}"
    assert outcome(server, filled, "super", statement) == KEPT


def test_what_the_owner_rewrites_is_seen(server: Server) -> None:
    name = server.ledger()
    ledger = open_ledger(server.url(name))
    for row in ROWS:
        ledger.append(row)
    hashes = ledger.log_hashes(0, 8)
    with server.connect(name) as owner:
        owner.execute("ALTER TABLE proofs DISABLE TRIGGER ALL")
        owner.execute("UPDATE proofs SET object_digest = 'lie'")
        owner.execute("ALTER TABLE proofs ENABLE TRIGGER ALL")
    now = [bytes.fromhex(models.leaf_hash(leaf)) for leaf in ledger.log_leaves(0, 8)]
    assert ledger.log_hashes(0, 8) == hashes
    assert [i for i in range(8) if now[i] != hashes[i]] == [4]


def test_roles_at_work(server: Server) -> None:
    name = server.ledger()
    writer = open_ledger(server.url(name, "verilora_writer"))
    for row in [row for row in ROWS if row not in (VERDICT, WHOLE)]:
        assert writer.append(row)
    assert writer.spend_opening(COMMITMENT.commitment_id, 3, STATEMENT.statement_id, "1") == 0 and writer.append_checkpoint(1, "n")
    auditor = open_ledger(server.url(name, "verilora_auditor"))
    assert auditor.append(VERDICT) and auditor.append(WHOLE) and not auditor.append(WHOLE)
    for attempt in (lambda: auditor.append(dataclasses.replace(RUN, run_id="run-2")), lambda: auditor.append_checkpoint(2, "n")):
        with pytest.raises(LedgerError, match="permission denied.*append with verilora_writer"):
            attempt()
    for url_read_only in (True, False):
        reader = open_ledger(server.url(name, "verilora_reader"), read_only=url_read_only)
        assert len(reader.record("run-1").verdicts) == 2 and len(reader.log_leaves(0, 9)) == 9 and reader.query_runs(verifier="offline")
        with pytest.raises(LedgerError, match="read-only"):
            reader.append(dataclasses.replace(WHOLE, verification="p"))
    assert writer.log_size() == 9 and writer.unlogged_rows() == []
    with server.connect(name, "verilora_reader") as client:
        settings = [client.execute(f"SHOW {key}").fetchone() for key in ("statement_timeout", "default_transaction_read_only")]
    assert settings == [("30s",), ("on",)]


MINE = VerdictRow("pass-2", "run-1", "run", "me", True, "")
MY_KEY, MY_HASH = models.row_key(MINE), models.leaf_hash(models.leaf(MINE))


@pytest.mark.parametrize(("position", "table", "key", "leaf_hash"), [
    (8, "runs", '["run-1"]', MY_HASH), (8, "verdicts", MY_KEY, "0" * 64), (8, "verdicts", '["none","run-1","run"]', MY_HASH),
    (8, "verdicts", MY_KEY.replace(",", ", "), MY_HASH), (8, "verdicts", "7", MY_HASH), (8, "verdicts", "no JSON", MY_HASH),
    (8, "pg_authid", "[]", MY_HASH), (0, "verdicts", MY_KEY, MY_HASH), (9, "verdicts", MY_KEY, MY_HASH),
])
def test_an_auditor_cannot_spoil_the_log(server: Server, position: int, table: str, key: str, leaf_hash: str) -> None:
    """An entry that contradicts its row would stop every later checkpoint; the trigger recomputes a verdict's leaf."""
    name = server.ledger()
    ledger = open_ledger(server.url(name))
    for row in ROWS:
        ledger.append(row)
    with server.connect(name, "verilora_auditor") as auditor:
        auditor.execute("CREATE TEMPORARY TABLE log_entries AS SELECT 8 AS position")  # does not answer for the real one
        auditor.execute("INSERT INTO public.verdicts VALUES ('pass-2', 'run-1', 'run', 'me', true, '')")
        entry = "INSERT INTO public.log_entries VALUES (%s, %s, %s, %s)"
        kinds = (psycopg.errors.RestrictViolation, psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidTextRepresentation)
        with pytest.raises(kinds):
            auditor.execute(entry, (position, leaf_hash, table, key))
        assert ledger.log_size() == 8 and ledger.unlogged_rows() == [MINE]
        auditor.execute(entry, (8, MY_HASH, "verdicts", MY_KEY))
    assert ledger.log_leaves(8, 9) == [models.leaf(MINE)]


def test_an_owner_who_may_not_create_roles(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    name = server.database()
    server.ledger()  # so that the roles exist
    with server.connect(name) as admin:
        admin.execute(f"ALTER DATABASE {name} OWNER TO plain")
    monkeypatch.setattr(roles, "ROLES", (*roles.ROLES, "verilora_absent"))
    with caplog.at_level(logging.WARNING):
        ledger = open_ledger(server.url(name, "plain"))
    assert "may not create roles, so verilora_absent are missing" in caplog.text and "verilora ledger roles" in caplog.text
    assert ledger.append(RUN)
    assert open_ledger(server.url(name, "verilora_reader"), read_only=True).run("run-1").run_id == "run-1"


def test_the_printed_sql_gives_the_rights_of_the_migration(server: Server) -> None:
    name = server.ledger()
    with sa.create_engine(server.url(name)).connect() as connection:
        migrated = schema(connection)
    with server.connect(name) as admin:
        for role in roles.ROLES:
            admin.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}")
        assert outcome(server, name, "verilora_reader", "SELECT * FROM runs") == DENIED
        printed = CliRunner().invoke(app, ["ledger", "roles"])
        assert printed.exit_code == 0
        admin.execute(printed.output)
    with sa.create_engine(server.url(name)).connect() as connection:
        assert schema(connection) == migrated


def schema(connection: sa.Connection) -> list[tuple[object, ...]]:
    """Tables with columns, constraints, indexes, triggers and their state, functions, and rights."""
    queries = (
        "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
        "WHERE table_schema = 'public'",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled::text FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'public'",
    )
    rows = [tuple(row) for query in queries for row in connection.exec_driver_sql(query)]
    return sorted((row for row in rows if "alembic_version" not in str(row[0])), key=str)


def test_stairway(server: Server) -> None:
    """Every revision up, down, up again leaves the same schema; afterwards every table has its triggers, enabled always."""
    config = migration_config()
    revisions = [revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()][::-1]
    with sa.create_engine(server.url(server.database())).connect() as connection:
        config.attributes["connection"] = connection
        for revision in revisions:
            before = schema(connection)
            command.upgrade(config, revision)
            up = schema(connection)
            assert up != before
            if revision == revisions[0]:
                connection.execute(sa.insert(models.runs).values(models.content(RUN)))
            command.downgrade(config, "-1")
            assert schema(connection) == before
            command.upgrade(config, revision)
            assert schema(connection) == up
            found = set(connection.exec_driver_sql("SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal").all())
            tables = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
            gap = {"log_entries_no_gap"} if "log_entries" in tables else set()
            assert found == {(name, "A") for name in gap | {f"{t}_no_{kind}" for t in tables for kind in ("change", "truncate")}}
        command.downgrade(config, "base")
        assert schema(connection) == []


def test_a_migration_waits_for_whoever_appends(server: Server) -> None:
    """Also when Alembic is called by itself: the lock is taken before the version is read."""
    name = server.ledger()
    config = migration_config()
    config.set_main_option("sqlalchemy.url", server.url(name) + "&options=-c%%20lock_timeout=30ms")
    command.upgrade(config, "head")
    with server.connect(name) as appending:
        appending.execute(f"SELECT pg_advisory_lock({roles.LOCK})")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            command.downgrade(config, "0001")
    assert open_ledger(server.url(name)).log_size() == 0


def test_migrated_schema_is_the_declared_one(server: Server, filled: str) -> None:
    with sa.create_engine(server.url(filled)).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, models.metadata) == []


def test_a_ledger_of_the_first_version_gets_log_entries(server: Server) -> None:
    url = server.url(server.database())
    config = migration_config()
    with sa.create_engine(url).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for row in ROWS:
            connection.execute(sa.insert(models.TABLES[type(row)]).values(models.content(row)))
    ledger = open_ledger(url)
    leaves = ledger.log_leaves(0, len(ROWS))
    assert sorted(leaves) == sorted(models.leaf(row) for row in ROWS)
    assert ledger.log_hashes(0, len(ROWS)) == [bytes.fromhex(models.leaf_hash(leaf)) for leaf in leaves]


def test_a_restored_dump_is_the_same_ledger(server: Server, filled: str) -> None:
    programs = postgres.binaries()
    assert programs is not None
    name = server.database()
    where = ["-h", str(server.folder), "-U", "super"]
    dump = subprocess.run([programs / "pg_dump", *where, filled], check=True, capture_output=True).stdout
    subprocess.run([programs / "psql", *where, "-q", "-v", "ON_ERROR_STOP=1", "-d", name], input=dump, check=True, capture_output=True)
    before, after = open_ledger(server.url(filled)), open_ledger(server.url(name))
    size = before.log_size()
    assert after.log_leaves(0, size) == before.log_leaves(0, size) and after.log_hashes(0, size) == before.log_hashes(0, size)
    assert after.checkpoints() == before.checkpoints() and after.record("run-1") == before.record("run-1")
    with before._engine.connect() as one, after._engine.connect() as other:
        assert schema(one) == schema(other)
    assert after.append(dataclasses.replace(WHOLE, verification="after")) and after.log_size() == size + 1
