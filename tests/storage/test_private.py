"""The private store: modes, atomic replacement, names that cannot leave it."""

import errno
import os
import stat
from pathlib import Path

import pytest

from storage.errors import MissingObject, StorageError, StoreFull
from storage.private import PrivateStore, open_private_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_reads(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = PrivateStore(tmp_path / "var" / "private")
        store.put("run/window-0/state", b"secret")
        store.put("run/window-0/state", b"secret 2")
    finally:
        os.umask(before)
    folders = [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(folders) == 3 and {mode(path) for path in folders} == {0o700}
    assert len(files) == 1 and {mode(path) for path in files} == {0o600}
    assert mode(tmp_path / "var") == 0o755 & ~umask


def test_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir(mode=0o755)
    with pytest.raises(StorageError, match="chmod 700"):
        PrivateStore(tmp_path / "private")


def test_replace_names_remove(tmp_path: Path) -> None:
    store = open_private_store(f"file:{tmp_path}/private")
    store.put("a/x", b"1")
    store.put("a/y", b"2")
    store.put("b", b"3")
    store.put("a/x", b"4")
    assert store.get("a/x") == b"4"
    assert list(store.names()) == ["a/x", "a/y", "b"]
    assert list(store.names("a/")) == ["a/x", "a/y"]
    store.remove("a/x")
    store.remove("a/x")
    assert not store.has("a/x") and list(store.names("a/")) == ["a/y"]
    with pytest.raises(MissingObject, match="a/x"):
        store.get("a/x")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".hidden", "a/", "a\n", "a b"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    store = PrivateStore(tmp_path / "private")
    for use in (store.get, store.has, store.remove, lambda n: store.put(n, b"")):
        with pytest.raises(StorageError):
            use(name)


@pytest.mark.parametrize("fault", ["write", "fsync", "replace"])
def test_full_disk_keeps_the_old_content(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrivateStore(tmp_path / "private")
    store.put("state", b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fault, full)
    with pytest.raises(StoreFull):
        store.put("state", b"new")
    monkeypatch.undo()
    assert store.get("state") == b"old"
    assert [path.name for path in store.root.iterdir()] == ["state"]


def test_s3_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="s3:// is not supported yet"):
        open_private_store("s3://bucket")
