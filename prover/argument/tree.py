"""Prover of protocol/schedule/gkr.py and lookups.py: builds the tree of fractions and its round polynomials.

Leaves: q = α − β_id·id − Σ β_c·column on a tensor's cells and 1 elsewhere; p = 1 on looked-up cells, −multiplicity on table
rows, 0 elsewhere. Tiles in which one of them is constant are not stored (prover/backend/tiled.py). Memory: 16 bytes a leaf in
use, 32 for the levels above it; on the CPU 2 bytes for a leaf of one column and 16 for the levels above such leaves beside free ones.
A level is folded where it lies, and after the last one nothing is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocol.field import Ext
from protocol.layout import TensorLayout
from protocol.relation.tables import table_columns
from protocol.schedule.gkr import as_point
from protocol.schedule.lookups import Fingerprint, LeafPlan
from prover.argument.finish import FinishingProver
from prover.backend.base import Backend, Round
from prover.backend.leaves import Run
from prover.backend.talk import ROUNDS_AT_ONCE, Talk
from prover.backend.tiled import TILE_BITS, Tiled


def count_multiplicities(backend: Backend, plan: LeafPlan, values: Sequence[Any]) -> dict[str, Any]:
    """How often each table row is looked up in this tree, by table; values outside the table are not counted (they have no row)."""
    out = {name: backend.xp.zeros(len(table_columns(name)[0]), dtype=np.int64) for name in plan.tables}
    looked_up: dict[str, list[Any]] = {name: [] for name in plan.tables}
    for block in plan.blocks:
        if block.lookup is not None:
            looked_up[block.table].append(values[block.lookup.columns[0].index][block.cells])
    for name, columns in looked_up.items():
        backend.count(columns, int(table_columns(name)[0][0]), out[name])
    return out


class FractionTreeProver(FinishingProver):
    """Implements TreeProver after `build`."""

    def __init__(self, backend: Backend, plan: LeafPlan, values: Sequence[Any], multiplicities: Mapping[str, Any]) -> None:
        self.backend, self.plan, self.values, self.multiplicities = backend, plan, values, multiplicities
        self.levels: list[tuple[Tiled, Tiled]] = []
        self.next: Round | None = None  # once a level's first round is made

    def build(self, fingerprint: Fingerprint) -> None:
        place = self.backend.to_device
        p, q = self._leaves(fingerprint)
        leaves = p.placed(place), q.placed(place)
        self.levels = [leaves, *self.backend.fraction_layers(*leaves)]

    def _leaves(self, fingerprint: Fingerprint) -> tuple[Tiled, Tiled]:
        backend, plan = self.backend, self.plan
        p, q = (Tiled.filled(1 << plan.variables, value, backend.xp) for value in (0, 1))
        betas, minus_one, zero = [-beta for beta in fingerprint.columns], [-backend.field.one], backend.field.zero
        constants = {table: fingerprint.constant(plan, table) for table in plan.tables}
        orders = dict[tuple[int, ...], tuple[TensorLayout, bool, list[tuple[int, int, int]]]]()  # of blocks, by shape
        denominators, numerators = list[Run](), list[Run]()
        for block in plan.blocks:
            shape = tuple(stop - start for start, stop in block.box)
            if shape not in orders:
                orders[shape] = block.layout, natural(block.layout), _runs(block.layout)
            layout, in_order, runs = orders[shape]
            if block.lookup is None:
                columns = [backend.to_device(x.reshape(shape)) for x in table_columns(block.table)]
            else:
                columns = [self.values[c.index][block.cells] for c in block.lookup.columns]
            arranged = [(x if in_order else layout.arrange(x)).reshape(-1) for x in columns]
            for first, cell, length in runs:
                start, end, cells = block.offset + first, block.offset + first + length, slice(cell, cell + length)
                denominators.append(Run([a[cells] for a in arranged], betas[: len(columns)], constants[block.table], start))
                if block.lookup is None:
                    p.open(start, end)
                    numerators.append(Run([self.multiplicities[block.table][cells]], minus_one, zero, start))
                else:
                    p.set(start, end, 1)
        backend.lincombs(numerators, p.cells)
        return p, backend.fingerprints(denominators, q)

    def root(self) -> Ext:
        return Ext.from_array(self.backend.field, self.levels[-1][1].cells)

    def descend(self, level: int, point: list[Ext], lam: Ext) -> None:
        self.levels.pop()
        p, q = self.levels[-1]
        self.tables = [*p.halves(), *q.halves()]
        self.lam, self.left, self.next, self.bound = lam, level, None, list[Ext]()
        self.free, self.low = as_point(point[1:]), list[Any]()

    def _weights(self) -> tuple[Any, Any]:
        """Of the round under way: eq over the variables behind it, those of a tile and those of the tiles."""
        count = self.left - 1
        if not self.low:
            cut = max(0, count - TILE_BITS)
            self.low, self.high = self.backend.eq_suffixes(self.free[:, cut:]), self.backend.eq_suffixes(self.free[:, :cut])
        return self.low[min(count, TILE_BITS)], self.high[max(0, count - TILE_BITS)]

    def round(self) -> Round:
        if self.next is None:
            self.tables, self.next = self.backend.fraction_round(self.tables, *self._weights(), self.lam)
        return self.next

    def bind(self, r: Ext) -> None:
        self.left -= 1
        if self.left:  # fold and compute the next round in one pass over memory
            self.tables, self.next = self.backend.fraction_fold_round(self.tables, r, *self._weights(), self.lam)
        else:
            self.tables = [Tiled(self.backend.fold_top(x.dense().cells, r)) for x in self.tables]

    def can_finish(self) -> bool:
        return self.left <= ROUNDS_AT_ONCE and all(isinstance(x.cells, np.ndarray) for x in self.tables)

    def finish(self, talk: Talk) -> None:
        tables, point = [x.dense() for x in self.tables], self.free[:, self.free.shape[1] + 1 - self.left :]
        self.bound = self.backend.fraction_rounds(tables, self.next, point, self.lam, talk)

    def ends(self) -> tuple[Ext, Ext, Ext, Ext]:
        p0, p1, q0, q1 = self.bound or (Ext.from_array(self.backend.field, x.dense().cells) for x in self.tables)
        if len(self.levels) == 1:  # the last: products and opening have the memory of the leaves
            self.tables, self.levels = [], []
        return self.lam * p0 + q0, q1, p1, q0


def natural(layout: TensorLayout) -> bool:
    """Whether leaves are in the order of the tensor's cells: no digit comes after low bits."""
    return not any(odd > 1 and any(layout.low[:axis]) for axis, odd in enumerate(layout.odd))


def _runs(layout: TensorLayout) -> list[tuple[int, int, int]]:
    """(first leaf, first cell, length) of each run of cells whose leaves are neighbours."""
    bits = layout.block_bits
    cuts = np.flatnonzero(np.diff(layout.blocks, prepend=-2) != 1)
    lasts = [*cuts[1:].tolist(), len(layout.blocks)]
    return [(int(layout.blocks[k]) << bits, k << bits, (last - k) << bits) for k, last in zip(cuts.tolist(), lasts, strict=True)]
