"""One step of a shape with random weights, trained and ready to be proved task by task; measured beside what was foretold.

    folder of weights (shapes.py) → integers, exponents (one float64 step) → training → commitments → witness → proof → verdict

Nothing of storage or orchestration takes part. Called by benchmarks/scaling.py, planner.py and gpu.py.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.shapes import Shape, write_folder
from protocol.channel import VerifyingChannel
from protocol.manifest import Lora, RunManifest, StepRange
from protocol.model_config import PROJECTIONS
from protocol.optimizer import Optimizer
from protocol.params import Params, profile
from protocol.relation.graph import IntArray
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from protocol.statement import Name, Task, commitment_layout, opening_counts, task_list
from prover.argument.prove import drained
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.cost.forecast import Counted, Forecast, forecast
from prover.cost.machine import peak_bytes, reset_peak
from prover.cost.phases import Clock, timed_proof
from prover.cost.work import Place, padded_cells
from prover.executor.evaluate import check
from prover.executor.prepare import Prepared, prepare
from prover.executor.torch_ops import TorchOps, ops_beside
from prover.executor.trainer import Trainer, WindowTrace
from prover.files.dataset import TokenisedDataset
from prover.files.groups import KEEP_BYTES
from prover.files.hf_model import open_model
from prover.randomness import fresh_seed
from prover.witness.task import kept_values, task_values

STATEMENT = b"benchmark"


@dataclass(frozen=True)
class Measured:
    """One task: counts, seconds by part (phases of the proof apart), bytes."""

    task: str
    valid: int
    padded: int
    lookups: int
    seconds: Mapping[str, float]
    phases: Mapping[str, float]
    proof_bytes: int
    peak_bytes: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(eq=False)
class Stage:
    """A planned step; trained and evaluated beside the backend that proves."""

    ready: Prepared
    params: Params
    backend: Backend
    clock: Clock = time.perf_counter
    train_seconds: float = 0.0
    made: dict[str, CommitmentData] = field(default_factory=dict)

    @property
    def manifest(self) -> RunManifest:
        return self.ready.manifest

    @cached_property
    def trace(self) -> WindowTrace:
        """The step in exact integers."""
        ops, start = TorchOps(ops_beside(self.backend.name).device), self.clock()
        trainer = Trainer(self.manifest, self.ready.base, self.ready.tokens, self.ready.mask, ops)
        found = trainer.run_window(StepRange(0, 1))
        self.train_seconds = self.clock() - start
        return found

    def arrays(self, name: Name) -> dict[str, IntArray]:
        """The tensors of a commitment of this step."""
        if name.kind == "dataset":
            return {"tokens": self.ready.tokens, "mask": self.ready.mask}
        if name.kind in ("base", "embedding", "head"):
            return dict(self.ready.base[name.base])
        return dict(self.trace.commitments(0, self.manifest.part_numbers)[name])

    def tasks(self, kinds: tuple[str, ...] = ("embed", "layer", "update", "head")) -> list[Task]:
        return [task for task in task_list(self.manifest) if task.kind in kinds]

    def prove(self, task: Task) -> Measured:
        """Commit to the inputs, make the witness, prove, verify; RuntimeError or VerificationError if anything does not hold."""
        clock, seconds = self.clock, dict[str, float]()
        arrays = {role: (name, self.arrays(name)) for role, name in task.commitments}
        reset_peak(self.backend.name)
        start = clock()
        inputs = [
            (role, commit(self.backend, commitment_layout(self.manifest, name), tensors, fresh_seed()))
            for role, (name, tensors) in arrays.items()
        ]
        seconds["inputs"] = clock() - start
        given = {(role, key): array for role, (_, tensors) in arrays.items() for key, array in tensors.items()}
        start = clock()
        ops = ops_beside(self.backend.name)
        window = StepRange(0, 1) if task.window >= 0 else None
        graph, found = task_values(self.manifest, task.kind, window, task.subject, given, ops, part=task.part)
        check(graph, dict(enumerate(found)), ops if ops.keep else None)
        values = kept_values(self.backend, graph, drained(found))
        self.backend.release()
        seconds["evaluate"] = clock() - start
        shape = TaskShape(graph, self.backend.field)
        published = {p.name: self.backend.to_host(values[p.tensor.index]) for p in graph.published}
        start = clock()
        proof, phases = timed_proof(self.backend, shape, STATEMENT, inputs, drained(values), published, self.params, fresh_seed(), clock)
        seconds["prove"] = clock() - start
        peak = peak_bytes(self.backend.name)
        start = clock()
        channel = VerifyingChannel(self.params.field, proof)
        committed = [Committed(role, data.layout, data.root) for role, data in inputs]
        run_task(channel, TaskShape(graph, self.params.field), STATEMENT, committed, self.params, published, None)
        channel.finish()
        seconds["verify"] = clock() - start
        valid, padded = padded_cells(shape.witness_layout(self.params))
        lookups = sum(lookup.columns[0].cells for lookup in graph.lookups)
        return Measured(str(task), valid, padded, lookups, seconds, phases, len(proof), peak)


def stage(
    shape: Shape, tokens: int, profile_name: str, backend: Backend, folder: Path, rank: int = 8, keep: int = KEEP_BYTES,
    clock: Clock = time.perf_counter,
) -> Stage:
    """One sequence of random tokens, AdamW, rank `rank` on all seven projections; weights are written to `folder` unless they lie
    there, and `keep` bytes of their integers are held."""
    random = np.random.default_rng(5)
    ids = random.integers(0, shape.vocab_size, (1, tokens + 1))
    dataset = TokenisedDataset(ids, np.ones((1, tokens), dtype=np.int64), "00" * 32, 0, 1)
    if not (folder / "config.json").exists():
        write_folder(folder, shape)
    ready = prepare(
        open_model(folder), dataset, name="benchmark", lora=Lora(rank, 2 * rank, PROJECTIONS),
        optimizer=Optimizer(kind="adamw", learning_rate="0.001"), batch_size=1, steps=1, window_steps=1, seed=7, publish_loss=True,
        base_visibility="private", profile=profile_name, calibration_steps=1, keep=keep, device=ops_beside(backend.name).device,
    )
    manifest = replace(ready.manifest, budgets=opening_counts(ready.manifest))
    return Stage(replace(ready, manifest=manifest), profile(profile_name), backend, clock)


def foretold(manifest: RunManifest, task: Task, params: Params, place: Place) -> Forecast:
    """One task of a manifest that has budgets."""
    counted = Counted.of(lambda: task.graph(manifest), params.field)
    return forecast(counted, params, [commitment_layout(manifest, name) for _, name in task.commitments], place)
