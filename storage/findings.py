"""What fsck says: one Finding for each row, object or file that is wrong, and its kinds.

    damaged-object, missing-object, object-size, unreadable-object, unreferenced-object (harmless)
    changed-row, missing-row, unlogged-row, foreign-row, unreadable-row
    manifest, manifest-digest, run-id, commitment-row, commitment-id, statement-row, unfinished
    budget, opening-gap, missing-opening
    log-gap, log-rollback, checkpoint, missing-checkpoint, stale-checkpoint, damaged-tile, missing-tile, unsigned (harmless)
"""

from collections.abc import Callable
from dataclasses import dataclass

from storage.errors import LedgerUnavailable, StorageError, StoreDenied, StoreFull, StoreUnavailable, StoreUnsuitable

Progress = Callable[[str, int, int], None]  # what is being checked, done, total (0: not known)

CONDITIONS = (LedgerUnavailable, StoreDenied, StoreFull, StoreUnavailable, StoreUnsuitable)


@dataclass(frozen=True)
class Finding:
    """`where` names one row, object or file; harmless ones are told and change no exit code."""

    kind: str
    where: str
    what: str
    harmless: bool = False


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def not_a_condition(error: StorageError) -> StorageError:
    """The error, to be told as a finding; raised if it is about the machine and not about what is stored."""
    if isinstance(error, CONDITIONS):
        raise error
    return error
