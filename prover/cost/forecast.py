"""What one task will take: counts by part of the work, memory by phase, valid and padded values apart.

    inputs     commitments that the task opens, made from their secrets (less where a prover still holds them)
    evaluate   the graph built, the witness in exact integers, checked
    prove      witness commitment to last column
    verify     the finished proof as a verifier reads it

Called by tasks/estimate.py and benchmarks/planner.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protocol.field import Field
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import Graph
from protocol.schedule.task import TaskShape
from prover.cost.claims import Claims, record_claims
from prover.cost.evaluation import evaluation_work, graphs_built
from prover.cost.work import (
    EVERYTHING,
    Memory,
    Place,
    Work,
    commitment_work,
    padded_cells,
    proof_work,
    task_memory,
    verification_work,
)

PARTS = ("inputs", "evaluate", "prove", "verify")


@dataclass(frozen=True, eq=False)
class Counted:
    """A task's shape with what its schedule asks for; the same under every profile. `built` is processor seconds for its graph."""

    shape: TaskShape
    claims: Claims
    built: float

    @staticmethod
    def of(build: Callable[[], Graph], field: Field) -> "Counted":
        spent = []
        for _ in range(2):  # the first graph of a process also pays for tables, which are made once
            start = time.process_time()
            graph = build()
            spent.append(time.process_time() - start)
        shape = TaskShape(graph, field)
        return Counted(shape, record_claims(shape), min(spent))


@dataclass(frozen=True)
class Forecast:
    """`parts` by PARTS; cells committed by the task itself: valid ones, and those of the rows that exist."""

    parts: dict[str, Work]
    memory: Memory
    valid: int
    padded: int
    lookups: int


def forecast(task: Counted, params: Params, inputs: Sequence[CommitmentLayout], place: Place = EVERYTHING) -> Forecast:
    """`inputs` are the layouts of the statement's commitments."""
    shape, graph = task.shape, task.shape.graph
    given = Work()
    for layout in inputs:
        given += commitment_work(layout)
    parts = {
        "inputs": given, "evaluate": evaluation_work(graph) + Work(host=graphs_built(graph) * task.built),
        "prove": proof_work(shape, task.claims, params, inputs, place), "verify": verification_work(shape, task.claims, params, inputs),
    }
    lookups = sum(lookup.columns[0].cells for lookup in graph.lookups)
    memory = task_memory(shape, task.claims, params, inputs, place)
    return Forecast(parts, memory, *padded_cells(shape.witness_layout(params)), lookups)
