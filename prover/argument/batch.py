"""Prover of protocol/schedule/products.py: folds the factors of each claim and runs the batched sumcheck.

A' and B' are tables over the shared axes inside the claim's box, each axis padded with zeros to a power of two, so padding weighs
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from math import prod
from operator import mul
from typing import Any

import numpy as np

from protocol.field import U64, Ext
from protocol.relation.graph import OneHot
from protocol.schedule.constraints import cells_of
from protocol.schedule.products import Instance
from prover.argument.finish import FinishingProver
from prover.backend.base import Backend
from prover.backend.outer import OuterSum
from prover.backend.talk import Summand, Talk

FEW_WEIGHTS = 1 << 14  # entries: 256 KB
SMALL_TABLE = 1 << 16  # entries: 2 MB for a pair


def outer(backend: Backend, weights: Sequence[U64]) -> Any:
    """⊗ weights (on the host) flattened, last axis fastest: K (2, Π n) where the backend computes."""
    return backend.to_device(outer_somewhere(backend, weights)) if weights else ones(backend, 1)


def outer_somewhere(backend: Backend, weights: Sequence[U64]) -> Any:
    """The same of at least one axis, on the host as long as it has few entries: a call there costs less than a copy and a launch."""
    sizes = list(accumulate((w.shape[1] for w in weights), mul))
    few = max(1, sum(size <= FEW_WEIGHTS for size in sizes))
    total: Any = backend.outer(weights[:few])
    for w in weights[few:]:
        out = backend.xp.empty((2, total.shape[1] * w.shape[1]), dtype=np.uint64)
        backend.outer_sums([OuterSum([total], [w], out)])
        total = out
    return total


def ones(backend: Backend, n: int) -> Any:
    """Weights 1: K (2, n)."""
    return backend.lift(backend.xp.ones(n, dtype=np.uint64))


def fold_factor(backend: Backend, values: Any, axes: str, keep: str, weights: dict[str, U64], scale: dict[str, U64]) -> Any:
    """Sum out the axes not in `keep` under `weights`, multiply the kept ones by `scale`: K (2, *kept shape).

    Neighbours are summed out together where they lie, the largest group first, and only what is left is brought into order."""
    sizes = dict(zip(axes, values.shape, strict=True))
    groups = ["".join(group) for kept, group in groupby(axes, keep.__contains__) if not kept]
    table, left, planes = values, axes, tuple[int, ...]()
    for group in sorted(groups, key=lambda x: -_cells(sizes, x)):
        before, after = left.split(group)
        sides = (_cells(sizes, part) for part in (before, group, after))
        table = backend.fold_axis(table.reshape(*planes, *sides), outer(backend, [weights[x] for x in group]))
        left, planes = before + after, (2,)
    order = [*range(len(planes)), *(len(planes) + left.index(x) for x in keep)]
    table = table.reshape(*planes, *(sizes[x] for x in left)).transpose(order)
    full = [scale[x] if x in scale else _ones(sizes[x]) for x in keep] if scale else []
    if groups:
        table = backend.kmul(table.reshape(2, -1), outer(backend, full)) if scale else table
    elif scale:
        table = backend.weight(table.reshape(-1, sizes[keep[-1]]), outer(backend, full[:-1]), outer(backend, full[-1:]))
    else:
        table = backend.lift(table.reshape(-1))
    return table.reshape(2, *(sizes[x] for x in keep))


def _cells(sizes: dict[str, int], axes: str) -> int:
    return prod(sizes[x] for x in axes)


def _ones(n: int) -> U64:
    """Weights 1 on the host: K (2, n)."""
    out = np.zeros((2, n), dtype=np.uint64)
    out[0] = 1
    return out


def digit_factor(backend: Backend, instance: Instance, low: Any) -> Any:
    """B'(.., i) = Σ_j w_v(i·base + j)·low(.., j): K (2, batch…, i)."""
    xp, matrix = backend.xp, backend.to_device(instance.digit_matrix)
    rows = low.reshape(-1, low.shape[-1])
    if bool((xp.count_nonzero(rows, axis=1) == 1).all()) and bool((rows.max(axis=1) == 1).all()):
        table = matrix.transpose(0, 2, 1)[:, rows.argmax(axis=1), :]
    else:  # a witness that is not one-hot is still proved as it is
        table = xp.zeros((2, len(rows), matrix.shape[1]), dtype=np.uint64)
        for i in range(matrix.shape[1]):
            table[:, :, i] = backend.fold_axis(rows[:, :, None], xp.ascontiguousarray(matrix[:, i])).reshape(2, -1)
    return table.reshape(2, *low.shape[:-1], matrix.shape[1])


@dataclass
class _Running:
    """One instance in the batch: tables, its coefficient (times Π(1 − r) of the rounds before its own), its sum."""

    a: Any
    b: Any
    coef: Ext
    waiting: int  # rounds before its own begin
    total: Ext


class ProductBatchProver(FinishingProver):
    """Implements BatchProver; `claim` prepares an instance before its batch begins. Without `keep` the first batch's tables are made
    twice unless they are small, for the claim and when the batch begins: those of one tree would take memory beside the next ones."""

    def __init__(self, backend: Backend, values: Sequence[Any], keep: bool = True) -> None:
        self.backend, self.values, self.keep = backend, values, keep
        self.prepared: dict[int, tuple[tuple[Any, Any] | None, Ext]] = {}

    def claim(self, instance: Instance) -> Ext:
        tables = self._tables(instance)
        total = self.backend.kdot(*tables)
        kept = self.keep or tables[0].shape[1] <= SMALL_TABLE
        self.prepared[id(instance)] = (tables if kept else None), total
        return total

    def _tables(self, instance: Instance) -> tuple[Any, Any]:
        (a, b), shared = instance.factors, "".join(axis for axis, _, _ in instance.shared)
        left, right = (self.values[f.tensor.index][cells_of(f.box)] for f in (a, b))
        weights = {x: np.ascontiguousarray(w[:, slice(*instance.sides[x])]) for x, w in instance.by_axis.items() if x in instance.sides}
        scale = {x: weights[x] for x in shared if x in weights}
        left = fold_factor(self.backend, left, a.axes, shared, weights, scale)
        if isinstance(instance.op, OneHot):
            right = digit_factor(self.backend, instance, right)
        else:
            right = fold_factor(self.backend, right, b.axes, shared, weights, {})
        return self.backend.pad(left), self.backend.pad(right)

    def begin(self, instances: list[Instance], coefs: list[Ext]) -> None:
        field, variables = self.backend.field, max(i.variables for i in instances)
        self.running, self.bound = [], list[tuple[Ext, Ext]]()
        self.backend.release()
        self.passed, self.waiting_sum = field.one, field.zero  # Π(1 − r) so far; Σ coef·total of those that wait
        for instance, coef in zip(instances, coefs, strict=True):
            tables, total = self.prepared.pop(id(instance))
            item = _Running(*(tables or self._tables(instance)), coef, variables - instance.variables, total)
            self.running.append(item)
            if item.waiting:
                self.waiting_sum = self.waiting_sum + coef * total
        self.keep = True
        self._advance(None)

    def _advance(self, r: Ext | None) -> None:
        """Fold the tables that run, let those begin whose turn it is, and compute the next round of all."""
        fold = [r is not None and not x.waiting for x in self.running]
        if r is not None:
            self.passed = self.passed * (1 - r)
            for item in self.running:
                item.waiting = max(0, item.waiting - 1)
        active = [(x, f) for x, f in zip(self.running, fold, strict=True) if not x.waiting]
        for item, folded in active:
            if r is not None and not folded:
                self.waiting_sum = self.waiting_sum - item.coef * item.total
                item.coef = item.coef * self.passed
        tables = [(x.a, x.b) for x, _ in active]
        tables, (g1, g2) = self.backend.product_rounds(tables, [x.coef for x, _ in active], [f for _, f in active], r)
        for (item, _), (a, b) in zip(active, tables, strict=True):
            item.a, item.b = a, b
        self.next = g1, g2 - self.passed * self.waiting_sum  # (1 − X)·sum of what waits: 0 at 1 and −sum at 2

    def round(self) -> tuple[Ext, Ext]:
        return self.next

    def bind(self, r: Ext) -> None:
        self._advance(r)

    def can_finish(self) -> bool:
        return all(isinstance(x.a, np.ndarray) for x in self.running)

    def finish(self, talk: Talk) -> None:
        summands = [Summand(x.a, x.b, x.coef, x.waiting, x.total) for x in self.running]
        self.bound = self.backend.batch_rounds(summands, self.next, self.passed, self.waiting_sum, talk)

    def ends(self) -> list[tuple[Ext, Ext]]:
        field = self.backend.field
        return self.bound or [(Ext.from_array(field, x.a), Ext.from_array(field, x.b)) for x in self.running]


