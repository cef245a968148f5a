"""fsck: an honest ledger is clean; each damage to each kind of row, object and file is found, and its name is told."""

import shutil
from pathlib import Path

import pytest

from storage.checkpoint import create_keys
from storage.errors import StoreUnavailable
from storage.findings import Finding
from storage.fsck import fsck, object_fault
from storage.fsck_log import check_log
from storage.ledger import open_ledger
from storage.models import NONE, EventRow
from storage.object_store import open_object_store
from storage.private import open_private_store
from tests.support.corrupt import CorruptingStore, deleted, extend, flip, instead, truncate
from tests.support.ledger_run import Places, append_run, rewrite
from verifier.note import Policy


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A ledger of a finished run and one in progress, with checkpoints after each; the first run's id."""
    folder = tmp_path_factory.mktemp("honest")
    first = append_run(places_in(folder))
    append_run(places_in(folder), seed=8, steps=1, finished=False)
    return folder, first


def places_in(folder: Path) -> Places:
    return Places(f"sqlite:///{folder}/ledger.db", f"file:{folder}/objects", f"file:{folder}/private")


@pytest.fixture
def places(honest: tuple[Path, str], tmp_path: Path) -> Places:
    """A copy to damage."""
    shutil.copytree(honest[0], tmp_path / "copy")
    return places_in(tmp_path / "copy")


def findings(places: Places, policy: Policy | None = None) -> list[Finding]:
    book = open_ledger(places.ledger, read_only=True)
    try:
        return list(fsck(book, open_object_store(places.objects, read_only=True), policy or places.policy()))
    finally:
        book.close()


def named(places: Places, kind: str) -> list[str]:
    return [finding.where for finding in findings(places) if finding.kind == kind]


def test_an_honest_ledger_is_clean(honest: tuple[Path, str]) -> None:
    assert findings(places_in(honest[0])) == []


def test_what_a_stopped_process_leaves_is_no_fault(places: Places, tmp_path: Path) -> None:
    rewrite(places.ledger, "DELETE FROM checkpoints")
    (tmp_path / "copy" / "objects" / "log" / "checkpoint").unlink()
    open_object_store(places.objects).put(b"an object whose row was never appended")
    assert {(item.kind, item.harmless) for item in findings(places)} == {("unsigned", True), ("unreferenced-object", True)}


# rows -----------------------------------------------------------------------------------------------------------------

ZERO = "0" * 64
X = "WHERE name = 'x/0' AND window = 1"
X_ROW = "commitments {run} x/0@1"
OF = "WHERE statement_id = '{statement}'"
STATEMENT = "statements {statement}"
ROW_DAMAGE = {  # what is rewritten; the kind and the name that fsck must tell
    "manifest": ("UPDATE runs SET manifest = replace(manifest, '\"seed\":7', '\"seed\":6')", "manifest-digest", "runs {run}"),
    "manifest, no JSON": ("UPDATE runs SET manifest = 'x' WHERE run_id = '{run}'", "manifest", "runs {run}"),
    "manifest digest": (f"UPDATE runs SET manifest_digest = '{ZERO}' WHERE run_id = '{{run}}'", "manifest-digest", "runs {run}"),
    "root": (f"UPDATE commitments SET root = '{ZERO}' {X}", "commitment-row", X_ROW),
    "root, no hex": (f"UPDATE commitments SET root = 'zz' {X}", "commitment-row", X_ROW),
    "root of the dataset": (
        f"UPDATE commitments SET root = '{ZERO}' WHERE name = 'dataset' AND run_id = '{{run}}'", "commitment-id",
        "commitments {run} dataset"),
    "commitment id": (f"UPDATE commitments SET commitment_id = '{ZERO}' {X}", "commitment-row", X_ROW),
    "geometry": (f"UPDATE commitments SET geometry = replace(geometry, '2048', '2049') {X}", "commitment-row", X_ROW),
    "budget": (f"UPDATE commitments SET budget = 99 {X}", "commitment-row", X_ROW),
    "budget, unlimited": (f"UPDATE commitments SET budget = NULL {X}", "commitment-row", X_ROW),
    "layer": (f"UPDATE commitments SET layer = 5 {X}", "commitment-row", X_ROW),
    "commitment's name": (f"UPDATE commitments SET name = 'y/0' {X}", "foreign-row", "commitments {run} y/0@1"),
    "statement's window": (f"UPDATE statements SET window = 5 {OF}", "statement-row", STATEMENT),
    "statement's content": (
        f"UPDATE statements SET content = replace(content, '\"part\":0', '\"part\":1') {OF}", "statement-row", STATEMENT),
    "statement's content, not canonical": (f"UPDATE statements SET content = content || ' ' {OF}", "statement-row", STATEMENT),
    "proof's object": (f"UPDATE proofs SET object_digest = '{ZERO}' {OF}", "missing-object", f"object {ZERO}"),
    "proof's object, no digest": (f"UPDATE proofs SET object_digest = '../x' {OF}", "unreadable-object", "object ../x"),
    "proof's size": (f"UPDATE proofs SET size = size + 1 {OF}", "object-size", "proofs {statement}"),
    "proof's seconds": (f"UPDATE proofs SET seconds = 9 {OF}", "changed-row", 'proofs ["{statement}"]'),
    "event": ("UPDATE run_events SET detail = '[]' WHERE run_id = '{run}'", "changed-row", 'run_events ["{run}","finished",-1]'),
    "run deleted": ("DELETE FROM runs WHERE run_id = '{run}'", "missing-row", 'runs ["{run}"]'),
    "proof deleted": (f"DELETE FROM proofs {OF}", "unfinished", "proofs {statement}"),
    "opening deleted": (f"DELETE FROM openings {OF}", "missing-opening", "proofs {statement}"),
    "opening's statement": (f"UPDATE openings SET statement_id = '{{other}}' {OF}", "missing-opening", "proofs {statement}"),
    "statement deleted": (f"DELETE FROM statements {OF}", "foreign-row", "proofs [{statement}]"),
    "row slipped in": (
        "INSERT INTO run_events (run_id, kind, window, detail) VALUES ('{run}', 'praised', -1, 'x')", "unlogged-row",
        'run_events ["{run}","praised",-1]'),
    "log entry deleted": ("DELETE FROM log_entries WHERE position = 5", "log-gap", "log entry 5"),
    "log entry, no hash": ("UPDATE log_entries SET leaf_hash = 'z' WHERE position = 5", "log-gap", "log entry 5"),
    "log entry's hash": (f"UPDATE log_entries SET leaf_hash = '{ZERO}' WHERE position = 0", "changed-row", 'runs ["{run}"]'),
    "newest entries deleted": ("DELETE FROM log_entries WHERE position > 20", "log-rollback", "checkpoint of {size} entries"),
    "checkpoint's size": ("UPDATE checkpoints SET size = size - 1 WHERE size = {size}", "checkpoint", "checkpoint of {less} entries"),
    "checkpoint": ("UPDATE checkpoints SET note = 'trust me' WHERE size = {size}", "checkpoint", "checkpoint of {size} entries"),
}


@pytest.mark.parametrize("name", ROW_DAMAGE)
def test_every_rewritten_row_is_named(places: Places, honest: tuple[Path, str], name: str) -> None:
    sql, kind, where = ROW_DAMAGE[name]
    book = open_ledger(places.ledger, read_only=True)
    statements = [row.statement_id for row in book.record(honest[1]).statements if row.kind == "layer"]
    size = book.log_size()
    book.close()
    words = {"run": honest[1], "statement": statements[0], "other": statements[1], "size": size, "less": size - 1}

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace(f"{{{word}}}", str(value))
        return text

    rewrite(places.ledger, filled(sql))
    found = findings(places)
    assert (kind, filled(where)) in {(item.kind, item.where) for item in found}, found
    if sql.startswith("UPDATE") and " log_entries" not in sql and " checkpoints" not in sql:
        assert any(item.kind in ("changed-row", "missing-row") for item in found), found  # whatever the column, the log tells


def test_a_slot_too_many_and_a_gap_in_the_slots_are_named(places: Places) -> None:
    book = open_ledger(places.ledger, read_only=True)
    opening = next(row for row in book.record(book.runs()[0].run_id).openings if row.slot == 0)
    book.close()
    rewrite(places.ledger, f"UPDATE openings SET slot = 70 WHERE commitment_id = '{opening.commitment_id}' AND slot = 0")
    assert named(places, "opening-gap") == named(places, "budget") == [f"openings {opening.commitment_id}"]


def test_a_run_under_another_id_is_named(places: Places, honest: tuple[Path, str]) -> None:
    tables = ("runs", "commitments", "statements", "verdicts", "run_events", "run_index")
    rewrite(places.ledger, *(f"UPDATE {t} SET run_id = 'mine' WHERE run_id = '{honest[1]}'" for t in tables if t != "verdicts"))
    assert named(places, "run-id") == ["runs mine"]


def test_a_column_of_another_type_is_no_crash(places: Places, honest: tuple[Path, str]) -> None:
    rewrite(
        places.ledger, "UPDATE statements SET window = 'often' || statement_id", "UPDATE proofs SET size = 'large'",
        "UPDATE commitments SET root = x'ff00', budget = 'all'",
    )
    kinds = {item.kind for item in findings(places)}
    assert "changed-row" in kinds and kinds & {"commitment-row", "unreadable-row"}


def test_a_log_signed_by_somebody_else_is_named(places: Places, tmp_path: Path) -> None:
    other = create_keys(open_private_store(f"file:{tmp_path}/other"))
    found = findings(places, other.policy)
    assert {item.where for item in found if item.kind == "checkpoint"} >= {"log/checkpoint"}


def test_damage_is_named_on_both_databases(url: str, tmp_path: Path) -> None:
    places = Places(url, f"file:{tmp_path}/objects", f"file:{tmp_path}/private")
    run_id = append_run(places, steps=1)
    assert findings(places) == []
    for sql, kind in (
        ("UPDATE proofs SET seconds = 9", "changed-row"),
        ("DELETE FROM openings", "missing-row"),
        (f'INSERT INTO run_events (run_id, kind, "window", detail) '
         f"VALUES ('{run_id}', 'praised', -1, 'x')", "unlogged-row"),
        ("DELETE FROM log_entries WHERE position = 3", "log-gap"),
        (f"DELETE FROM runs WHERE run_id = '{run_id}'", "foreign-row"),
    ):
        rewrite(url, sql)
        assert kind in {item.kind for item in findings(places)}


# objects and published files ------------------------------------------------------------------------------------------


def check(places: Places, store: CorruptingStore) -> list[Finding]:
    book = open_ledger(places.ledger, read_only=True)
    try:
        return list(fsck(book, store, places.policy()))
    finally:
        book.close()


def test_every_damage_to_every_object_is_named(honest: tuple[Path, str]) -> None:
    places = places_in(honest[0])
    store = CorruptingStore(open_object_store(places.objects, read_only=True))
    digests = list(store.inner.digests())
    size = len(store.inner.get(digests[0]))
    kinds = [("damaged-object", d) for d in (flip(0), flip(size // 2, 7), truncate(0), truncate(size - 1), extend)]
    kinds += [("damaged-object", instead(store.inner.get(digests[-1]))), ("missing-object", deleted)]
    for kind, damage in kinds:
        store.damage = dict.fromkeys(digests[:5], damage)
        found = check(places, store)
        assert {(item.kind, item.where) for item in found} == {(kind, f"object {digest}") for digest in digests[:5]}


def test_every_byte_of_an_object_counts(honest: tuple[Path, str]) -> None:
    places = places_in(honest[0])
    store = CorruptingStore(open_object_store(places.objects, read_only=True))
    digest = next(store.inner.digests())
    book = open_ledger(places.ledger, read_only=True)
    row = next(row for run in book.runs() for row in book.record(run.run_id).proofs if row.object_digest == digest)
    book.close()
    for position in range(row.size):
        store.damage = {digest: flip(position, position % 8)}
        fault = object_fault(store, row)
        assert fault is not None and fault.kind == "damaged-object"
    store.damage = {}
    assert object_fault(store, row) is None


def test_every_damage_to_every_published_file_is_named(honest: tuple[Path, str]) -> None:
    places = places_in(honest[0])
    store = CorruptingStore(open_object_store(places.objects, read_only=True))
    book = open_ledger(places.ledger, read_only=True)
    old, new = (row.note.encode() for row in book.checkpoints())
    size = book.log_size()
    tile = f"log/tile/0/000.p/{size}"
    data = store.inner.read(tile)
    faults = [(tile, "damaged-tile", d) for d in (flip(0), flip(len(data) - 1, 7), truncate(32), truncate(0), extend, instead(data[::-1]))]
    faults += [(tile, "missing-tile", deleted), ("log/checkpoint", "missing-checkpoint", deleted)]
    faults += [("log/checkpoint", "stale-checkpoint", instead(old))]  # rollback
    faults += [("log/checkpoint", "checkpoint", d) for d in (truncate(len(new) - 1), extend, flip(0), instead(b""))]
    faults += [("log/checkpoint", "checkpoint", flip(position)) for position in range(0, len(new), 23)]
    for path, kind, damage in faults:
        store.damage = {path: damage}
        assert [(item.kind, item.where) for item in check_log(book, store, places.policy())] == [(kind, path)]
    book.close()


def test_an_old_ledger_beside_new_files_is_named(places: Places, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "copy" / "ledger.db", tmp_path / "old.db")
    book = open_ledger(places.ledger)
    book.append(EventRow(book.runs()[0].run_id, "noted", NONE, "{}"))
    book.close()
    places.publish()
    shutil.copy(tmp_path / "old.db", tmp_path / "copy" / "ledger.db")
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "copy" / name).unlink(missing_ok=True)
    assert named(places, "log-rollback") == ["log/checkpoint"]


def test_an_outage_is_an_error_not_a_finding(honest: tuple[Path, str]) -> None:
    places = places_in(honest[0])
    store = CorruptingStore(open_object_store(places.objects, read_only=True))

    def down(data: bytes) -> bytes:
        raise StoreUnavailable("down")

    store.damage = dict.fromkeys(store.inner.digests(), down)
    with pytest.raises(StoreUnavailable):
        check(places, store)
