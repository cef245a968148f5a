"""Does every task of a run fit in memory? If one does not: the fewest parts of a step that do, or the largest setting that would,
found by trying smaller ones.

A machine's need is the program and its largest task (prover/cost/work.py). Called by tasks/plan.py.
"""

from collections.abc import Callable
from dataclasses import replace

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.relation.graph import RelationError
from prover.cost.machine import describe
from prover.cost.work import EVERYTHING, Place
from prover.progress import Tell, silent
from tasks.estimate import Estimate, KindCost, PlanError, kind_memory

SETTINGS = {"batch_size": 1, "gradient_accumulation": 1, "sequence_length": 2, "window_steps": 1}  # with their least values


def divisors(sequences: int) -> list[int]:
    """Numbers of parts that a step's sequences can have."""
    return [n for n in range(1, sequences + 1) if sequences % n == 0]


def fewest_parts(sequences: int, fits: Callable[[int], bool]) -> int:
    """The fewest parts that fit; as many as there are sequences if none do. Each number is tried, because more parts are more openings,
    and these may take larger proof parameters."""
    return next((n for n in divisors(sequences) if fits(n)), sequences)


def require_memory(
    manifest: RunManifest, estimate: Estimate, limit: int, program: int, place: Place = EVERYTHING, said: str = "", tell: Tell = silent,
) -> None:
    """PlanError if a task needs more than `limit` bytes of `place`, of which the program itself takes `program`; `said` tells whose word
    `limit` is."""
    worst = max(estimate.kinds, key=lambda kind: kind.memory.peak)
    room = limit - program
    if worst.memory.peak <= room:
        return
    chosen = replace(manifest, profile=estimate.profile, budgets=estimate.budgets, rotation_windows=estimate.rotation_windows)
    found = dict[str, int]()
    for name in SETTINGS:
        tell(f"a task of the kind {worst.kind} does not fit in memory; trying smaller values of training.{name}")
        found[name] = _largest(chosen, worst.kind, name, room, place)
    fitting = [f"training.{name}: {value}" for name, value in found.items() if value]
    if manifest.parts < manifest.sequences and _fits(chosen, worst.kind, {"parts": manifest.sequences}, room, place):
        fewest = fewest_parts(manifest.sequences, lambda n: _fits(chosen, worst.kind, {"parts": n}, room, place))
        fitting.insert(0, f"audit.parts: {fewest}")
    raise PlanError(f"{_need(worst, program)}, and there are {' '.join(filter(None, (describe(limit), said)))}; " + (
        f"what fits, each with the rest as it is, is {' or '.join(fitting)}" if fitting
        else "no smaller batch, sequence or window alone makes it fit: take fewer provers (`verilora worker --processes`) or a machine "
        "with more, and say with orchestration.prover_memory what each prover has"
    ))


def _need(worst: KindCost, program: int) -> str:
    phase = worst.memory.peak_phase
    terms = sorted(worst.memory.phases[phase].items(), key=lambda item: -item[1])[:3]
    largest = ", ".join(f"{name} {describe(size)}" for name, size in terms)
    return (f"a task of the kind {worst.kind} needs {describe(worst.memory.peak + program)} of memory in its phase \"{phase}\" "
            f"({largest}, program {describe(program)})")


def _largest(manifest: RunManifest, kind: str, name: str, room: int, place: Place) -> int:
    """The largest smaller value of a setting with which tasks of this kind fit; 0 if none does. Memory grows with each of them. First
    the widest task alone is tried, because each is counted anew; if another one turns out larger, all are."""
    low, high = SETTINGS[name], getattr(manifest, name) - 1
    found = bisect(low, high, lambda value: _fits(manifest, kind, {name: value}, room, place, widest=True))
    if not found or _fits(manifest, kind, {name: found}, room, place):
        return found
    return bisect(low, found - 1, lambda value: _fits(manifest, kind, {name: value}, room, place))


def bisect(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest value in low … high that fits, if smaller ones fit whenever a larger one does; 0 if none does."""
    found = 0
    while low <= high:
        middle = (low + high) // 2
        low, high, found = (middle + 1, high, middle) if fits(middle) else (low, middle - 1, found)
    return found


def _fits(manifest: RunManifest, kind: str, change: dict[str, int], room: int, place: Place, widest: bool = False) -> bool:
    smaller = {name: change.get(name, getattr(manifest, name)) for name in SETTINGS}
    sequences = smaller["batch_size"] * smaller["gradient_accumulation"]
    tokens, most = sequences * smaller["sequence_length"], manifest.part_sequences
    parts = change.get("parts", next(n for n in divisors(sequences) if sequences <= n * most))  # a task has no more of them than before
    try:
        changed = replace(manifest, **change | {"parts": parts}, loss_tokens=tuple(min(n, tokens) for n in manifest.loss_tokens))
        return kind_memory(changed, kind, place, widest).peak <= room
    except (RelationError, VerificationError):
        return False  # not a run at all
