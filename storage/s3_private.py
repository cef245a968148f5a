"""The private store in an S3 bucket of its own, encrypted before it leaves this machine.

    s3://BUCKET/PREFIX?endpoint=…&region=…&key=PATH_OF_KEY_FILE&sse=AES256

A secret is stored as  "VLP1" ‖ nonce (12 bytes) ‖ AES-256-GCM(key, nonce, data, aad = "verilora private store/1 " ‖ name), so that the
store can neither read it nor swap two of them unnoticed; an older version of the same secret it can return (what is read is
compared with the commitment in the ledger wherever it matters). Names are visible. The key file holds 64 hexadecimal digits,
mode 600; it is made on first use, while the bucket's prefix is empty. Without it everything in the store is lost: keep a copy.
Machines that share the store have copies of one key file: the first writes ".key-check", encrypted nothing, and a store that cannot
be opened with a machine's key says so before that machine writes secrets which the others could not read.
Encryption at rest by the server is asked for as well (sse=none for a server that has none).
"""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from storage.disk import complete_temporary, explain_os_errors, make_folder, sync_folder
from storage.errors import BadPlace, IntegrityError, MissingObject, StorageError
from storage.private import secret_parts
from storage.s3_client import Bucket, Limits, Place, parse_place

_MAGIC = b"VLP1"
_NONCE_BYTES = 12
_AAD = b"verilora private store/1 "
MAX_SECRET = (1 << 31) - 1024  # what one AES-GCM call takes
_KEY_CHECK = ".key-check"  # no name of a secret begins with a dot
_KEY = re.compile(r"[0-9a-f]{64}\n?")


def parse_private_url(url: str, setting: str) -> Place:
    """The URL of a private store; the key file must be named."""
    place = parse_place(url, setting, ("key", "sse"))
    if not place.options.get("key"):
        raise BadPlace(f"{setting} names no key file: add key=PATH, a file that is made on first use and must be kept")
    if place.options.get("sse", "AES256") not in ("AES256", "aws:kms", "none"):
        raise BadPlace(f"{setting}: sse={place.options['sse']!r}: use sse=AES256, sse=aws:kms or sse=none")
    return place


class S3PrivateStore:
    """The contract of private.py on a bucket; lock files lie beside the key file."""

    def __init__(self, place: Place, *, limits: Limits | None = None) -> None:
        self._bucket = Bucket(place, limits)
        self.where = self._bucket.where
        path = Path(place.options["key"])
        self.locks = path.parent
        sse = place.options.get("sse", "AES256")
        self._sse = {} if sse == "none" else {"ServerSideEncryption": sse}
        self._cipher = AESGCM(self._key(path))
        self._check_key()

    def create(self, name: str, data: bytes) -> bool:
        """Write one secret if it is absent; whether it was."""
        key = "/".join(secret_parts(name))
        # asked first, because some servers ignore the condition in buckets that keep versions
        return not self._bucket.has(key) and self._bucket.create(key, self._encrypted(name, data), **self._sse)

    def put(self, name: str, data: bytes) -> None:
        """Write or atomically replace one secret."""
        self._bucket.put("/".join(secret_parts(name)), self._encrypted(name, data), **self._sse)

    def get(self, name: str) -> bytes:
        """The bytes of one secret; IntegrityError if they are not what was put under this name with this key."""
        return self._read("/".join(secret_parts(name)), name)

    def _read(self, key: str, name: str) -> bytes:
        where = f"the private store {self.where}"
        stored = b"".join(self._bucket.chunks(key, repr(name), f"{name!r} is not in {where}", MAX_SECRET + 1024))
        head = len(_MAGIC) + _NONCE_BYTES
        try:
            if stored[:4] != _MAGIC or len(stored) < head + 16:
                raise InvalidTag
            return self._cipher.decrypt(stored[4:head], stored[head:], _AAD + name.encode())
        except InvalidTag:
            raise IntegrityError(
                f"{name!r} in {where} is damaged, was swapped, or was encrypted with another key: restore it, or the key file "
                f"{self._bucket.place.options['key']} that belongs to this store"
            ) from None

    def has(self, name: str) -> bool:
        """Whether a secret of that name exists."""
        return self._bucket.has("/".join(secret_parts(name)))

    def remove(self, name: str) -> None:
        """Delete one secret, if it is there. A bucket that keeps versions keeps the encrypted bytes."""
        key = "/".join(secret_parts(name))
        with self._bucket.explained(key):
            self._bucket.client.delete_object(**self._bucket.name(key))

    def names(self, prefix: str = "") -> Iterator[str]:
        """All names that start with `prefix`, sorted."""
        yield from (key for key in self._bucket.list(prefix) if key != _KEY_CHECK)

    def _encrypted(self, name: str, data: bytes) -> bytes:
        if len(data) > MAX_SECRET:
            raise StorageError(f"{name!r} has {len(data):,} bytes; the private store takes {MAX_SECRET:,} in one piece")
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _MAGIC + nonce + self._cipher.encrypt(nonce, data, _AAD + name.encode())

    def _check_key(self) -> None:
        """This machine's key must be the one that the store's other users have."""
        if not self._bucket.has(_KEY_CHECK):
            self._bucket.create(_KEY_CHECK, self._encrypted(_KEY_CHECK, b""), **self._sse)
        try:
            self._read(_KEY_CHECK, _KEY_CHECK)
        except IntegrityError:
            raise IntegrityError(
                f"the private store {self.where} was encrypted with another key than {self._bucket.place.options['key']}: put the key file "
                "of the machine that used the store first there"
            ) from None

    def _key(self, path: Path) -> bytes:
        with explain_os_errors(path):
            if not path.exists():
                self._new_key(path)
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise StorageError(f"key file {path} can be used by other users (mode {mode:o}): run chmod 600 {path}")
            text = path.read_bytes().decode("latin-1")
        if not _KEY.fullmatch(text):
            raise StorageError(f"key file {path} does not hold 64 hexadecimal digits: restore it from your copy")
        return bytes.fromhex(text.strip())

    def _new_key(self, path: Path) -> None:
        if next(self._bucket.list(), None) is not None:
            raise MissingObject(
                f"there is no key file {path}, but {self.where} already holds secrets, which no other key can read: restore the "
                "key file, or use an empty prefix"
            )
        make_folder(path.parent, 0o700)
        with complete_temporary(path.parent, secrets.token_hex(32).encode() + b"\n", 0o600) as temporary:
            with contextlib.suppress(FileExistsError):  # a process that was faster has made the key that counts
                os.link(temporary, path)
            sync_folder(path.parent)
