"""What a run will cost, before anything is committed: tasks, committed values, lookups, memory, time, proof bytes, bits.

Sizes and soundness are computed from the relation itself, once for each shape of task (windows of equal length and inner
layers are alike). Proof bytes are exact but for the Merkle siblings, whose number depends on the drawn positions. Times
and memory are estimates: a rate per lookup measured on 2 cores with AVX-512, nothing more. The choice of proof
parameters is here too, because it is the profile with the fewest proof bytes. Called by tasks/plan.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protocol import merkle
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.params import PROFILES, Params, profile
from protocol.relation.graph import Committed, Graph
from protocol.schedule.opening import EXTRA_ROWS, tail_code, tail_count
from protocol.schedule.task import TaskShape
from protocol.soundness import Soundness, task_soundness
from protocol.statement import PUBLIC_BASE, Task, commitment_layout, max_blinding, opening_counts, task_list
from storage.derive import SPARE_OPENINGS
from tasks.context import RunError

PROVE_SECONDS_PER_LOOKUP = 0.65e-6  # fitted to the demonstration on 2 cores with AVX-512, see docs/log.md
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
    rotation_windows: int
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
            "budgets": dict(sorted(self.budgets.items())), "rotation_windows": self.rotation_windows, "kinds": kinds,
        }


@dataclass(frozen=True, eq=False)
class _Class:
    """Tasks that are alike: one of them, its shape, how many there are."""

    task: Task
    shape: TaskShape
    count: int
    sizes: dict[str, int]


@dataclass(frozen=True)
class OwnedBudget:
    """A dataset committed before the run: the openings that its blinding allows, and how many are left."""

    openings: int
    left: int


def with_budgets(manifest: RunManifest, owned: OwnedBudget | None = None, spare: int = SPARE_OPENINGS) -> RunManifest:
    """The manifest with openings for every task and the spare attempts; the owner's dataset keeps what it has, and a public base
    model, whose openings are unlimited, has a 1 that nobody reads."""
    budgets = {kind: n + spare for kind, n in opening_counts(manifest).items()}
    if manifest.base_visibility == "public":
        budgets |= dict.fromkeys(PUBLIC_BASE, 1)
    return replace(manifest, budgets=budgets | ({"dataset": owned.openings} if owned else {}))


def with_rotation(
    manifest: RunManifest, limit: int, owned: OwnedBudget | None = None, spare: int = SPARE_OPENINGS
) -> RunManifest | None:
    """Budgets of at most `limit` openings, by as few rotations as that takes; None if even one every window is too few."""

    def fitting(windows: int) -> RunManifest | None:
        found = with_budgets(replace(manifest, rotation_windows=windows), None, spare)
        if owned and found.budgets["dataset"] > owned.left:
            return None
        found = with_budgets(found, owned, spare)
        return found if max(found.budgets.values()) <= limit else None

    unrotated = fitting(0)
    if unrotated is not None:
        return unrotated
    low, high = 0, len(manifest.windows()) - 1  # the more windows one copy serves, the more openings it needs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fitting(middle) else (low, middle - 1)
    return fitting(low) if low else None


def choose(
    manifest: RunManifest, wanted_bits: int, profiles: Sequence[str] = tuple(PROFILES), owned: OwnedBudget | None = None,
    spare: int = SPARE_OPENINGS,
) -> Estimate:
    """The profile, of `profiles`, with the fewest proof bytes that reaches `wanted_bits`; its budgets and rotations.

    `manifest` has exponents; its profile, budgets and rotations are ignored. PlanError says what would fit.
    """
    fitting = {name: with_rotation(manifest, PROFILES[name].max_openings, owned, spare) for name in profiles}
    shapes: dict[tuple[object, ...], TaskShape] = {}
    estimates = [_estimate(replace(found, profile=name), shapes) for name, found in fitting.items() if found]
    if not estimates:
        raise PlanError(_too_few_openings(manifest, owned, max(PROFILES[name].max_openings for name in profiles), spare))
    sure = [e for e in estimates if e.bits >= wanted_bits]
    if not sure:
        best = max(estimates, key=lambda e: e.bits)
        raise PlanError(
            f"audit.soundness_bits: {wanted_bits} cannot be reached, a proof of this run has at most {int(best.bits)} bits; "
            f"valid is 100 to {int(best.bits)}, or smaller windows (training.window_steps)"
        )
    return min(sure, key=lambda e: e.proof_bytes)


def _too_few_openings(manifest: RunManifest, owned: OwnedBudget | None, limit: int, spare: int) -> str:
    needed = with_budgets(replace(manifest, rotation_windows=1), None, spare).budgets
    if owned and owned.left < needed["dataset"]:
        return (
            f"dataset_opening: {owned.left} of its {owned.openings} openings are left, and a run opens the dataset at least "
            f"{needed['dataset']} times before a copy takes over ({spare} of them in reserve); valid is a dataset committed "
            f"with --openings {needed['dataset']} or more"
        )
    return (
        f"a commitment of this run would be opened {max(needed.values())} times, {spare} of them in reserve (audit.spare_openings); at "
        f"most {limit} openings keep it hidden at 100 bits"
    )


def _classes(manifest: RunManifest, shapes: dict[tuple[object, ...], TaskShape]) -> Iterable[_Class]:
    """`shapes` keeps what was found: a task's shape does not depend on budgets or on how often is rotated."""
    windows, last = manifest.windows(), len(manifest.windows()) - 1
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in task_list(manifest):
        if task.window < 0:
            key: tuple[object, ...] = ("range", task.commitments[0][0])
        elif task.kind == "rotate":
            key = ("rotate", task.commitments[0][1].kind)
        else:
            edge = (task.layer == 0, task.window == 0, task.window == last) if task.kind == "layer" else ()
            key = (task.kind, windows[task.window].count, *edge)
        groups.setdefault(key, []).append(task)
    for key, tasks in groups.items():
        if key not in shapes:
            shapes[key] = TaskShape(tasks[0].graph(manifest), profile(manifest.profile).field)
        yield _Class(tasks[0], shapes[key], len(tasks), _sizes(shapes[key].graph))


def _sizes(graph: Graph) -> dict[str, int]:
    """Cells that are committed, and cells that are looked up, in one task."""
    committed = sum(t.cells for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Committed))
    return {"committed": committed, "lookups": sum(lookup.columns[0].cells for lookup in graph.lookups)}


def _estimate(manifest: RunManifest, shapes: dict[tuple[object, ...], TaskShape]) -> Estimate:
    params, kinds, classes = PROFILES[manifest.profile], [], list(_classes(manifest, shapes))
    for kind in dict.fromkeys(c.task.kind for c in classes):
        group = [c for c in classes if c.task.kind == kind]
        inputs = [[commitment_layout(manifest, name) for _, name in c.task.commitments] for c in group]
        sizes = [proof_size(params, c.shape, found) for c, found in zip(group, inputs, strict=True)]
        bits = [_soundness(manifest, params, c.shape, found).bits for c, found in zip(group, inputs, strict=True)]
        seconds = [PROVE_SECONDS_PER_TASK + PROVE_SECONDS_PER_LOOKUP * sum(p.fractions for p in c.shape.plans) for c in group]
        kinds.append(KindCost(
            kind, sum(c.count for c in group), sum(c.count * c.sizes["committed"] for c in group),
            sum(c.count * c.sizes["lookups"] for c in group), sum(c.count * n for c, n in zip(group, sizes, strict=True)),
            min(bits), max(MEMORY_BYTES_PER_LOOKUP * sum(p.fractions for p in c.shape.plans) for c in group),
            sum(c.count * s for c, s in zip(group, seconds, strict=True)),
        ))
    return Estimate(manifest.profile, manifest.budgets, manifest.rotation_windows, tuple(kinds))


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
