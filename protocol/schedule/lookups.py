"""Lookups as one sum of fractions (LogUp, Haböck eprint 2022/1530; protocol.md 5).

With α, β_1, β_2, β_id drawn after witness and multiplicities are committed, a looked-up cell has the fingerprint
φ = x + β_1·y + β_2·z + β_id·id, and

    Σ_cells 1/(α − φ) − Σ_table rows m_j/(α − φ_j) = 0.

The leaves of the tree are blocks, one per lookup and one per table, placed largest first, aligned. A cell outside
its tensor, and free space, is the fraction 0/1. At the leaf point the tree leaves two forms; here they become two
constraints on the looked-up columns and on the multiplicities. The verifier evaluates tables itself.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

from protocol.channel import Channel
from protocol.field import U64, Ext, Field
from protocol.layout import TensorLayout, bits_of, eq_index
from protocol.relation.graph import WITNESS, Graph, Lookup
from protocol.relation.tables import table_columns
from protocol.schedule.claims import contract, vector_sum
from protocol.schedule.constraints import Weights


@dataclass(frozen=True)
class Block:
    """Leaves [offset, offset + 2^variables): a lookup, or the table itself when `lookup` is None."""

    table: str
    lookup: Lookup | None
    layout: TensorLayout
    offset: int


@dataclass(frozen=True, eq=False)
class LeafPlan:
    """Where every lookup and table lies in the tree; a function of the graph alone."""

    graph: Graph

    @cached_property
    def tables(self) -> tuple[str, ...]:
        """Tables in use, sorted; the fingerprint's id is the position plus one."""
        return tuple(sorted({lookup.table for lookup in self.graph.lookups}))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        wanted: list[tuple[str, Lookup | None, TensorLayout]] = [
            (x.table, x, TensorLayout(x.columns[0].shape)) for x in self.graph.lookups
        ]
        wanted += [(name, None, TensorLayout((len(table_columns(name)[0]),))) for name in self.tables]
        wanted.sort(key=lambda item: -item[2].variables)
        out, offset = [], 0
        for table, lookup, layout in wanted:
            out.append(Block(table, lookup, layout, offset))
            offset += 1 << layout.variables
        return tuple(out)

    @cached_property
    def variables(self) -> int:
        last = self.blocks[-1]
        return bits_of(last.offset + (1 << last.layout.variables))

    @property
    def fractions(self) -> int:
        """Lookups and table rows: the degree of the identity in α."""
        return sum(prod(b.layout.shape) for b in self.blocks)

    def multiplicities(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the committed multiplicity tensors."""
        return [(f"multiplicity/{name}", (len(table_columns(name)[0]),)) for name in self.tables]


@dataclass(frozen=True)
class Fingerprint:
    """α and the column weights (1, β_1, β_2), and β_id·id per table."""

    alpha: Ext
    columns: tuple[Ext, Ext, Ext]
    beta_id: Ext

    @staticmethod
    def draw(channel: Channel) -> "Fingerprint":
        alpha, b1, b2, bid = channel.challenges("lookups/alpha-beta", 4)
        return Fingerprint(alpha, (channel.field.one, b1, b2), bid)

    def constant(self, plan: LeafPlan, table: str) -> Ext:
        """α − β_id·id."""
        return self.alpha - self.beta_id * (plan.tables.index(table) + 1)


def leaf_claims(
    field: Field, plan: LeafPlan, fingerprint: Fingerprint, point: U64
) -> tuple[list[tuple[Ext, tuple[str, str], Weights]], Ext, list[tuple[Ext, Lookup, int, Weights]], Ext]:
    """What the two leaf evaluations are made of.

    p(point) = p_const + Σ coef·⟨w, multiplicity⟩ and q(point) = q_const + Σ coef·⟨w, column⟩; returns
    (multiplicity terms, p_const, column terms as (coef, lookup, column number, weights), q_const).
    """
    p_terms: list[tuple[Ext, tuple[str, str], Weights]] = []
    q_terms: list[tuple[Ext, Lookup, int, Weights]] = []
    p_const, q_const = field.zero, field.one
    memo: dict[tuple[int, ...], tuple[Weights, Ext]] = {}  # equal shapes have equal points: the last coordinates
    for block in plan.blocks:
        k = block.layout.variables
        lead = plan.variables - k
        weight = eq_index(field, point[:, :lead], block.offset >> k)
        shape = block.layout.shape
        if shape not in memo:
            vectors = tuple(block.layout.eq_weights(field, point[:, lead:]))
            total = field.one
            for w in vectors:
                total = total * vector_sum(field, w)
            memo[shape] = vectors, total
        axes, valid = memo[shape]
        mass = weight * valid
        q_const = q_const + (fingerprint.constant(plan, block.table) - 1) * mass
        if block.lookup is not None:
            p_const = p_const + mass
            for i in range(len(block.lookup.columns)):
                q_terms.append((-(weight * fingerprint.columns[i]), block.lookup, i, axes))
        else:
            p_terms.append((-weight, (WITNESS, f"multiplicity/{block.table}"), axes))
            for beta, column in zip(fingerprint.columns, table_columns(block.table), strict=False):
                q_const = q_const - weight * beta * contract(field, field.embed(column), axes)
    return p_terms, p_const, q_terms, q_const


