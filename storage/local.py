"""Object store in a local folder: object d lies in ROOT/d[:2]/d, read-only, linked into place complete or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from storage.disk import complete_temporary, explain_os_errors, make_folder, sync_folder
from storage.errors import MissingObject
from storage.object_store import check_bytes, checked_digest, digest_of

_FOLDER_MODE = 0o755
_FILE_MODE = 0o444  # an object never changes


class LocalObjectStore:
    """The contract of object_store.py on a local file system that has hard links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folder(root, _FOLDER_MODE)

    def put(self, data: bytes) -> str:
        """Create the object once; an existing one is read and compared, never replaced."""
        digest = digest_of(data)
        path = self._path(digest)
        if not path.exists():
            make_folder(path.parent, _FOLDER_MODE)
            with complete_temporary(path.parent, data, _FILE_MODE) as temporary, explain_os_errors(path):
                with contextlib.suppress(FileExistsError):  # another writer was first; the read below judges its bytes
                    os.link(temporary, path)
                sync_folder(path.parent)
        self.get(digest)
        return digest

    def get(self, digest: str) -> bytes:
        """The object's bytes, hashed again."""
        path = self._path(checked_digest(digest))
        with explain_os_errors(path):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                raise MissingObject(
                    f"object {digest} is not in {self.root}: restore it from a copy"
                ) from None
        return check_bytes(digest, data, str(self.root))

    def has(self, digest: str) -> bool:
        """Whether a file of that name exists."""
        return self._path(checked_digest(digest)).is_file()

    def digests(self) -> Iterator[str]:
        """All object names in order; temporary files of a killed writer are not objects."""
        for folder in sorted(path for path in self.root.iterdir() if path.is_dir()):
            yield from sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))

    def _path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest
