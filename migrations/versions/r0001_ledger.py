"""The ledger's first tables: runs, commitments, statements, openings, proofs, verdicts, run_events; all append-only.

Columns are explained in storage/models.py; a test holds both equal.
"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

from migrations.append_only import create_functions, drop_functions, protect, release

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.String(64)
_NAME = sa.String(200)

_KEYS = {
    "runs": [["run_id"]],
    "commitments": [["run_id", "name", "window", "layer"]],
    "statements": [["statement_id"], ["run_id", "kind", "window", "layer", "part"]],
    "openings": [["commitment_id", "slot"]],
    "proofs": [["statement_id"]],
    "verdicts": [["verification", "run_id", "subject"]],
    "run_events": [["run_id", "kind", "window"]],
}


def _created() -> "sa.Column[datetime]":
    return sa.Column("created", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _key(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*_KEYS[table][0], name=f"pk_{table}")


def _of_run(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=f"fk_{table}_run_id_runs")


def _of_statement(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_statement_id_statements"
    return sa.ForeignKeyConstraint(["statement_id"], ["statements.statement_id"], name=name)


def upgrade() -> None:
    create_functions()
    op.create_table(
        "runs",
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("manifest_digest", _ID, nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        _created(), _key("runs"),
    )
    op.create_table(
        "commitments",
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("window", sa.Integer, nullable=False),
        sa.Column("layer", sa.Integer, nullable=False),
        sa.Column("commitment_id", _ID, nullable=False),
        sa.Column("root", _ID, nullable=False),
        sa.Column("geometry", sa.Text, nullable=False),
        sa.Column("budget", sa.Integer),
        _created(), _key("commitments"), _of_run("commitments"),
    )
    op.create_index("ix_commitments_commitment_id", "commitments", ["commitment_id"])
    op.create_table(
        "statements",
        sa.Column("statement_id", _ID, nullable=False),
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("window", sa.Integer, nullable=False),
        sa.Column("layer", sa.Integer, nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        _created(), _key("statements"), _of_run("statements"),
        sa.UniqueConstraint(*_KEYS["statements"][1], name="uq_statements_run_id_kind_window_layer_part"),
    )
    op.create_table(
        "openings",
        sa.Column("commitment_id", _ID, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("statement_id", _ID, nullable=False),
        sa.Column("attempt", _NAME, nullable=False),
        _created(), _key("openings"), _of_statement("openings"),
    )
    op.create_table(
        "proofs",
        sa.Column("statement_id", _ID, nullable=False),
        sa.Column("object_digest", _ID, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("prover", _NAME, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("soundness", sa.Text, nullable=False),
        _created(), _key("proofs"), _of_statement("proofs"),
    )
    op.create_table(
        "verdicts",
        sa.Column("verification", _NAME, nullable=False),
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("subject", _ID, nullable=False),
        sa.Column("verifier", _NAME, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("signature", sa.Text),
        _created(), _key("verdicts"), _of_run("verdicts"),
    )
    op.create_table(
        "run_events",
        sa.Column("run_id", _NAME, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("window", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        _created(), _key("run_events"), _of_run("run_events"),
    )
    for table, keys in _KEYS.items():
        protect(table, *keys)


def downgrade() -> None:
    for table in reversed(_KEYS):
        release(table)
        op.drop_table(table)
    drop_functions()
