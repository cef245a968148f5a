"""Several provers of one step side by side, as several workers of one machine are: the clock from the first task to the last proof.

A task's schedule is the host's work, one thread of it, so one prover leaves a GPU waiting. Each prover here is a process that trains the
same step, proves one task that does not count (tables, compiled kernels), waits for the others, and then takes the next task that nobody
has. Cores and memory are divided as `verilora worker --processes` divides them. Called by benchmarks/gpu.py with --provers.
"""

import multiprocessing
import os
import time
from dataclasses import asdict
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any

from benchmarks.shapes import Shape
from benchmarks.stage import stage
from prover.backend import select
from prover.backend.memory import divided
from prover.cost.machine import memory_bytes

Setting = tuple[Shape, int, str, str, Path, tuple[str, ...]]  # of `stage`, with the backend's name, and the kinds of tasks


def prove_together(setting: Setting, provers: int) -> dict[str, Any]:
    """Seconds of the clock for all tasks of the step, and each task's figures. RuntimeError if a prover fails."""
    context = multiprocessing.get_context("spawn")  # a GPU is not inherited
    tasks, found, ready = context.Queue(), context.Queue(), context.Barrier(provers + 1)
    crew = [context.Process(target=_prover, args=(setting, tasks, found, ready), daemon=True) for _ in range(provers)]
    before = dict(os.environ)
    os.environ |= divided(provers)  # a spawned process begins with it, so libraries find it when they are imported
    try:
        for process in crew:
            process.start()
    finally:
        os.environ.clear()
        os.environ |= before
    try:
        count = _take(found, crew)["tasks"]
        for index in range(count):
            tasks.put(index)
        for _ in crew[1:]:
            _take(found, crew)
        ready.wait()
        start = time.perf_counter()
        rows = [_take(found, crew) for _ in range(count)]
        seconds = time.perf_counter() - start
    finally:
        for process in crew:
            process.kill()
            process.join()
    return {"provers": provers, "seconds": seconds, "tasks": rows}


def _take(found: "Queue[dict[str, Any]]", crew: list[Any]) -> dict[str, Any]:
    """The next message of a prover."""
    while True:
        try:
            said = found.get(timeout=1)
        except Empty:
            if all(process.is_alive() for process in crew):
                continue
            raise RuntimeError("a prover ended without a word") from None
        if "error" in said:
            raise RuntimeError(said["error"])
        return said


def _prover(setting: Setting, tasks: "Queue[int]", found: "Queue[dict[str, Any]]", ready: Barrier) -> None:
    shape, tokens, profile_name, backend_name, folder, kinds = setting
    try:
        backend = select(backend_name)
        s = stage(shape, tokens, profile_name, backend, folder, keep=memory_bytes("cpu") // 4)
        todo = s.tasks(kinds)
        s.prove(max(todo, key=lambda task: task.kind == "layer"))
        found.put({"tasks": len(todo)})
        ready.wait()
        while True:
            found.put(asdict(s.prove(todo[tasks.get()])))
    except Exception as error:  # whatever it is, the parent has to hear of it
        found.put({"error": f"{type(error).__name__}: {error}"})
