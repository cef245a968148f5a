"""A project of a user in a folder: a small model, a dataset with a text that must not leak, a run.yaml; and its commands."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.prover.files.conftest import Folder

ROOT = Path(__file__).parents[2]
FULL_DISK = """\
import sys
from cli import app
from storage.errors import StoreFull
from storage.local import LocalObjectStore
put, stored = LocalObjectStore.put, []
def full(store, data):
    if len(stored) == 2:
        raise StoreFull("no space left, free some")
    stored.append(put(store, data))
    return stored[-1]
LocalObjectStore.put = full
app(["run", "run.yaml"])
"""
CANARY = "zqxjvkw frogpond"
RUN_YAML = """\
base_model: model
dataset: data.jsonl
lora: {r: 2, lora_alpha: 4, target_modules: [q_proj, down_proj]}
training: {momentum: 0.9, learning_rate: 0.01, batch_size: 1, sequence_length: 20, seed: 3, window_steps: 1, max_steps: 2}
"""
TABLES = ("runs", "commitments", "statements", "openings", "proofs", "verdicts", "run_events")
Finished = tuple[Path, dict[str, Any], dict[str, list[tuple[Any, ...]]]]


def environment(folder: Path) -> dict[str, str]:
    """Home and temporary files lie in the project, where tests look for what should not be in them."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    return {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}


def python(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own; what it printed is kept as a log."""
    env = environment(folder)
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    (folder / f"out-{len(list(folder.glob('out-*')))}.log").write_text(done.stdout + done.stderr)
    return done


def verilora(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own."""
    return python(folder, "-m", "cli", *arguments)


def project(folder: Path) -> Path:
    model = folder / "model"
    model.mkdir(parents=True)
    Folder(model).write()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((ROOT / "examples" / "tiny-llama" / name).read_bytes())
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a frog", CANARY, "old")))
    (folder / "run.yaml").write_text(RUN_YAML)
    return folder


def ledger(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table; empty before there is a ledger."""
    try:
        with sqlite3.connect(f"file:{folder / 'var' / 'ledger.db'}?mode=ro", uri=True) as database:
            return {name: sorted(database.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in TABLES}
    except sqlite3.OperationalError:
        return {name: [] for name in TABLES}


def kill_after(folder: Path, proofs: int) -> None:
    """Start a run in a session of its own and kill it with everything it started when so many proofs are recorded."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "run", "run.yaml"], cwd=folder, env=environment(folder),
        stdout=(folder / "killed.log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(ledger(folder)["proofs"]) < proofs and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
