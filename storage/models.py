"""The audit ledger's tables and the frozen row types that cross its boundary (architecture: "The ledger").

Every table is append-only: the database itself refuses UPDATE, DELETE and REPLACE (migrations/append_only.py). A row
type's fields are its table's columns, in order; `created` is set by the database and is not part of a row's content.

Key columns are never NULL, because SQL's UNIQUE treats NULLs as different: a window, layer or part that does not apply
is NONE (-1). Ids and digests are SHA-256 as 64 hexadecimal digits. JSON columns hold canonical text exactly as it was
hashed. Each row is a leaf of the transparency log: `leaf(row)` are its bytes, log_entries holds their hash and the row's
key, checkpoints the signed tree heads. Used by storage/; row types by whoever reads or appends.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from protocol.encoding import canonical_json

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


class UtcTime(sa.TypeDecorator[datetime]):
    """A time with its zone; SQLite keeps UTC without fractions of a second, so there `since` and `until` are cut to seconds."""

    impl = sa.DateTime(timezone=True).with_variant(sqlite.DATETIME(truncate_microseconds=True), "sqlite")  # type: ignore[no-untyped-call]
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """A time without a zone is UTC."""
        return None if value is None else (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Always in UTC, whatever the database's own zone."""
        return self.process_bind_param(value, dialect)


def _created() -> "sa.Column[datetime]":
    return sa.Column("created", UtcTime, nullable=False, server_default=sa.func.now())


runs = sa.Table(
    "runs", metadata,
    sa.Column("run_id", _NAME, primary_key=True),
    sa.Column("manifest_digest", _ID, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    _created(),
    sa.Index(None, "created", "run_id"),  # the order of listings
)
run_index = sa.Table(  # what listings filter by, taken from the manifest when the run is appended; no evidence, no leaf
    "run_index", metadata,
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("model", sa.Text, nullable=False, index=True),
    sa.Column("dataset_id", sa.Text, nullable=False, index=True),
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
    sa.Column("statement_id", _ID, sa.ForeignKey("statements.statement_id"), nullable=False, index=True),
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
    sa.Index(None, "run_id", "subject"),
)
run_events = sa.Table(
    "run_events", metadata,
    sa.Column("run_id", _NAME, sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("kind", _NAME, primary_key=True),
    sa.Column("window", sa.Integer, primary_key=True),
    sa.Column("detail", sa.Text, nullable=False),
    _created(),
)
log_entries = sa.Table(  # one for each row above, in the order of appending; positions without a gap
    "log_entries", metadata,
    sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("leaf_hash", _ID, nullable=False),
    sa.Column("row_table", _NAME, nullable=False),
    sa.Column("row_key", sa.Text, nullable=False),
    sa.UniqueConstraint("row_table", "row_key"),
)
checkpoints = sa.Table(
    "checkpoints", metadata,
    sa.Column("size", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
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
    """The one proof of a statement: object, its size in bytes, who made and checked it in how many seconds, soundness by
    source."""

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


@dataclass(frozen=True)
class CheckpointRow:
    """A signed tree head: the log's first `size` entries, as a signed note."""

    size: int
    note: str


WHOLE_RUN = "run"  # VerdictRow.subject of a verdict on chain and run, not on one statement

Row = RunRow | CommitmentRow | StatementRow | OpeningRow | ProofRow | VerdictRow | EventRow

TABLES: dict[type, sa.Table] = {  # the tables whose rows are leaves of the log
    RunRow: runs, CommitmentRow: commitments, StatementRow: statements, OpeningRow: openings, ProofRow: proofs,
    VerdictRow: verdicts, EventRow: run_events,
}


def content_columns(kind: type) -> "list[sa.Column[Any]]":
    """The columns of a row type without `created`, in the order of its fields."""
    return [column for column in TABLES[kind].columns if column.name != "created"]


def content(row: Row) -> dict[str, Any]:
    """A row's columns without `created`, which the database sets."""
    return {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "created"}


def leaf(row: Row) -> bytes:
    """A row as a leaf of the log: canonical JSON {"table": …, "row": {column: value}} of content(row).

    Floats are text with six decimals, NULL is "", booleans are 0 and 1; the column's type decides, not the value's. A value
    that its column cannot hold (somebody wrote into the file) is text, so that its leaf differs and nothing fails here.
    """
    table = TABLES[type(row)]
    values = {name: _leaf_value(table.c[name], value) for name, value in content(row).items()}
    return canonical_json({"table": table.name, "row": values})


def _leaf_value(column: "sa.Column[Any]", value: Any) -> str | int:
    if value is None:
        return ""
    try:
        if isinstance(column.type, sa.Float):
            return f"{float(value):.6f}"
        return int(value) if isinstance(column.type, sa.Integer | sa.Boolean) else str(value)
    except (ValueError, TypeError, OverflowError):
        return repr(value)


def leaf_hash(data: bytes) -> str:
    """SHA-256(0x00 ‖ leaf) in hexadecimal digits (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + data).hexdigest()


def row_key(row: Row) -> str:
    """A row's primary key as canonical JSON: with its table's name, where log_entries says that a leaf comes from."""
    return canonical_json([getattr(row, column.name) for column in TABLES[type(row)].primary_key]).decode()


def unique_keys(table: sa.Table) -> list[list[str]]:
    """Every set of columns that identifies a row: the primary key, then the UNIQUE constraints."""
    uniques = [c for c in table.constraints if isinstance(c, sa.UniqueConstraint)]
    return [[column.name for column in table.primary_key]] + [[column.name for column in c.columns] for c in uniques]
