"""The log's side of the ledger: one entry for each appended row, and the leaves re-made from the rows as they are now.

An entry says which row (table and primary key) stands at which position of the transparency log and what its leaf hashed to
when it was appended (storage/models.py: leaf, leaf_hash). The position is one more than the last; the caller's transaction
holds the ledger's lock, so there is no gap, and a trigger refuses one. Functions on a connection; called by storage/ledger.py.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any, TypeVar

import sqlalchemy as sa

from storage.errors import LedgerError
from storage.models import TABLES, Row, content_columns, leaf, leaf_hash, log_entries, row_key

_BATCH = 400  # keys in one query; SQLite allows 32,766 parameters, a key has up to four
_CLASSES = {table.name: kind for kind, table in TABLES.items()}

T = TypeVar("T")


def append_entry(connection: sa.Connection, row: Row) -> None:
    """Give a row that was just inserted the next position."""
    connection.execute(sa.insert(log_entries).values(
        position=log_size(connection), leaf_hash=leaf_hash(leaf(row)), row_table=TABLES[type(row)].name, row_key=row_key(row),
    ))


def log_size(connection: sa.Connection) -> int:
    """Number of entries, from the last position."""
    last = connection.scalar(sa.select(sa.func.max(log_entries.c.position)))
    return 0 if last is None else int(last) + 1


def hashes(connection: sa.Connection, start: int, stop: int) -> list[bytes]:
    """Leaf hashes as they were recorded, positions start … stop − 1."""
    return [_digest(entry.position, entry.leaf_hash) for entry in _entries(connection, start, stop)]


def leaves(connection: sa.Connection, start: int, stop: int) -> list[bytes]:
    """Leaves of the same positions, made from the rows of this moment; b"" where the row is gone."""
    found: list[bytes] = []
    for entries in _batches(_entries(connection, start, stop)):
        wanted: dict[str, list[str]] = {}
        for entry in entries:
            wanted.setdefault(entry.row_table, []).append(entry.row_key)
        rows = {table: _rows_by_key(connection, table, keys) for table, keys in wanted.items()}
        found += [leaf(row) if (row := rows[entry.row_table].get(entry.row_key)) else b"" for entry in entries]
    return found


def entry(connection: sa.Connection, position: int) -> tuple[str, str]:
    """Table and row_key that an entry names."""
    [found] = _entries(connection, position, position + 1)
    return str(found.row_table), str(found.row_key)


def positions(connection: sa.Connection, rows: Iterable[Row]) -> list[tuple[int, bytes]]:
    """Position and leaf of each of these rows that has an entry, ascending."""
    return sorted((position, leaf(row)) for row, position in _with_positions(connection, rows) if position is not None)


def unlogged(connection: sa.Connection) -> list[Row]:
    """Rows without an entry: somebody wrote them past the program."""
    found: list[Row] = []
    for kind in TABLES:
        found_rows = connection.execute(sa.select(*content_columns(kind)), execution_options={"yield_per": _BATCH})
        rows = (kind(*values) for values in found_rows)
        found += [row for row, position in _with_positions(connection, rows) if position is None]
    return found


def _entries(connection: sa.Connection, start: int, stop: int) -> list[Any]:
    position = log_entries.c.position
    query = sa.select(log_entries).where(position >= start, position < stop).order_by(position)
    entries = list(connection.execute(query))
    for expected, entry in enumerate(entries, start):
        if entry.position != expected:
            raise _gap(expected)
    if len(entries) != max(stop - start, 0):
        raise _gap(start + len(entries))
    return entries


def _gap(position: int) -> LedgerError:
    return LedgerError(
        f"the ledger's log has no entry {position}. If it ever had one, rows were removed past the program: run `verilora fsck`, "
        "and compare with a checkpoint kept elsewhere"
    )


def _digest(position: int, text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except (ValueError, TypeError):
        digest = b""
    if len(digest) != 32:
        raise LedgerError(
            f"entry {position} of the ledger's log holds {str(text)[:80]!r} for a SHA-256 hash: it was changed past the program"
        )
    return digest


def _rows_by_key(connection: sa.Connection, name: str, keys: Iterable[str]) -> dict[str, Row]:
    """Rows of one table by row_key; a key that is none of this table's finds nothing."""
    kind = _CLASSES.get(name)
    if kind is None:
        return {}
    columns = list(TABLES[kind].primary_key)
    decoded = [key for key in map(_decode, keys) if len(key) == len(columns) and all(map(_fits, columns, key))]
    query = sa.select(*content_columns(kind)).where(sa.tuple_(*columns).in_(decoded))
    rows = [kind(*values) for values in connection.execute(query)] if decoded else []
    return {row_key(row): row for row in rows}


def _decode(key: str) -> list[Any]:
    try:
        value = json.loads(key)
    except (ValueError, TypeError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _fits(column: "sa.Column[Any]", value: object) -> bool:
    if isinstance(column.type, sa.Integer):
        return type(value) is int and abs(value) < 1 << 31
    return isinstance(value, str) and "\x00" not in value


def _with_positions(connection: sa.Connection, rows: Iterable[Row]) -> Iterator[tuple[Row, int | None]]:
    entry = log_entries.c
    for kind, alike in groupby(rows, type):  # one table a query: a list of pairs would cost PostgreSQL its index
        for batch in _batches(alike):
            keys = [row_key(row) for row in batch]
            query = sa.select(entry.row_key, entry.position).where(entry.row_table == TABLES[kind].name, entry.row_key.in_(keys))
            found = dict(connection.execute(query).tuples().all())
            yield from ((row, found.get(key)) for row, key in zip(batch, keys))


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
