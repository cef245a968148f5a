"""Everything that can go wrong in storage, each error with what the reader can do about it.

IntegrityError and StorageConflict mean tampering or a mistake in the data; all others are conditions of the machine or of
the caller.
"""

import re

_CREDENTIALS = re.compile(r"//.*@", re.DOTALL)


def shown(value: object) -> str:
    """A setting's value for a message: what stands where a URL has user and password is left out."""
    return _CREDENTIALS.sub("//…@", repr(value))


class StorageError(Exception):
    """Base of all storage errors."""


class IntegrityError(StorageError):
    """An object's bytes do not hash to its name."""


class MissingObject(StorageError):
    """The object or private file asked for is not in the store."""


class StorageConflict(StorageError):
    """Another content is already published under this name."""


class StoreFull(StorageError):
    """The device or bucket has no room; nothing that was acknowledged is lost."""


class StoreUnavailable(StorageError):
    """The store does not answer, or answers too slowly, after all retries; trying again later may help."""


class StoreDenied(StorageError):
    """The store refuses these credentials, or there are none."""


class StoreUnsuitable(StorageError):
    """The store lacks what this program needs of it (create-once, object lock, versioning), or it is not a store at all."""


class LedgerError(StorageError):
    """The ledger cannot be opened or used."""


class LedgerUnavailable(LedgerError):
    """The ledger's database does not answer, or does not let this user in; trying again later, or other access, may help."""


class LedgerVersionError(LedgerError):
    """The ledger's schema is of a version that this program does not know."""


class LedgerConflict(LedgerError):
    """Another content is already recorded under this key."""


class BudgetExhausted(LedgerError):
    """No opening of this commitment is left."""


class UnknownRun(LedgerError):
    """No run of this id is in the ledger."""


class BadPlace(LedgerError, ValueError):
    """A URL that names no place of a kind that this program knows: a mistake of whoever wrote it, which no waiting mends."""


class BadQuery(LedgerError, ValueError):
    """A filter, page size or cursor that means nothing."""
