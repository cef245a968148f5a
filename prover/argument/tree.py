"""Prover of protocol/schedule/gkr.py and lookups.py: builds the tree of fractions and its round polynomials.

Leaves: q = α − β_id·id − Σ β_c·column on a tensor's cells and 1 elsewhere; p = 1 on looked-up cells, −multiplicity on table
rows, 0 elsewhere. Memory: 32 bytes a leaf, twice that with all levels.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from protocol.field import I64, U64, Ext
from protocol.relation.graph import Graph
from protocol.relation.tables import table_columns
from protocol.schedule.gkr import as_point
from protocol.schedule.lookups import Fingerprint, LeafPlan
from prover.backend.base import Backend


def count_multiplicities(plan: LeafPlan, values: Sequence[I64]) -> dict[str, I64]:
    """How often each table row is looked up, by table; values outside the table are not counted (they have no row)."""
    out = {name: np.zeros(len(table_columns(name)[0]), dtype=np.int64) for name in plan.tables}
    for lookup in plan.graph.lookups:
        counts = out[lookup.table]
        index = values[lookup.columns[0].index].reshape(-1) - table_columns(lookup.table)[0][0]
        inside = index[(index >= 0) & (index < len(counts))]
        counts += np.bincount(inside, minlength=len(counts))
    return out


class FractionTreeProver:
    """Implements TreeProver after `build`."""

    def __init__(self, backend: Backend, plan: LeafPlan, values: Sequence[I64], multiplicities: Mapping[str, I64]) -> None:
        self.backend, self.plan, self.values, self.multiplicities = backend, plan, values, multiplicities
        self.levels: list[tuple[U64, U64]] = []

    def build(self, fingerprint: Fingerprint) -> None:
        field, size = self.backend.field, 1 << self.plan.variables
        p, q = field.zeros(2, size), field.zeros(2, size)
        q[0] = 1
        graph: Graph = self.plan.graph
        for block in self.plan.blocks:
            constant = fingerprint.constant(self.plan, block.table)
            if block.lookup is None:
                columns = list(table_columns(block.table))
                numerator = field.neg(field.embed(self.multiplicities[block.table]))
            else:
                columns = [self.values[graph.tensors[c.index].index] for c in block.lookup.columns]
                numerator = None
            arranged = [block.layout.arrange(column) for column in columns]
            coefs = [-beta for beta in fingerprint.columns[: len(columns)]]
            starts = block.offset + (block.layout.blocks() << block.layout.block_bits)
            length = 1 << block.layout.block_bits
            made = self.backend.lincomb_ints([a.reshape(-1) for a in arranged], coefs, constant)
            for i, start in enumerate(starts.tolist()):
                q[:, start : start + length] = made[:, i * length : (i + 1) * length]
                p[0, start : start + length] = 1 if numerator is None else numerator[i * length : (i + 1) * length]
        self.levels = [(p, q)]
        while self.levels[-1][0].shape[1] > 1:
            self.levels.append(self.backend.fraction_layer(*self.levels[-1]))

    def root(self) -> Ext:
        return Ext.from_array(self.backend.field, self.levels[-1][1])

    def descend(self, level: int, point: list[Ext], lam: Ext) -> None:
        self.levels.pop()
        p, q = self.levels[-1]
        half = p.shape[1] // 2
        self.tables = [p[:, :half], p[:, half:], q[:, :half], q[:, half:]]
        self.lam, self.left = lam, level
        if level:
            self.eqs = self.backend.eq_suffixes(as_point(point[1:]))  # entry k: eq over the last k variables
            p0, p1, q0, q1 = self.tables
            self.next = self.backend.fraction_round(p0, p1, q0, q1, self.eqs[level - 1], lam)

    def round(self) -> tuple[Ext, Ext]:
        return self.next

    def bind(self, r: Ext) -> None:
        self.left -= 1
        if self.left:  # fold and compute the next round in one pass over memory
            self.tables, self.next = self.backend.fraction_fold_round(self.tables, r, self.eqs[self.left - 1], self.lam)
        else:
            self.tables = [self.backend.fold_top(x, r) for x in self.tables]

    def ends(self) -> tuple[Ext, Ext, Ext, Ext]:
        p0, p1, q0, q1 = (Ext.from_array(self.backend.field, x) for x in self.tables)
        return self.lam * p0 + q0, q1, p1, q0
