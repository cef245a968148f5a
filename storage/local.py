"""Object store in a local folder, which must have hard links.

    ROOT/ab/abcd…          an object, read-only, linked into place complete or not at all
    ROOT/log/…             published files
    ROOT/damaged/NAME-N    bytes that repair moved aside
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from storage.disk import complete_temporary, explain_os_errors, make_folder, sync_folder
from storage.errors import IntegrityError, MissingObject, StorageConflict
from storage.object_store import (
    DAMAGED,
    MAX_OBJECT,
    check_bytes,
    checked_digest,
    checked_size,
    digest_of,
    mismatch,
    missing_text,
    oversized,
    published_parts,
)

_FOLDER_MODE = 0o755
_FILE_MODE = 0o444  # an object never changes
_CHUNK = 1 << 20
_OBJECT_FOLDER = re.compile(r"[0-9a-f]{2}")
_OBJECT = re.compile(r"[0-9a-f]{64}")


class LocalObjectStore:
    """The contract of object_store.py on a local file system that has hard links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)
        make_folder(root, _FOLDER_MODE)

    def put(self, data: bytes) -> str:
        """Create the object once; an existing one is read and compared, never replaced."""
        digest = digest_of(checked_size(data))
        path = self._path(digest)
        if not path.exists():
            self._create(path, data)
        self.check(digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The object's bytes, hashed again."""
        data = self._read(self._path(checked_digest(digest)), f"object {digest}", missing_text(digest, self.where))
        return check_bytes(digest, data, self.where)

    def check(self, digest: str) -> int:
        """Hash the object piece by piece; its size."""
        path = self._path(checked_digest(digest))
        hasher, size = hashlib.sha256(), 0
        with explain_os_errors(path):
            try:
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        hasher.update(chunk)
                        size += len(chunk)
            except FileNotFoundError:
                raise MissingObject(missing_text(digest, self.where)) from None
        if hasher.hexdigest() != digest:
            raise mismatch(digest, size, hasher.hexdigest(), self.where)
        return size

    def has(self, digest: str) -> bool:
        """Whether a file of that name exists."""
        return self._path(checked_digest(digest)).is_file()

    def digests(self) -> Iterator[str]:
        """All object names in order; temporary files of a killed writer are not objects."""
        with explain_os_errors(self.root):
            for folder in sorted(path for path in self.root.iterdir() if _OBJECT_FOLDER.fullmatch(path.name) and path.is_dir()):
                yield from sorted(path.name for path in folder.iterdir() if _OBJECT.fullmatch(path.name))

    def restore(self, data: bytes) -> str:
        """Put the object where it is missing or damaged; where the damaged file is now, or ""."""
        digest = digest_of(checked_size(data))
        aside = ""
        try:
            self.check(digest)
        except MissingObject:
            pass
        except IntegrityError:
            aside = self._aside(self._path(digest), digest)
        self.put(data)
        return aside

    def recover(self, digest: str) -> bytes | None:
        """A folder keeps no earlier versions."""
        return None

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> None:
        """Create a named file once, or with `replace` exchange it atomically."""
        file = self.root.joinpath(*published_parts(path))
        if replace:
            make_folder(file.parent, _FOLDER_MODE)
            with complete_temporary(file.parent, checked_size(data), _FILE_MODE) as temporary, explain_os_errors(file):
                os.replace(temporary, file)
                sync_folder(file.parent)
            return
        if not file.exists():
            self._create(file, checked_size(data))
        if self.read(path) != data:
            raise StorageConflict(f"{path} in {self.where} already holds other bytes. Find out who wrote it; it is not replaced")

    def read(self, path: str) -> bytes:
        """The bytes of a published file."""
        file = self.root.joinpath(*published_parts(path))
        return self._read(file, path, f"{path} is not in {self.where}")

    def set_aside(self, path: str) -> str:
        """Move a published file out of the way; where it is now, or ""."""
        parts = published_parts(path)
        file = self.root.joinpath(*parts)
        return self._aside(file, "-".join(parts)) if file.exists() else ""

    def _read(self, file: Path, name: str, missing: str) -> bytes:
        with explain_os_errors(file):
            try:
                with file.open("rb") as opened:
                    data = opened.read(MAX_OBJECT + 1)
            except FileNotFoundError:
                raise MissingObject(missing) from None
        if len(data) > MAX_OBJECT:
            raise oversized(name, file.stat().st_size, self.where)
        return data

    def _create(self, path: Path, data: bytes) -> None:
        make_folder(path.parent, _FOLDER_MODE)
        with complete_temporary(path.parent, data, _FILE_MODE) as temporary, explain_os_errors(path):
            with contextlib.suppress(FileExistsError):  # another writer was first; reading back judges its bytes
                os.link(temporary, path)
            sync_folder(path.parent)

    def _aside(self, path: Path, name: str) -> str:
        folder = self.root / DAMAGED
        make_folder(folder, _FOLDER_MODE)
        number = sum(1 for _ in folder.glob(f"{name}-*"))
        target = folder / f"{name}-{number}"
        with explain_os_errors(target):
            os.rename(path, target)
            sync_folder(folder)
            sync_folder(path.parent)
        return str(target)

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest
