"""Everything public about one run in one file, for verification without ledger, object store or network.

    run's rows (leaf and position) + inclusion proofs + newest signed checkpoint + proofs  →  ZIP file, members not compressed

The format is verifier/bundle.py's. What is written is what is there: a row that was changed is exported as it is now, and its
inclusion proof fails; an object that is missing or damaged stops the export, which names it. Called by tasks/record.py (the same
evidence from a live ledger), the command line and the API.
"""

import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from protocol.encoding import canonical_json
from storage.disk import explain_os_errors
from storage.errors import LedgerError
from storage.log import LogPublisher
from verifier.note import split_note

_DATE = (1980, 1, 1, 0, 0, 0)  # the same run under the same checkpoint gives the same bytes


@dataclass(frozen=True)
class LoggedRun:
    """A run's rows as (position, leaf, inclusion proof), ascending, under the newest checkpoint; note b"" if there is none."""

    note: bytes
    size: int
    consistency: tuple[bytes, ...]
    rows: Iterator[tuple[int, bytes, tuple[bytes, ...]]]


def logged_run(log: LogPublisher, run_id: str, since: int = 0, cosigned: bool = False) -> LoggedRun:
    """A run's rows as evidence under the newest checkpoint, or the newest cosigned one, with the log's consistency proof from size
    `since` (0: none). VerificationError if the checkpoint is none.

    A row after the checkpoint has no inclusion proof. Verdicts there are left out: they are no evidence, and whoever verifies
    before the next checkpoint is no concern of the run.
    """
    note = log.newest_note(cosigned)
    size = split_note(note)[0].size if note else 0

    def rows() -> Iterator[tuple[int, bytes, tuple[bytes, ...]]]:
        for position, leaf in log.ledger.log_positions(run_id):
            if position < size:
                yield position, leaf, tuple(log.inclusion_proof(position, size))
            elif json.loads(leaf)["table"] != "verdicts":
                yield position, leaf, ()

    return LoggedRun(note, size, tuple(log.consistency_proof(since, size)) if 0 < since < size else (), rows())


def write_bundle(file: BinaryIO, log: LogPublisher, run_id: str, since: int = 0, cosigned: bool = False) -> tuple[int, int]:
    """Write one run's bundle; the numbers of rows and of proofs in it."""
    found = logged_run(log, run_id, since, cosigned)
    if not found.note:
        kind = "cosigned checkpoint" if cosigned else "signed checkpoint"
        raise LedgerError(f"the ledger's log has no {kind} yet: `verilora log checkpoint` signs one, with the provider's key")
    if since > found.size:
        raise LedgerError(f"the checkpoint has {found.size} entries, so it cannot be shown to continue one of {since}")
    header = {"consistency": [node.hex() for node in found.consistency], "run": run_id, "since": since, "version": 1}
    count, digests = 0, dict.fromkeys(row.object_digest for row in log.ledger.record(run_id).proofs)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member("bundle.json"), canonical_json(header))
        archive.writestr(_member("checkpoint"), found.note)
        with archive.open(_member("rows.jsonl"), "w", force_zip64=True) as lines:
            for position, leaf, path in found.rows:
                row = {"leaf": leaf.decode(), "path": [node.hex() for node in path], "position": position}
                lines.write(canonical_json(row) + b"\n")
                count += 1
        for digest in digests:
            archive.writestr(_member(f"objects/{digest}"), log.objects.get(digest))
    return count, len(digests)


def export_bundle(path: Path, log: LogPublisher, run_id: str, since: int = 0, cosigned: bool = False) -> tuple[int, int]:
    """`write_bundle` into a new file, which appears complete or not at all; StorageError if it exists."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with explain_os_errors(path):
            with open(temporary, "xb") as file:
                counts = write_bundle(file, log, run_id, since, cosigned)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    return info
