"""How long what orchestration and pages ask of a ledger takes, for a run of N statements (python -m benchmarks.ledger_size [N] [URL]).

A run with a real manifest, its rows as they must be, half of its statements proved, made in bulk without a prover; SQLite in a
temporary folder, or the empty PostgreSQL ledger at URL. Prints the fastest of several calls in milliseconds, because other work on the
machine makes calls slower and never faster.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flows.artifacts import proof_grid
from protocol.manifest import RunManifest, base_commitments
from protocol.params import PROFILES
from protocol.statement import Name, commitment_layout, opening_counts, statement_id, task_list
from storage.browse import Browse
from storage.derive import commitment_row
from storage.engine import open_engine
from storage.ledger import Ledger
from storage.models import (
    TABLES,
    OpeningRow,
    ProofRow,
    Row,
    RunRow,
    StatementRow,
    content,
    leaf,
    leaf_hash,
    log_entries,
    row_key,
    run_index,
)
from storage.query import index_values
from tasks.backlog import Backlog
from tasks.context import RunContext, Stores, open_stores
from tests.support.ledger_run import manifest_of

CALLS = 7
ROTATION, PROFILE = 56, "goldilocks-2^16"


def long_manifest(statements: int) -> tuple[RunManifest, dict[Name, bytes]]:
    """A run of one layer and windows of one step with about so many statements; what is known at the start is copied now and then."""
    steps = max(statements * 10 // 31, 2)  # embed, layer and head of each window, and a rotate for each of four parts now and then
    draft = replace(manifest_of(7)[0], steps=steps, loss_tokens=(3,) * steps, rotation_windows=ROTATION, profile=PROFILE, budgets={})
    draft = replace(draft, budgets=dict.fromkeys(opening_counts(draft), PROFILES[PROFILE].max_openings))
    roots = {name: hashlib.sha256(str(name).encode()).digest() for task in task_list(draft) for _, name in task.commitments}
    ids = {text: commitment_layout(draft, Name(text)).identity(roots[Name(text)]) for text in base_commitments(draft.model)}
    return replace(draft, commitments=ids), roots


def fill(engine: sa.Engine, statements: int) -> tuple[RunManifest, str]:
    """The rows of one run, with their log entries; its manifest and id."""
    manifest, roots = long_manifest(statements)
    run_id, text = manifest.run_id, manifest.to_json().decode()
    rows: list[Row] = [RunRow(run_id, hashlib.sha256(text.encode()).hexdigest(), text)]
    commitments = {str(name): commitment_row(manifest, run_id, name, root) for name, root in roots.items()}
    rows += sorted(commitments.values(), key=lambda row: (row.window, row.name))
    slots: dict[str, int] = {}
    tasks = task_list(manifest)
    for number, task in enumerate(tasks):
        identity = statement_id(manifest, task)
        rows.append(StatementRow(identity, run_id, task.kind, task.window, task.layer, task.part, "{}" + " " * 2000))
        for _, name in task.commitments:
            key = commitments[str(name)].commitment_id
            rows.append(OpeningRow(key, slots.setdefault(key, 0), identity, "first"))
            slots[key] += 1
        if number < len(tasks) // 2:
            digest = hashlib.sha256(identity.encode()).hexdigest()
            rows.append(ProofRow(identity, digest, 500_000, "benchmark", 5.0, '{"bits":100}'))
    with engine.begin() as connection:
        for kind in dict.fromkeys(map(type, rows)):
            insert(connection, TABLES[kind], (content(row) for row in rows if type(row) is kind))
        insert(connection, run_index, [index_values(row) for row in rows if isinstance(row, RunRow)])
        insert(connection, log_entries, ({
            "position": n, "leaf_hash": leaf_hash(leaf(row)), "row_table": TABLES[type(row)].name, "row_key": row_key(row),
        } for n, row in enumerate(rows)))
    return manifest, run_id


def insert(connection: sa.Connection, table: sa.Table, values: Iterable[dict[str, Any]]) -> None:
    connection.execute(sa.insert(table), list(values))


def fastest(call: Callable[[], object]) -> float:
    """Milliseconds."""
    seconds = []
    for _ in range(CALLS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def first_claim(backlog: Backlog) -> None:
    claims = backlog.claims(1000, lambda: True)
    next(claims)
    claims.close()


def measure(stores: Stores, url: str, statements: int) -> dict[str, float]:
    """Milliseconds by what was asked."""
    manifest, run_id = fill(open_engine(url, False), statements)
    run = RunContext(stores, run_id, manifest)
    started = time.perf_counter()
    assert run.statements
    found = {"statements of the manifest, once a process": 1000 * (time.perf_counter() - started)}
    started = time.perf_counter()
    backlog, ledger, rows = Backlog(run), stores.ledger, Browse(open_engine(url, True))
    found["backlog of a new process"] = 1000 * (time.perf_counter() - started)
    found |= {
        "ledger.proved": fastest(lambda: ledger.proved(run_id)), "ledger.proof_sizes": fastest(lambda: ledger.proof_sizes(run_id)),
        "backlog.refresh": fastest(backlog.refresh), "backlog.left": fastest(lambda: backlog.left),
        "backlog.behind": fastest(lambda: backlog.behind),
        "first claim": fastest(lambda: first_claim(backlog)), "ledger.query_runs": fastest(ledger.query_runs),
        "ledger.query_runs, proving": fastest(lambda: ledger.query_runs(state="proving")),
        "ledger.query_runs, finished": fastest(lambda: ledger.query_runs(state="finished")),
        "ledger.counts": fastest(lambda: ledger.counts(run_id)), "browse.overview": fastest(rows.overview),
    }
    sizes = ledger.proof_sizes(run_id)
    found["grid of the artifact"] = fastest(lambda: proof_grid(run, sizes))
    found["ledger.proofs"] = fastest(lambda: ledger.proofs(run_id))
    found["ledger.record, everything"] = fastest(lambda: ledger.record(run_id))
    return found


def main(statements: int, url: str) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        place = url or f"sqlite:///{Path(folder) / 'ledger.db'}"
        stores = open_stores(place, f"file:{folder}/objects", f"file:{folder}/private")
        assert isinstance(stores.ledger, Ledger)
        for name, value in measure(stores, place, statements).items():
            print(f"{name:45} {value:8.1f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sys.argv[2] if len(sys.argv) > 2 else "")
