"""The public object store: created once, re-hashed, nothing half-written when the disk is full or the writer dies."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.errors import IntegrityError, MissingObject, StorageError, StoreFull
from storage.local import LocalObjectStore
from storage.object_store import digest_of, open_object_store


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


def stored_files(store: LocalObjectStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_round_trip_and_names(store: LocalObjectStore) -> None:
    datas = [b"", b"one", bytes(range(256)) * 5000]
    digests = [store.put(data) for data in datas]
    assert digests[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [store.get(digest) for digest in digests] == datas
    assert list(store.digests()) == sorted(digests)
    assert all(store.has(digest) for digest in digests) and not store.has("0" * 64)


def test_same_bytes_twice_are_one_untouched_file(store: LocalObjectStore) -> None:
    digest = store.put(b"proof")
    (path,) = stored_files(store)
    before = path.stat()
    assert store.put(b"proof") == digest
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: b""])
def test_every_damage_is_named(store: LocalObjectStore, damage) -> None:
    digest = store.put(b"some proof bytes")
    (path,) = stored_files(store)
    path.chmod(0o644)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=digest):
        store.get(digest)
    with pytest.raises(IntegrityError, match=digest):
        store.put(b"some proof bytes")  # create once: a damaged object is reported, not papered over


def test_two_objects_swapped_are_both_found(store: LocalObjectStore) -> None:
    first, second = store.put(b"first"), store.put(b"second")
    path_1, path_2 = store._path(first), store._path(second)
    spare = path_1.with_name("spare")
    path_1.rename(spare)
    path_2.rename(path_1)
    spare.rename(path_2)
    for digest in (first, second):
        with pytest.raises(IntegrityError, match=digest):
            store.get(digest)


def test_missing_object_is_named(store: LocalObjectStore) -> None:
    with pytest.raises(MissingObject, match="a" * 64):
        store.get("a" * 64)


@pytest.mark.parametrize("name", ["", "../" * 20 + "etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_name_objects(store: LocalObjectStore, name: str) -> None:
    for ask in (store.get, store.has):
        with pytest.raises(StorageError):
            ask(name)


@pytest.mark.parametrize("fault", ["write", "fsync", "link"])
def test_full_disk_leaves_nothing_half_written(store: LocalObjectStore, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store.put(b"kept")
    real_write = os.write
    written = []

    def failing(*args: object) -> int:
        if fault == "write" and not written:
            written.append(1)
            return real_write(args[0], bytes(args[1])[:10])  # half of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fault, failing)
    with pytest.raises(StoreFull, match=r"free some space"):
        store.put(b"x" * 1000)
    monkeypatch.undo()
    assert [path.name for path in stored_files(store)] == [kept]
    assert store.get(kept) == b"kept"
    assert store.get(store.put(b"x" * 1000)) == b"x" * 1000


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
    assert list(store.digests()) == [] and store.put(b"late") == digest_of(b"late")
    assert list(store.digests()) == [digest_of(b"late")]


def test_open_by_url(tmp_path: Path) -> None:
    digest = open_object_store(f"file:{tmp_path}/a").put(b"data")
    assert open_object_store(f"file://{tmp_path}/a").has(digest)
    with pytest.raises(StorageError, match="s3:// is not supported yet"):
        open_object_store("s3://bucket/prefix")
    for url in ("file:", "file://host/path", "http://host", "objects"):
        with pytest.raises(StorageError, match="file:"):
            open_object_store(url)


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("")
    with pytest.raises(StorageError, match="not a folder"):
        LocalObjectStore(tmp_path / "objects")
