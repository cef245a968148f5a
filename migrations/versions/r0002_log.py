"""The transparency log's tables, the index of listings, roles on PostgreSQL; rows that are already there get log entries.

Their positions follow their creation time, then table and key. Leaf and key are written here as storage/models.py makes them:
a revision stays what it was when that changes. Columns are explained in storage/models.py; a test holds both equal.
"""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations.append_only import on_postgresql, protect, release, release_next_position, require_next_position
from migrations.postgres import grant, revoke

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.String(64)
_NAME = sa.String(200)
_POSITION = sa.BigInteger().with_variant(sa.Integer, "sqlite")

_KEYS = {
    "run_index": [["run_id"]],
    "log_entries": [["position"], ["row_table", "row_key"]],
    "checkpoints": [["size"]],
}
_INDEXES = {
    "ix_runs_created_run_id": ("runs", ["created", "run_id"]),
    "ix_openings_statement_id": ("openings", ["statement_id"]),
    "ix_verdicts_run_id_subject": ("verdicts", ["run_id", "subject"]),
    "ix_run_index_model": ("run_index", ["model"]),
    "ix_run_index_dataset_id": ("run_index", ["dataset_id"]),
}
# the tables of revision 0001: primary key, other columns
_LOGGED = {
    "runs": ("run_id", "manifest_digest manifest"),
    "commitments": ("run_id name window layer", "commitment_id root geometry budget"),
    "statements": ("statement_id", "run_id kind window layer part content"),
    "openings": ("commitment_id slot", "statement_id attempt"),
    "proofs": ("statement_id", "object_digest size prover seconds soundness"),
    "verdicts": ("verification run_id subject", "verifier accepted reason signature"),
    "run_events": ("run_id kind window", "detail"),
}


def upgrade() -> None:
    op.create_table(
        "run_index",
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dataset_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_index"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_run_index_run_id_runs"),
    )
    op.create_table(
        "log_entries",
        sa.Column("position", _POSITION, nullable=False, autoincrement=False),
        sa.Column("leaf_hash", _ID, nullable=False),
        sa.Column("row_table", _NAME, nullable=False),
        sa.Column("row_key", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_log_entries"),
        sa.UniqueConstraint("row_table", "row_key", name="uq_log_entries_row_table_row_key"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", _POSITION, nullable=False, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_checkpoints"),
    )
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)
    _log_rows()
    _index_runs()
    for table, keys in _KEYS.items():
        protect(table, *keys)
    require_next_position()
    if on_postgresql():
        grant([*_LOGGED, *_KEYS, "alembic_version"])


def downgrade() -> None:
    if on_postgresql():
        revoke([*_LOGGED, "alembic_version"])
    release_next_position()
    for name, (table, _) in _INDEXES.items():
        op.drop_index(name, table)
    for table in reversed(_KEYS):
        release(table)
        op.drop_table(table)


def _log_rows() -> None:
    connection = op.get_bind()
    entries = []
    for name, (key, others) in _LOGGED.items():
        columns = f"{key} {others}".split()
        table = sa.table(name, *map(sa.column, [*columns, "created"]))
        for row in connection.execute(sa.select(table)).mappings():
            leaf = _canonical({"row": {column: _value(column, row[column]) for column in columns}, "table": name})
            row_key = _canonical([row[column] for column in key.split()])
            entries.append((row["created"], name, row_key, hashlib.sha256(b"\x00" + leaf.encode()).hexdigest()))
    entries.sort()
    rows = [
        {"position": position, "leaf_hash": leaf_hash, "row_table": name, "row_key": row_key}
        for position, (_, name, row_key, leaf_hash) in enumerate(entries)
    ]
    if rows:
        connection.execute(sa.insert(sa.table("log_entries", *map(sa.column, rows[0]))), rows)


def _index_runs() -> None:
    connection = op.get_bind()
    index = sa.table("run_index", *map(sa.column, ("run_id", "model", "dataset_id")))
    for run_id, text in connection.execute(sa.text("SELECT run_id, manifest FROM runs")).all():
        try:
            manifest = json.loads(text)
            found = manifest.get("name"), manifest.get("commitments", {}).get("dataset")
        except (ValueError, AttributeError, RecursionError):
            found = None, None
        model, dataset = (value.replace("\x00", "")[:200] if isinstance(value, str) else "" for value in found)
        connection.execute(sa.insert(index).values({"run_id": run_id, "model": model, "dataset_id": dataset}))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _value(column: str, value: Any) -> str | int:
    if value is None:
        return ""
    if column == "seconds":
        return f"{value:.6f}"
    return int(value) if column == "accepted" else value
