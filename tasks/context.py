"""What every task of a run works with: the manifest, the three stores, the backend, and commitments ready to be opened.

A `RunRequest` is what run.yaml asks for, free of where it was written. A `RunContext` is one run that has been planned. It
recomputes a commitment from its secrets (tasks/deliver.py) when a proof needs it and keeps the last few, so that base
layers are not encoded again for every window. Threads may share a context. Called by tasks/ and flows/.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from protocol.layout import CommitmentLayout
from protocol.manifest import Lora, RunManifest
from protocol.optimizer import Optimizer
from protocol.params import Params, profile
from protocol.relation.graph import IntArray
from protocol.statement import Name, Task, commitment_layout, statement_id, task_list
from prover.backend import select
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.executor.trainer import Trainer
from prover.files.groups import Groups
from prover.randomness import fresh_seed
from storage.derive import commitment_row
from storage.errors import StorageError
from storage.ledger import Ledger, open_ledger
from storage.log import LogPublisher
from storage.models import CommitmentRow
from storage.object_store import ObjectStore, open_object_store
from storage.private import PrivateStore, open_private_store, refuse_shared
from tasks.deliver import load_committed, save_committed

CACHE_BYTES = 1 << 30  # commitments of earlier tasks kept in memory, where that is not more than a 32nd of it: plans leave a tenth


class RunError(Exception):
    """A run that cannot go on for a reason that is not the stores': what happened and what to do."""


class TrainingOverflow(RunError):
    """Training left a declared range; the run stops there. The message without values; those are in the private store."""


@dataclass(frozen=True)
class RunRequest:
    """One run.yaml as plain values; either `dataset` (JSON Lines) or `dataset_opening` (committed by its owner) is given."""

    base_model: Path
    dataset: Path | None
    dataset_opening: Path | None
    data_format: str
    packing: bool
    lora: Lora
    optimizer: Optimizer
    epochs: int
    batch_size: int
    gradient_accumulation: int
    sequence_length: int
    seed: int
    window_steps: int
    max_steps: int | None
    weight_bits: int
    weight_scales: str
    headroom: int
    base_visibility: str
    publish_loss: bool
    soundness_bits: int
    spare_openings: int
    parts: int


@dataclass(frozen=True)
class Stores:
    """Ledger and objects are public, `private` never is. `log` signs what the ledger has grown by."""

    ledger: Ledger
    objects: ObjectStore
    private: PrivateStore

    @cached_property
    def log(self) -> LogPublisher:
        """The transparency log over the ledger; every unit of work ends with log.publish()."""
        return LogPublisher(self.ledger, self.objects, self.private)


def open_stores(ledger_url: str, objects_url: str, private_url: str) -> Stores:
    """All three, created if absent; StorageError if secrets would lie where public objects do."""
    refuse_shared(objects_url, private_url)
    return Stores(open_ledger(ledger_url), open_object_store(objects_url), open_private_store(private_url))


@dataclass(frozen=True, eq=False)
class Opened:
    """A commitment with its tensors."""

    data: CommitmentData
    tensors: Mapping[str, IntArray]

    @property
    def size(self) -> int:
        return self.data.nbytes + sum(x.nbytes for x in self.tensors.values())


class RunContext:
    """One planned run; `backend` computes commitments and proofs."""

    def __init__(self, stores: Stores, run_id: str, manifest: RunManifest, backend: Backend | None = None) -> None:
        self.stores, self.run_id, self.manifest = stores, run_id, manifest
        self.backend = backend or select()
        self._cache: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def params(self) -> Params:
        return profile(self.manifest.profile)

    @cached_property
    def trainer(self) -> Trainer:
        """The exact executor on this run's base model, of which the layers used last are held, and its dataset."""
        names = [f"base/{n}" for n in range(self.manifest.model.layers)] + ["embedding", "head"]
        base = Groups(names, lambda name: self.tensors(Name(name)))
        dataset = self.tensors(Name("dataset"))
        return Trainer(self.manifest, base, dataset["tokens"], dataset["mask"])

    @cached_property
    def statements(self) -> dict[str, Task]:
        """Every task of the run by statement id, in order."""
        return {statement_id(self.manifest, task): task for task in task_list(self.manifest)}

    def tensors(self, name: Name) -> dict[str, IntArray]:
        """The tensors of a recorded commitment, from the private store."""
        return load_committed(self.stores.private, self.run_id, name, self.root)[1]

    def layout(self, name: Name) -> CommitmentLayout:
        return commitment_layout(self.manifest, name)

    def opened(self, name: Name) -> Opened:
        """A recorded commitment ready to be opened."""
        root = self.root(name)
        with self._lock:
            if root in self._cache:
                self._cache.move_to_end(root)
                return self._cache[root]
        seed, tensors = load_committed(self.stores.private, self.run_id, name, self.root)
        found = Opened(commit(self.backend, self.layout(name), tensors, seed), tensors)
        if root != found.data.root.hex():
            raise StorageError(
                f"the private store's {name} of run {self.run_id} is not what the ledger recorded: restore the private store "
                "that belongs to this ledger"
            )
        self._remember(found)
        return found

    def commit(self, name: Name, tensors: Mapping[str, IntArray]) -> bytes:
        """Commit under a fresh seed and keep the secrets; the root. Not in the ledger yet."""
        seed = fresh_seed()
        data = commit(self.backend, self.layout(name), tensors, seed)
        save_committed(self.stores.private, self.run_id, name, data.root.hex(), seed, tensors)
        self._remember(Opened(data, dict(tensors)))
        return data.root

    def root(self, name: Name) -> str:
        """The root that the ledger has for a commitment; RunError if it has none."""
        row = self.recorded(name)
        if row is None:
            raise RunError(f"run {self.run_id}: {name} is not in the ledger yet")
        return row.root

    def recorded(self, name: Name) -> CommitmentRow | None:
        """The ledger's row of a commitment."""
        return self.stores.ledger.commitment(self.run_id, name.base, name.window, name.layer)

    def rows(self, task: Task) -> dict[str, CommitmentRow]:
        """Rows of all commitments of a task by name; RunError if one is not recorded yet."""
        found = {str(name): self.recorded(name) for _, name in task.commitments}
        missing = [name for name, row in found.items() if row is None]
        if missing:
            raise RunError(f"{task} of run {self.run_id} cannot be proved before {', '.join(missing)} is in the ledger")
        return {name: row for name, row in found.items() if row is not None}

    def record_commitment(self, name: Name, root: bytes) -> None:
        """Append a commitment's row; the same again does nothing."""
        self.stores.ledger.append(commitment_row(self.manifest, self.run_id, name, root))

    def _remember(self, opened: Opened) -> None:
        with self._lock:
            self._cache[opened.data.root.hex()] = opened
            total = sum(item.size for item in self._cache.values())
            while total > min(CACHE_BYTES, self.backend.memory // 32) and len(self._cache) > 1:
                total -= self._cache.popitem(last=False)[1].size
