"""What this machine does in a second, measured with the prover's own parts in about four seconds.

Three tasks of one kind (a matrix product, its rescaling, rounds of products, sums and axis maps of cells), a small one, one with many
operations and a large one, are committed, proved phase by phase (phases.py) and counted (work.py). Of each phase up to three figures are
unknown, seconds for a unit of work and for calls (a round, a claim, a slot); they are fitted to the three. The large one grows until its
proof takes LEAST seconds, so that a device which is faster than its calls is still measured at work, as far as it fits in memory (work.py
counts it as any task's). Nothing is kept: another load gives other rates.

`seconds(work, rates)` by name. Called by tasks/estimate.py and benchmarks/.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from protocol.channel import VerifyingChannel
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import Graph, Input, IntArray
from protocol.relation.rounding import rescale
from protocol.schedule.opening import Committed as SentCommitment
from protocol.schedule.task import TaskShape, run_task
from prover.argument.tree import count_multiplicities
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.cost.claims import Claims, record_claims
from prover.cost.evaluation import evaluation_work
from prover.cost.machine import resident_bytes
from prover.cost.phases import Clock, timed_proof
from prover.cost.tally import K_PRODUCT, TERM
from prover.cost.work import WORD, Place, Work, commitment_work, proof_work, task_memory, verification_work
from prover.executor.evaluate import check, evaluate
from prover.executor.torch_ops import TorchOps, ops_beside
from prover.randomness import SecretStream, fresh_seed
from prover.witness.task import read_by_proof

LEAST = 0.4  # seconds of the larger proof
SMALL, MIDDLE, LARGE = 8, 32, 512  # widths of the tasks: tables of the large one are beyond the caches
FEW, MANY_ROUNDS, DEEP = 2, 48, 3  # and their rounds of operations
MANY = 1 << 13  # entries of the host's products
COLD = 1.75  # a task's integers are cold, those of a sample are not: measured 1.6 to 2 times as long for what is counted, calls too
FREE = 0.1  # no unit is free: it takes at least so much of the most that it can take
PHASES = {  # phase → the units that are measured in it, known ones last
    "witness": ("placed", "encoded", "hashed", "random", "counted"), "tree": ("leaves", "tree_rounds", "blocks"),
    "claims": ("folded", "instances"), "products": ("tables", "product_rounds"),
    "opening": ("weighted", "opened", "slots", "again"), "schedule": ("schedule", "openings", "products"),
    "verified": ("verified", "checks", "checked", "queried"),
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
    """y_0 = rescale(x·Wᵀ), y_k = rescale(2^20·y_0 + y_{k−1}∘turned(y_{k−1})): [t,d]·[o,d] with t = d = size, and an odd part in o as models
    have. A round has what a layer has: products, sums of terms, an axis map, remainders of more than one limb."""
    g, outputs = Graph(), 11 * size // 4
    x = g.input("x_in", "x", "td", (size, size), -(1 << 15), (1 << 15) - 1)
    w = g.input("base", "W", "od", (outputs, size), -(1 << 11), (1 << 11) - 1)
    first = y = rescale(g, g.product("xW", "td,od->to", x, w), 14 + size.bit_length(), 16, "y0")
    for k in range(1, depth):
        turned = g.axis_map(f"turned{k}", y, "o", outputs, np.arange(outputs), np.roll(np.arange(outputs), 1))
        product = g.product(f"product{k}", "to,to->to", y, turned)
        y = rescale(g, g.linear(f"sum{k}", "to", (1, product), (1 << 20, first)), 21, 16, f"y{k}")
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


def sample_memory(backend: Backend, params: Params, size: int, depth: int) -> int:
    """Bytes that a sample's proof takes where the backend computes: a task's, and its tensors, which all are kept as 64-bit integers."""
    graph = sample_graph(size, depth)
    shape = TaskShape(graph, backend.field)
    inputs = [
        CommitmentLayout.pack([(op.tensor_name, t.shape)], params.code(1))
        for t, op in zip(graph.tensors, graph.ops, strict=True) if isinstance(op, Input)
    ]
    proof = task_memory(shape, record_claims(shape), params, inputs, Place.of(backend.name, backend.memory)).peak
    return proof + WORD * sum(t.cells for t in graph.tensors)


def measure(backend: Backend, params: Params, clock: Clock = time.perf_counter) -> Rates:
    """The rates of a backend and of the executor beside it under a profile, seconds of `clock`."""
    ops = ops_beside(backend.name)
    unit = _host_rates(backend, params, clock) | {"host": 1.0}
    unit["encoded"], unit["hashed"] = _commit_rates(backend, params, unit["random"], clock)
    unit["again"] = _column_rate(backend, params, clock)
    room = backend.memory * 9 // 10 - resident_bytes(backend.name)

    def fits(size: int) -> bool:
        return sample_memory(backend, params, size, DEEP) <= room

    size = LARGE
    while size > 2 * MIDDLE and not fits(size):
        size //= 2
    while True:
        start = clock()
        large = sample(backend, params, size, DEEP, ops)
        last = _phases(backend, params, large, clock)
        spent, size = clock() - start, 2 * size
        if spent >= LEAST or not fits(size):
            break
    samples = [*(sample(backend, params, *sizes, ops) for sizes in ((SMALL, FEW), (MIDDLE, MANY_ROUNDS))), large]
    phases = [*(_phases(backend, params, s, clock) for s in samples[:-1]), last]
    layouts = [[data.layout for _, data in s.inputs] for s in samples]
    place = Place.of(backend.name, backend.memory)
    works = [
        proof_work(s.shape, s.claims, params, found, place) + verification_work(s.shape, s.claims, params, found)
        for s, found in zip(samples, layouts, strict=True)
    ]
    counted = works[-1].counted
    unit["counted"] = _best(lambda: [count_multiplicities(backend, p, large.values) for p in large.shape.plans], clock) / counted
    for phase, names in PHASES.items():
        known = {name: unit[name] for name in names if name in unit}
        unit |= fit(works, [p[phase] for p in phases], [name for name in names if name not in known], known)
    a = torch.rand(512, 512, dtype=torch.float64, device=ops.device)
    unit["macs"] = _best(lambda: float((a @ a)[0, 0]), clock) / 512**3
    found = [evaluation_work(s.shape.graph) for s in samples]
    seconds = [_best(lambda s=s: _evaluate(s, ops), clock) for s in samples]  # type: ignore[misc]
    hot = fit(found, seconds, ["evaluated", "operations"], {"macs": unit["macs"]})
    unit |= {name: COLD * rate for name, rate in hot.items()}
    return Rates(backend.name, unit)


def fit(works: Sequence[Work], seconds: Sequence[float], names: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    """Rates of the named counts that come nearest to the seconds of a few tasks, each relative to its own, where other rates are known.

    Least squares with bounds: a rate is at most the seconds of each task over its count, and at least FREE of that, since noise
    would else make it nothing or less. The best of all ways to put some rates on their lower bounds is the best one there is."""
    spent = np.maximum(seconds, 1e-9)
    wanted = 1 - np.array([sum(rate * getattr(w, name) for name, rate in known.items()) for w in works]) / spent
    counts = np.array([[getattr(w, name) for name in names] for w in works], dtype=float) / spent[:, None]
    least = FREE / counts.max(axis=0)
    best, error = least, np.inf
    for some in product((False, True), repeat=len(names)):
        free, rates = np.array(some), least.copy()
        rates[free] = np.linalg.lstsq(counts[:, free], wanted - counts[:, ~free] @ least[~free], rcond=None)[0]
        off = float(np.linalg.norm(counts @ rates - wanted))
        if (rates >= least).all() and off < error:
            best, error = rates, off
    return dict(zip(names, best.tolist(), strict=True))


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


def _host_rates(backend: Backend, params: Params, clock: Clock) -> dict[str, float]:
    """What is done on the host: secrets, what a verifier makes of the one row that it is sent, products in F by the schedule's field and
    by a verifier's."""
    code, stream = params.code(1), SecretStream(params.field, bytes(32))
    rows, point = (stream.elements(name, 2, count) for name, count in (("rows", code.ell), ("point", code.ell.bit_length() - 1)))
    queries = np.linspace(0, code.n - 1, params.queries).astype(np.int64)
    a, b = (stream.elements(name, 2, MANY) for name in "ab")
    count = (K_PRODUCT + 2 * TERM) * MANY
    by_prover, by_verifier = (_best(lambda f=f: f.kdot(a, b), clock) / count for f in (backend.field, params.field))  # type: ignore[misc]
    return {
        "random": _best(lambda: stream.elements("probe", 1 << 16), clock) / (8 << 16),
        "queried": _best(lambda: (code.evaluate(rows, queries), code.message_at(rows, point)), clock) / code.n,
        "products": by_prover, "checked": by_verifier,
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
    found = fit(works, seconds, ["encoded", "hashed"], {})
    return found["encoded"], found["hashed"]


def _column_rate(backend: Backend, params: Params, clock: Clock) -> float:
    """Seconds for a cell of a row whose codeword is opened, but was not kept."""
    code, rows = params.code(1), max(8, (1 << 20) // params.ell)
    random = np.random.default_rng(rows)
    messages, rho = (backend.to_device(random.integers(0, 1 << 32, (rows, n), dtype=np.uint64)) for n in (code.ell, code.blinding))
    positions = random.integers(0, code.n, params.queries)
    return _best(lambda: backend.columns(code, messages, rho, positions), clock) / (rows * code.ell)


def _evaluate(s: Sample, ops: TorchOps) -> None:
    """As the graphs of tasks other than a layer's are: once, then checked."""
    graph = s.shape.graph
    check(graph, evaluate(graph, s.given, read_by_proof(graph), ops), ops if ops.keep else None)


def _best(work: Callable[[], object], clock: Clock, repeats: int = 3) -> float:
    """The least time of a few runs."""
    times = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return min(times)
