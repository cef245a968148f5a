"""Backup and restore, tried: copies made in the middle of a run, work that went on, something or everything lost, the copies brought back.

What was copied at rest continues elsewhere. A ledger older than what private store or published log have seen is refused before
anything is appended: openings spent since the copy would be spent again. docs/operations.md has the same as instructions.
"""

import contextlib
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from protocol.manifest import RunManifest
from protocol.statement import Name
from storage.checkpoint import KEY_NAME, load_keys, load_seen
from storage.errors import IntegrityError, StorageError
from storage.fsck import fsck
from storage.ledger import open_ledger
from storage.log import NEWEST
from storage.models import NONE, EventRow
from storage.object_store import open_object_store
from storage.repair import repair
from tasks.backlog import Backlog
from tasks.context import RunContext, RunError, Stores, open_stores
from tasks.deliver import delivered
from tasks.plan import planned, start
from tasks.prove import prove_statement
from tasks.record import collect, recorded_root
from tasks.train import train_window
from tasks.verify import judge
from tests.support import postgres
from tests.tasks.toy_run import toy_draft
from verifier.note import Policy, parse_checkpoint

FINISHED, OPEN = "a" * 64, "b" * 64  # plans' keys
Moment = Literal["copy", "later"]


def backup(url: str, file: Path) -> None:
    """A consistent copy of a ledger that is in use."""
    if url.startswith("sqlite"):
        source, target = sqlite3.connect(url.removeprefix("sqlite:///")), sqlite3.connect(file)
        with contextlib.closing(source), contextlib.closing(target):
            source.backup(target)
        return
    database = url.partition("?")[0].rpartition("/")[2]
    with file.open("wb") as out:
        subprocess.run(postgres_command("pg_dump", "--format=custom", database), stdout=out, check=True)


def restore(file: Path, folder: Path, kind: str) -> str:
    """The URL of a ledger made from a copy."""
    if kind == "sqlite":
        shutil.copy(file, folder / "ledger.db")
        return f"sqlite:///{folder / 'ledger.db'}"
    server = postgres.server()
    name = server.database()
    subprocess.run(postgres_command("pg_restore", "--exit-on-error", f"--dbname={name}", str(file)), check=True)
    return server.url(name)


def postgres_command(program: str, *arguments: str) -> list[str]:
    programs = postgres.binaries()
    assert programs is not None
    return [str(programs / program), f"--host={postgres.server().folder}", "--username=super", *arguments]


@dataclass(frozen=True)
class Site:
    """Stores of one place."""

    ledger_url: str
    folder: Path

    def open(self) -> Stores:
        return open_stores(self.ledger_url, f"file:{self.folder / 'objects'}", f"file:{self.folder / 'private'}")

    def run(self, key: str = OPEN) -> RunContext:
        """The run as `verilora run` finds it."""
        found = planned(self.open(), key)
        assert found is not None
        return found

    def joined(self) -> RunContext:
        """The run as a worker finds it, which reads no plan."""
        stores = self.open()
        run_id = next(row.run_id for row in stores.ledger.runs() if not stores.ledger.record(row.run_id).events)
        return joined(stores, run_id)

    def rows(self) -> int:
        return self.open().ledger.log_size()


def joined(stores: Stores, run_id: str) -> RunContext:
    return RunContext(stores, run_id, RunManifest.from_json(stores.ledger.run(run_id).manifest.encode()))


def policy_of(stores: Stores) -> Policy:
    keys = load_keys(stores.private)
    assert keys is not None
    return keys.policy


def faults(stores: Stores) -> list[str]:
    return [item.where for item in fsck(stores.ledger, stores.objects, policy_of(stores)) if not item.harmless]


def go_on(run: RunContext, proofs: int = 1000) -> int:
    """Train and prove in order, up to so many proofs; their number."""
    done = 0
    for window in range(-1, len(run.manifest.windows())):
        if window >= 0:
            train_window(run, window)
        for task in [task for task in run.statements.values() if task.window == window]:
            if done == proofs:
                return done
            done += prove_statement(run, task).fresh
    run.stores.ledger.append(EventRow(run.run_id, "finished", NONE, "{}"))
    run.stores.log.publish()
    return done


def accepted(run: RunContext) -> bool:
    return judge(collect(run.stores.log, run.run_id), workers=1).accepted


@dataclass(frozen=True)
class Copies:
    """Ledger, objects and private store at two moments; `site` puts any of them together."""

    folder: Path
    kind: str

    def site(self, folder: Path, ledger: Moment = "copy", objects: Moment = "copy", private: Moment = "copy") -> Site:
        folder.mkdir(exist_ok=True)
        shutil.copytree(self.folder / objects / "objects", folder / "objects")
        shutil.copytree(self.folder / private / "private", folder / "private")
        return Site(restore(self.folder / ledger / "ledger", folder, self.kind), folder)


@pytest.fixture(scope="module", params=["sqlite"])
def copies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """One run finished, another one in the middle; then a copy; then more proofs, another window, and a copy of that."""
    folder = tmp_path_factory.mktemp(f"restore-{request.param}")
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'ledger.db'}"
    else:
        server = postgres.server()
        url = server.url(server.ledger())
    site = Site(url, folder)
    if request.param == "sqlite":
        go_on(start(site.open(), toy_draft(key=FINISHED)))
    run = start(site.open(), toy_draft(key=OPEN, seed=8))
    go_on(run, 5)
    for moment in ("copy", "later"):
        (folder / moment).mkdir()
        backup(url, folder / moment / "ledger")  # the ledger first: what the others have more than it does no harm
        for name in ("objects", "private"):
            shutil.copytree(folder / name, folder / moment / name)
        if moment == "copy":
            go_on(run, 3)
    return Copies(folder, request.param)


def test_what_was_copied_at_rest_continues_elsewhere(copies: Copies, tmp_path: Path) -> None:
    run = copies.site(tmp_path, "later", "later", "later").run()
    assert go_on(run) == len(run.statements) - 8 and accepted(run)
    assert go_on(run) == 0
    budgets = {row.commitment_id: row.budget for row in run.stores.ledger.record(run.run_id).commitments}
    assert all(run.stores.ledger.openings_spent(name) <= (budget or 0) for name, budget in budgets.items())
    assert faults(run.stores) == []


def refuses(site: Site, who: str) -> None:
    """Nobody can plan, train or prove, and nothing is appended."""
    before = site.rows()
    with pytest.raises(IntegrityError, match=f"{who} has seen") as said:
        site.run()
    assert "would be spent again" in str(said.value) and "verilora repair" in str(said.value)
    run = site.joined()
    with pytest.raises(IntegrityError, match=f"{who} has seen"):
        prove_statement(run, Backlog(run).left[0][1])
    with pytest.raises(IntegrityError, match=f"{who} has seen"):
        train_window(run, 1)
    with pytest.raises(IntegrityError, match=f"{who} has seen"):
        start(site.open(), toy_draft(key="c" * 64, seed=9))  # nor can another run begin
    assert site.rows() == before


@pytest.mark.parametrize("copies", ["sqlite", "postgresql"], indirect=True)
def test_an_older_ledger_is_refused_by_its_private_store_until_it_is_repaired(copies: Copies, tmp_path: Path) -> None:
    site = copies.site(tmp_path, ledger="copy", objects="copy", private="later")
    refuses(site, "the private store .*")
    newer = open_ledger(restore(copies.folder / "later" / "ledger", make(tmp_path / "replica"), copies.kind), read_only=True)
    stores = site.open()
    done = list(repair(stores.ledger, stores.objects, [open_object_store(f"file:{copies.folder}/later/objects", read_only=True)], [newer],
                       policy_of(stores)))
    assert done and all(item.done for item in done)
    run = site.run()
    assert go_on(run) == len(run.statements) - 8 and accepted(run)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_an_older_ledger_with_its_older_private_store_is_refused_by_the_published_log(copies: Copies, tmp_path: Path) -> None:
    refuses(copies.site(tmp_path, ledger="copy", objects="later", private="copy"), f"{NEWEST} in .*")


def test_openings_spent_and_never_signed_are_missed_too(copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger is copied; an attempt spends, draws, shows its proof, and dies before it signs anything."""
    site = copies.site(tmp_path, "later", "later", "later")
    backup(site.ledger_url, tmp_path / "copy")
    run = site.run()
    put, shown = type(run.stores.objects).put, list[bytes]()

    def shows(store: object, proof: bytes) -> str:
        put(store, proof)  # type: ignore[arg-type]
        shown.append(proof)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(run.stores.objects), "put", shows)
    with pytest.raises(KeyboardInterrupt):
        prove_statement(run, Backlog(run).left[0][1])
    monkeypatch.undo()
    signed = parse_checkpoint(run.stores.objects.read(NEWEST), policy_of(run.stores))
    assert shown and load_seen(run.stores.private).size > signed.size
    refuses(Site(restore(tmp_path / "copy", make(tmp_path / "old"), copies.kind), tmp_path), "the private store .*")


def test_an_older_private_store_does_not_continue_but_new_runs_and_old_adapters_do(copies: Copies, tmp_path: Path) -> None:
    site = copies.site(tmp_path, ledger="later", objects="later", private="copy")
    run = site.run()
    before = site.rows()
    with pytest.raises(RunError, match="window 1 .* is in the ledger, but its secrets are not in the private store"):
        go_on(run)
    assert site.rows() == before
    done = site.run(FINISHED)
    assert accepted(done) and delivered(done.stores.private, done.run_id, done.manifest, recorded_root(done.stores.ledger, done.run_id))
    fresh = start(site.open(), toy_draft(key="c" * 64, seed=9))
    assert go_on(fresh) == len(fresh.statements) and accepted(fresh)


def test_lost_objects_are_named_and_come_back_from_a_copy(copies: Copies, tmp_path: Path) -> None:
    site = copies.site(tmp_path, ledger="later", objects="copy", private="later")
    stores = site.open()
    assert faults(stores)
    replica = open_object_store(f"file:{copies.folder}/later/objects", read_only=True)
    assert all(item.done for item in repair(stores.ledger, stores.objects, [replica], [], policy_of(stores)))
    assert faults(stores) == []
    run = site.run()
    assert go_on(run) == len(run.statements) - 8


def test_after_the_loss_of_everything_the_copy_is_an_archive(copies: Copies, tmp_path: Path) -> None:
    """The copy that lies with the others has no log/key. It can be verified and its adapters exported, and nothing can be proved."""
    site = copies.site(tmp_path)
    newest = parse_checkpoint((copies.folder / "later" / "objects" / NEWEST).read_bytes(), policy_of(site.open()))
    key = site.open().private.get(KEY_NAME)
    site.open().private.remove(KEY_NAME)
    before = site.rows()
    worker = site.joined()
    for refused in (site.run, lambda: train_window(worker, 1), lambda: prove_statement(worker, Backlog(worker).left[0][1])):
        with pytest.raises(StorageError, match="has no key of this ledger's log"):
            refused()
    assert site.rows() == before
    stores = site.open()
    run_id = next(row.run_id for row in stores.ledger.runs() if stores.ledger.record(row.run_id).events)
    done = joined(stores, run_id)
    assert accepted(done) and delivered(stores.private, run_id, done.manifest, recorded_root(stores.ledger, run_id))[0][1]
    assert done.opened(Name("delivered/0", len(done.manifest.windows())))
    # with its key nothing here could tell that it is older; an auditor who has seen the newer log can
    stores.private.put(KEY_NAME, key)
    go_on(site.run(), 1)
    verdict = judge(collect(site.open().log, run_id), workers=1, policy=policy_of(stores), seen=newest)
    assert not verdict.accepted and verdict.reason.startswith(("rollback", "fork", "consistency"))
