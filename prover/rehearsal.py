"""A small statement, proved and verified before a process's first task: y = rescale(x·W), x [8,16], W [16,16], random integers.

What is wrong with a machine, its compiler or its memory shows here, before a task's openings are spent. And the first task finds at
hand what depends on the code alone: kernels compiled and loaded, tables of the code, memory. A shift begins with it (flows/prove.py).
"""

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import Graph
from protocol.relation.rounding import rescale
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from prover.argument.prove import prove_task
from prover.backend.base import Backend
from prover.commitment.commit import commit
from prover.executor.evaluate import evaluate
from prover.executor.reference import ReferenceOps
from prover.randomness import fresh_seed

BOUND = 1 << 11
STATEMENT = b"rehearsal"


def rehearse(backend: Backend, params: Params) -> None:
    """VerificationError if the proof is not what a verifier accepts."""
    graph, random = Graph(), np.random.default_rng()
    arrays = {name: random.integers(-BOUND, BOUND, size) for name, size in (("x", (8, 16)), ("W", (16, 16)))}
    x, w = (graph.input("given", name, axes, arrays[name].shape, -BOUND, BOUND) for name, axes in (("x", "ti"), ("W", "io")))
    rescale(graph, graph.product("xW", "ti,io->to", x, w), 12, 16, "y")
    values = evaluate(graph, {("given", name): array for name, array in arrays.items()}, graph.tensors, ReferenceOps())
    layout = CommitmentLayout.pack([(name, array.shape) for name, array in arrays.items()], params.code(1))
    data = commit(backend, layout, arrays, fresh_seed())
    shape = TaskShape(graph, params.field)
    proof = prove_task(
        backend, shape, STATEMENT, [("given", data)], [values[t.index] for t in graph.tensors], {}, params, fresh_seed(), lambda: None
    )
    channel = VerifyingChannel(params.field, proof)
    run_task(channel, shape, STATEMENT, [Committed("given", layout, data.root)], params, {}, None)
    channel.finish()
