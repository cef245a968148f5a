"""Everything that can go wrong in storage, each error with what the reader can do about it.

IntegrityError is the only one that means tampering; all others are conditions of the machine or of the caller.
"""


class StorageError(Exception):
    """Base of all storage errors."""


class IntegrityError(StorageError):
    """An object's bytes do not hash to its name."""


class MissingObject(StorageError):
    """The object or private file asked for is not in the store."""


class StoreFull(StorageError):
    """The device has no room; nothing that was acknowledged is lost."""


class LedgerError(StorageError):
    """The ledger cannot be opened or used."""


class LedgerVersionError(LedgerError):
    """The ledger's schema is of a version that this program does not know."""


class LedgerConflict(LedgerError):
    """Another content is already recorded under this key."""


class BudgetExhausted(LedgerError):
    """No opening of this commitment is left."""


class UnknownRun(LedgerError):
    """No run of this id is in the ledger."""
