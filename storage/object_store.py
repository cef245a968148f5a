"""The public object store: bytes named by their SHA-256, created once, never trusted.

Contract of every implementation (local.py now; a bucket on S3 has its place here and is refused by name until it exists):

* put(data) -> digest   creates the object if absent, reads it back and hashes it again before it returns;
* get(digest) -> data   hashes what it read; IntegrityError names an object that does not match, MissingObject an absent one;
* has(digest)           whether an object of that name exists (its content is judged by get alone);
* digests()             all names, sorted.

Digests are 64 lower-case hexadecimal digits. Called by tasks (proofs, commitments) and by whoever verifies.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Protocol

from storage.disk import path_of_file_url
from storage.errors import IntegrityError, StorageError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ObjectStore(Protocol):
    """What every object store does; see the module's contract."""

    def put(self, data: bytes) -> str: ...

    def get(self, digest: str) -> bytes: ...

    def has(self, digest: str) -> bool: ...

    def digests(self) -> Iterator[str]: ...


def digest_of(data: bytes) -> str:
    """SHA-256 of an object as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def checked_digest(digest: str) -> str:
    """`digest` if it is a canonical object name; anything else could name a file outside the store."""
    if not _DIGEST.fullmatch(digest):
        raise StorageError(f"{digest!r} is no object name: expected 64 lower-case hexadecimal digits")
    return digest


def check_bytes(digest: str, data: bytes, where: str) -> bytes:
    """`data` if it hashes to `digest`, else IntegrityError naming the object."""
    actual = digest_of(data)
    if actual != digest:
        raise IntegrityError(
            f"object {digest} in {where} is damaged or was tampered with: its {len(data)} bytes hash to {actual}. "
            "Restore it from a copy"
        )
    return data


def open_object_store(url: str) -> ObjectStore:
    """The store that a URL of run.yaml's storage.objects names: file:PATH (created if absent)."""
    from storage.local import LocalObjectStore  # local.py imports the contract from here

    if url.startswith("s3:"):
        raise StorageError(f"storage.objects {url!r}: s3:// is not supported yet, use file:PATH, for example file:var/objects")
    return LocalObjectStore(path_of_file_url(url, "storage.objects"))
