"""The fixed costs of proofs on a GPU, counted: launches, copies and waits of a task of a real shape, on a card that computes nothing.

    python -m benchmarks.launches                     a layer's task of 7B at 512 and 2,048 tokens, and what a step of such tasks comes to
    … --shape llama-2-13b --tokens 2048 --kinds layer head --provers 3 --verbose

A bound counts bytes and multiplications; a proof also launches kernels, waits for their sums and runs its schedule in Python. Here the
prover runs whole, with CuPy and its pool of memory, on a card that answers and computes nothing (tests/support/card), so its processor
seconds are those of everything but the driver and the device, and what the pool holds is what it would hold on a card; a prover that
needs more than its share of it fails as it would there. What a launch, a copy or a wait takes of a real driver and device is not counted
but assumed (MICROSECONDS; `make bench-gpu` measures it).

Afterwards the same on a card that runs four blocks of each launch, chosen by lot, and lets them stand for all: how many instructions the
kernels are made of, and how many bytes of global memory they ask for, caches not counted. At the rates of an H200 that is the least that
a device takes, as no kernel issues an instruction in every cycle. Values are zeros there, so what depends on them is not a proof's.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.machine_code import OTHER, ratios
from benchmarks.planner import real_manifest
from benchmarks.shapes import SHAPES
from protocol.layout import CommitmentLayout
from protocol.params import PROFILES, Params, profile
from protocol.relation.graph import Graph
from protocol.schedule.task import TaskShape
from protocol.statement import commitment_layout, opening_counts, task_list
from prover.argument.counting import count
from prover.argument.prove import drained, prove_task
from prover.backend.base import Backend
from prover.backend.cuda import CudaBackend
from prover.backend.memory import divided
from prover.commitment.commit import CommitmentData, commit
from prover.cost.forecast import Counted, forecast
from prover.cost.machine import describe
from prover.cost.work import Place
from prover.witness.task import integers_of, read_by_proof
from tests.support import card

MULTIPROCESSORS, MEMORY = 132, 141 * 10**9  # of an H200
ISSUED, BANDWIDTH = 132 * 128 * 1.755e9, 4.8e12  # its instructions of a thread and bytes a second
MICROSECONDS = {"launch": 8, "library": 10, "queued": 6, "back": 10, "waits": 10}
REPEATS = 4  # the least processor time of so many
SEED = b"\0" * 32


def commitments(backend: Backend, layouts: Sequence[tuple[str, CommitmentLayout]]) -> list[tuple[str, CommitmentData]]:
    """A task's inputs, committed."""
    found = []
    for role, layout in layouts:
        tensors = {slot.name: backend.xp.empty(slot.tensor.shape, np.int64) for slot in layout.slots}
        found.append((role, commit(backend, layout, tensors, SEED)))
    return found


def prove(backend: Backend, graph: Graph, inputs: list[tuple[str, CommitmentData]], params: Params, shape: TaskShape) -> None:
    """A proof of values that are not there."""
    read = {t.index for t in read_by_proof(graph)}
    values: list[Any] = [backend.xp.empty(t.shape, integers_of(t)) if t.index in read else None for t in graph.tensors]
    published = {p.name: np.zeros(p.tensor.shape, dtype=np.int64) for p in graph.published}
    prove_task(backend, shape, b"", inputs, drained(values), published, params, SEED, lambda: None)


def totals(found: Counter[str]) -> dict[str, int]:
    """Launches of the backend's kernels; what the library launches, sets and copies on the device; copies to it and back; waits."""
    ours = sum(n for name, n in found.items() if name.startswith("launch vl_"))
    library = sum(n for name, n in found.items() if name.startswith("launch cupy_")) + found["set"] + found["copy within"]
    return {"launch": ours, "library": library, "queued": found["queued there"] + found["copy there"], "back": found["copy back"],
            "waits": found["wait"]}


def line(title: str, found: Counter[str], seconds: float, tasks: int) -> str:
    kinds = totals(found)
    fixed = sum(MICROSECONDS[kind] * n for kind, n in kinds.items()) / 1e6
    text = f"  {title:8}" + "".join(f"{n:8} {kind}" for kind, n in kinds.items())
    text += f"{(found['bytes queued there'] + found['bytes copy there']) / 1e6:8.0f} MB there{found['bytes copy back'] / 1e6:7.0f} MB back"
    return f"{text}{fixed:8.3f} s of these{seconds:8.3f} s of a processor; {tasks} tasks {tasks * fixed:6.1f} and {tasks * seconds:6.1f} s"


def measured(work: Callable[[], Any]) -> tuple[Any, Counter[str], float]:
    card.forget()
    start = time.process_time()
    made = work()
    return made, card.counts(), time.process_time() - start


class Watched:
    """The most that the pool handed out and the most that it held, from now on."""

    def __init__(self, backend: CudaBackend) -> None:
        self.backend, self.used, self.held = backend, 0, 0
        backend.xp.cuda.set_allocator(self.allocate)

    def allocate(self, size: int) -> Any:
        made, pool = self.backend.allocated.allocate(size), self.backend.allocated.pool
        self.used, self.held = max(self.used, pool.used_bytes()), max(self.held, pool.total_bytes())
        return made


def executed(found: Counter[str], tasks: int, verbose: bool) -> str:
    """What the kernels of a task execute and move, and what that takes of an H200 at the least, for all tasks of the kind."""
    names = [what.removeprefix("instructions ") for what in found if what.startswith("instructions ")]
    each = ratios()
    kernels = {name: (each.get(name, OTHER) * found[f"instructions {name}"], found[f"moved {name}"]) for name in names}
    instructions, moved = (sum(column) for column in zip(*kernels.values(), strict=True))
    issue, move = instructions / ISSUED, moved / BANDWIDTH
    text = f"  device {instructions / 1e9:.0f} G instructions, {issue:.3f} s at the full rate; {moved / 1e9:.0f} GB asked for, {move:.3f} s"
    text += f"; {tasks} tasks {tasks * issue:.1f} and {tasks * move:.1f} s"
    rows = sorted(kernels.items(), key=lambda item: -item[1][0])
    shown = [f"    {n / 1e9:10.2f} G instructions {size / 1e9:8.2f} GB  {kernel}" for kernel, (n, size) in rows]
    return "\n".join([text, *(shown if verbose else shown[:8])])


def report(name: str, tokens: int, kind: str, params: Params, mode: card.Mode, verbose: bool) -> None:
    """One kind of task of one step."""
    manifest = replace(real_manifest(name, tokens), profile=params.name)
    manifest = replace(manifest, budgets=opening_counts(manifest))
    same = [task for task in task_list(manifest) if task.kind == kind]
    backend = CudaBackend(card.cupy(MULTIPROCESSORS, MEMORY, mode=mode))
    graph = same[0].graph(manifest)
    shape = TaskShape(graph, backend.field)
    count(shape)
    layouts = [(role, commitment_layout(manifest, name)) for role, name in same[0].commitments]
    if mode is card.Mode.SAMPLED:
        card.forget()
        inputs = commitments(backend, layouts)
        backend.release()
        prove(backend, graph, inputs, params, shape)
        print(executed(card.counts(), len(same), verbose), flush=True)
        return
    counted, place = Counted.of(lambda: same[0].graph(manifest), params.field), Place.of("cuda", backend.memory)
    told = forecast(counted, params, [layout for _, layout in layouts], place)
    print(f"{name} {tokens} tokens, {kind}: {len(shape.plans)} trees, {params.name}")
    first, then, memory = list[float](), list[float](), Watched(backend)
    for _ in range(REPEATS):  # the first time makes tables
        backend.release()
        inputs, committed, seconds = measured(lambda: commitments(backend, layouts))
        first.append(seconds)
        backend.release()
        _, proved, seconds = measured(lambda: prove(backend, graph, inputs, params, shape))  # noqa: B023 - called at once
        then.append(seconds)
        inputs = []  # not beside the next ones
    print(line("inputs", committed, min(first), len(same)))
    print(line("proof", proved, min(then), len(same)))
    print(f"  memory  {describe(memory.used)} used, {describe(memory.held)} held by the pool, {describe(told.memory.peak)} planned; "
          f"a share of {describe(backend.memory)}", flush=True)
    if verbose:
        for key, n in sorted((committed + proved).items(), key=lambda item: -item[1]):
            print(f"    {n:14} {key}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launches")
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--kinds", nargs="+", default=["layer"], help="layer, head, embed")
    parser.add_argument("--profile", choices=PROFILES, default="goldilocks-2^16")
    parser.add_argument("--provers", type=int, default=1, help="that share the card's memory")
    parser.add_argument("--sampled", action="store_true", help="only what the kernels execute")
    parser.add_argument("--verbose", action="store_true", help="also by name")
    arguments = parser.parse_args()
    os.environ |= divided(arguments.provers)
    if arguments.sampled:
        for tokens in arguments.tokens:
            for kind in arguments.kinds:
                report(arguments.shape, tokens, kind, profile(arguments.profile), card.Mode.SAMPLED, arguments.verbose)
        return
    for tokens in arguments.tokens:
        for kind in arguments.kinds:
            report(arguments.shape, tokens, kind, profile(arguments.profile), card.Mode.IDLE, arguments.verbose)
            same = ["--shape", arguments.shape, "--tokens", str(tokens), "--kinds", kind, "--profile", arguments.profile]
            same += ["--provers", str(arguments.provers), *(["--verbose"] if arguments.verbose else [])]
            # kernels count from when they are loaded, so in a process of its own
            subprocess.run([sys.executable, "-m", "benchmarks.launches", "--sampled", *same], check=True)


if __name__ == "__main__":
    main()
