"""`verilora` as the tests of this folder call it, and what a ledger's owner can do behind its back."""

import contextlib
import hashlib
import json
import shutil
import sqlite3
from pathlib import Path

from typer.testing import CliRunner

from cli import app
from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.object_store import open_object_store
from storage.private import open_private_store
from tests.cli.build_run import RUN_ID, Built


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def verify(target: Built, *more: str) -> tuple[int, dict]:
    code, output = run("verify", RUN_ID, *target.arguments, "--workers", "1", "--json", *more)
    return code, json.loads(output)


def objects(target: Built) -> list[Path]:
    return sorted(path for path in (target.folder / "objects").rglob("*") if path.is_file() and len(path.name) == 64)


def sign_anew(target: Built) -> None:
    """What the log's owner can do: hash the rows as they are now, forget every checkpoint and what was seen, sign again."""
    ledger = open_ledger(target.ledger_url)
    leaves = ledger.log_leaves(0, ledger.log_size())
    ledger.close()
    with contextlib.closing(sqlite3.connect(target.folder / "ledger.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM checkpoints")
        for position, leaf in enumerate(leaves):
            digest = hashlib.sha256(b"\x00" + leaf).hexdigest()
            connection.execute("UPDATE log_entries SET leaf_hash = ? WHERE position = ?", (digest, position))
    shutil.rmtree(target.folder / "objects" / "log")
    (target.folder / "private" / "log" / "seen").unlink(missing_ok=True)
    publisher(target).publish()


def publisher(target: Built) -> LogPublisher:
    private = open_private_store(f"file:{target.folder / 'private'}")
    return LogPublisher(open_ledger(target.ledger_url), open_object_store(target.objects_url), private)


def example_run(folder: Path, rest: str) -> Path:
    """A run.yaml in `folder` about the shipped model and data, q_proj alone; `rest` are its other lines."""
    examples, path = Path(__file__).parents[2] / "examples", folder / "run.yaml"
    path.write_text(
        f"base_model: {examples / 'tiny-llama'}\ndataset: {examples / 'haiku.jsonl'}\nlora: {{target_modules: [q_proj]}}\n{rest}"
    )
    return path
