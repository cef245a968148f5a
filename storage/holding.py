"""Being the only one at some piece of work: a lock on this machine (a file beside the private store) and, on PostgreSQL, among machines.

Both locks belong to the process and die with it, so nobody waits for a machine that is gone. They keep two from doing the same work;
nothing rests on them: what is recorded once is created once, in the private store and in the ledger. Called by tasks/ and flows/.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from storage.ledger import Ledger
from storage.private import PrivateStore


@contextlib.contextmanager
def holding(private: PrivateStore, ledger: Ledger, key: str) -> Iterator[bool]:
    """Whether nobody else holds `key` (hexadecimal digits), and none will until the block ends."""
    with _on_this_machine(private.locks / f".{key[:16]}.lock") as free:
        if not free:
            yield False
            return
        with ledger.holding(key) as free_elsewhere:
            yield free_elsewhere


@contextlib.contextmanager
def _on_this_machine(path: Path) -> Iterator[bool]:
    handle = _locked(path)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)


def _locked(path: Path) -> int | None:
    """The open lock file, or None if somebody else has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass  # the last holder has removed the file that was opened here: there is a new one to lock
        os.close(handle)
