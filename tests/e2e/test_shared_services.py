"""Ledger on PostgreSQL and both stores in buckets, used by people of all roles and by several machines at once.

A tiny run, really trained and proved, goes from the writer through a reader's verdict, an auditor's receipts and an offline bundle.
What machines do at the same moment is in tests/storage/test_machines.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from fastapi.testclient import TestClient

from api.app import create_app, open_services
from flows.session import RunBusy, Session
from protocol.statement import task_list
from storage.local import LocalObjectStore
from storage.log import NEWEST
from storage.models import NONE, EventRow
from storage.tree import tile_path
from tasks.budgets import with_budgets
from tasks.context import open_stores
from tasks.plan import start
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.cli.commands import run
from tests.support.buckets import BUCKETS, admin
from tests.support.shared import Shared, shared
from tests.tasks.toy_run import toy_draft
from verifier.__main__ import main as verify_offline


def command(*arguments: object, exit_code: int = 0) -> Any:
    code, output = run(*map(str, arguments), "--json")
    assert code == exit_code, output
    return json.loads(output) if code < 2 else output


@pytest.fixture(params=BUCKETS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    with shared(tmp_path, request.param) as found:
        yield found


def verilora(folder: Path, *arguments: str) -> Any:
    """The same in a process of its own, with this project's modules."""
    program = [sys.executable, "-c", "from cli import app; app()", *arguments, "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return json.loads(done.stdout)


def audited_run(place: Shared) -> str:
    """Plan, train and prove two windows as the writer, with the tasks that `verilora run` calls."""
    drafted = toy_draft(key="7" * 64)
    manifest = replace(with_budgets(drafted.manifest, spare=2), profile="goldilocks-2^11")
    drafted = replace(drafted, manifest=manifest, prepared=replace(drafted.prepared, manifest=manifest))
    stores = open_stores(place.ledger_url(), place.objects_url, place.private_url())
    context = start(stores, drafted)
    for window in range(-1, len(context.manifest.windows())):
        if window >= 0:
            train_window(context, window)
        for task in task_list(context.manifest):
            if task.window == window:
                prove_statement(context, task)
    stores.ledger.append(EventRow(context.run_id, "finished", NONE, "{}"))
    stores.log.publish()
    stores.ledger.close()
    return context.run_id


def test_a_run_and_everybody_who_has_to_do_with_it(place: Shared, tmp_path: Path) -> None:
    run_id, provider = audited_run(place), place.run_yaml()
    policy, receipt, key = tmp_path / "policy", tmp_path / "receipt.json", tmp_path / "key"
    policy.write_text(command("log", "key", *provider)["policy"])
    size, tasks = place.ledger().log_size(), len(place.ledger().record(run_id).statements)
    believed = ("--policy", policy, "--workers", 1, "--state", tmp_path / "state")

    # a reader verifies and can record nothing
    verdict = command("verify", run_id, *place.as_role("reader"), *believed, "--receipt", receipt, "--sign-key", key)
    assert verdict["accepted"] and len(verdict["tasks"]) == tasks == 10 and "as the policy demands" in verdict["log"]["trust"]
    assert "read-only" in command("ledger", "submit", receipt, "--ledger", place.ledger_url("reader"), exit_code=3)
    assert place.ledger().log_size() == size

    # auditors append verdicts: one the reader's receipt, one her own judgement
    for _ in range(2):
        command("ledger", "submit", receipt, "--ledger", place.ledger_url("auditor"))
    assert place.ledger().log_size() == size + tasks + 1
    hers = ("--record", "--sign-key", tmp_path / "other", "--verifier", "Ä\u2028\x7f\"")
    recorded = command("verify", run_id, *place.as_role("auditor"), *believed, *hers)
    assert recorded["accepted"] and place.ledger().log_size() == size + 2 * (tasks + 1)
    assert {place.ledger().log_entry(n)[0] for n in range(size, size + 2 * (tasks + 1))} == {"verdicts"}

    # the provider's next checkpoint covers them, and the bundle has them
    published = command("log", "checkpoint", *provider)
    assert published["new"] and published["size"] == size + 2 * (tasks + 1) == place.ledger().log_size()
    command("ledger", "export", run_id, tmp_path / "bundle", *place.as_role("reader"))
    assert verify_offline([str(tmp_path / "bundle"), "--policy", str(policy), "--json"]) == 0
    assert (tmp_path / "bundle").read_bytes().count(b'\\"table\\":\\"verdicts\\"') == 2 * (tasks + 1)

    # pages and JSON with the reader's role
    services = open_services(place.ledger_url("reader"), place.objects_url)
    assert not services.rows.may_write()
    client = TestClient(create_app(services))
    for path in ("/", f"/runs/{run_id}", f"/runs/{run_id}/statements", "/log", f"/log/entries/{size}", "/healthz", "/api/v1/log"):
        assert client.get(path).status_code == 200, path
    assert client.get(f"/api/v1/runs/{run_id}/bundle").content == (tmp_path / "bundle").read_bytes()

    # everything is as it was written; what the bucket loses is found, and brought back from a copy
    replica = LocalObjectStore(tmp_path / "replica")
    for digest in place.objects().digests():
        replica.put(place.objects().get(digest))
    assert command("fsck", *provider) == {"clean": True, "signatures_checked": True, "findings": []}
    assert command("repair", *provider) == {"restored": [], "lost": []}
    lost = next(place.objects().digests())
    for name in (f"{lost[:2]}/{lost}", NEWEST, tile_path(0, 0, size)):
        admin(place.query).delete_object(Bucket=place.public, Key=f"audit/{name}")
    found = command("fsck", *place.as_role("reader"), "--policy", policy, exit_code=1)["findings"]
    assert {item["kind"] for item in found} == {"missing-object", "missing-checkpoint"}  # no checkpoint of today needs that tile
    repaired = command("repair", *provider, "--from", f"file:{tmp_path / 'replica'}")
    assert [item["where"] for item in repaired["restored"]] == [f"object {lost}", NEWEST] and repaired["lost"] == []
    assert command("fsck", *place.as_role("reader"), "--policy", policy)["clean"]


@pytest.mark.gateway
def test_the_command_line_as_writer(tmp_path: Path) -> None:
    """`verilora run` itself, in processes of their own, which moto cannot serve; resumed from a second machine."""
    with shared(tmp_path, "gateway") as place:
        folder = tmp_path / "project"
        verilora(tmp_path, "init", str(folder))
        settings = yaml.safe_load((folder / "run.yaml").read_text())
        settings["training"] |= {"max_steps": 1, "window_steps": 1}
        run_ids = []
        for machine in (1, 2):
            place.private(machine)
            settings["storage"] = {"ledger": place.ledger_url(), "objects": place.objects_url, "private": place.private_url(machine)}
            (folder / "run.yaml").write_text(yaml.safe_dump(settings))
            run_ids.append(verilora(folder, "run", "run.yaml")["run"])
        assert run_ids[0] == run_ids[1] and len(place.ledger().runs()) == 1
        assert verilora(folder, "verify", run_ids[0], *place.as_role("reader"))["accepted"]
        assert verilora(folder, "fsck") == {"clean": True, "signatures_checked": True, "findings": []}


def test_a_run_that_another_machine_works_on_is_busy(place: Shared) -> None:
    place.private(2)  # gives the second machine the key file
    machines = [open_stores(place.ledger_url(), place.objects_url, place.private_url(n)) for n in (1, 2)]
    first, second = (cast(Session, SimpleNamespace(stores=stores, key="f" * 64)) for stores in machines)
    with Session.exclusive(first):
        for other in (first, second):
            with pytest.raises(RunBusy, match="another process, here or on another machine"), Session.exclusive(other):
                pass
    with Session.exclusive(second):
        pass
