"""repair: what is lost comes back if a replica proves it, nothing else does, damaged bytes stay, and it says what it could not do."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.fsck import fsck
from storage.ledger import open_ledger
from storage.models import NONE, EventRow, leaf
from storage.object_store import open_object_store
from storage.repair import Repaired, repair, row_of
from tests.storage.rows import ROWS
from tests.support.buckets import BUCKETS, admin, new_bucket, s3_server
from tests.support.ledger_run import Places, append_run, rewrite
from verifier.note import Policy


def places_in(folder: Path) -> Places:
    return Places(f"sqlite:///{folder}/ledger.db", f"file:{folder}/objects", f"file:{folder}/private")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    append_run(places_in(folder))
    append_run(places_in(folder), seed=8, steps=1)
    return folder


@pytest.fixture
def pair(honest: Path, tmp_path: Path) -> tuple[Places, Places]:
    """A copy to damage, and a replica."""
    for name in ("copy", "replica"):
        shutil.copytree(honest, tmp_path / name)
    return places_in(tmp_path / "copy"), places_in(tmp_path / "replica")


def mend(places: Places, replica: Places | None = None, policy: Policy | None = None) -> list[Repaired]:
    book = open_ledger(places.ledger)
    others = [open_ledger(replica.ledger, read_only=True)] if replica else []
    stores = [open_object_store(replica.objects, read_only=True)] if replica else []
    try:
        return list(repair(book, open_object_store(places.objects), stores, others, policy or places.policy()))
    finally:
        for ledger in (book, *others):
            ledger.close()


def wrong(places: Places) -> set[tuple[str, str]]:
    book = open_ledger(places.ledger, read_only=True)
    try:
        found = list(fsck(book, open_object_store(places.objects, read_only=True), places.policy()))
    finally:
        book.close()
    return {(item.kind, item.where) for item in found if not item.harmless}


def root(places: Places) -> Path:
    return Path(places.objects.removeprefix("file:"))


def damage(path: Path, data: bytes | None) -> None:
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def test_nothing_to_do(pair: tuple[Places, Places]) -> None:
    assert mend(*pair) == [] and mend(pair[0]) == []


# objects and published files ------------------------------------------------------------------------------------------


def test_objects_come_back_and_damaged_bytes_are_kept(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    files = sorted(path for path in root(places).rglob("*") if len(path.name) == 64)
    missing, flipped, swapped = files[:3]
    damage(missing, None)
    damage(flipped, b"\x00" + flipped.read_bytes()[1:])
    damage(swapped, files[4].read_bytes())
    done = mend(places, replica)
    assert {item.where for item in done if item.done} == {f"object {path.name}" for path in (missing, flipped, swapped)} and len(done) == 3
    assert wrong(places) == set()
    kept = {path.name for path in (root(places) / "damaged").iterdir()}
    assert kept == {f"{flipped.name}-0", f"{swapped.name}-0"}
    assert all(str(root(places) / "damaged") in item.what for item in done if item.where != f"object {missing.name}")
    assert mend(places, replica) == []


def test_what_has_no_intact_copy_is_said_and_left(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    lost, torn = sorted(path for path in root(places).rglob("*") if len(path.name) == 64)[:2]
    damage(lost, None)
    damage(torn, b"torn")
    damage(root(replica) / lost.relative_to(root(places)), None)
    damage(root(replica) / torn.relative_to(root(places)), b"torn as well")
    done = {item.where: item for item in mend(places, replica)}
    assert not any(item.done for item in done.values())
    assert "it has none" in done[f"object {lost.name}"].what and "damaged too" in done[f"object {torn.name}"].what
    assert torn.read_bytes() == b"torn" and not (root(places) / "damaged").exists()
    assert "no replica was given" in mend(places)[0].what


def test_tiles_and_checkpoint_are_made_again(pair: tuple[Places, Places]) -> None:
    places, _ = pair
    older = min((path for path in root(places).rglob("log/tile/0/*.p/*")), key=lambda path: int(path.name))
    tile = max((path for path in root(places).rglob("log/tile/0/*.p/*")), key=lambda path: int(path.name))
    right = tile.read_bytes()
    damage(tile, right[::-1])
    damage(root(places) / "log" / "checkpoint", b"trust me")
    done = mend(places)
    name = tile.relative_to(root(places)).as_posix()
    assert [item.where for item in done] == [name, "log/checkpoint"] and all(item.done for item in done)
    assert tile.read_bytes() == right and wrong(places) == set() and older.exists()
    assert {path.read_bytes() for path in (root(places) / "damaged").iterdir()} == {right[::-1], b"trust me"}
    damage(tile, None)
    damage(root(places) / "log" / "checkpoint", None)
    assert all(item.done for item in mend(places)) and wrong(places) == set()


def test_no_file_is_made_from_a_ledger_that_contradicts_its_checkpoint(pair: tuple[Places, Places]) -> None:
    places, _ = pair
    rewrite(places.ledger, f"UPDATE log_entries SET leaf_hash = '{'0' * 64}' WHERE position = 3")
    damage(root(places) / "log" / "checkpoint", None)
    done = mend(places)
    assert not any(item.done for item in done) and not (root(places) / "log" / "checkpoint").exists()
    assert any("contradicts what was signed" in item.what for item in done)


@pytest.fixture(params=BUCKETS)
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    with s3_server(request.param, monkeypatch) as query:
        yield new_bucket(query, ObjectLockEnabledForBucket=True), query


def test_a_bucket_repairs_itself_from_its_versions(bucket: tuple[str, str], tmp_path: Path) -> None:
    name, query = bucket
    places = Places(
        f"sqlite:///{tmp_path}/ledger.db", f"s3://{name}/audit{query}{'&' if query else '?'}lock=GOVERNANCE:1d", f"file:{tmp_path}/private"
    )
    append_run(places, steps=1)
    first, second, *_ = open_object_store(places.objects).digests()
    admin(query).put_object(Bucket=name, Key=f"audit/{first[:2]}/{first}", Body=b"overwritten")
    admin(query).delete_object(Bucket=name, Key=f"audit/{second[:2]}/{second}")
    assert wrong(places) == {("damaged-object", f"object {first}"), ("missing-object", f"object {second}")}
    done = mend(places)
    assert {item.where for item in done} == {f"object {first}", f"object {second}"} and all("earlier version" in item.what for item in done)
    assert wrong(places) == set()


# rows -----------------------------------------------------------------------------------------------------------------


def test_lost_rows_come_back_in_their_places(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    for table in ("runs", "run_events", "openings", "proofs"):
        rewrite(places.ledger, f"DELETE FROM {table}")
    assert any(kind == "missing-row" for kind, _ in wrong(places))
    done = mend(places, replica)
    assert done and all(item.done for item in done) and wrong(places) == set()
    ours, theirs = (sqlite3.connect(item.ledger.removeprefix("sqlite:///")) for item in pair)
    with contextlib.closing(ours), contextlib.closing(theirs):
        for table in ("runs", "run_events", "openings", "proofs", "log_entries", "run_index"):
            columns = ", ".join(row[1] for row in ours.execute(f"PRAGMA table_info({table})") if row[1] != "created")
            query = f"SELECT {columns} FROM {table} ORDER BY {columns}"
            assert ours.execute(query).fetchall() == theirs.execute(query).fetchall()


def test_a_lost_end_is_appended_again_with_its_checkpoint(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    book = open_ledger(places.ledger, read_only=True)
    first, size = book.checkpoints()[0].size, book.log_size()
    rows = book.log_leaves(first, size)
    book.close()
    later = [run for data in rows if (run := getattr(row_of(data), "run_id", None)) is not None][0]
    of_run = f"(SELECT statement_id FROM statements WHERE run_id = '{later}')"
    rewrite(
        places.ledger, f"DELETE FROM proofs WHERE statement_id IN {of_run}", f"DELETE FROM openings WHERE statement_id IN {of_run}",
        *(f"DELETE FROM {table} WHERE run_id = '{later}'" for table in ("statements", "commitments", "run_events", "run_index", "runs")),
        f"DELETE FROM log_entries WHERE position >= {first}", f"DELETE FROM checkpoints WHERE size > {first}",
    )
    assert ("log-rollback", "log/checkpoint") in wrong(places)
    done = mend(places, replica)
    assert done and all(item.done for item in done) and wrong(places) == set()
    book = open_ledger(places.ledger, read_only=True)
    assert book.log_size() == size and book.log_leaves(first, size) == rows
    assert [row.size for row in book.checkpoints()] == [first, size]
    book.close()


def test_rows_that_were_changed_stay_and_are_named(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    rewrite(places.ledger, "UPDATE run_events SET detail = '[]'")
    done = mend(places, replica)
    assert len(done) == 2 and not any(item.done for item in done)
    assert all("run_events" in item.where and "no way to mend" in item.what for item in done)


def test_a_replica_that_is_not_signed_right_gives_no_rows(pair: tuple[Places, Places], tmp_path: Path) -> None:
    places, replica = pair
    rewrite(places.ledger, "DELETE FROM run_events")
    before = wrong(places)
    other = places_in(tmp_path / "other")
    append_run(other, steps=1)
    assert not any(item.done for item in mend(places, other))  # another log
    assert not any(item.done for item in mend(places, replica, other.policy()))  # signed by a key that is not trusted
    rewrite(replica.ledger, "UPDATE run_events SET detail = 'better'")  # changed rows in the right log
    assert not any(item.done for item in mend(places, replica))
    assert wrong(places) == before


def test_rows_that_the_replica_never_signed_are_not_taken(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    book = open_ledger(replica.ledger)
    book.append(EventRow(book.runs()[0].run_id, "invented", NONE, "{}"))
    book.close()
    done = mend(places, replica)
    assert [item.done for item in done] == [False] and "under no checkpoint" in done[0].what
    assert wrong(places) == set()


def test_a_forked_replica_is_refused(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    for target, kind in ((places, "one"), (replica, "two")):
        book = open_ledger(target.ledger)
        book.append(EventRow(book.runs()[0].run_id, kind, NONE, "{}"))
        book.close()
        target.publish()
    done = mend(places, replica)
    assert len(done) == 1 and not done[0].done and "another one" in done[0].what


def test_without_a_policy_no_rows_are_taken(pair: tuple[Places, Places]) -> None:
    places, replica = pair
    rewrite(places.ledger, "DELETE FROM run_events")
    book, other = open_ledger(places.ledger), open_ledger(replica.ledger, read_only=True)
    done = list(repair(book, open_object_store(places.objects), (), [other], None))
    assert "--policy" in done[0].what and not any(item.done for item in done)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_is_what_its_leaf_says(row) -> None:  # type: ignore[no-untyped-def]
    assert row_of(leaf(row)) == row
