"""A complete toy run in a ledger and an object store, made without flows: one honest record that tests then damage."""

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protocol.encoding import canonical_json
from protocol.manifest import RunManifest, base_commitments
from protocol.params import profile
from protocol.relation.graph import IntArray
from protocol.schedule.task import TaskShape
from protocol.soundness import task_soundness
from protocol.statement import (
    Name,
    Task,
    commitment_layout,
    max_blinding,
    opening_counts,
    statement_content,
    statement_id,
    task_list,
)
from prover.argument.prove import prove_task
from prover.backend import select
from prover.commitment.commit import CommitmentData, commit
from prover.executor.trainer import Trainer
from prover.randomness import fresh_seed
from prover.witness.task import task_values
from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.models import NONE, CommitmentRow, EventRow, ProofRow, RunRow, StatementRow
from storage.object_store import open_object_store
from storage.private import open_private_store
from tests.toy import Toy, toy


@dataclass(frozen=True)
class Built:
    """Where the run lies, its manifest, and the secrets of its delivered adapter."""

    folder: Path
    manifest: RunManifest
    delivered: dict[int, tuple[bytes, dict[str, IntArray]]]

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.folder / 'ledger.db'}"

    @property
    def objects_url(self) -> str:
        return f"file:{self.folder / 'objects'}"

    @property
    def arguments(self) -> list[str]:
        return ["--ledger", self.ledger_url, "--objects", self.objects_url]


def _known(made: Toy) -> dict[Name, dict[str, IntArray]]:
    base = {Name(name): dict(values) for name, values in made.base.items()}
    return base | {Name("dataset"): {"tokens": made.tokens, "mask": made.mask}}


@functools.cache
def planned() -> tuple[Toy, RunManifest, dict[Name, bytes], dict[Name, CommitmentData]]:
    """The toy, its manifest, and seeds and commitments of what is known at the start: the same at every call, so that the run's id,
    which follows from the manifest, is known when tests are collected."""
    made = toy(layers=1, steps=2, window_steps=1)
    draft = replace(made.manifest, profile="goldilocks-2^11", budgets=dict.fromkeys(opening_counts(made.manifest), 1))
    draft = replace(draft, budgets=opening_counts(draft))
    arrays = _known(made)
    seeds = {Name(text): hashlib.sha256(text.encode()).digest() for text in base_commitments(draft.model)}
    data = {name: commit(select("auto"), commitment_layout(draft, name), arrays[name], seed) for name, seed in seeds.items()}
    return made, replace(draft, commitments={str(name): item.id for name, item in data.items()}), seeds, data


RUN_ID = planned()[1].run_id


def build_run(folder: Path) -> Built:
    """One layer, two windows of one step: 10 tasks, really trained and proved."""
    backend = select("auto")
    made, manifest, *known = planned()
    seeds, data = (dict(values) for values in known)
    arrays = _known(made)

    def put(name: Name) -> None:
        seeds[name] = fresh_seed()
        data[name] = commit(backend, commitment_layout(manifest, name), arrays[name], seeds[name])

    trainer = Trainer(manifest, made.base, made.tokens, made.mask)
    state, losses = None, []
    for w, window in enumerate(manifest.windows()):
        trace = trainer.run_window(window, state)
        state = trace.state_out
        losses.append(trace.loss)
        arrays |= {name: dict(tensors) for name, tensors in trace.commitments(w, manifest.part_numbers).items()}
    for name in arrays:
        if name not in data:
            put(name)

    book, store = open_ledger(f"sqlite:///{folder / 'ledger.db'}"), open_object_store(f"file:{folder / 'objects'}")
    text = manifest.to_json().decode()
    book.append(RunRow(RUN_ID, hashlib.sha256(text.encode()).hexdigest(), text))
    for name, item in data.items():
        book.append(CommitmentRow(
            RUN_ID, name.base, name.window, name.layer, item.id, item.root.hex(),
            canonical_json(item.layout.geometry()).decode(), manifest.budgets[name.kind],
        ))
    ids = {str(name): item.id for name, item in data.items()}
    params = profile(manifest.profile)
    for task in task_list(manifest):
        _prove(backend, manifest, task, arrays, data, ids, losses, params, book, store)
    book.append(EventRow(RUN_ID, "finished", NONE, "{}"))
    LogPublisher(book, store, open_private_store(f"file:{folder / 'private'}")).publish()
    book.close()
    last = Name("delivered/0", len(manifest.windows()))
    return Built(folder, manifest, {0: (seeds[last], arrays[last])})


def _prove(backend, manifest, task: Task, arrays, data, ids, losses, params, book, store) -> None:  # type: ignore[no-untyped-def]
    inputs = {(role, tensor): a for role, name in task.commitments for tensor, a in arrays[name].items()}
    window = manifest.windows()[task.window] if task.window >= 0 else None
    graph, values = task_values(manifest, task.kind, window, task.subject, inputs)
    published = {item.name: np.asarray(losses[task.window]) for item in graph.published}
    content = statement_content(manifest, task, graph.digest(), ids, published)
    identity = statement_id(manifest, task)
    book.append(StatementRow(identity, RUN_ID, task.kind, task.window, task.layer, task.part, content.decode()))

    def spend() -> None:
        for _, name in task.commitments:
            book.spend_opening(ids[str(name)], manifest.budgets[name.kind], identity, "first")

    shape = TaskShape(graph, params.field)
    layout = shape.witness_layout(params)
    given = [(role, data[name]) for role, name in task.commitments]
    proof = prove_task(backend, shape, content, given, values, published, params, fresh_seed(), spend)
    soundness = task_soundness(params, shape, [*(d.layout for _, d in given), layout], max_blinding(manifest, params))
    book.append(ProofRow(
        identity, store.put(proof), len(proof), "test", 0.5, canonical_json(soundness.to_json()).decode(),
    ))
