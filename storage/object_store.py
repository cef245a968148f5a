"""The public object store: bytes named by their SHA-256, created once, never trusted; and a few files published by name.

Contract of every implementation (local.py a folder, s3.py a bucket), held by tests/storage/test_object_store.py on all of them:

* put(data) -> digest      creates the object if absent, reads it back and hashes it again before it returns;
* get(digest) -> data      hashes what it read; IntegrityError names an object that does not match, MissingObject an absent one;
* check(digest) -> size    the same judgement in bounded memory;
* has(digest)              whether an object of that name exists (its content is judged by get and check alone);
* digests()                all names, sorted;
* restore(data) -> where   puts an object in place of a missing or damaged one; the damaged bytes are kept, and where is said;
* recover(digest) -> data  an earlier version of a missing or damaged object that is right, None if the store keeps none;
* publish(path, data)      creates the file `path` once; the same bytes again are fine, others a StorageConflict. With
                           replace=True the newest bytes win (and the file is complete at every moment);
* read(path) -> data       a published file, believed by nobody: whoever reads checks hashes or signatures (MissingObject);
* set_aside(path) -> where moves a damaged published file out of the way; "" if there is none.

Digests are 64 lower-case hexadecimal digits. Paths are parts of letters, digits, '.', '_', '-' joined by '/', of which the
first is no object folder (two hexadecimal digits). No object is larger than MAX_OBJECT bytes, so an untrusted store cannot
make its reader swallow more. Called by tasks (proofs), storage/log.py (tiles, checkpoint) and by whoever verifies.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Protocol

from storage.disk import path_of_file_url
from storage.errors import IntegrityError, StorageError

MAX_OBJECT = 1 << 30

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no "..", no hidden files, so no way out of a store
_OBJECT_FOLDER = re.compile(r"[0-9a-f]{2}")
DAMAGED = "damaged"  # where damaged bytes are kept; not a name that can be published


class ObjectStore(Protocol):
    """What every object store does; see the module's contract. `where` says which one it is, without credentials."""

    where: str

    def put(self, data: bytes) -> str: ...

    def get(self, digest: str) -> bytes: ...

    def check(self, digest: str) -> int: ...

    def has(self, digest: str) -> bool: ...

    def digests(self) -> Iterator[str]: ...

    def restore(self, data: bytes) -> str: ...

    def recover(self, digest: str) -> bytes | None: ...

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> None: ...

    def read(self, path: str) -> bytes: ...

    def set_aside(self, path: str) -> str: ...


def digest_of(data: bytes) -> str:
    """SHA-256 of an object as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def checked_digest(digest: str) -> str:
    """`digest` if it is a canonical object name; anything else could name a file outside the store."""
    if not _DIGEST.fullmatch(digest):
        raise StorageError(f"{digest!r} is no object name: expected 64 lower-case hexadecimal digits")
    return digest


def path_parts(path: str, kind: str) -> list[str]:
    """The parts of a name in a store, none of which can lead out of it; `kind` says in the error what was named."""
    parts = path.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise StorageError(f"{path!r} is no {kind}: parts of letters, digits, '.', '_', '-' joined by '/'")
    return parts


def published_parts(path: str) -> list[str]:
    """The parts of a published file's name, which cannot be an object's."""
    parts = path_parts(path, "name of a published file")
    if _OBJECT_FOLDER.fullmatch(parts[0]) or parts[0] == DAMAGED:
        raise StorageError(f"{path!r} is no name of a published file: {parts[0]!r} is kept for objects")
    return parts


def checked_size(data: bytes) -> bytes:
    """`data` if it may be stored."""
    if len(data) > MAX_OBJECT:
        raise StorageError(f"an object of {len(data):,} bytes is larger than the {MAX_OBJECT:,} that a store takes in one piece")
    return data


def mismatch(digest: str, size: int, actual: str, where: str) -> IntegrityError:
    """The error that names an object whose bytes are not its own."""
    return IntegrityError(
        f"object {digest} in {where} is damaged or was tampered with: its {size} bytes hash to {actual}. "
        "Restore it from a copy: verilora repair --from COPY"
    )


def missing_text(digest: str, where: str) -> str:
    """What is said about an absent object."""
    return f"object {digest} is not in {where}: restore it from a copy: verilora repair --from COPY"


def oversized(name: str, size: int, where: str) -> IntegrityError:
    """The error about stored bytes that are too many to be an object."""
    return IntegrityError(f"{name} in {where} has {size:,} bytes, more than any object has ({MAX_OBJECT:,}): it was tampered with")


def check_bytes(digest: str, data: bytes, where: str) -> bytes:
    """`data` if it hashes to `digest`, else IntegrityError naming the object."""
    actual = digest_of(data)
    if actual != digest:
        raise mismatch(digest, len(data), actual, where)
    return data


def open_object_store(url: str, *, read_only: bool = False) -> ObjectStore:
    """The store that a URL of run.yaml's storage.objects names: file:PATH or s3://BUCKET/PREFIX?….

    For writing, a folder is created if absent and a bucket is probed for what the contract needs. With read_only a store
    that is not there is an error, and nothing is ever written.
    """
    from storage.local import LocalObjectStore  # local.py and s3.py import the contract from here

    if url.startswith("s3:"):
        from storage.s3 import S3ObjectStore, parse_s3_url  # boto3 only where a bucket is used

        return S3ObjectStore(parse_s3_url(url, "storage.objects"), read_only=read_only)
    folder = path_of_file_url(url, "storage.objects")
    if read_only and not folder.is_dir():
        raise StorageError(f"there is no object store at {folder}: check storage.objects in run.yaml, or --objects")
    return LocalObjectStore(folder)
