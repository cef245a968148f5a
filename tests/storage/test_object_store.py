"""The object store's contract on every implementation: a folder, a bucket in moto, a bucket on a real gateway.

Created once, read back and re-hashed, every damage named, nothing lost by restoring, names that cannot leave the store.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.errors import IntegrityError, MissingObject, StorageConflict, StorageError
from storage.object_store import ObjectStore, digest_of, open_object_store
from tests.support.buckets import BUCKETS, admin, new_bucket, s3_server


class Place:
    """A store, and the back door to what it holds."""

    def __init__(self, url: str, query: str = "") -> None:
        self.url, self.query = url, query
        self.store: ObjectStore = open_object_store(url)

    def key(self, name: str) -> str:
        return f"{name[:2]}/{name}" if len(name) == 64 else name

    def write(self, name: str, data: bytes | None) -> None:
        """Change (or with None delete) what lies under a name."""
        raise NotImplementedError

    def held(self) -> set[str]:
        """All keys."""
        raise NotImplementedError


class Folder(Place):
    @property
    def root(self) -> Path:
        return Path(self.url.removeprefix("file:"))

    def write(self, name: str, data: bytes | None) -> None:
        path = self.root / self.key(name)
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)

    def held(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()}


class Bucket(Place):
    @property
    def bucket(self) -> str:
        return self.url.removeprefix("s3://").partition("/")[0]

    def write(self, name: str, data: bytes | None) -> None:
        where = {"Bucket": self.bucket, "Key": f"some/prefix/{self.key(name)}"}
        if data is None:
            admin(self.query).delete_object(**where)
        else:
            admin(self.query).put_object(**where, Body=data)

    def held(self) -> set[str]:
        found = admin(self.query).list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {item["Key"].removeprefix("some/prefix/") for item in found} - {"create-once"}


@pytest.fixture(params=["folder", *BUCKETS])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "folder":
        yield Folder(f"file:{tmp_path}/objects")
        return
    with s3_server(request.param, monkeypatch) as query:
        yield Bucket(f"s3://{new_bucket(query)}/some/prefix{query}", query)


def test_round_trip_and_names(place: Place) -> None:
    datas = [b"", b"one", bytes(range(256)) * 10000]
    digests = [place.store.put(data) for data in datas]
    assert digests[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [place.store.get(digest) for digest in digests] == datas
    assert [place.store.check(digest) for digest in digests] == [len(data) for data in datas]
    place.store.publish("log/checkpoint", b"not an object")
    assert list(place.store.digests()) == sorted(digests)
    assert all(place.store.has(digest) for digest in digests) and not place.store.has("0" * 64)
    assert place.store.where.partition(' at ')[0] in place.url


def test_same_bytes_twice_are_one_object(place: Place) -> None:
    digest = place.store.put(b"proof")
    assert place.store.put(b"proof") == digest and open_object_store(place.url).put(b"proof") == digest
    assert place.held() == {f"{digest[:2]}/{digest}"}


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: b""])
def test_every_damage_is_named(place: Place, damage) -> None:
    data = b"some proof bytes"
    digest = place.store.put(data)
    place.write(digest, damage(data))
    # create once: putting it again reports a damaged object and does not paper it over
    for use in (lambda: place.store.get(digest), lambda: place.store.check(digest), lambda: place.store.put(data)):
        with pytest.raises(IntegrityError, match=digest):
            use()


def test_two_objects_swapped_are_both_found(place: Place) -> None:
    first, second = place.store.put(b"first"), place.store.put(b"second")
    place.write(first, b"second")
    place.write(second, b"first")
    for digest in (first, second):
        with pytest.raises(IntegrityError, match=digest):
            place.store.get(digest)


def test_missing_object_is_named(place: Place) -> None:
    for use in (place.store.get, place.store.check):
        with pytest.raises(MissingObject, match="a" * 64):
            use("a" * 64)


def test_restoring_keeps_the_damaged_bytes(place: Place) -> None:
    digest, other = place.store.put(b"proof"), place.store.put(b"other")
    place.write(other, None)
    assert place.store.restore(b"other") == "" and place.store.get(other) == b"other"
    for damaged in (b"pro0f", b"proofs"):
        place.write(digest, damaged)
        assert digest in place.store.restore(b"proof")
        assert place.store.get(digest) == b"proof"
    assert place.store.restore(b"proof") == ""  # nothing to do
    kept = {name for name in place.held() if name.startswith("damaged/")}
    assert kept == {f"damaged/{digest}-0", f"damaged/{digest}-1"}
    assert list(place.store.digests()) == sorted([digest, other])


@pytest.mark.parametrize("name", ["", "../" * 20 + "etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_name_objects(place: Place, name: str) -> None:
    for use in (place.store.get, place.store.has, place.store.check):
        with pytest.raises(StorageError, match="no object name"):
            use(name)


def test_a_published_file_is_created_once(place: Place) -> None:
    path = "log/tile/0/x001/234.p/5"
    with pytest.raises(MissingObject, match=path):
        place.store.read(path)
    place.store.publish(path, b"hashes")
    place.store.publish(path, b"hashes")
    with pytest.raises(StorageConflict, match=path):
        place.store.publish(path, b"other hashes")
    assert place.store.read(path) == b"hashes"


def test_a_published_file_is_replaced_on_demand(place: Place) -> None:
    for data in (b"one", b"two", b""):
        place.store.publish("log/checkpoint", data, replace=True)
        assert place.store.read("log/checkpoint") == data
    assert place.held() == {"log/checkpoint"}


def test_a_published_file_is_set_aside(place: Place) -> None:
    assert place.store.set_aside("log/tile/0/000") == ""
    for data in (b"one", b"two"):
        place.store.publish("log/tile/0/000", data)
        assert "log-tile-0-000" in place.store.set_aside("log/tile/0/000")
    assert place.held() == {"damaged/log-tile-0-000-0", "damaged/log-tile-0-000-1"}


OUTSIDE = ["", "/log", "../log", "log/../../x", "log//x", "log/.x", "log/", "log/x\n", "log/ü"]


@pytest.mark.parametrize("path", [*OUTSIDE, "ab/cd", "damaged/x"])
def test_published_names_stay_inside_and_off_the_objects(place: Place, path: str) -> None:
    for use in (place.store.read, place.store.set_aside, lambda p: place.store.publish(p, b"x")):
        with pytest.raises(StorageError, match="no name of a published file"):
            use(path)
    assert place.held() == set()


def test_one_of_many_writers_wins(place: Place) -> None:
    if "s3:" in place.url and not place.query:
        pytest.skip("moto has no locks between threads")
    with ThreadPoolExecutor(8) as pool:
        contents = [b"writer %d" % n for n in range(8)]

        def write(data: bytes) -> bool:
            try:
                place.store.publish("log/first", data)
                return True
            except StorageConflict:
                return False

        won = list(pool.map(write, contents))
        digests = set(pool.map(place.store.put, [b"same"] * 8))
    assert sum(won) == 1 and place.store.read("log/first") == contents[won.index(True)]
    assert digests == {digest_of(b"same")} and place.held() == {"log/first", f"{digest_of(b'same')[:2]}/{digest_of(b'same')}"}


def test_a_reader_writes_nothing(place: Place) -> None:
    digest = place.store.put(b"proof")
    before = place.held()
    reader = open_object_store(place.url, read_only=True)
    assert reader.get(digest) == b"proof" and reader.has(digest) and place.held() == before


def test_what_is_too_large_is_neither_put_nor_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = place.store.put(b"x" * 100)
    for module in ("object_store", "local", "s3"):
        monkeypatch.setattr(f"storage.{module}.MAX_OBJECT", 99)
    with pytest.raises(StorageError, match="one piece"):
        place.store.put(b"y" * 100)
    with pytest.raises(IntegrityError, match="tampered"):
        place.store.get(digest)


def test_open_by_url(tmp_path: Path) -> None:
    digest = open_object_store(f"file:{tmp_path}/a").put(b"data")
    assert open_object_store(f"file://{tmp_path}/a").has(digest)
    for url in ("file:", "file://host/path", "http://host", "objects"):
        with pytest.raises(StorageError, match="file:"):
            open_object_store(url)
    with pytest.raises(StorageError, match="there is no object store"):
        open_object_store(f"file:{tmp_path}/b", read_only=True)
    assert not (tmp_path / "b").exists()
