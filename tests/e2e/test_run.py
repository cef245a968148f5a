"""A whole run through the command line: killed in the middle, continued, verified, repeated, damaged."""

import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli import app
from flows.finetune import finetune
from flows.session import Progress, close_session, open_session
from tests.prover.files.conftest import Folder
from tests.support.project import CANARY, RUN_YAML, TABLES, Finished, ledger, project, verilora


def here(*arguments: str) -> Result:
    """A command in this process, for those that end early."""
    return CliRunner().invoke(app, arguments)


def not_a_number(model: Path) -> None:
    spoilt = Folder(model)
    spoilt.tensors["model.norm.weight"][3] = float("nan")
    spoilt.write()


def test_a_run_cut_off_twice_continues_where_it_was(finished: Finished) -> None:
    folder, summary, before = finished
    after = ledger(folder)
    assert 7 <= len(before["proofs"]) < 13 and not summary["finished_before"]
    for name in TABLES:
        assert set(before[name]) <= set(after[name]), name
    assert [len(after[name]) for name in ("runs", "statements", "proofs", "run_events")] == [1, 13, 13, 1]
    assert summary["tasks"] == 13 and summary["windows"] == 2 and summary["soundness_bits"] >= 100
    stored = [p for p in (folder / "var" / "objects").rglob("*") if p.is_file() and not p.name.startswith(".")]
    assert summary["proof_bytes"] == sum(row[2] for row in after["proofs"])
    assert {row[1] for row in after["proofs"]} <= {p.name for p in stored}


def test_it_verifies_and_a_changed_order_is_named(finished: Finished) -> None:
    folder, summary, _ = finished
    done = verilora(folder, "verify", summary["run"], "--json")
    verdict = json.loads(done.stdout)
    assert done.returncode == 0 and verdict["accepted"] and len(verdict["tasks"]) == 13
    (folder / "order.yaml").write_text("optimizer: {learning_rate: 0.02}\n")
    done = verilora(folder, "verify", summary["run"], "--expect", "order.yaml")
    assert done.returncode == 1 and "learning_rate" in done.stdout + done.stderr


def test_running_again_adds_nothing(finished: Finished) -> None:
    folder, summary, _ = finished
    before = ledger(folder)
    objects = sorted(p.name for p in (folder / "var" / "objects").rglob("*"))
    done = verilora(folder, "run", "run.yaml", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["finished_before"]
    assert json.loads(done.stdout)["run"] == summary["run"]
    assert ledger(folder) == before
    assert sorted(p.name for p in (folder / "var" / "objects").rglob("*")) == objects


def test_a_run_that_is_continued_shows_what_is_behind_it(finished: Finished, tmp_path: Path) -> None:
    folder, _, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "var" / "ledger.db") as database:
        database.execute("DROP TRIGGER proofs_no_delete")
        database.execute("DELETE FROM proofs WHERE rowid > 9")
    session = open_session(str(tmp_path / "copy" / "run.yaml"))
    shown: list[Progress] = []
    session.on_progress = shown.append
    trained, proved = session.so_far()
    assert trained.done == trained.total > 0 and (proved.done, proved.total) == (9, 13)
    for identity in session.context.statements:
        session.proved(identity, "")
    assert [item.done for item in shown][-1] == 13
    close_session(str(tmp_path / "copy" / "run.yaml"))


def test_the_nightly_run_signs_verdicts_of_auditors(finished: Finished, tmp_path: Path) -> None:
    folder, summary, _ = finished
    shutil.copytree(folder, tmp_path / "copy")
    done = verilora(tmp_path / "copy", "verify", summary["run"], "--record", "--sign-key", "key")
    assert done.returncode == 0, done.stderr
    log = json.loads(verilora(tmp_path / "copy", "log", "show", "--json").stdout)
    assert log["newest"]["size"] < log["entries"]
    path = str(tmp_path / "copy" / "run.yaml")
    assert json.loads(finetune.fn(path))["run"] == summary["run"]
    close_session(path)
    log = json.loads(verilora(tmp_path / "copy", "log", "show", "--json").stdout)
    assert log["newest"]["size"] == log["entries"]


def test_text_of_the_dataset_is_nowhere_public(finished: Finished) -> None:
    folder, _, _ = finished
    places = [p for p in (folder / "var").rglob("*") if p.is_file() and "private" not in p.relative_to(folder).parts]
    assert len(places) > 13
    assert [p for p in places if CANARY.encode() in p.read_bytes() or b"a frog" in p.read_bytes()] == []


def test_secrets_can_be_read_by_their_owner_alone(finished: Finished) -> None:
    folder, _, _ = finished
    files = [p for p in (folder / "var" / "private").rglob("*") if p.is_file()]
    assert files and all(p.stat().st_mode & 0o077 == 0 for p in files)


def test_a_missing_object_is_named(finished: Finished, tmp_path: Path) -> None:
    folder, summary, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    digest = ledger(copy)["proofs"][0][1]
    next((copy / "var" / "objects").rglob(digest)).unlink()
    done = verilora(copy, "verify", summary["run"])
    assert done.returncode == 1 and digest in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_ledger_of_a_newer_release_is_refused(finished: Finished, tmp_path: Path) -> None:
    folder, _, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with sqlite3.connect(copy / "var" / "ledger.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'r9999'")
    done = here("run", str(copy / "run.yaml"))
    assert done.exit_code == 3 and "newer release" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("spoil", "code", "message"), [
    (lambda f: (f / "run.yaml").write_text(RUN_YAML + "audti: {}\n"), 2, "audti: unknown key"),
    (lambda f: (f / "run.yaml").write_text(RUN_YAML.replace("0.01", "-1")), 2, "training.learning_rate"),
    (lambda f: (f / "run.yaml").write_text(RUN_YAML.replace("batch_size: 1", "batch_size: 9")), 2, "training.batch_size"),
    (lambda f: (f / "run.yaml").unlink(), 2, "no such file"),
    (lambda f: (f / "data.jsonl").write_text(""), 2, "empty"),
    (lambda f: (f / "data.jsonl").write_text(json.dumps({"text": "long " * 50}) + "\n"), 2, "at most 21 fit"),
    (lambda f: (f / "model" / "model.safetensors").unlink(), 2, "missing"),
    (lambda f: os.truncate(f / "model" / "model.safetensors", 999), 2, "truncated"),
    (lambda f: not_a_number(f / "model"), 2, "NaN or infinite value"),
    (lambda f: (f / "model" / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}'), 2, "unknown architecture"),
])
def test_bad_input_gets_one_clear_message(tmp_path: Path, spoil: Any, code: int, message: str) -> None:
    folder = project(tmp_path / "p")
    spoil(folder)
    done = here("estimate", str(folder / "run.yaml"))
    assert (done.exit_code, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr
    assert not (folder / "var").exists()  # an estimate writes nothing
