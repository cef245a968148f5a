"""The private store: adapter snapshots, boundary activations, witnesses and blinding seeds, by name.

Never the public object store and never read by an auditor. Writing a name again replaces it atomically. Names are relative
paths such as "RUN/window-0/state-1"; bytes in, bytes out. Contract of both implementations (LocalPrivateStore here, a bucket
of its own in s3_private.py), held by tests/storage/test_private.py on both:

* create(name, data) -> bool: write a secret that is absent; False, and nothing written, if it is there. The one of several
  machines that gets True made it, and the others read it back;
* put(name, data), get(name) (MissingObject names an absent one), has(name), names(prefix) sorted;
* remove(name): an absent one is no error, so that an interrupted clean-up can be repeated;
* locks: a local folder for this machine's lock files.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from storage.disk import complete_temporary, explain_os_errors, make_folder, path_of_file_url, sync_folder
from storage.errors import MissingObject, StorageError
from storage.object_store import path_parts

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


class PrivateStore(Protocol):
    """What every private store does; see the module's contract."""

    where: str
    locks: Path

    def create(self, name: str, data: bytes) -> bool: ...

    def put(self, name: str, data: bytes) -> None: ...

    def get(self, name: str) -> bytes: ...

    def has(self, name: str) -> bool: ...

    def remove(self, name: str) -> None: ...

    def names(self, prefix: str = "") -> Iterator[str]: ...


def secret_parts(name: str) -> list[str]:
    """The parts of a secret's name."""
    return path_parts(name, "name in the private store")


class LocalPrivateStore:
    """Named secrets in a folder that only its owner can read: files of mode 600 in folders of mode 700."""

    def __init__(self, root: Path) -> None:
        self.root = self.locks = root
        self.where = str(root)
        make_folder(root.parent, 0o755)  # what lies around the store is not secret
        make_folder(root, _FOLDER_MODE)
        mode = stat.S_IMODE(root.stat().st_mode)
        if mode & 0o077:
            raise StorageError(
                f"private store {root} can be read by other users (mode {mode:o}): run chmod 700 {root}, or choose "
                "another folder as storage.private"
            )

    def create(self, name: str, data: bytes) -> bool:
        """Write one secret if it is absent; whether it was."""
        path = self._path(name)
        make_folder(path.parent, _FOLDER_MODE)
        with complete_temporary(path.parent, data, _FILE_MODE) as temporary, explain_os_errors(path):
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            sync_folder(path.parent)
            return True

    def put(self, name: str, data: bytes) -> None:
        """Write or atomically replace one secret."""
        path = self._path(name)
        make_folder(path.parent, _FOLDER_MODE)
        with complete_temporary(path.parent, data, _FILE_MODE) as temporary, explain_os_errors(path):
            os.replace(temporary, path)
            sync_folder(path.parent)

    def get(self, name: str) -> bytes:
        """The bytes of one secret."""
        path = self._path(name)
        with explain_os_errors(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                raise MissingObject(f"{name!r} is not in the private store {self.root}") from None

    def has(self, name: str) -> bool:
        """Whether a secret of that name exists."""
        return self._path(name).is_file()

    def remove(self, name: str) -> None:
        """Delete one secret, if it is there."""
        path = self._path(name)
        with explain_os_errors(path):
            path.unlink(missing_ok=True)

    def names(self, prefix: str = "") -> Iterator[str]:
        """All names that start with `prefix`, sorted."""
        found = (path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith("."))
        yield from sorted(name for path in found if (name := path.relative_to(self.root).as_posix()).startswith(prefix))

    def _path(self, name: str) -> Path:
        return self.root.joinpath(*secret_parts(name))


def open_private_store(url: str) -> PrivateStore:
    """The store that run.yaml's storage.private names: file:PATH (created with mode 700 if absent) or s3://BUCKET/PREFIX?…."""
    if url.startswith("s3:"):
        from storage.s3_private import S3PrivateStore, parse_private_url  # boto3 only where a bucket is used

        return S3PrivateStore(parse_private_url(url, "storage.private"))
    return LocalPrivateStore(path_of_file_url(url, "storage.private"))


def private_store_exists(url: str) -> bool:
    """Whether the store was used before from this machine; opening one that was not would make its folder or key file."""
    if url.startswith("s3:"):
        from storage.s3_private import parse_private_url

        return Path(parse_private_url(url, "storage.private").options["key"]).exists()
    return path_of_file_url(url, "storage.private").is_dir()


def refuse_shared(objects_url: str, private_url: str) -> None:
    """StorageError if secrets would lie where public objects do: in the same bucket, or in folders inside one another."""
    if objects_url.startswith("s3:") and private_url.startswith("s3:"):
        # compared by name alone: one bucket may have several endpoints
        if urlsplit(objects_url).netloc == urlsplit(private_url).netloc:
            raise StorageError(
                "storage.private and storage.objects are in the same bucket: valid are two buckets of different names, because "
                "objects are public"
            )
    elif not objects_url.startswith("s3:") and not private_url.startswith("s3:"):
        public = path_of_file_url(objects_url, "storage.objects").resolve()
        private = path_of_file_url(private_url, "storage.private").resolve()
        if public == private or public in private.parents or private in public.parents:
            raise StorageError(
                "storage.private and storage.objects lie in each other: valid are two separate folders, because objects are public"
            )
