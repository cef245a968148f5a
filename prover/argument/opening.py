"""Prover of protocol/schedule/opening.py: the sumcheck over all committed cells, masked rows, opened columns.

Cost: a commitment's rows are read twice with their weights, which are made for some rows at a time (weights.py): before the first round
for nine sums, from which the first two rounds follow, and after these to be folded to a quarter, in tables over K. From there on it is
a sumcheck of products like any other, which leaves the row that is masked; of few cells it is folded from the rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.channel import Form
from protocol.code import Code
from protocol.field import I64, U64, Ext
from protocol.relation.graph import WITNESS
from protocol.schedule.gkr import as_point
from protocol.schedule.opening import CombinedWeights, Query, tail_code
from prover.argument.finish import FinishingProver
from prover.argument.weights import Weights
from prover.backend.base import Backend
from prover.backend.talk import Summand, Talk
from prover.commitment.commit import CommitmentData
from prover.randomness import SecretStream

FEW_CELLS = 1 << 17  # virtual cells of a commitment whose tables are made at once: 4 MB


@dataclass(frozen=True, eq=False)
class Masks:
    """R1 (2, ℓ + max B), and messages and blinding of P' and R2, all uniform; codewords ride in the witness tree."""

    r1: U64
    tails: U64
    tails_rho: U64
    r2: U64
    short: Code

    @staticmethod
    def draw(stream: SecretStream, witness: Code, tails: int, max_blinding: int) -> "Masks":
        short = tail_code(stream.field, witness, tails)
        return Masks(
            stream.elements("mask/r1", 2, witness.ell + max_blinding),
            stream.elements("tail/message", 2, short.ell),
            stream.elements("tail/rho", 2, short.blinding),
            stream.elements("mask/r2", 2, short.length),
            short,
        )

    def codewords(self, backend: Backend) -> list[Any]:
        """R1, P', R2 on D: F (2, n) each."""
        tails = backend.coefficients(self.short, self.tails, self.tails_rho)
        short = codeword(backend, self.short, np.concatenate([tails, self.r2]))
        return [codeword(backend, self.short, self.r1), short[:2], short[2:]]


def codeword(backend: Backend, code: Code, coefs: U64) -> U64:
    """The polynomial with these coefficients on D: what code.codeword(coefs) is, by the backend's `encode`. Blinding costs a product for
    each word of a codeword, so there is none up to rate 1/4; beyond, it is shorter than the message, or it would not be a quotient."""
    length = coefs.shape[-1]
    whole = 1 << (length - 1).bit_length()
    ell = whole if whole <= code.n // 4 else 1 << length.bit_length() - 1
    wide = Code(backend.field, ell, code.n, max(0, length - ell))
    padded = np.zeros((*coefs.shape[:-1], wide.length), dtype=np.uint64)
    padded[..., :length] = coefs
    return backend.encode(wide, backend.message_of(wide, padded), np.ascontiguousarray(padded[..., ell:]))


class _Running:
    """One commitment in the sumcheck. Rounds over its two top row variables are known from nine sums over its cells, made before the
    first; then it is folded to two tables of a quarter of its virtual cells. One of few cells is made into tables at once."""

    def __init__(self, backend: Backend, commitment: CommitmentData, weights: Weights, waiting: int) -> None:
        layout = commitment.layout
        self.backend, self.f, self.weights, self.waiting = backend, commitment.rows, weights, waiting  # rounds before its own begin
        self.ell, self.coef = layout.code.ell, backend.field.one
        self.tables: tuple[Any, Any] | None = None  # F and W, K (2, 2^variables left)
        self.bound = list[Ext]()  # of the two variables
        self.kept: Any = None  # the weights, if few enough to be made at once
        self.row: Any = None  # q_cᵀM_c, if there was a round between row and column variables
        row_bits = layout.variables - layout.column_bits
        self.index = np.full(1 << row_bits, -1, dtype=np.int64)  # the row at each virtual index, -1 where there is none
        self.index[layout.rows] = np.arange(len(layout.rows))
        self.few = self.index.size * self.ell <= FEW_CELLS
        if row_bits < 2 or self.few:
            self._lift()
            self.total = backend.kdot(*self.tables) if waiting else backend.field.zero
            return
        sums = np.zeros((2, 9), dtype=np.uint64)
        for rows, w, _ in self._groups():
            sums = backend.field.add(sums, as_point(backend.open_sums(self.f, rows, w)))
        self.sums = [[Ext.from_array(backend.field, sums[:, 3 * i + j]) for j in range(3)] for i in range(3)]
        self.total = sum((self.sums[i][j] for i in range(2) for j in range(2)), backend.field.zero)

    def _lift(self) -> None:
        """Every virtual row as it is."""
        f = self.backend.lift(self.f)
        if len(self.f) < self.index.size:
            dense = self.backend.xp.zeros((2, self.index.size, self.ell), dtype=np.uint64)
            dense[:, self.backend.to_device(np.flatnonzero(self.index >= 0))] = f
            f = dense
        w = self.backend.xp.empty((2, self.index.size * self.ell), dtype=np.uint64)
        self.weights.rows([(0, self.index.size)], w)
        self.tables = f.reshape(2, -1), w

    def _groups(self) -> Iterator[tuple[I64, Any, slice]]:
        """Row indices (4, n) and weights K (2, 4·n·ℓ) of a few groups of four rows at a time, and their cells in a folded table."""
        index = self.index.reshape(4, -1)
        total, step, room = index.shape[1], max(1, self.backend.kept_bytes // 8 // (64 * self.ell)), self.kept
        if room is None:
            room = self.backend.xp.empty((2, 4 * min(step, total) * self.ell), dtype=np.uint64)
        for first in range(0, total, step):
            end = min(total, first + step)
            w = room[:, : 4 * (end - first) * self.ell]
            if self.kept is None:
                self.weights.rows([(q * total + first, q * total + end) for q in range(4)], w)
            yield index[:, first:end], w, slice(first * self.ell, end * self.ell)
        self.kept = room if step >= total else None

    def polynomial(self) -> tuple[Ext, Ext]:
        """Of one of the first two rounds: its values at 1 and 2 from those at 0 and 1 and the coefficient."""
        if not self.bound:
            low, high, top = (row[0] + row[1] for row in self.sums)
        else:
            r, columns = self.bound[0], zip(*self.sums, strict=True)
            low, high, top = (x + (y - x - z) * r + z * (r * r) for x, y, z in columns)
        return high, high + high - low + top + top

    def bind(self, r: Ext) -> None:
        """Fix one of the two variables; with the second the tables are made."""
        self.bound.append(r)
        if len(self.bound) < 2:
            return
        backend, eq = self.backend, self.backend.field.eq_table(as_point(self.bound))
        size = self.index.size * self.ell // 4
        self.tables = tuple(backend.xp.empty((2, size), dtype=np.uint64) for _ in range(2))
        for rows, w, cells in self._groups():
            backend.open_fold(self.f, rows, w, eq, *(table[:, cells] for table in self.tables))
        self.f, self.weights, self.kept = None, None, None


class OpeningProverImpl(FinishingProver):
    """Implements OpeningProver; `spend` is called once, before positions are drawn."""

    def __init__(
        self, backend: Backend, roles: Sequence[str], commitments: Sequence[CommitmentData], masks: Masks, spend: Callable[[], None],
    ) -> None:
        self.backend, self.roles, self.commitments, self.masks, self.spend = backend, roles, commitments, masks, spend
        self.point, self.running, self.bound = list[Ext](), list[_Running](), list[Ext]()

    def begin(self, weights: CombinedWeights) -> None:
        variables = max(c.layout.variables for c in self.commitments)
        for role, c in zip(self.roles, self.commitments, strict=True):
            self.backend.release()
            made = Weights(self.backend, c.layout, weights.by_role.get(role, []))
            self.running.append(_Running(self.backend, c, made, variables - c.layout.variables))
        self._advance(None)

    def _advance(self, r: Ext | None) -> None:
        """Bind what runs to r, let those begin whose turn it is, and compute the next round of all."""
        g1 = g2 = self.backend.field.zero
        products, fold = list[_Running](), list[bool]()
        for item in self.running:
            folds = r is not None and not item.waiting and item.tables is not None
            if r is not None and item.waiting:
                item.waiting, item.coef = item.waiting - 1, item.coef * (1 - r)
            elif r is not None and item.tables is None:
                item.bind(r)
            if item.waiting:  # (1 − X)·sum: 0 at 1 and −sum at 2
                g2 = g2 - item.coef * item.total
            elif item.tables is None:
                one, two = item.polynomial()
                g1, g2 = g1 + item.coef * one, g2 + item.coef * two
            else:
                products.append(item)
                fold.append(folds)
        tables, (one, two) = self.backend.product_rounds([x.tables for x in products], [x.coef for x in products], fold, r)
        for item, pair in zip(products, tables, strict=True):
            item.tables = pair
            if item.row is None and pair[0].shape[1] == item.ell:
                item.row = pair[0].copy()
        self.next = g1 + one, g2 + two

    def round(self) -> tuple[Ext, Ext]:
        return self.next

    def bind(self, r: Ext) -> None:
        self.point.append(r)
        self._advance(r)

    def can_finish(self) -> bool:
        """Once all commitments have tables; large ones are not to be read again for their masked row."""
        ready = (item.tables is not None and (item.few or item.row is not None) for item in self.running)
        return all(ready) and all(isinstance(item.tables[0], np.ndarray) for item in self.running)

    def finish(self, talk: Talk) -> None:
        """The rounds that are left, over tables."""
        field = self.backend.field
        summands = [Summand(*item.tables, item.coef, item.waiting, item.total) for item in self.running]
        waiting = sum((item.coef * item.total for item in self.running if item.waiting), field.zero)
        ends = self.backend.batch_rounds(summands, self.next, field.one, waiting, talk)
        self.point += talk.challenges
        self.bound = [f for f, _ in ends]

    def ends(self) -> list[Ext]:
        return self.bound or [Ext.from_array(self.backend.field, item.tables[0]) for item in self.running]

    def sigma(self, gammas: list[Ext], tail_form: Form) -> U64:
        field = self.backend.field
        witness = self.commitments[self.roles.index(WITNESS)].layout
        z = self.backend.eq_table(as_point(self.point[len(self.point) - witness.column_bits :]))
        total = self.backend.kdot(self.backend.to_device(self.backend.message_of(witness.code, self.masks.r1)), z)
        short = self.backend.message_of(self.masks.short, self.masks.r2)
        for (_, index), value in tail_form.terms.items():
            total = total - value * Ext.from_array(field, short[:, index])
        self.gammas = gammas
        return as_point([total])

    def masked_rows(self, rho: Ext) -> tuple[U64, U64]:
        backend, field = self.backend, self.backend.field
        v1 = self.masks.r1
        if self.running:  # Σ γ_c·q_cᵀM_c: messages and blinding are added up, then one transform gives coefficients
            longest = max((c.layout.code for c in self.commitments), key=lambda code: code.blinding)
            code = Code(field, longest.ell, longest.n, longest.blinding)
            message, blinding = field.zeros(2, code.ell), field.zeros(2, code.blinding)
            for c, item, gamma in zip(self.commitments, self.running, self.gammas, strict=True):
                q = backend.to_device(c.layout.row_weights(field, as_point(self.point[len(self.point) - c.layout.variables :])))
                row = backend.fold_axis(c.rows[None], q).reshape(2, -1) if item.row is None else item.row
                blind = backend.to_host(backend.fold_axis(c.rho[None], q)).reshape(2, -1)
                message = field.add(message, field.kscale(backend.to_host(row), gamma))
                blinding[:, : blind.shape[1]] = field.add(blinding[:, : blind.shape[1]], field.kscale(blind, gamma))
            v1 = field.add(v1, field.kscale(backend.coefficients(code, message, blinding), rho))
        tails = backend.coefficients(self.masks.short, self.masks.tails, self.masks.tails_rho)
        return v1, field.add(self.masks.r2, field.kscale(tails, rho))

    def before_positions(self) -> None:
        self.spend()

    def open(self, commitment: int, positions: I64) -> Query:
        return self.commitments[commitment].query(positions)
