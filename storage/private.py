"""The private store: adapter snapshots, boundary activations, witnesses and blinding seeds, by name.

Never the public object store and never read by an auditor: files of mode 600 in folders of mode 700. Writing a name
again replaces it atomically. Names are relative paths such as "RUN/window-0/state-1"; bytes in, bytes out.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from storage.disk import complete_temporary, explain_os_errors, make_folder, path_of_file_url, sync_folder
from storage.errors import MissingObject, StorageError

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no "..", no hidden files, so no way out of the store


class PrivateStore:
    """Named secrets in a folder that only its owner can read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        make_folder(root.parent, 0o755)  # what lies around the store is not secret
        make_folder(root, _FOLDER_MODE)
        mode = stat.S_IMODE(root.stat().st_mode)
        if mode & 0o077:
            raise StorageError(
                f"private store {root} can be read by other users (mode {mode:o}): run chmod 700 {root}, or choose "
                "another folder as storage.private"
            )

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
        """Delete one secret; an absent one is no error, so that an interrupted clean-up can be repeated."""
        path = self._path(name)
        with explain_os_errors(path):
            path.unlink(missing_ok=True)

    def names(self, prefix: str = "") -> Iterator[str]:
        """All names that start with `prefix`, sorted."""
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and not path.name.startswith(".") and name.startswith(prefix):
                yield name

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if not all(_PART.fullmatch(part) for part in parts):
            raise StorageError(f"{name!r} is no name in the private store: parts of letters, digits, '.', '_', '-' joined by '/'")
        return self.root.joinpath(*parts)


def open_private_store(url: str) -> PrivateStore:
    """The store that run.yaml's storage.private names: file:PATH (created with mode 700 if absent)."""
    if url.startswith("s3:"):
        raise StorageError(f"storage.private {url!r}: s3:// is not supported yet, use file:PATH, for example file:var/private")
    return PrivateStore(path_of_file_url(url, "storage.private"))
