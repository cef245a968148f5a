"""The fixed costs of proofs on a GPU, counted: launches, copies and waits of a task of a real shape, on a device that computes nothing.

    python -m benchmarks.launches                     a layer's task of 7B at 512 and 2,048 tokens, and what a step of such tasks comes to
    … --shape llama-2-13b --tokens 2048 --kinds layer head --verbose

A bound counts bytes and multiplications; a proof also launches kernels, waits for their sums and runs its schedule in Python. Here the
prover runs whole on arrays without memory (idle.py), so its processor seconds are those of everything but the device. What a launch,
a copy or a wait takes of a real device and its library is not counted but assumed (MICROSECONDS; `make bench-gpu` measures it).
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import idle
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
from prover.commitment.commit import CommitmentData, commit
from prover.witness.task import read_by_proof

MULTIPROCESSORS, MEMORY = 132, 141 * 10**9  # of an H200
MICROSECONDS = {"launch": 8, "library": 10, "queued": 6, "copies": 20, "back": 10, "waits": 10}
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
    values: list[Any] = [backend.xp.empty(t.shape, np.int64) if t.index in read else None for t in graph.tensors]
    published = {p.name: np.zeros(p.tensor.shape, dtype=np.int64) for p in graph.published}
    prove_task(backend, shape, b"", inputs, drained(values), published, params, SEED, lambda: None)


def totals(found: Counter[str]) -> dict[str, int]:
    """By the first word: launches of kernels and of the library, copies and waits."""
    return {kind: sum(n for name, n in found.items() if name.split()[0] == kind) for kind in MICROSECONDS}


def line(title: str, found: Counter[str], seconds: float, tasks: int) -> str:
    kinds = totals(found)
    fixed = sum(MICROSECONDS[kind] * n for kind, n in kinds.items()) / 1e6
    text = f"  {title:8}" + "".join(f"{n:8} {kind}" for kind, n in kinds.items())
    text += f"{(found['bytes queued'] + found['bytes copies']) / 1e6:8.0f} MB there{found['bytes back'] / 1e6:7.0f} MB back"
    return text + f"{fixed:8.3f} s of these{seconds:8.3f} s of a processor; {tasks} tasks {tasks * fixed:6.1f} and {tasks * seconds:6.1f} s"


def measured(work: Callable[[], Any]) -> tuple[Any, Counter[str], float]:
    idle.counted.clear()
    start = time.process_time()
    made = work()
    return made, idle.counted.copy(), time.process_time() - start


def report(name: str, tokens: int, kind: str, params: Params, verbose: bool) -> None:
    """One kind of task of one step."""
    manifest = replace(real_manifest(name, tokens), profile=params.name)
    manifest = replace(manifest, budgets=opening_counts(manifest))
    same = [task for task in task_list(manifest) if task.kind == kind]
    backend = CudaBackend(idle.module(MULTIPROCESSORS, MEMORY))
    graph = same[0].graph(manifest)
    shape = TaskShape(graph, backend.field)
    count(shape)
    layouts = [(role, commitment_layout(manifest, name)) for role, name in same[0].commitments]
    print(f"{name} {tokens} tokens, {kind}: {len(shape.plans)} trees, {params.name}")
    first, then = [], []
    for _ in range(REPEATS):  # the first time makes tables
        inputs, committed, seconds = measured(lambda: commitments(backend, layouts))
        first.append(seconds)
        _, proved, seconds = measured(lambda: prove(backend, graph, inputs, params, shape))  # noqa: B023 - called at once
        then.append(seconds)
    print(line("inputs", committed, min(first), len(same)))
    print(line("proof", proved, min(then), len(same)), flush=True)
    if verbose:
        for key, n in sorted((committed + proved).items(), key=lambda item: -item[1]):
            print(f"    {n:14} {key}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launches")
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--kinds", nargs="+", default=["layer"], help="layer, head, embed")
    parser.add_argument("--profile", choices=PROFILES, default="goldilocks-2^16")
    parser.add_argument("--verbose", action="store_true", help="also by name")
    arguments = parser.parse_args()
    for tokens in arguments.tokens:
        for kind in arguments.kinds:
            report(arguments.shape, tokens, kind, profile(arguments.profile), arguments.verbose)


if __name__ == "__main__":
    main()
