"""What a run will cost, before anything is committed: tasks, committed values, lookups, memory, time, proof bytes, bits.

Sizes and soundness are computed from the relation itself, once for each shape of task (windows of equal length and inner
layers are alike), under each profile; work and memory under the chosen one alone. Proof bytes are exact but for the Merkle
siblings, whose number depends on the drawn positions. Memory is the sum of what is alive at a task's peak, time is counted work over
rates measured on the machine at hand (prover/cost). The choice of proof parameters is here too, because it is the profile with the
fewest proof bytes. Called by tasks/plan.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from protocol import merkle
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.params import PROFILES, Params
from protocol.schedule.opening import EXTRA_ROWS, tail_code, tail_count
from protocol.schedule.task import TaskShape
from protocol.soundness import Soundness, task_soundness
from protocol.statement import Task, commitment_layout, max_blinding, task_list
from prover.cost.claims import record_claims
from prover.cost.forecast import PARTS, Counted, forecast
from prover.cost.rates import Rates
from prover.cost.work import EVERYTHING, Memory, Place, Work, task_memory
from storage.derive import SPARE_OPENINGS
from tasks.budgets import OwnedBudget, counts_of, too_few_openings, with_rotation
from tasks.context import RunError


class PlanError(RunError):
    """What was asked for cannot be run; the message says what to change."""


@dataclass(frozen=True)
class KindCost:
    """All tasks of one kind; committed cells that are valid, and those of the rows that exist; the memory of the largest task."""

    kind: str
    tasks: int
    committed: int
    padded: int
    lookups: int
    proof_bytes: int
    bits: float
    memory: Memory
    work: dict[str, Work]

    def seconds(self, rates: Rates) -> dict[str, float]:
        """By part of the work (prover/cost/forecast.py), one task after another."""
        return {part: rates.total(work) for part, work in self.work.items()}

    def to_json(self, rates: Rates | None) -> dict[str, Any]:
        found = {part: round(value, 2) for part, value in self.seconds(rates).items()} if rates else None
        return {
            "kind": self.kind, "tasks": self.tasks, "committed_values": self.committed, "padded_values": self.padded,
            "lookups": self.lookups, "proof_bytes": self.proof_bytes, "soundness_bits": int(self.bits),
            "estimated_memory_bytes": self.memory.peak, "estimated_memory": self.memory.phases[self.memory.peak_phase],
            "estimated_seconds": round(sum(found.values()), 1) if found else None, "estimated_seconds_by_part": found,
        }


@dataclass(frozen=True)
class Estimate:
    """The whole run under one profile."""

    profile: str
    parts: int
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

    @property
    def memory(self) -> int:
        """Bytes of the largest task."""
        return max(k.memory.peak for k in self.kinds)

    def to_json(self, rates: Rates | None = None) -> dict[str, Any]:
        """Plain values for --json; everything that is an estimate says so in its key, seconds are those of `rates`."""
        kinds = [k.to_json(rates) for k in self.kinds]
        return {
            "profile": self.profile, "parts": self.parts, "tasks": self.tasks, "committed_values": sum(k.committed for k in self.kinds),
            "padded_values": sum(k.padded for k in self.kinds), "lookups": sum(k.lookups for k in self.kinds),
            "proof_bytes": self.proof_bytes, "soundness_bits": int(self.bits),
            "estimated_memory_bytes": self.memory, "backend": rates.backend if rates else None,
            "estimated_seconds": round(sum(k["estimated_seconds"] for k in kinds), 1) if rates else None,
            "budgets": dict(sorted(self.budgets.items())), "rotation_windows": self.rotation_windows, "kinds": kinds,
        }


@dataclass(frozen=True, eq=False)
class _Class:
    """Tasks that are alike: one of them, what it asks for, how many there are."""

    task: Task
    counted: Counted
    count: int


@dataclass(frozen=True, eq=False)
class _Sized:
    """A run under one profile before its work is counted: its classes, and of each the layouts that it opens, proof bytes, and bits."""

    manifest: RunManifest
    classes: list[_Class]
    inputs: list[list[CommitmentLayout]]
    sizes: list[int]
    bits: list[float]

    @property
    def proof_bytes(self) -> int:
        return sum(c.count * size for c, size in zip(self.classes, self.sizes, strict=True))


Shapes = dict[tuple[object, ...], Counted]


def choose(
    manifest: RunManifest, wanted_bits: int, profiles: Sequence[str] = tuple(PROFILES), owned: OwnedBudget | None = None,
    spare: int = SPARE_OPENINGS, place: Place = EVERYTHING,
) -> Estimate:
    """The profile, of `profiles`, with the fewest proof bytes that reaches `wanted_bits`; its budgets and rotations.

    `manifest` has exponents; its profile, budgets and rotations are ignored. PlanError says what would fit.
    """
    counts = counts_of(manifest)
    fitting = {name: with_rotation(manifest, PROFILES[name].max_openings, owned, spare, counts) for name in profiles}
    shapes: Shapes = {}
    found = [_sized(replace(found, profile=name), shapes) for name, found in fitting.items() if found]
    if not found:
        raise PlanError(too_few_openings(manifest, owned, max(PROFILES[name].max_openings for name in profiles), spare))
    sure = [sized for sized in found if min(sized.bits) >= wanted_bits]
    if not sure:
        best = int(max(min(sized.bits) for sized in found))
        raise PlanError(
            f"audit.soundness_bits: {wanted_bits} cannot be reached, a proof of this run has at most {best} bits; "
            f"valid is 100 to {best}, or smaller windows (training.window_steps)"
        )
    return _estimate(min(sure, key=lambda sized: sized.proof_bytes), place)


def _groups(manifest: RunManifest, kind: str = "") -> dict[tuple[object, ...], list[Task]]:
    """Tasks that are alike, of one kind or of all."""
    windows, last = manifest.windows(), len(manifest.windows()) - 1
    groups: dict[tuple[object, ...], list[Task]] = {}
    for task in task_list(manifest):
        if kind not in ("", task.kind):
            continue
        if task.window < 0:
            key: tuple[object, ...] = ("range", task.commitments[0][0])
        elif task.kind == "rotate":
            key = ("rotate", task.commitments[0][1].kind)
        else:
            edge = (task.layer == 0, task.window == 0, task.window == last) if task.layer >= 0 else ()
            key = (task.kind, windows[task.window].count, task.kind == "head" and task.part == manifest.part_numbers[-1], *edge)
        groups.setdefault(key, []).append(task)
    return groups


def _classes(manifest: RunManifest, shapes: Shapes) -> Iterable[_Class]:
    """`shapes` keeps what was found: a task's shape does not depend on budgets or on how often is rotated."""
    for key, tasks in _groups(manifest).items():
        if key not in shapes:
            shapes[key] = Counted.of(lambda task=tasks[0]: task.graph(manifest), PROFILES[manifest.profile].field)  # type: ignore[misc]
        yield _Class(tasks[0], shapes[key], len(tasks))


def _sized(manifest: RunManifest, shapes: Shapes) -> _Sized:
    params, classes = PROFILES[manifest.profile], list(_classes(manifest, shapes))
    layout = cache(lambda name: commitment_layout(manifest, name))  # of a commitment that several tasks open, once
    inputs = [[layout(name) for _, name in c.task.commitments] for c in classes]
    each = [(c.counted.shape, found) for c, found in zip(classes, inputs, strict=True)]
    bits = [_soundness(manifest, params, shape, found).bits for shape, found in each]
    return _Sized(manifest, classes, inputs, [proof_size(params, shape, found) for shape, found in each], bits)


def _estimate(sized: _Sized, place: Place) -> Estimate:
    manifest, kinds = sized.manifest, []
    every = list(zip(sized.classes, sized.inputs, sized.sizes, sized.bits, strict=True))
    for kind in dict.fromkeys(c.task.kind for c in sized.classes):
        group, inputs, sizes, bits = zip(*(item for item in every if item[0].task.kind == kind), strict=True)
        each = [forecast(c.counted, PROFILES[manifest.profile], found, place) for c, found in zip(group, inputs, strict=True)]
        counts, cells = [c.count for c in group], [[getattr(f, name) for f in each] for name in ("valid", "padded", "lookups")]
        kinds.append(KindCost(
            kind, sum(counts), *(sum(n * k for n, k in zip(counts, found, strict=True)) for found in cells),
            sum(n * size for n, size in zip(counts, sizes, strict=True)), min(bits), max((f.memory for f in each), key=lambda m: m.peak),
            {part: sum((f.parts[part].times(n) for n, f in zip(counts, each, strict=True)), Work()) for part in PARTS},
        ))
    return Estimate(manifest.profile, manifest.parts, manifest.budgets, manifest.rotation_windows, tuple(kinds))


def kind_memory(manifest: RunManifest, kind: str, place: Place = EVERYTHING, widest: bool = False) -> Memory:
    """The largest task of one kind, or of its tasks the one with the most steps and the most commitments, which nearly always is the
    largest. `manifest` has a profile and budgets."""
    params, windows, found = PROFILES[manifest.profile], manifest.windows(), list[Memory]()
    tasks = [group[0] for group in _groups(manifest, kind).values()]
    if widest:
        tasks = [max(tasks, key=lambda task: (windows[task.window].count if task.window >= 0 else 0, len(task.commitments)))]
    for task in tasks:
        inputs = [commitment_layout(manifest, name) for _, name in task.commitments]
        shape = TaskShape(task.graph(manifest), params.field)
        found.append(task_memory(shape, record_claims(shape), params, inputs, place))
    return max(found, key=lambda m: m.peak)


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
