"""What a folder adds to the contract: nothing half-written when the disk is full or the writer dies, untouched files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import StorageError, StoreFull
from storage.local import LocalObjectStore
from storage.object_store import digest_of


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def stored_files(store: LocalObjectStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_same_bytes_twice_leave_the_file_untouched(store: LocalObjectStore) -> None:
    digest = store.put(b"proof")
    (path,) = stored_files(store)
    before = path.stat()
    assert store.put(b"proof") == digest
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns) and before.st_mode & 0o777 == 0o444


FAULTS = ["write", "fsync", "link"]


@pytest.mark.parametrize("fault", [*FAULTS, "replace"])
def test_full_disk_leaves_nothing_half_written(store: LocalObjectStore, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store.put(b"kept")
    store.publish("log/checkpoint", b"old")
    real_write = os.write
    written = []

    def failing(*args: object) -> int:
        if fault == "write" and not written:
            written.append(1)
            return real_write(args[0], bytes(args[1])[:10])  # half of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fault, failing)
    if fault != "replace":
        with pytest.raises(StoreFull, match=r"free some space"):
            store.put(b"x" * 1000)
        written.clear()
    if fault != "link":
        with pytest.raises(StoreFull):
            store.publish("log/checkpoint", b"new" * 100, replace=True)
    monkeypatch.undo()
    assert sorted(path.name for path in stored_files(store)) == sorted([kept, "checkpoint"])
    assert store.get(kept) == b"kept" and store.read("log/checkpoint") == b"old"
    assert store.get(store.put(b"x" * 1000)) == b"x" * 1000


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("call", ["link", "replace"])
def test_a_write_that_failed_or_seemed_to_is_repeated(
    store: LocalObjectStore, call: str, persisted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def fails(*arguments: object) -> None:
        if persisted:
            real(*arguments)
        raise OSError(errno.EIO, "Input/output error")

    def use() -> None:
        store.publish("log/x", b"c", replace=True) if call == "replace" else store.put(b"proof")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(StorageError, match="Input/output error"):
        use()
    monkeypatch.undo()
    use()
    assert [path.name for path in stored_files(store)] == ["x" if call == "replace" else digest_of(b"proof")]


def test_killed_writer_leaves_no_object(store: LocalObjectStore) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from storage.local import LocalObjectStore\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "LocalObjectStore(Path(sys.argv[1])).put(b'late')\n"
    )
    (store.root / digest_of(b"late")[:2]).mkdir()  # so that the first fsync is that of the object
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert done.returncode == -9
    assert len(stored_files(store)) == 1  # the temporary file is there, the object is not
    assert list(store.digests()) == [] and not store.has(digest_of(b"late"))
    assert store.put(b"late") == digest_of(b"late")
    assert list(store.digests()) == [digest_of(b"late")]


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        LocalObjectStore(tmp_path / "objects")


def test_a_folder_in_an_objects_place_is_an_error_about_that_object(store: LocalObjectStore) -> None:
    (store.root / "aa" / ("a" * 64)).mkdir(parents=True)
    for use in (store.get, store.check):
        with pytest.raises(StorageError, match="a" * 64):
            use("a" * 64)
