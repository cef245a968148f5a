"""What this machine does in a second, measured with the prover's own parts in about two seconds.

Three tasks of one kind (a matrix product, its rescaling, products of cells, their rescaling), a small one, a small one with many
operations and a large one, are committed, proved phase by phase (phases.py) and counted (work.py). Of each phase two figures are
unknown, seconds for a unit of work and for a call (a round, a claim, a slot); they are fitted to the three. The large one grows until its
proof takes LEAST seconds, so that a device which is faster than its calls is still measured at work. Nothing is kept: another load
gives other rates.

`seconds(work, rates)` by name. Called by tasks/estimate.py and benchmarks/.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from protocol.channel import VerifyingChannel
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import Committed, Graph, Input, IntArray
from protocol.relation.rounding import rescale
from protocol.schedule.opening import Committed as SentCommitment
from protocol.schedule.task import TaskShape, run_task
from prover.argument.tree import count_multiplicities
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.cost.claims import Claims, record_claims
from prover.cost.phases import Clock, timed_proof
from prover.cost.work import Work, commitment_work, evaluation_work, proof_work, verification_work
from prover.executor.evaluate import check, evaluate
from prover.executor.torch_ops import TorchOps, ops_beside
from prover.randomness import SecretStream, fresh_seed

LEAST = 0.4  # seconds of the larger proof
SMALL, LARGE = 8, 256  # widths of the tasks: tables of the large one are beyond the caches
DEEP, DEEPER = 4, 64  # products of the large one, and of a small one that has many
UNITS = {  # unit of work → (its calls, the phase that it is measured in)
    "leaves": ("tree_rounds", "tree"), "folded": ("instances", "claims"), "tables": ("product_rounds", "products"),
    "weighted": ("slots", "weights"), "opened": ("opening_rounds", "opening"), "schedule": ("openings", "schedule"),
    "verified": ("checks", "verified"),
}


@dataclass(frozen=True)
class Rates:
    """Seconds for one of each count of Work."""

    backend: str
    unit: Mapping[str, float]

    def seconds(self, work: Work) -> dict[str, float]:
        """By count of Work."""
        return {name: count * self.unit[name] for name, count in vars(work).items()}

    def total(self, work: Work) -> float:
        return sum(self.seconds(work).values())


@dataclass(frozen=True, eq=False)
class Sample:
    """A task to measure with: everything that a proof needs."""

    shape: TaskShape
    given: dict[tuple[str, str], IntArray]
    values: list[Any]
    inputs: list[tuple[str, CommitmentData]]
    claims: Claims


def sample_graph(size: int, depth: int) -> Graph:
    """y_0 = rescale(x·Wᵀ), y_k = rescale(y_{k−1}∘y_{k−1}): [t,d]·[o,d] with t = 2·size, d = size, and an odd part in o as models have."""
    g = Graph()
    x = g.input("x_in", "x", "td", (2 * size, size), -(1 << 15), (1 << 15) - 1)
    w = g.input("base", "W", "od", (11 * size // 4, size), -(1 << 11), (1 << 11) - 1)
    y = rescale(g, g.product("xW", "td,od->to", x, w), 14 + size.bit_length(), 16, "y0")
    for k in range(1, depth):
        y = rescale(g, g.product(f"square{k}", "to,to->to", y, y), 16, 16, f"y{k}")
    return g


def sample(backend: Backend, params: Params, size: int, depth: int, ops: TorchOps) -> Sample:
    """Random integers in it, inputs committed."""
    graph, random = sample_graph(size, depth), np.random.default_rng(size)
    given = {
        (op.commitment, op.tensor_name): random.integers(t.lo // 2, t.hi // 2, t.shape)
        for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Input)
    }
    values = evaluate(graph, given, graph.tensors, ops)
    shape = TaskShape(graph, backend.field)
    claims = record_claims(shape)
    inputs = [
        (role, commit(backend, CommitmentLayout.pack([(name, array.shape)], params.code(1)), {name: array}, fresh_seed()))
        for (role, name), array in given.items()
    ]
    return Sample(shape, given, [backend.to_device(values[t.index]) for t in graph.tensors], inputs, claims)


def measure(backend: Backend, params: Params, clock: Clock = time.perf_counter) -> Rates:
    """The rates of a backend and of the executor beside it under a profile, seconds of `clock`."""
    ops = ops_beside(backend.name)
    unit = _host_rates(params, clock) | {"host": 1.0}
    unit["encoded"], unit["hashed"] = _commit_rates(backend, params, unit["random"], clock)
    size, spent = LARGE, 0.0
    while spent < LEAST:
        start = clock()
        large = sample(backend, params, size, DEEP, ops)
        last = _phases(backend, params, large, clock)
        spent, size = clock() - start, 2 * size
    samples = [*(sample(backend, params, SMALL, depth, ops) for depth in (2, DEEPER)), large]
    phases = [*(_phases(backend, params, s, clock) for s in samples[:-1]), last]
    layouts = [[data.layout for _, data in s.inputs] for s in samples]
    works = [
        proof_work(s.shape, s.claims, params, found) + verification_work(s.claims, params, found)
        for s, found in zip(samples, layouts, strict=True)
    ]
    host = works[0].queried * unit["queried"]
    for name, (calls, phase) in UNITS.items():
        work, count = ([getattr(w, key) for w in works] for key in (name, calls))
        spare = host if name == "verified" else 0.0
        unit[name], unit[calls] = _two_unknowns(work, count, [max(p[phase] - spare, 0.0) for p in phases])
    unit["counted"] = _best(lambda: [count_multiplicities(backend, p, large.values) for p in large.shape.plans], clock) / works[-1].counted
    _evaluation_rates(unit, samples, ops, clock)
    return Rates(backend.name, unit)


def _phases(backend: Backend, params: Params, s: Sample, clock: Clock) -> dict[str, float]:
    """The least of two runs, the first of which also pays for fresh memory; "verified" is what a verifier takes."""
    runs = []
    for _ in range(2):
        proof, found = timed_proof(backend, s.shape, b"probe", s.inputs, s.values, {}, params, fresh_seed(), clock)
        start = clock()
        channel = VerifyingChannel(params.field, proof)
        committed = [SentCommitment(role, data.layout, data.root) for role, data in s.inputs]
        run_task(channel, s.shape, b"probe", committed, params, {}, None)
        channel.finish()
        runs.append(found | {"verified": clock() - start})
    return {name: min(run[name] for run in runs) for name in runs[0]}


def _two_unknowns(work: Sequence[float], calls: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(a, b) ≥ 0 for which a·work + b·calls is nearest to the seconds of a few tasks, each relative to its own."""
    pairs, spent = np.array([work, calls], dtype=float).T, np.array(seconds)
    weights = 1 / np.maximum(spent, 1e-4)
    pairs, spent = pairs * weights[:, None], spent * weights
    a, b = np.linalg.lstsq(pairs, spent, rcond=None)[0]
    if a < 0 or b < 0:  # noise: one of them explains everything
        alone = [float(column @ spent / (column @ column)) for column in pairs.T]
        return (0.0, alone[1]) if a < 0 else (alone[0], 0.0)
    return float(a), float(b)


def _host_rates(params: Params, clock: Clock) -> dict[str, float]:
    """What NumPy and hashlib do on the host: secrets, codewords of masks, and what a verifier makes of the one row that it is sent."""
    code, stream = params.code(1), SecretStream(params.field, bytes(32))
    rows = stream.elements("rows", 2, code.ell)
    butterflies = 2 * code.n * (code.n.bit_length() - 1)
    point = stream.elements("point", 2, code.ell.bit_length() - 1)
    queries = np.linspace(0, code.n - 1, params.queries).astype(np.int64)
    return {
        "random": _best(lambda: stream.elements("probe", 1 << 16), clock) / (8 << 16),
        "transformed": _best(lambda: code.codeword(rows), clock) / butterflies,
        "queried": _best(lambda: (code.evaluate(rows, queries), code.message_at(rows, point)), clock) / code.n,
    }


def _commit_rates(backend: Backend, params: Params, random: float, clock: Clock) -> tuple[float, float]:
    """Seconds for a cell of a row and for a compression, from commitments of one row and of many."""
    works, seconds = [], []
    for rows in (1, max(8, (1 << 20) // params.ell)):
        layout = CommitmentLayout.pack([("x", (rows, params.ell))], params.code(1))
        tensors = {"x": np.random.default_rng(rows).integers(-1000, 1000, (rows, params.ell))}
        work = commitment_work(layout)
        works.append(work)
        seconds.append(_best(lambda c=layout, t=tensors: commit(backend, c, t, bytes(32)), clock) - random * work.random)  # type: ignore[misc]
    encoded, hashed = _two_unknowns([w.encoded for w in works], [w.hashed for w in works], seconds)
    return encoded, hashed


def _evaluation_rates(unit: dict[str, float], samples: Sequence[Sample], ops: TorchOps, clock: Clock) -> None:
    """Seconds for a multiply-add, a pass over a cell and an operation, from both samples evaluated as a task's witness is."""
    a = torch.rand(512, 512, dtype=torch.float64, device=ops.device)
    unit["macs"] = _best(lambda: float((a @ a)[0, 0]), clock) / 512**3
    works = [evaluation_work(s.shape.graph) for s in samples]
    spent = [max(_best(lambda s=s: _evaluate(s, ops), clock) - unit["macs"] * w.macs, 0.0) for s, w in zip(samples, works, strict=True)]  # type: ignore[misc]
    unit["evaluated"], unit["operations"] = _two_unknowns([w.evaluated for w in works], [w.operations for w in works], spent)


def _evaluate(s: Sample, ops: TorchOps) -> None:
    graph = s.shape.graph
    wanted = [t for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Committed)]
    committed = evaluate(graph, s.given, wanted, ops)
    check(graph, evaluate(graph, s.given, graph.tensors, ops, committed), ops if ops.keep else None)


def _best(work: Callable[[], object], clock: Clock, repeats: int = 3) -> float:
    """The least time of a few runs."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)
