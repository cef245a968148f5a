"""The public object store in an S3 bucket: the contract of object_store.py, with the same layout as a local folder.

    s3://BUCKET/PREFIX?endpoint=http://HOST:PORT&region=NAME&lock=COMPLIANCE:30d&versioning=on

    PREFIX/ab/abcd…        an object, created with If-None-Match: *
    PREFIX/log/…           published files
    PREFIX/damaged/…       bytes that repair moved aside
    PREFIX/create-once     what the start-up probe writes

Before anything is written a probe creates one key twice and requires the second attempt to fail: a store (or a proxy before
it) that drops If-None-Match would let objects be overwritten, and is refused. lock=MODE:DAYSd asks for object lock on every
object and refuses a bucket without it; versioning=on refuses a bucket that does not keep versions.

Ceph's gateway honours If-None-Match in plain buckets and ignores it in those with versions. With lock= that is tolerated,
because nothing is lost: what was there before stays as a locked version, and `recover` finds it.
"""

import datetime
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from storage.errors import BadPlace, IntegrityError, MissingObject, StorageConflict, StorageError, StoreUnsuitable
from storage.object_store import (
    DAMAGED,
    MAX_OBJECT,
    check_bytes,
    checked_digest,
    checked_size,
    digest_of,
    mismatch,
    missing_text,
    published_parts,
)
from storage.s3_client import Bucket, Limits, Place, parse_place

_LOCK = re.compile(r"(COMPLIANCE|GOVERNANCE):([1-9][0-9]{0,4})d")
_OBJECT = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")
_PROBE, _PROBE_BYTES = "create-once", b"written twice by the start-up probe; the second attempt must fail\n"
_MAX_LINK_SECONDS = 7 * 24 * 3600  # what signature version 4 allows


def parse_s3_url(url: str, setting: str) -> Place:
    """The URL of a public store; BadPlace says what is wrong with it."""
    place = parse_place(url, setting, ("lock", "versioning"))
    if "lock" in place.options and not _LOCK.fullmatch(place.options["lock"]):
        raise BadPlace(f"{setting}: lock={place.options['lock']!r}: use lock=COMPLIANCE:30d or lock=GOVERNANCE:30d")
    if place.options.get("versioning", "on") != "on":
        raise BadPlace(f"{setting}: versioning={place.options['versioning']!r}: use versioning=on, or leave it out")
    return place


class S3ObjectStore:
    """The contract of object_store.py on a bucket. With read_only nothing is probed and nothing written."""

    def __init__(self, place: Place, *, read_only: bool = False, limits: Limits | None = None) -> None:
        self._bucket = Bucket(place, limits)
        self.where = self._bucket.where
        lock = _LOCK.fullmatch(place.options.get("lock", ""))
        self._lock = (lock[1], int(lock[2])) if lock else None
        if not read_only:
            self._require(place)

    def put(self, data: bytes) -> str:
        """Create the object once; an existing one is read and compared, never replaced."""
        digest = digest_of(checked_size(data))
        key = _key(digest)
        if not self._bucket.has(key):
            self._bucket.create(key, data, **self._retention())
        self.check(digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The object's bytes, hashed again."""
        return check_bytes(digest, b"".join(self._chunks(digest)), self.where)

    def check(self, digest: str) -> int:
        """Hash the object piece by piece; its size."""
        hasher, size = hashlib.sha256(), 0
        for chunk in self._chunks(digest):
            hasher.update(chunk)
            size += len(chunk)
        if hasher.hexdigest() != digest:
            raise mismatch(digest, size, hasher.hexdigest(), self.where)
        return size

    def has(self, digest: str) -> bool:
        """Whether an object of that name exists."""
        return self._bucket.has(_key(checked_digest(digest)))

    def digests(self) -> Iterator[str]:
        """All object names in order."""
        for key in self._bucket.list():
            if found := _OBJECT.fullmatch(key):
                yield found[2]

    def restore(self, data: bytes) -> str:
        """Put the object where it is missing or damaged; where the damaged bytes are now, or ""."""
        digest = digest_of(checked_size(data))
        aside = ""
        try:
            self.check(digest)
            return aside
        except MissingObject:
            self.put(data)
        except IntegrityError:
            aside = self._aside(_key(digest), digest)
            self._bucket.put(_key(digest), data, **self._retention())  # the damaged copy is kept, so nothing is lost
            self.check(digest)
        return aside

    def recover(self, digest: str) -> bytes | None:
        """An earlier version of the object that hashes to its name, if the bucket keeps versions and has one."""
        key = _key(checked_digest(digest))
        for version in self._bucket.versions(key):
            try:
                data = b"".join(self._chunks(digest, version))
            except (MissingObject, IntegrityError):
                continue
            if digest_of(data) == digest:
                return data
        return None

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """Create a named file once, or with `replace` exchange it."""
        key = "/".join(published_parts(path))
        if replace:
            self._bucket.put(key, checked_size(data))
        else:
            if self._lock is None or not self._bucket.has(key):
                self._bucket.create(key, checked_size(data), **self._retention())
            if self.read(path) != data:
                raise StorageConflict(f"{path} in {self.where} already holds other bytes. Find out who wrote it; it is not replaced")

    def read(self, path: str) -> bytes:
        """The bytes of a published file."""
        key = "/".join(published_parts(path))
        return b"".join(self._bucket.chunks(key, path, f"{path} is not in {self.where}", MAX_OBJECT))

    def set_aside(self, path: str) -> str:
        """Copy a published file out of the way and delete it; where it is now, or ""."""
        parts = published_parts(path)
        key = "/".join(parts)
        if not self._bucket.has(key):
            return ""
        aside = self._aside(key, "-".join(parts))
        with self._bucket.explained(key):
            self._bucket.client.delete_object(**self._bucket.name(key))
        return aside

    def link(self, digest: str, seconds: int) -> str:
        """A URL with which anybody can read one object for so many seconds, without credentials."""
        if not 1 <= seconds <= _MAX_LINK_SECONDS:
            raise StorageError(f"a link can be valid for 1 to {_MAX_LINK_SECONDS} seconds, not {seconds}")
        with self._bucket.explained(digest):
            request = {"Params": self._bucket.name(_key(checked_digest(digest))), "ExpiresIn": seconds}
            return str(self._bucket.client.generate_presigned_url("get_object", **request))

    def _chunks(self, digest: str, version: str = "") -> Iterator[bytes]:
        key = _key(checked_digest(digest))
        return self._bucket.chunks(key, f"object {digest}", missing_text(digest, self.where), MAX_OBJECT, version)

    def _retention(self) -> dict[str, Any]:
        if self._lock is None:
            return {}
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=self._lock[1])
        return {"ObjectLockMode": self._lock[0], "ObjectLockRetainUntilDate": until}

    def _aside(self, key: str, name: str) -> str:
        prefix = f"{DAMAGED}/{name}-"
        target = f"{prefix}{sum(1 for _ in self._bucket.list(prefix))}"
        source = self._bucket.name(key)
        with self._bucket.explained(key):
            self._bucket.client.copy_object(**self._bucket.name(target), CopySource=source)
        return f"{self.where}: {target}"

    def _require(self, place: Place) -> None:
        """Refuse a bucket that lacks what the contract or the URL asks for."""
        bucket = self._bucket
        if self._lock is not None and not self._has_lock():
            raise StoreUnsuitable(f"{self.where}: the bucket has no object lock. Create one with object lock, or leave out lock=")
        if self._lock is None and bucket.create(_PROBE, _PROBE_BYTES) and bucket.create(_PROBE, _PROBE_BYTES):
            raise StoreUnsuitable(
                f"{self.where} does not honour create-once: it (or a proxy before it) accepted a second write with If-None-Match: *. "
                "Objects there could be overwritten. Use a store that answers 412, for example AWS S3, or a Ceph bucket without "
                "versions, or one with object lock and lock=COMPLIANCE:30d in the URL"
            )
        if "versioning" in place.options:
            with bucket.explained("versioning"):
                if bucket.client.get_bucket_versioning(Bucket=place.bucket).get("Status") != "Enabled":
                    raise StoreUnsuitable(f"{self.where}: versioning is not enabled on this bucket. Enable it, or leave out versioning=on")

    def _has_lock(self) -> bool:
        try:
            with self._bucket.explained("object lock"):
                found = self._bucket.client.get_object_lock_configuration(Bucket=self._bucket.place.bucket)
                return bool(found["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled")
        except MissingObject:  # ObjectLockConfigurationNotFoundError is a 404
            return False


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"
