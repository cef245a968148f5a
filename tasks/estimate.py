"""What a run will cost, before anything is committed: tasks, committed values, lookups, memory, time, proof bytes, bits.

Sizes and soundness are computed from the relation itself, once for each shape of task (windows of equal length and inner
layers are alike). Proof bytes are exact but for the Merkle siblings, whose number depends on the drawn positions. Times
and memory are estimates: a rate per lookup measured on 2 cores with AVX-512, nothing more. The choice of proof
parameters is here too, because it is the profile with the fewest proof bytes. Called by tasks/plan.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protocol import merkle
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.params import PROFILES, Params
from protocol.relation.graph import Committed, Graph
from protocol.schedule.opening import EXTRA_ROWS, tail_code, tail_count
from protocol.schedule.task import TaskShape
from protocol.soundness import Soundness, task_soundness
from protocol.statement import Task, commitment_layout, max_blinding, opening_counts, task_list
from tasks.context import RunError

SPARE_OPENINGS = 2  # attempts that may die after their positions were drawn, per commitment
PROVE_SECONDS_PER_LOOKUP = 1.2e-6  # measured, see docs/log.md
PROVE_SECONDS_PER_TASK = 0.3
VERIFY_SHARE = 0.25  # of the proving time
MEMORY_BYTES_PER_LOOKUP = 280  # fraction tree with its layers, witness tensors and codeword: measured


class PlanError(RunError):
    """What was asked for cannot be run; the message says what to change."""


@dataclass(frozen=True)
class KindCost:
    """All tasks of one kind."""

    kind: str
    tasks: int
    committed: int
    lookups: int
    proof_bytes: int
    bits: float
    memory_bytes: int
    prove_seconds: float


@dataclass(frozen=True)
class Estimate:
    """The whole run under one profile."""

    profile: str
    budgets: dict[str, int]
    kinds: tuple[KindCost, ...]

    @property
    def tasks(self) -> int:
        return sum(k.tasks for k in self.kinds)

    @property
    def proof_bytes(self) -> int:
        return sum(k.proof_bytes for k in self.kinds)

    @property
    def bits(self) -> float:
        return min(k.bits for k in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json; everything that is an estimate says so in its key."""
        kinds = [
            {
                "kind": k.kind, "tasks": k.tasks, "committed_values": k.committed, "lookups": k.lookups, "proof_bytes": k.proof_bytes,
                "soundness_bits": int(k.bits), "estimated_memory_bytes": k.memory_bytes,
                "estimated_cpu_seconds": round(k.prove_seconds, 1), "gpu_seconds": "not measured here",
            }
            for k in self.kinds
        ]
        return {
            "profile": self.profile, "tasks": self.tasks, "committed_values": sum(k.committed for k in self.kinds),
            "lookups": sum(k.lookups for k in self.kinds), "proof_bytes": self.proof_bytes, "soundness_bits": int(self.bits),
            "estimated_memory_bytes": max(k.memory_bytes for k in self.kinds),
            "estimated_cpu_seconds": round(sum(k.prove_seconds for k in self.kinds), 1), "gpu_seconds": "not measured here",
            "budgets": dict(sorted(self.budgets.items())), "kinds": kinds,
        }


@dataclass(frozen=True, eq=False)
class _Class:
    """Tasks that are alike: one of them, its shape, how many there are."""

    task: Task
    shape: TaskShape
    count: int
    sizes: dict[str, int]


def with_budgets(manifest: RunManifest) -> RunManifest:
    """The manifest with openings for every task and the spare attempts."""
    return replace(manifest, budgets={kind: n + SPARE_OPENINGS for kind, n in opening_counts(manifest).items()})


def choose(manifest: RunManifest, wanted_bits: int) -> Estimate:
    """The profile with the fewest proof bytes that holds the run's budgets with at least `wanted_bits`.

    `manifest` has exponents and budgets; its profile is ignored. PlanError names the largest number of windows that fits.
    """
    needed = max(manifest.budgets.values())
    fitting = [name for name, params in PROFILES.items() if params.max_openings >= needed]
    if not fitting:
        raise PlanError(_too_many_windows(manifest, needed))
    classes = list(_classes(manifest, next(iter(PROFILES.values()))))
    estimates = [_estimate(replace(manifest, profile=name), classes) for name in fitting]
    sure = [e for e in estimates if e.bits >= wanted_bits]
    if not sure:
        best = max(estimates, key=lambda e: e.bits)
        raise PlanError(
            f"audit.soundness_bits: {wanted_bits} cannot be reached, a proof of this run has at most {int(best.bits)} bits; "
            f"valid is 100 to {int(best.bits)}, or smaller windows (training.window_steps)"
        )
    return min(sure, key=lambda e: e.proof_bytes)


def _too_many_windows(manifest: RunManifest, needed: int) -> str:
    limit = max(params.max_openings for params in PROFILES.values())
    windows, low, high = len(manifest.windows()), 0, len(manifest.windows())
    while low < high:  # the largest number of windows whose budgets fit
        middle = (low + high + 1) // 2
        shorter = replace(manifest, steps=middle * manifest.window_steps, loss_tokens=(1,) * (middle * manifest.window_steps))
        if max(with_budgets(shorter).budgets.values()) <= limit:
            low = middle
        else:
            high = middle - 1
    return (
        f"the run has {windows} windows, and one commitment would be opened {needed} times; at most {limit} openings keep it "
        f"hidden at 100 bits. The largest number of windows that fits is {low}: lower training.max_steps to "
        f"{low * manifest.window_steps}, or raise training.window_steps to at least {-(-manifest.steps // max(low, 1))}"
    )


def _classes(manifest: RunManifest, params: Params) -> Iterable[_Class]:
    windows, last = manifest.windows(), len(manifest.windows()) - 1
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in task_list(manifest):
        if task.window < 0:
            key: tuple[object, ...] = ("range", task.commitments[0][0])
        else:
            edge = (task.layer == 0, task.window == 0, task.window == last) if task.kind == "layer" else ()
            key = (task.kind, windows[task.window].count, *edge)
        groups.setdefault(key, []).append(task)
    for tasks in groups.values():
        graph = tasks[0].graph(manifest)
        yield _Class(tasks[0], TaskShape(graph, params.field), len(tasks), _sizes(graph))


def _sizes(graph: Graph) -> dict[str, int]:
    """Cells that are committed, and cells that are looked up, in one task."""
    committed = sum(t.cells for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Committed))
    return {"committed": committed, "lookups": sum(lookup.columns[0].cells for lookup in graph.lookups)}


def _estimate(manifest: RunManifest, classes: list[_Class]) -> Estimate:
    params, kinds = PROFILES[manifest.profile], []
    for kind in dict.fromkeys(c.task.kind for c in classes):
        group = [c for c in classes if c.task.kind == kind]
        inputs = [[commitment_layout(manifest, name) for _, name in c.task.commitments] for c in group]
        sizes = [proof_size(params, c.shape, found) for c, found in zip(group, inputs, strict=True)]
        bits = [_soundness(manifest, params, c.shape, found).bits for c, found in zip(group, inputs, strict=True)]
        seconds = [PROVE_SECONDS_PER_TASK + PROVE_SECONDS_PER_LOOKUP * c.shape.plan.fractions for c in group]
        kinds.append(KindCost(
            kind, sum(c.count for c in group), sum(c.count * c.sizes["committed"] for c in group),
            sum(c.count * c.sizes["lookups"] for c in group), sum(c.count * n for c, n in zip(group, sizes, strict=True)),
            min(bits), max(MEMORY_BYTES_PER_LOOKUP * c.shape.plan.fractions for c in group),
            sum(c.count * s for c, s in zip(group, seconds, strict=True)),
        ))
    return Estimate(manifest.profile, manifest.budgets, tuple(kinds))


def _soundness(manifest: RunManifest, params: Params, shape: TaskShape, inputs: list[CommitmentLayout]) -> Soundness:
    return task_soundness(params, shape, [*inputs, shape.witness_layout(params)], max_blinding(manifest, params))


def proof_size(params: Params, shape: TaskShape, inputs: list[CommitmentLayout]) -> int:
    """Bytes of one proof, with the Merkle siblings of evenly drawn positions (protocol/schedule/opening.py)."""
    witness = shape.witness_layout(params)
    every = [*inputs, witness]
    tails = tail_count(every)
    elements = tails + 1 + params.ell + max(c.code.blinding for c in every)
    elements += tail_code(params.field, witness.code, tails).length
    positions = np.sort(np.random.default_rng(0).choice(params.n, params.queries, replace=False)).tolist()
    siblings = 32 * merkle.proof_length(params.n, positions)
    rows = sum(len(c.rows) for c in every) + EXTRA_ROWS
    return 32 + shape.counts.message_bytes + 16 * elements + 8 * rows * params.queries + len(every) * (32 * params.queries + siblings)
