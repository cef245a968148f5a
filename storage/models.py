"""The audit ledger's tables and the frozen row types that cross its boundary (architecture: "The ledger").

Every table is append-only: the database itself refuses UPDATE, DELETE and REPLACE (migrations/append_only.py). A row
type's fields are its table's columns, in order; `created` is set by the database and is not part of a row's content.

Key columns are never NULL, because SQL's UNIQUE treats NULLs as different: a window, layer or part that does not apply
is NONE (-1). Ids and digests are SHA-256 as 64 hexadecimal digits. JSON columns hold canonical text exactly as it was
hashed; the ledger does not parse it. Called by storage/ledger.py alone; row types by whoever reads or appends.
"""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

NONE = -1  # a window, layer or part that does not apply

NAMING = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

_ID = sa.String(64)
_NAME = sa.String(200)


def _created() -> "sa.Column[datetime]":
    return sa.Column("created", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


runs = sa.Table(
    "runs", metadata,
    sa.Column("run_id", _NAME, primary_key=True),
    sa.Column("manifest_digest", _ID, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    _created(),
)
commitments = sa.Table(
    "commitments", metadata,
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("name", _NAME, primary_key=True),
    sa.Column("window", sa.Integer, primary_key=True),
    sa.Column("layer", sa.Integer, primary_key=True),
    sa.Column("commitment_id", _ID, nullable=False, index=True),  # a public base is the same commitment in several runs
    sa.Column("root", _ID, nullable=False),
    sa.Column("geometry", sa.Text, nullable=False),
    sa.Column("budget", sa.Integer),
    _created(),
)
statements = sa.Table(
    "statements", metadata,
    sa.Column("statement_id", _ID, primary_key=True),
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("kind", _NAME, nullable=False),
    sa.Column("window", sa.Integer, nullable=False),
    sa.Column("layer", sa.Integer, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    _created(),
    sa.UniqueConstraint("run_id", "kind", "window", "layer", "part"),
)
openings = sa.Table(
    "openings", metadata,
    sa.Column("commitment_id", _ID, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("statement_id", _ID, sa.ForeignKey("statements.statement_id"), nullable=False),
    sa.Column("attempt", _NAME, nullable=False),
    _created(),
)
proofs = sa.Table(
    "proofs", metadata,
    sa.Column("statement_id", _ID, sa.ForeignKey("statements.statement_id"), primary_key=True),
    sa.Column("object_digest", _ID, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("prover", _NAME, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("soundness", sa.Text, nullable=False),
    _created(),
)
verdicts = sa.Table(
    "verdicts", metadata,
    sa.Column("verification", _NAME, primary_key=True),
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("subject", _ID, primary_key=True),
    sa.Column("verifier", _NAME, nullable=False),
    sa.Column("accepted", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("signature", sa.Text),
    _created(),
)
run_events = sa.Table(
    "run_events", metadata,
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("kind", _NAME, primary_key=True),
    sa.Column("window", sa.Integer, primary_key=True),
    sa.Column("detail", sa.Text, nullable=False),
    _created(),
)


@dataclass(frozen=True)
class RunRow:
    """One run; manifest_digest = SHA-256 of the manifest's UTF-8 bytes (checked when appended)."""

    run_id: str
    manifest_digest: str
    manifest: str
    created: datetime | None = None


@dataclass(frozen=True)
class CommitmentRow:
    """One commitment of a run under its name (base, state, x, dx, dataset, …); budget in openings, None = unlimited."""

    run_id: str
    name: str
    window: int
    layer: int
    commitment_id: str
    root: str
    geometry: str
    budget: int | None
    created: datetime | None = None


@dataclass(frozen=True)
class StatementRow:
    """What one task proves: statement_id = SHA-256(run, kind, window, layer, part); content is the canonical JSON."""

    statement_id: str
    run_id: str
    kind: str
    window: int
    layer: int
    part: int
    content: str
    created: datetime | None = None


@dataclass(frozen=True)
class OpeningRow:
    """One spent opening slot of a commitment; written before query positions are drawn, by Ledger.spend_opening alone."""

    commitment_id: str
    slot: int
    statement_id: str
    attempt: str
    created: datetime | None = None


@dataclass(frozen=True)
class ProofRow:
    """The one proof of a statement: object, its size in bytes, who proved it in how many seconds, soundness by source."""

    statement_id: str
    object_digest: str
    size: int
    prover: str
    seconds: float
    soundness: str
    created: datetime | None = None


@dataclass(frozen=True)
class VerdictRow:
    """One verifier's verdict in one verification pass; subject is a statement id, or WHOLE_RUN."""

    verification: str
    run_id: str
    subject: str
    verifier: str
    accepted: bool
    reason: str
    signature: str | None = None
    created: datetime | None = None


@dataclass(frozen=True)
class EventRow:
    """Something that happened to a run once: finished, or stopped by an overflow in a window; detail is canonical JSON."""

    run_id: str
    kind: str
    window: int
    detail: str
    created: datetime | None = None


WHOLE_RUN = "run"  # VerdictRow.subject of a verdict on chain and run, not on one statement

Row = RunRow | CommitmentRow | StatementRow | OpeningRow | ProofRow | VerdictRow | EventRow

TABLES: dict[type, sa.Table] = {
    RunRow: runs, CommitmentRow: commitments, StatementRow: statements, OpeningRow: openings, ProofRow: proofs,
    VerdictRow: verdicts, EventRow: run_events,
}


def unique_keys(table: sa.Table) -> list[list[str]]:
    """Every set of columns that identifies a row: the primary key, then the UNIQUE constraints."""
    uniques = [c for c in table.constraints if isinstance(c, sa.UniqueConstraint)]
    return [[column.name for column in table.primary_key]] + [[column.name for column in c.columns] for c in uniques]
