"""Opening everything at once (protocol.md 7).

a. All constraints, weighted by powers of λ, are one claim Σ_c Σ_x f_c(x)·W_c(x) = public value over the commitments c. One
   sumcheck, its messages under *tail pads* (a short row P' over K), ends in the claims y_c = f_c~(r*_c).
b. With γ_c and μ one linear relation remains: ⟨u, z⟩ − ⟨P', L⟩ = L_0 with u = Σ γ_c·q_cᵀM_c, q_c = eq(row part of r*),
   z = eq(column part), and L the form Σ γ_c·y_c + μ·(what the sumcheck's end must equal).
c. Masks R1 (a row over K) and R2 (a short row over K): σ = ⟨R1, z⟩ − ⟨R2, L⟩ is sent, then ρ is drawn, and v1 = R1 + ρ·u and
   v2 = R2 + ρ·P' are sent in clear, as coefficients: ⟨v1, z⟩ − ⟨v2, L⟩ = σ + ρ·L_0.
d. t distinct columns of every commitment are opened; v1(x) and v2(x) must be what the columns say.

R1, P' and R2 ride in the witness commitment's tree: its columns are the cells of the witness rows followed by those of
R1 (2 rows over F), P' (2) and R2 (2). P' and R2 are codewords of a shorter code on the same points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np

from protocol import merkle
from protocol.channel import Channel, Form, RoundProver
from protocol.code import Code
from protocol.errors import VerificationError
from protocol.field import I64, U64, Ext, Field
from protocol.layout import CommitmentLayout, Corners, Vectors
from protocol.relation.graph import WITNESS
from protocol.schedule.claims import scatter_sum
from protocol.schedule.constraints import CellTerm, ConstraintSystem, whole
from protocol.schedule.gkr import as_point
from protocol.schedule.sumcheck import sumcheck

AT_ONCE = 1 << 16  # entries of weight vectors multiplied in one call
EXTRA_ROWS = 6  # R1, P', R2 over K: two rows over F each


@dataclass(frozen=True, eq=False)
class Committed:
    """A commitment as the verifier holds it."""

    role: str
    layout: CommitmentLayout
    root: bytes

    @property
    def column_rows(self) -> int:
        return len(self.layout.rows) + (EXTRA_ROWS if self.role == WITNESS else 0)


@dataclass(frozen=True, eq=False)
class Query:
    """Opened columns of one commitment: F (rows, t), salts and Merkle siblings."""

    columns: U64
    salts: bytes
    siblings: bytes


class OpeningProver(RoundProver, Protocol):
    """The prover's side."""

    def begin(self, weights: "CombinedWeights") -> None:
        """Start the sumcheck over all commitments."""

    def ends(self) -> list[Ext]:
        """f_c~(r*_c), in the order of the commitments."""

    def sigma(self, gammas: list[Ext], tail_form: Form) -> U64:
        """⟨R1, z⟩ − ⟨R2, L⟩, shape (2, 1)."""

    def masked_rows(self, rho: Ext) -> tuple[U64, U64]:
        """Coefficients of v1 (2, ℓ + max B) and v2 (2, short length)."""

    def before_positions(self) -> None:
        """Called once before positions are drawn: the opening budget is spent now."""

    def open(self, commitment: int, positions: I64) -> Query:
        """The columns of one commitment at these positions."""


@dataclass(frozen=True, eq=False)
class CombinedWeights:
    """W_c for all commitments: weighted claims per committed tensor, and the coefficients of pads and products."""

    field: Field
    terms: tuple[CellTerm, ...]
    target: Ext

    @cached_property
    def by_role(self) -> dict[str, list[CellTerm]]:
        out: dict[str, list[CellTerm]] = {}
        for term in self.terms:
            out.setdefault(term.place[0], []).append(term)
        return out

    def at(self, commitment: Committed, point: U64, vectors: Vectors) -> Ext:
        """W_c(point) = Σ over claims of coef·eq(leading bits, slot)·Π_axis ⟨weights_axis, eq(point_axis)⟩."""
        layout, field = commitment.layout, self.field
        terms = self.by_role.get(commitment.role, [])
        corners = Corners(field, point)
        slots = {name: layout.slot_eq(layout.by_name[name], corners, vectors) for name in {term.place[1] for term in terms}}
        # the weight vectors that meet each eq vector, each once; by identity, and all are alive: terms and `vectors` hold them
        meeting: dict[int, tuple[U64, dict[int, U64]]] = {}
        for term in terms:
            for weight, eq in zip(term.weights, slots[term.place[1]][1], strict=True):
                meeting.setdefault(id(eq), (eq, {}))[1][id(weight)] = weight
        dots: dict[tuple[int, int], Ext] = {}
        for key, (eq, weights) in meeting.items():
            each, together = list(weights.values()), max(1, AT_ONCE // eq.shape[1])
            for start in range(0, len(each), together):  # trees have vectors of their own: all in one call take several times their memory
                few = each[start : start + together]
                products = field.kdot(np.stack(few, axis=1), eq[:, None, :])
                dots |= {(key, id(weight)): Ext(c0, c1, field) for weight, (c0, c1) in zip(few, products.T.tolist(), strict=True)}
        total = field.zero
        for term in terms:
            lead, eqs = slots[term.place[1]]
            values = (dots[id(eq), id(weight)] for weight, eq in zip(term.weights, eqs, strict=True))
            total = total + prod(values, start=term.coef * lead)
        return total


def combine(field: Field, system: ConstraintSystem, lam: Ext, cells: dict[str, int]) -> CombinedWeights:
    """Σ λ^i·constraint_i. `cells` gives the committed length of the "pad" and "product" tensors."""
    terms, entries = list[CellTerm](), {name: list[tuple[int, Ext, Ext]]() for name in cells}
    target, power = field.zero, field.one
    for constraint in system.constraints:
        target = target - constraint.form.const * power
        for (pool, index), value in constraint.form.terms.items():
            entries[pool].append((index, value, power))
        terms += [CellTerm(t.coef * power, t.place, t.weights, t.box) for t in constraint.terms]
        power = power * lam
    planes = np.array([[1, 0], [0, 1]], dtype=np.uint64)  # a K cell is two F cells: weights 1 and X
    for pool, some in entries.items():
        parts = field.kmul(as_point([value for _, value, _ in some]), as_point([power for *_, power in some]))
        total = scatter_sum(field, parts, np.array([index for index, *_ in some], dtype=np.int64), cells[pool])
        terms.append(CellTerm(field.one, (WITNESS, pool), (total, planes), whole((cells[pool], 2))))
    return CombinedWeights(field, tuple(terms), target)


def tail_code(field: Field, witness: Code, tails: int) -> Code:
    """The short code of P' and R2: the next power of two ≥ tails, the witness's blinding, the same points."""
    ell = 1 << max(tails - 1, 1).bit_length()
    return Code(field, ell, witness.n, witness.blinding)


def tail_count(commitments: Sequence[CommitmentLayout]) -> int:
    """Tail pads used: two a round and one per commitment."""
    return 2 * max(c.variables for c in commitments) + len(commitments)


def prove_opening(
    channel: Channel, commitments: list[Committed], system: ConstraintSystem, cells: dict[str, int], queries: int,
    prover: OpeningProver | None,
) -> None:
    """Run the whole opening; VerificationError if anything does not fit."""
    field = channel.field
    combined = combine(field, system, channel.challenge("opening/lambda"), cells)
    if prover:
        prover.begin(combined)
    variables = max(c.layout.variables for c in commitments)
    start = Form(combined.target)
    point, claim = sumcheck(channel, "opening/round", start, variables, prover, pool="tail")
    ends = channel.secrets("opening/ends", len(commitments), lambda: prover.ends() if prover else (), pool="tail")
    checked, vectors = claim, Vectors(field)
    for commitment, y in zip(commitments, ends, strict=True):
        free = variables - commitment.layout.variables
        coef = prod((1 - r for r in point[:free]), start=combined.at(commitment, as_point(point[free:]), vectors))
        checked = checked - y.scale(coef)
    *gammas, mu = channel.challenges("opening/gamma", len(commitments) + 1)
    form = checked.scale(mu)
    for gamma, y in zip(gammas, ends, strict=True):
        form = form + y.scale(gamma)
    _check_rows(channel, commitments, point, gammas, form, queries, prover)


def _check_rows(
    channel: Channel, commitments: list[Committed], point: list[Ext], gammas: list[Ext], form: Form, queries: int,
    prover: OpeningProver | None,
) -> None:
    """Steps c and d."""
    field = channel.field
    witness = next(c for c in commitments if c.role == WITNESS).layout.code
    short = tail_code(field, witness, channel.tails)
    sigma = channel.clear("opening/sigma", 1, lambda: prover.sigma(gammas, form) if prover else field.zeros(2, 1))
    rho = channel.challenge("opening/rho")
    length = witness.ell + max(c.layout.code.blinding for c in commitments)
    masked = prover.masked_rows(rho) if prover else (field.zeros(2, 0), field.zeros(2, 0))
    v1 = channel.clear("opening/v1", length, lambda: masked[0])
    v2 = channel.clear("opening/v2", short.length, lambda: masked[1])
    if channel.checking:
        z = as_point(point[len(point) - (witness.ell.bit_length() - 1) :])
        left = Ext.from_array(field, witness.message_at(v1, z))
        tail = short.message_of(v2)
        for (_, index), value in form.terms.items():
            left = left - value * Ext.from_array(field, tail[:, index])
        check_equal("opening-relation", "opening/sigma", Ext.from_array(field, sigma) + rho * form.const, left)
    if prover:
        prover.before_positions()
    positions = channel.positions("opening/positions", witness.n, queries)
    expected1 = field.zeros(2, queries)
    offset = len(point)
    for number, (commitment, gamma) in enumerate(zip(commitments, gammas, strict=True)):
        columns = _open_columns(channel, commitment, number, positions, prover)
        if not channel.checking:
            continue
        rows = len(commitment.layout.rows)
        q = commitment.layout.row_weights(field, as_point(point[offset - commitment.layout.variables :]))
        part = np.stack([field.dot(columns[:, :rows], plane) for plane in q])
        expected1 = field.add(expected1, field.kscale(part, rho * gamma))
        if commitment.role == WITNESS:
            extra = columns[:, rows:].T
            expected1 = field.add(expected1, extra[0:2])
            expected2 = field.add(extra[4:6], field.kscale(extra[2:4], rho))
    if channel.checking:
        check_columns("column-check", "opening/v1", witness.evaluate(v1, positions), expected1)
        check_columns("column-check", "opening/v2", short.evaluate(v2, positions), expected2)


def _open_columns(
    channel: Channel, commitment: Committed, number: int, positions: I64, prover: OpeningProver | None
) -> U64:
    """Receive columns, salts and siblings of one commitment and check them against its root: F (t, rows)."""
    n, t, rows = commitment.layout.code.n, len(positions), commitment.column_rows
    query = prover.open(number, positions) if prover else Query(np.zeros((0, 0), dtype=np.uint64), b"", b"")
    columns = channel.clear_field(f"columns/{commitment.role}", rows * t, lambda: query.columns.T.reshape(-1))
    salts = channel.clear_bytes(f"salts/{commitment.role}", 32 * t, lambda: query.salts)
    count = merkle.proof_length(n, positions.tolist())
    nodes = channel.clear_bytes(f"siblings/{commitment.role}", 32 * count, lambda: query.siblings)
    if channel.checking:
        raw = channel.field.to_bytes(columns)
        leaves = [merkle.leaf_digest(salts[32 * i : 32 * i + 32], raw[8 * rows * i : 8 * rows * (i + 1)]) for i in range(t)]
        siblings = [nodes[32 * i : 32 * i + 32] for i in range(count)]
        root = merkle.root_from_proof(n, positions.tolist(), leaves, siblings)
        if root != commitment.root:
            raise VerificationError("merkle-root", commitment.role, commitment.root.hex(), root.hex())
    return columns.reshape(t, rows)


def check_equal(reason: str, where: str, expected: Ext, actual: Ext) -> None:
    if expected != actual:
        raise VerificationError(reason, where, repr(expected), repr(actual))


def check_columns(reason: str, where: str, expected: U64, actual: U64) -> None:
    if not np.array_equal(expected, actual):
        bad = int(np.flatnonzero(np.any(expected != actual, axis=0))[0])
        raise VerificationError(reason, where, "v(x) as the columns say", f"a mismatch at query {bad}")
