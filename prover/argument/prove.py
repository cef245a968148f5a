"""Prove one task: arrays in, proof bytes out. Called by tasks/; knows nothing of stores or orchestration."""

import functools
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from protocol.field import U64, Ext
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import WITNESS, IntArray
from protocol.relation.graph import Committed as CommittedOp
from protocol.schedule.gkr import as_point
from protocol.schedule.lookups import Fingerprint
from protocol.schedule.opening import Committed, tail_count
from protocol.schedule.products import Instance
from protocol.schedule.task import TaskShape, run_task
from prover.argument.batch import ProductBatchProver
from prover.argument.counting import count
from prover.argument.finish import FinishingChannel
from prover.argument.opening import Masks, OpeningProverImpl
from prover.argument.tree import FractionTreeProver, count_multiplicities
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.randomness import SecretStream


def drained(values: list[Any]) -> Iterator[Any]:
    """The entries of a list, which is emptied: whoever takes them is the only one to hold them."""
    values.reverse()
    while values:
        yield values.pop()


@functools.cache
def _exempt_libraries() -> None:
    """What is alive when a process proves for the first time, which is mostly its libraries, is no garbage: Python's collector would go
    through all of it once or twice a proof, 0.2 to 0.45 s with torch and Prefect imported."""
    gc.freeze()


def _extrapolate(backend: Backend, sides: Sequence[U64], count: int) -> list[U64]:
    """Each polynomial through (k, v_k), k = 0 … n−1, at x = n … n+count−1, K (2, n) to (2, count), by Lagrange's formula

        x!/(x − n)! · Σ_k v_k·(−1)^(n−1−k)/(k!·(n−1−k)!) / (x − k)."""
    field, n = backend.field, sides[0].shape[1]
    if not count:
        return [field.zeros(2, 0) for _ in sides]
    p = field.p
    factorial = [1]
    for k in range(1, n + count):
        factorial.append(factorial[-1] * k % p)
    inverse = [pow(factorial[-1], -1, p)]  # of the factorials
    for k in range(n + count - 1, 0, -1):
        inverse.append(inverse[-1] * k % p)
    inverse.reverse()
    reciprocal = np.array([0, *(inverse[k] * factorial[k - 1] % p for k in range(1, n + count))], dtype=np.uint64)
    weights = np.array([inverse[k] * inverse[n - 1 - k] * (-1) ** (n - 1 - k) % p for k in range(n)], dtype=np.uint64)
    outside = np.array([factorial[n + i] * inverse[i] % p for i in range(count)], dtype=np.uint64)
    windows = np.ascontiguousarray(sliding_window_view(reciprocal[1:], n))[:, :, None]  # 1/(x − k) for k = n−1 … 0
    sums = [backend.fold_axis(windows, np.ascontiguousarray(field.kmulf(v, weights)[:, ::-1])) for v in sides]
    return [field.kmulf(x.reshape(2, count), outside) for x in sums]


class TaskProverImpl:
    """Implements TaskProver: the witness commitment with pads, products and masks, and the three sub-provers."""

    def __init__(
        self, backend: Backend, shape: TaskShape, inputs: Sequence[tuple[str, CommitmentData]], layout: CommitmentLayout,
        values: Iterable[Any], seed: bytes, spend: Callable[[], None],
    ) -> None:
        _exempt_libraries()
        self.backend, self.shape = backend, shape
        stream = SecretStream(backend.field, seed)
        self.pads = stream.elements("pads", 2, shape.pads)
        self.products = self._pad_products()
        self.values = [value if value is None else backend.to_device(value) for value in values]
        self.counts = [count_multiplicities(backend, plan, self.values) for plan in shape.plans]
        tensors: dict[str, Any] = {
            name: counts[table].reshape(size) for plan, counts in zip(shape.plans, self.counts)
            for table, (name, size) in zip(plan.tables, plan.multiplicities())
        }
        tensors["pad"] = np.ascontiguousarray(self.pads.T)
        tensors["product"] = np.ascontiguousarray(self.products.T)
        for tensor, op in zip(shape.graph.tensors, shape.graph.ops, strict=True):
            if isinstance(op, CommittedOp) and op.commitment == WITNESS:
                tensors[op.tensor_name] = self.values[tensor.index]
        layouts = [data.layout for _, data in inputs] + [layout]
        blinding = max(x.code.blinding for x in layouts)
        masks = Masks.draw(stream, layout.code, tail_count(layouts), blinding)
        self.tails = masks.tails
        self.witness = commit(backend, layout, tensors, seed, masks.codewords(backend))
        self.batch = ProductBatchProver(backend, self.values, keep=len(shape.plans) < 2)
        roles = [role for role, _ in inputs] + [WITNESS]
        self.opening = OpeningProverImpl(backend, roles, [data for _, data in inputs] + [self.witness], masks, spend)
        self.tree: FractionTreeProver | None = None

    def _pad_products(self) -> U64:
        """Products of pads, and A·B at the further points, as protocol/schedule/triples.py wants them committed."""
        field, pairs = self.backend.field, self.shape.counts.products
        a, b = (np.ascontiguousarray(self.pads[:, [pair[k] for pair in pairs]]) for k in range(2))
        out = field.zeros(2, self.shape.products)
        total = len(pairs) - 1
        out[:, : total + 1] = field.kmul(a, b)
        further = slice(total + 1, 2 * total + 1)
        out[:, further] = field.kmul(*_extrapolate(self.backend, (a, b), total))
        return out

    def witness_root(self) -> bytes:
        return self.witness.root

    def start_tree(self, number: int, fingerprint: Fingerprint) -> None:
        self.tree = None  # frees the last one
        self.backend.release()
        self.tree = FractionTreeProver(self.backend, self.shape.plans[number], self.values, self.counts[number])
        self.tree.build(fingerprint)

    def claim(self, instance: Instance) -> Ext:
        return self.batch.claim(instance)

    def triples(self, weights: list[Ext]) -> U64:
        self.values.clear()  # all claims are made: what they were made from is not needed any more
        field, pairs, there = self.backend.field, self.shape.counts.products, as_point(weights)
        sides = [field.kdot(np.ascontiguousarray(self.pads[:, [p[k] for p in pairs]]), there) for k in range(2)]
        return np.stack(sides, axis=1)


def prove_task(
    backend: Backend, shape: TaskShape, statement: bytes, inputs: Sequence[tuple[str, CommitmentData]], values: Iterable[Any],
    published: Mapping[str, IntArray], params: Params, seed: bytes, spend: Callable[[], None],
) -> bytes:
    """The proof of one task. `inputs` are the statement's commitments in order; `values` holds the tensors that a proof reads (None at
    others), on the host or where the backend computes; if `drained`, their memory is free for the opening; `seed` is fresh per
    attempt; `spend` persists the opening budget and is called before positions are drawn."""
    count(shape)
    prover = TaskProverImpl(backend, shape, inputs, shape.witness_layout(params), values, seed, spend)
    channel = FinishingChannel(backend.field, prover.pads, prover.tails)
    commitments = [Committed(role, data.layout, data.root) for role, data in inputs]
    run_task(channel, shape, statement, commitments, params, published, prover)
    return bytes(channel.proof)
