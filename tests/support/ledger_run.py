"""A finished run in any ledger and any stores, its rows as they must be, its proofs random bytes: for whoever never verifies proofs.

A tiny manifest, random roots, every statement of the run with its openings and a proof object, signed log, published tiles.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import sqlalchemy as sa

from protocol.encoding import canonical_json
from protocol.manifest import VERSION, WIDTHS, Lora, RunManifest, base_commitments
from protocol.model_config import PROJECTIONS, ModelConfig
from protocol.optimizer import Optimizer
from protocol.statement import Name, commitment_layout, opening_counts, statement_content, statement_id, task_list
from storage.checkpoint import load_keys
from storage.derive import commitment_row
from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.models import NONE, EventRow, ProofRow, RunRow, StatementRow
from storage.object_store import open_object_store
from storage.private import open_private_store
from verifier.note import Policy


@dataclass(frozen=True)
class Places:
    """Where a run lies."""

    ledger: str
    objects: str
    private: str

    def policy(self) -> Policy:
        """Trust in this log's own key."""
        keys = load_keys(open_private_store(self.private))
        assert keys is not None
        return keys.policy

    def publish(self) -> None:
        """Sign what the ledger has grown by."""
        book = open_ledger(self.ledger)
        LogPublisher(book, open_object_store(self.objects), open_private_store(self.private)).publish()
        book.close()


def manifest_of(seed: int, steps: int = 2) -> tuple[RunManifest, dict[Name, bytes]]:
    """A manifest with the roots of all its commitments."""
    model = ModelConfig(
        layers=1, rms_eps="0.00001", rope_theta="10000", tied=0, vocab=16, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=8
    )
    draft = RunManifest(
        version=VERSION, name="tiny", model=model, lora=Lora(2, 4, PROJECTIONS, False),
        optimizer=Optimizer(kind="sgd", learning_rate="0.02", momentum="0.9"), batch_size=2, gradient_accumulation=1, parts=1,
        sequence_length=5, steps=steps, window_steps=1, rotation_windows=0, seed=seed, examples=6, loss_tokens=(3,) * steps,
        publish_loss=True, base_visibility="private", weight_scales="tensor", dataset_owner="", tokenizer_digest="0" * 64,
        widths=dict(WIDTHS), exponents={},
        profile="goldilocks-2^11", commitments={}, budgets={},
    )
    draft = replace(draft, budgets=opening_counts(draft))
    names = {name for task in task_list(draft) for _, name in task.commitments}
    roots = {name: hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names}
    ids = {text: commitment_layout(draft, Name(text)).identity(roots[Name(text)]) for text in base_commitments(draft.model)}
    return replace(draft, commitments=ids), roots


def append_run(places: Places, seed: int = 7, steps: int = 2, finished: bool = True) -> str:
    """Append one run and sign the log; its id."""
    manifest, roots = manifest_of(seed, steps)
    book, store = open_ledger(places.ledger), open_object_store(places.objects)
    run_id, text = manifest.run_id, manifest.to_json().decode()
    book.append(RunRow(run_id, hashlib.sha256(text.encode()).hexdigest(), text))
    rows = {str(name): commitment_row(manifest, run_id, name, root) for name, root in sorted(roots.items(), key=str)}
    for row in rows.values():
        book.append(row)
    ids = {name: row.commitment_id for name, row in rows.items()}
    rng = np.random.default_rng(seed)
    for task in task_list(manifest):
        identity = statement_id(manifest, task)
        content = statement_content(manifest, task, "0" * 64, ids, {})
        book.append(StatementRow(identity, run_id, task.kind, task.window, task.layer, task.part, content.decode()))
        for _, name in task.commitments:
            book.spend_opening(ids[str(name)], rows[str(name)].budget, identity, "first")
        proof = rng.bytes(64)
        book.append(ProofRow(identity, store.put(proof), len(proof), "test", 0.5, canonical_json({"bits": 100}).decode()))
    if finished:
        book.append(EventRow(run_id, "finished", NONE, "{}"))
    book.close()
    places.publish()
    return run_id


def rewrite(url: str, *statements: str) -> None:
    """Run SQL as the database's owner can: without triggers and foreign keys."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            for (name,) in connection.execute(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).fetchall():
                connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        else:
            for table in sa.inspect(engine).get_table_names():
                connection.exec_driver_sql(f'ALTER TABLE "{table}" DISABLE TRIGGER ALL')
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount != 0, f"{statement} hit no row"
    engine.dispose()
