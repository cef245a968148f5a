"""The private store's contract on a folder and on a bucket; modes of the folder; what a bucket's owner can and cannot see."""

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.errors import IntegrityError, MissingObject, StorageError, StoreFull
from storage.private import LocalPrivateStore, PrivateStore, open_private_store, private_store_exists, refuse_shared
from tests.support.buckets import BUCKETS, admin, new_bucket, s3_server


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def fresh_bucket(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, str]]:
    """URL of a private store on a fresh bucket, the bucket, the server's part of URLs."""
    with s3_server(kind, monkeypatch) as query:
        name = new_bucket(query)
        yield f"s3://{name}/runs{query}{'&' if query else '?'}key={tmp_path}/keys/private.key", name, query


@pytest.fixture(params=BUCKETS)
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, str]]:
    with fresh_bucket(request.param, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(params=["folder", *BUCKETS])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateStore]:
    if request.param == "folder":
        yield open_private_store(f"file:{tmp_path}/private")
        return
    with fresh_bucket(request.param, tmp_path, monkeypatch) as (url, _, _):
        yield open_private_store(url)


def test_replace_names_remove(store: PrivateStore) -> None:
    store.put("a/x", b"1")
    store.put("a/y", b"")
    store.put("a-b", b"3" * 100_000)
    store.put("a/x", b"4")
    assert store.get("a/x") == b"4" and store.get("a/y") == b"" and store.get("a-b") == b"3" * 100_000
    assert list(store.names()) == ["a-b", "a/x", "a/y"]
    assert list(store.names("a/")) == ["a/x", "a/y"]
    store.remove("a/x")
    store.remove("a/x")
    assert not store.has("a/x") and store.has("a/y") and list(store.names("a/")) == ["a/y"]
    with pytest.raises(MissingObject, match="a/x"):
        store.get("a/x")
    assert store.locks.is_dir()


def test_a_secret_is_created_once(store: PrivateStore) -> None:
    assert store.create("a/key", b"mine") and not store.create("a/key", b"yours") and store.get("a/key") == b"mine"
    store.put("a/key", b"exchanged")
    assert not store.create("a/key", b"mine") and store.get("a/key") == b"exchanged"
    assert list(store.names()) == ["a/key"]


def test_one_of_many_machines_creates(store: PrivateStore) -> None:
    if "s3:" in store.where and " at " not in store.where:
        pytest.skip("moto has no locks between threads")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: store.create("log/key", b"%d" % n), range(8)))
    assert made.count(True) == 1 and store.get("log/key") == b"%d" % made.index(True)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".hidden", "a/", "a\n", "a b"])
def test_names_stay_inside(store: PrivateStore, name: str) -> None:
    for use in (store.get, store.has, store.remove, lambda n: store.put(n, b""), lambda n: store.create(n, b"")):
        with pytest.raises(StorageError, match="no name in the private store"):
            use(name)


# a folder -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_reads(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = LocalPrivateStore(tmp_path / "var" / "private")
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
        LocalPrivateStore(tmp_path / "private")


@pytest.mark.parametrize("fault", ["write", "fsync", "replace"])
def test_full_disk_keeps_the_old_content(tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalPrivateStore(tmp_path / "private")
    store.put("state", b"old")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, fault, full)
    with pytest.raises(StoreFull):
        store.put("state", b"new")
    monkeypatch.undo()
    assert store.get("state") == b"old"
    assert [path.name for path in store.root.iterdir()] == ["state"]


# a bucket -------------------------------------------------------------------------------------------------------------

SECRET = b"weights and blinding seeds " * 10


def held(bucket: str, query: str) -> dict[str, bytes]:
    client = admin(query)
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def test_the_bucket_holds_no_secret(bucket: tuple[str, str, str], tmp_path: Path) -> None:
    url, name, query = bucket
    assert not private_store_exists(url) and not (tmp_path / "keys").exists()
    store = open_private_store(url)
    assert private_store_exists(url)
    store.put("a", SECRET)
    first = held(name, query)["runs/a"]
    store.put("a", SECRET)
    again = held(name, query)["runs/a"]
    assert SECRET[:20] not in first and first != again and len(first) == len(SECRET) + 32
    key = tmp_path / "keys" / "private.key"
    assert mode(key) == 0o600 and len(key.read_text()) == 65
    assert bytes.fromhex(key.read_text().strip()) not in first
    assert open_private_store(url).get("a") == SECRET  # the key is made once


def test_the_server_is_asked_to_encrypt_too(bucket: tuple[str, str, str]) -> None:
    url, name, query = bucket
    open_private_store(url).put("a", SECRET)
    head = admin(query).head_object(Bucket=name, Key="runs/a")
    assert head.get("ServerSideEncryption") == (None if query else "AES256")  # a gateway without a key server ignores it


@pytest.mark.parametrize("damage", [
    lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b"X" + b[1:],
])
def test_damaged_secrets_are_named(bucket: tuple[str, str, str], damage) -> None:
    url, name, query = bucket
    store = open_private_store(url)
    store.put("run/state", SECRET)
    admin(query).put_object(Bucket=name, Key="runs/run/state", Body=damage(held(name, query)["runs/run/state"]))
    with pytest.raises(IntegrityError, match="run/state"):
        store.get("run/state")


def test_swapped_secrets_and_a_foreign_key_are_found(bucket: tuple[str, str, str], tmp_path: Path) -> None:
    url, name, query = bucket
    store = open_private_store(url)
    store.put("one", SECRET)
    admin(query).put_object(Bucket=name, Key="runs/two", Body=held(name, query)["runs/one"])
    with pytest.raises(IntegrityError, match="two"):
        store.get("two")
    key = tmp_path / "keys" / "private.key"
    kept = key.read_text()
    key.write_text("0" * 64)
    with pytest.raises(IntegrityError, match="another key"):
        open_private_store(url)
    key.write_text(kept)
    assert open_private_store(url).get("one") == SECRET


def test_machines_with_keys_of_their_own_cannot_both_use_an_empty_store(bucket: tuple[str, str, str], tmp_path: Path) -> None:
    url, _, _ = bucket
    other = tmp_path / "elsewhere" / "private.key"
    other.parent.mkdir(mode=0o700)
    other.write_text("1" * 64)
    other.chmod(0o600)
    store = open_private_store(url)
    with pytest.raises(IntegrityError, match="another key than .*elsewhere.*put the key file"):
        open_private_store(url.replace("/keys/", "/elsewhere/"))
    assert list(store.names()) == []
    store.put("one", SECRET)
    assert store.get("one") == SECRET


def test_a_lost_or_open_key_file_is_an_error_not_a_new_key(bucket: tuple[str, str, str], tmp_path: Path) -> None:
    url, _, _ = bucket
    open_private_store(url).put("one", SECRET)
    key = tmp_path / "keys" / "private.key"
    kept = key.read_text()
    key.unlink()
    with pytest.raises(MissingObject, match="restore the key file"):
        open_private_store(url)
    assert not key.exists()
    key.write_text(kept)
    key.chmod(0o640)
    with pytest.raises(StorageError, match="chmod 600"):
        open_private_store(url)
    key.chmod(0o600)
    assert open_private_store(url).get("one") == SECRET
    key.write_text(kept[:20])
    with pytest.raises(StorageError, match="64 hexadecimal"):
        open_private_store(url)


@pytest.mark.parametrize(("url", "part"), [
    ("s3://bucket/x", "key=PATH"), ("s3://bucket/x?key=", "key=PATH"), ("s3://bucket?key=k&sse=rot13", "sse"),
    ("s3://bucket?key=k&lock=COMPLIANCE:1d", "lock"),
])
def test_a_bucket_needs_its_key_file(url: str, part: str) -> None:
    with pytest.raises(StorageError, match=part):
        open_private_store(url)


@pytest.mark.parametrize(("objects", "private", "fine"), [
    ("file:var/objects", "file:var/private", True),
    ("file:var/objects", "file:var/objects", False),
    ("file:var/objects", "file:var/objects/private", False),
    ("file:var", "file:///etc/../var", True),
    ("file:/var/x", "file:///var/y/../x", False),
    ("s3://one", "s3://two?key=k", True),
    ("s3://one/a", "s3://one/b?key=k", False),
    ("s3://one/a?endpoint=http://127.0.0.1:1", "s3://one/b?key=k&endpoint=http://localhost:1", False),
    ("s3://one", "file:var/private", True),
])
def test_secrets_never_lie_where_objects_do(objects: str, private: str, fine: bool) -> None:
    if fine:
        refuse_shared(objects, private)
    else:
        with pytest.raises(StorageError, match="objects are public"):
            refuse_shared(objects, private)
