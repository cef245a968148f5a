"""Durable writes on a local disk, shared by the object store and the private store.

A file appears under its final name only complete and after fsync: temporary file in the same file system, fsync, then
link (create once) or rename (replace), then fsync of the folder, so that a power cut leaves the old state or the new.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from storage.errors import BadPlace, StorageError, StoreFull, shown

_FULL = {errno.ENOSPC, errno.EDQUOT}


def path_of_file_url(url: str, setting: str) -> Path:
    """The folder meant by file:PATH or file:///PATH; `setting` names the key in the error."""
    if not url.startswith("file:"):
        raise BadPlace(f"{setting} {shown(url)} is not supported: use file:PATH, for example file:var/objects")
    rest = url.removeprefix("file:")
    if rest.startswith("//") and not rest.startswith("///"):
        raise BadPlace(f"{setting} {shown(url)} names a host: use file:PATH or file:///ABSOLUTE/PATH")
    path = rest.removeprefix("//")
    if not path:
        raise BadPlace(f"{setting} {shown(url)} names no folder: use file:PATH, for example file:var/objects")
    return Path(path)


def make_folder(path: Path, mode: int) -> None:
    """Create `path` and its parents, each entry made durable in its parent; existing folders are left as they are."""
    if path.is_dir():
        return
    make_folder(path.parent, mode)
    with explain_os_errors(path):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        if not path.is_dir():
            raise StorageError(f"{path} exists and is not a folder: move it away or choose another folder")
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def complete_temporary(folder: Path, data: bytes, mode: int) -> Iterator[Path]:
    """A temporary file in `folder` that holds all of `data` durably; gone afterwards, whatever happens."""
    temporary = folder / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with explain_os_errors(folder):
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                os.fchmod(handle, mode)  # the umask must neither widen nor narrow it
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view):]
                os.fsync(handle)
            finally:
                os.close(handle)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a StorageError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(
                f"no space left (or quota used up) while writing under {path}. Nothing recorded so far is lost and no "
                "partial file remains: free some space, or point `storage` in run.yaml to another disk after moving "
                "the folder there, and start the same command again; it continues where it stopped"
            ) from error
        raise StorageError(f"cannot use {path}: {error.strerror or error}") from error
