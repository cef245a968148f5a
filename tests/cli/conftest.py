"""Copies of the honest toy run (tests/conftest.py), to damage."""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import tasks.verify
from protocol.manifest import RunManifest
from protocol.statement import Task
from storage.checkpoint import load_keys
from storage.private import open_private_store
from tests.cli.build_run import Built
from verifier.run import TaskVerdict, check_one
from verifier.task import Evidence

VERDICTS: dict[tuple[object, ...], TaskVerdict] = {}


@pytest.fixture(scope="module")
def policy(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = load_keys(open_private_store(f"file:{built.folder / 'private'}"))
    assert keys is not None
    path = tmp_path_factory.mktemp("policy") / "policy"
    path.write_text(keys.policy_text())
    return path


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Built:
    shutil.copytree(built.folder, tmp_path / "run")
    return replace(built, folder=tmp_path / "run")


@pytest.fixture
def rewrite() -> Callable[[Built, str], None]:
    """Run SQL as the ledger's owner could: triggers dropped first."""

    def run(target: Built, sql: str) -> None:
        with contextlib.closing(sqlite3.connect(target.folder / "ledger.db", isolation_level=None)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            changed = connection.execute(sql).rowcount
        assert changed != 0, "the statement hit no row"

    return run


@pytest.fixture(autouse=True)
def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts on a task are remembered by everything that determines them, so that twenty damaged runs take seconds."""

    def check(manifest: RunManifest, task: Task, roots: Mapping[str, bytes], ids: Mapping[str, str], evidence: Evidence) -> TaskVerdict:
        names = [str(name) for _, name in task.commitments]
        key = (manifest.digest(), str(task), *(roots[n] for n in names), *(ids[n] for n in names), evidence)
        if key not in VERDICTS:
            VERDICTS[key] = check_one(manifest, task, roots, ids, evidence)
        return VERDICTS[key]

    monkeypatch.setattr(tasks.verify, "check_one", check)
