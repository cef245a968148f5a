"""Ledgers of any size without a prover: rows as a run leaves them, with random digests for roots and empty proofs."""

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.encoding import canonical_json
from storage.ledger import Ledger, open_ledger
from storage.log import LogPublisher
from storage.models import (
    NONE,
    TABLES,
    WHOLE_RUN,
    CommitmentRow,
    EventRow,
    OpeningRow,
    ProofRow,
    RunRow,
    StatementRow,
    VerdictRow,
    content,
    leaf,
    leaf_hash,
    log_entries,
    openings,
    row_key,
    run_index,
)
from storage.object_store import ObjectStore, open_object_store
from storage.private import open_private_store
from storage.query import index_values
from verifier.receipt import receipt_id, sign_receipt

SOURCES = {"queries": 10412, "folding": 11003, "lookups": 10877, "sumcheck": 12641, "batching": 11920, "products": 12100}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Shape:
    """A pretended run."""

    run_id: str
    layers: int = 3
    steps: int = 24
    window_steps: int = 4
    model: str = "tiny-llama"
    dataset: str = "dataset"
    finished: bool = True
    proved_windows: int = 1 << 20
    parts: int = 1
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        """Of the parts of a step; 0 for all of it."""
        return list(range(1, self.parts + 1)) if self.parts > 1 else [0]

    @property
    def windows(self) -> int:
        return -(-self.steps // self.window_steps)

    def manifest(self) -> dict[str, Any]:
        names = [*(f"base/{n}" for n in range(self.layers)), "embedding", "head"]
        return {
            "version": 4, "name": self.model, "steps": self.steps, "window_steps": self.window_steps, "batch_size": 4,
            "parts": self.parts, "seed": 7, "sequence_length": 64, "examples": 120, "loss_tokens": [200] * self.steps,
            "publish_loss": True, "base_visibility": "private",
            "tokenizer_digest": sha("tokenizer"), "dataset_owner": "Example Press", "profile": "goldilocks-2^14",
            "model": {"layers": self.layers, "hidden": 64, "vocab": 512, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 172},
            "lora": {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
            "optimizer": {"kind": "sgd", "momentum": "0.9", "learning_rate": "0.05"},
            "exponents": {"head/vocab.g": 20, "x": 12}, "widths": {"compute": 16}, "budgets": {"x": 4, "state": 2, "base": 40},
            "commitments": {name: sha(f"{self.run_id}/{name}/-1") for name in names} | {"dataset": sha(self.dataset)},
        } | self.changes


def rows_of(shape: Shape, store: ObjectStore | None = None) -> list[Any]:
    """Rows of a run in the order in which they are appended; proofs of absent objects without a store. Openings come apart."""
    manifest = canonical_json(shape.manifest()).decode()
    out: list[Any] = [RunRow(shape.run_id, sha(manifest), manifest)]
    ids: dict[tuple[str, int], str] = {}

    def commit(name: str, window: int, budget: int | None) -> None:
        ids[name, window] = sha(shape.dataset) if name == "dataset" else sha(f"{shape.run_id}/{name}/{window}")
        kind, *numbers = name.split("/")
        layer = int(numbers[0]) if numbers and kind != "loss" else NONE
        out.append(CommitmentRow(shape.run_id, name, window, layer, ids[name, window], sha(ids[name, window]), "{}", budget))

    def state(kind: str, window: int, layer: int, part: int, uses: list[tuple[str, str, int]], published: dict[str, Any]) -> None:
        identity = sha(f"{shape.run_id}/{kind}/{window}/{layer}/{part}")
        text = canonical_json({
            "version": 1, "manifest": sha(manifest), "kind": kind, "window": window, "layer": layer, "part": part,
            "relation": sha(kind), "published": published,
            "commitments": [[role, name if at < 0 else f"{name}@{at}", ids[name, at]] for role, name, at in uses],
        }).decode()
        out.append(StatementRow(identity, shape.run_id, kind, window, layer, part, text))
        if window < shape.proved_windows:
            proof = f"proof {identity}".encode() * 40
            soundness = canonical_json({"bits": 104, "total_bits": 103, "centibits": SOURCES}).decode()
            digest = store.put(proof) if store else hashlib.sha256(proof).hexdigest()
            out.append(ProofRow(identity, digest, len(proof), "worker-1", 1.25 + layer / 8, soundness))

    start = [*(f"base/{n}" for n in range(shape.layers)), "embedding", "head", "dataset"]
    for part, name in enumerate(start):
        commit(name, -1, 40)
        state("range", -1, -1, part, [(name.split("/")[0], name, -1)], {})
    last = shape.windows - 1
    for w in range(shape.windows):
        parts = {p: f"/{p}" if p else "" for p in shape.numbers}
        for p, text in parts.items():
            for n in range(shape.layers + 1):
                commit(f"x/{n}{text}", w, 2)
                commit(f"dx/{n}{text}", w, 2)
            if 0 < p < shape.parts:
                commit(f"loss/{p}", w, 2)
        for n in range(shape.layers):
            commit(f"state/{n}", w + 1, 2)
            if shape.parts > 1:
                commit(f"adapter/{n}", w, 3)
                for text in parts.values():
                    commit(f"gradient/{n}{text}", w, 2)
            if w == last:
                commit(f"delivered/{n}", w + 1, 3)
        for p, text in parts.items():
            state("embed", w, -1, p, [("dataset", "dataset", -1), ("embedding", "embedding", -1), ("x_out", f"x/0{text}", w)], {})
        for n in range(shape.layers):
            state_in = [("state_in", f"state/{n}", w)] if w else []
            state_out = [("state_out", f"state/{n}", w + 1)] + ([("delivered", f"delivered/{n}", w + 1)] if w == last else [])
            for p, text in parts.items():
                uses = [("base", f"base/{n}", -1), ("x_in", f"x/{n}{text}", w), ("dx_in", f"dx/{n + 1}{text}", w)]
                uses += [("x_out", f"x/{n + 1}{text}", w)] + ([("dx_out", f"dx/{n}{text}", w)] if n else [])
                uses += [("adapter", f"adapter/{n}", w), ("gradient", f"gradient/{n}{text}", w)] if p else [*state_in, *state_out]
                state("layer", w, n, p, uses, {})
            if shape.parts > 1:
                summed = [(f"gradient{p}", f"gradient/{n}{text}", w) for p, text in parts.items()]
                state("update", w, n, 0, [*state_in, *summed, ("adapter", f"adapter/{n}", w), *state_out], {})
        steps = range(w * shape.window_steps, min((w + 1) * shape.window_steps, shape.steps))
        loss = [int(200 * 2**20 * (1.6 + 3.1 * math.exp(-k / 9) + 0.12 * math.sin(2.7 * k))) for k in steps]
        for p, text in parts.items():
            top = [("x_in", f"x/{shape.layers}{text}", w), ("dx_out", f"dx/{shape.layers}{text}", w)]
            sums = [(f"loss{q}", f"loss/{q}", w) for q in shape.numbers[:-1]] if p in (0, shape.parts) else [("loss", f"loss/{p}", w)]
            state("head", w, -1, p, [("dataset", "dataset", -1), ("head", "head", -1), *top, *sums],
                  {"loss": loss} if p in (0, shape.parts) else {})
    if shape.finished:
        out.append(EventRow(shape.run_id, "finished", NONE, "{}"))
    return out


def append(book: Ledger, rows: list[Any], logged: bool = True) -> None:
    """Rows and the openings that their statements spend, in one transaction, because one by one takes minutes; without `logged`,
    which is faster, no log entries."""
    with book._reading() as connection:
        query = sa.select(openings.c.commitment_id, sa.func.max(openings.c.slot)).group_by(openings.c.commitment_id)
        spent = {row[0]: int(row[1]) for row in connection.execute(query)}
    everything = list(rows)
    for row in rows:
        for _, _, identity in json.loads(row.content)["commitments"] if isinstance(row, StatementRow) else ():
            slot = spent[identity] = spent.get(identity, -1) + 1
            everything.append(OpeningRow(identity, slot, row.statement_id, "first"))
    first = book.log_size()
    entries = [
        {"position": first + n, "leaf_hash": leaf_hash(leaf(row)), "row_table": TABLES[type(row)].name, "row_key": row_key(row)}
        for n, row in enumerate(everything if logged else [])
    ]
    tables = {table: [content(row) for row in everything if isinstance(row, kind)] for kind, table in TABLES.items()}
    tables |= {run_index: [index_values(row) for row in rows if isinstance(row, RunRow)], log_entries: entries}
    with book._appending() as connection:
        for table, values in tables.items():
            if values:
                connection.execute(sa.insert(table), values)


def receipt(shape: Shape, judged: list[VerdictRow]) -> str:
    """The receipt of these verdicts, the run's the last, signed with a fresh key."""
    *tasks, whole = judged
    manifest = canonical_json(shape.manifest()).decode()
    report = {
        "run": shape.run_id, "accepted": whole.accepted, "state": "accepted" if whole.accepted else "rejected", "reason": whole.reason,
        "order": "none", "sample": "", "log": {}, "manifest": sha("m"), "bits": 104, "total_bits": 99,
        "digests": {"manifest": sha(manifest)}, "delivered": {},
        "tasks": [{"task": "", "statement": row.subject, "proof": "", "accepted": row.accepted, "reason": row.reason, "bits": 104}
                  for row in tasks],
    }
    return sign_receipt(report, whole.verifier, Ed25519PrivateKey.generate()).decode()


@dataclass(frozen=True)
class Pretended:
    """Where a pretended ledger lies."""

    ledger_url: str
    objects_url: str
    folder: Path


def verdicts(rows: list[Any], shape: Shape, verifier: str, bad: str = "") -> list[VerdictRow]:
    """One verification pass with its receipt; `bad` is a statement that it rejects."""
    ids = [row.statement_id for row in rows if isinstance(row, ProofRow)]
    out = [VerdictRow("", shape.run_id, identity, verifier, identity != bad, "sumcheck: round 3" if identity == bad else "")
           for identity in ids]
    out += [VerdictRow("", shape.run_id, WHOLE_RUN, verifier, not bad, "layer(1, 2): sumcheck: expected 17, actual 18" if bad else "")]
    signed = receipt(shape, out)
    *tasks, whole = (replace(row, verification=receipt_id(signed.encode())) for row in out)
    return [*tasks, replace(whole, signature=signed)]


def make(folder: Path, ledger_url: str = "") -> Pretended:
    """Three runs: one finished and judged twice, one of which a verifier rejects a task, one still being proved."""
    made = Pretended(ledger_url or f"sqlite:///{folder / 'ledger.db'}", f"file:{folder / 'objects'}", folder)
    book, store = open_ledger(made.ledger_url), open_object_store(made.objects_url)
    log = LogPublisher(book, store, open_private_store(f"file:{folder / 'private'}"))
    good, other = Shape("8c1f0e77a2d4b690"), Shape("27d0b1c95e3fa846", layers=4, steps=10, window_steps=2, model="tiny-llama-long")
    rows = rows_of(good, store)
    append(book, rows)
    log.publish()
    append(book, verdicts(rows, good, "Example Audit"))
    book.append(VerdictRow("pass-2", good.run_id, WHOLE_RUN, "somebody", True, ""))
    rows = rows_of(other, store)
    append(book, rows)
    bad = next(row.statement_id for row in rows if isinstance(row, StatementRow) and (row.kind, row.window, row.layer) == ("layer", 1, 2))
    append(book, verdicts(rows, other, "Second Audit", bad))
    started = Shape("f3a9c64b1180de25", layers=2, steps=8, window_steps=1, finished=False, proved_windows=3, dataset="b")
    append(book, rows_of(started, store))
    log.publish()
    book.close()
    return made
