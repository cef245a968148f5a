"""What a verifier is given of a live ledger: the same evidence as a bundle holds, and which run is meant.

    ledger rows + inclusion proofs under the newest signed checkpoint + objects  →  verifier.bundle.Bundle

Nothing here is believed or judged: verifier/evidence.py does that. Imports no prover code. Called by tasks/verify.py, flows and
the command line.
"""

from collections.abc import Callable, Iterable

from protocol.errors import VerificationError
from protocol.statement import Name
from storage.bundle import logged_run
from storage.errors import IntegrityError, LedgerError, MissingObject, UnknownRun
from storage.ledger import Ledger
from storage.log import LogPublisher
from storage.models import CommitmentRow, RunRow
from verifier.bundle import Bundle, LoggedRow

_LIVE_LIMIT = 1 << 40  # rows of a live ledger are in memory anyway
_LISTED = 10  # runs that a message names


class AmbiguousRun(LedgerError):
    """The beginning of a run id that more than one run has."""


def find_run(ledger: Ledger, text: str) -> RunRow:
    """The run whose id is `text` or, if only one does, begins with it; UnknownRun lists some that exist."""
    runs = ledger.runs()
    found = [row for row in runs if row.run_id == text] or [row for row in runs if text and row.run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(row.run_id for row in found[:_LISTED])
        raise AmbiguousRun(f"{text!r} begins {len(found)} run ids: {some}{', …' if len(found) > _LISTED else ''}. Give more of it")
    known = ", ".join(row.run_id for row in runs[:_LISTED]) or "none, the ledger is empty"
    more = f" and {len(runs) - _LISTED} more (verilora ledger query)" if len(runs) > _LISTED else ""
    raise UnknownRun(f"no run {text!r} in the ledger. Known runs: {known}{more}")


def recorded_root(ledger: Ledger, run_id: str) -> Callable[[Name], str]:
    """Gives the root that the ledger has for a commitment of a run; LedgerError if it has none."""

    def root(name: Name) -> str:
        row = ledger.commitment(run_id, name.base, name.window, name.layer)
        if row is None:
            raise LedgerError(f"run {run_id} has no commitment {name} in the ledger: it is not that far")
        return row.root

    return root


def commitment_roots(rows: Iterable[CommitmentRow]) -> tuple[dict[str, bytes], str]:
    """Roots by commitment name, and what is wrong with the rows ("" if nothing); a root that is no hex becomes empty."""
    roots: dict[str, bytes] = {}
    fault = ""
    for row in rows:
        text = str(Name(row.name, row.window))
        if text in roots:
            fault = fault or f"commitment-row: {text} is recorded twice"
        try:
            roots[text] = bytes.fromhex(row.root)
        except ValueError:
            fault = fault or f"commitment-row: {text} has the root {row.root[:80]!r}, which is no SHA-256 digest"
            roots[text] = b""
    return roots, fault


def collect(log: LogPublisher, run_id: str, since: int = 0, cosigned: bool = False) -> Bundle:
    """The evidence about one run under the newest checkpoint, or the newest cosigned one, with the log's consistency proof from size
    `since` (0: none)."""
    found = logged_run(log, run_id, since, cosigned)

    def read(digest: str) -> bytes:
        try:
            return log.objects.get(digest)
        except MissingObject as error:
            raise VerificationError("missing-object", digest, "in the object store", str(error)) from None
        except IntegrityError as error:
            raise VerificationError("damaged-object", digest, "bytes of this SHA-256", str(error)) from None

    rows = [LoggedRow(position, leaf, path) for position, leaf, path in found.rows]  # a database's trouble shows here, not as a verdict
    return Bundle(run_id, found.note, since, found.consistency, rows, read, limit=_LIVE_LIMIT)
