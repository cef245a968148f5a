"""Prover of protocol/schedule/opening.py: the sumcheck over all committed cells, masked rows, opened columns.

Cost: W is one K element per committed cell; rounds over row variables pair existing rows, absent ones count as zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from protocol.channel import Form
from protocol.code import Code
from protocol.field import I64, U64, Ext
from protocol.relation.graph import WITNESS
from protocol.schedule.constraints import Box
from protocol.schedule.gkr import as_point
from protocol.schedule.opening import CombinedWeights, Query, tail_code
from prover.argument.finish import FinishingProver
from prover.argument.outer import outers
from prover.backend.base import Backend
from prover.backend.outer import OuterSum
from prover.backend.talk import Summand, Talk
from prover.commitment.commit import CommitmentData, place_blocks, place_of
from prover.randomness import SecretStream


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
    """The polynomial with these coefficients on D: what code.codeword(coefs) is, by the backend's `encode`. Blinding, which costs a product
    for each word of a codeword, is only what goes beyond rate 1/4."""
    length = coefs.shape[-1]
    ell = max(1, min(1 << (length - 1).bit_length(), code.n // 4))
    wide = Code(backend.field, ell, code.n, max(0, length - ell))
    padded = np.zeros((*coefs.shape[:-1], wide.length), dtype=np.uint64)
    padded[..., :length] = coefs
    return backend.encode(wide, backend.message_of(wide, padded), np.ascontiguousarray(padded[..., ell:]))


@dataclass
class _Running:
    """One commitment in the sumcheck."""

    f: Any
    w: Any
    index: I64  # virtual indices of the rows held
    row_bits: int
    waiting: int  # rounds before its own begin
    total: Ext  # Σ f·w, if it waits
    coef: Ext
    row: Any = None  # q_cᵀM_c once all row variables are bound
    pairs: tuple[I64, I64, I64] | None = None  # of the rows, for the round that is under way


def _row_pairs(index: I64, row_bits: int) -> tuple[I64, I64, I64]:
    """(new virtual indices, low rows, high rows) for the top row variable; −1 where a row is absent."""
    half = 1 << (row_bits - 1)
    merged = np.sort(index & (half - 1))
    merged = merged[np.diff(merged, prepend=-1) > 0]
    places = []
    for wanted in (merged, merged + half):
        at = np.minimum(np.searchsorted(index, wanted), len(index) - 1)  # ascending, as a layout lists them
        places.append(np.where(index[at] == wanted, at, -1))
    return merged, places[0], places[1]


class OpeningProverImpl(FinishingProver):
    """Implements OpeningProver; `spend` is called once, before positions are drawn."""

    def __init__(
        self, backend: Backend, roles: Sequence[str], commitments: Sequence[CommitmentData], masks: Masks, spend: Callable[[], None],
    ) -> None:
        self.backend, self.roles, self.commitments, self.masks, self.spend = backend, roles, commitments, masks, spend
        self.point: list[Ext] = []

    def begin(self, weights: CombinedWeights) -> None:
        field = self.backend.field
        variables = max(c.layout.variables for c in self.commitments)
        self.running, self.bound = [], list[Ext]()
        for role, c in zip(self.roles, self.commitments, strict=True):
            self.backend.release()
            w = self._weights(role, c, weights)
            waiting, total = variables - c.layout.variables, field.zero
            if waiting:  # F(X)·W(X) with absent high rows is (1 − X)²·Σ f·w: the sum is its value at 2
                rows = np.arange(len(c.rows), dtype=np.int64)
                _, total = self.backend.open_round(c.rows, w, rows, np.full(len(rows), -1, dtype=np.int64))
            row_bits = c.layout.variables - c.layout.column_bits
            item = _Running(c.rows, w, c.layout.rows, row_bits, waiting, total, field.one)
            self._settle(item)
            self.running.append(item)
        self._advance(None)

    def _weights(self, role: str, c: CommitmentData, weights: CombinedWeights) -> Any:
        """W_c on the existing rows, K (2, R, ℓ): in each slot the sum of its terms' outer products, lead ⊗ last axis."""
        backend, layout = self.backend, c.layout
        flat = backend.xp.zeros((2, c.rows.size), dtype=np.uint64)
        by_slot: dict[str, list[int]] = {}
        terms = weights.by_role.get(role, [])
        for k, term in enumerate(terms):
            by_slot.setdefault(term.place[1], []).append(k)
        coefs = as_point([term.coef for term in terms])
        distinct = {tuple(map(id, term.weights[:-1])): term.weights[:-1] for term in terms}  # weights that the terms keep alive
        made = outers(backend, [*distinct.values(), *((coefs[:, k : k + 1], *term.weights[-1:]) for k, term in enumerate(terms))])
        leads, lasts = dict(zip(distinct, made, strict=False)), made[len(distinct) :]
        sums = list[OuterSum]()
        for name, chosen in by_slot.items():
            tensor, place, columns = layout.by_name[name].tensor, place_of(layout, name), lasts[chosen[0]].shape[1]
            piece, apart = (place.piece, place.apart) if place else (0, 0)
            natural = flat[:, place.cells] if place else backend.xp.zeros((2, prod(tensor.shape)), dtype=np.uint64)
            rows, spans = prod(tensor.shape[:-1]), [span_of(terms[k].box[:-1], tensor.shape[:-1]) for k in chosen]
            cuts = sorted({at for span in spans for at in span})
            own = list[OuterSum]()
            for start, stop in zip(cuts, cuts[1:], strict=False):  # between two cuts the same terms weigh something
                here = [k for k, span in zip(chosen, spans, strict=True) if span[0] <= start and stop <= span[1]]
                if here:
                    us = [leads[tuple(map(id, terms[k].weights[:-1]))] for k in here]
                    us = us if stop - start == rows else [u[:, start:stop] for u in us]
                    own.append(OuterSum(us, [lasts[k] for k in here], natural[:, start * (piece or columns) :], piece, apart))
            if place:
                sums += own
            else:
                backend.outer_sums(own)
                place_blocks(layout, flat, name, tensor.arrange(natural.reshape(2, *tensor.shape)))
        backend.outer_sums(sums)
        return flat.reshape(2, len(c.rows), layout.code.ell)

    def _settle(self, item: _Running) -> None:
        """Once no row variable is left the tables become K (2, ℓ), which rounds fold in place."""
        if item.row_bits == 0 and item.row is None:
            item.f, item.w = self.backend.lift(item.f[0]) if item.f.ndim == 2 else item.f[:, 0], item.w[:, 0]
            item.row = item.f.copy()

    def _advance(self, r: Ext | None) -> None:
        """Fold what runs by r, let those begin whose turn it is, and compute the next round of all."""
        backend, g1, g2 = self.backend, self.backend.field.zero, self.backend.field.zero
        columns, fold = list[_Running](), list[bool]()
        for item in self.running:
            ready = r is None or item.waiting > 0  # nothing to fold
            if r is not None and item.waiting:
                item.waiting, item.coef = item.waiting - 1, item.coef * (1 - r)
            elif r is not None and item.pairs is not None:
                merged, low, high = item.pairs
                backend.release()
                item.w = backend.open_fold(item.w, low, high, r)  # one after the other: this is where a task's memory peaks
                item.f = backend.open_fold(item.f, low, high, r)
                item.index, item.row_bits, item.pairs, ready = merged, item.row_bits - 1, None, True
                self._settle(item)
            if item.waiting:  # (1 − X)·sum: 0 at 1 and −sum at 2
                g2 = g2 - item.coef * item.total
            elif item.row_bits:
                item.pairs = _row_pairs(item.index, item.row_bits)
                one, two = backend.open_round(item.f, item.w, *item.pairs[1:])
                g1, g2 = g1 + item.coef * one, g2 + item.coef * two
            else:
                columns.append(item)
                fold.append(not ready)
        tables, (one, two) = backend.product_rounds([(x.f, x.w) for x in columns], [x.coef for x in columns], fold, r)
        for item, pair in zip(columns, tables, strict=True):
            item.f, item.w = pair
        self.next = g1 + one, g2 + two

    def round(self) -> tuple[Ext, Ext]:
        return self.next

    def bind(self, r: Ext) -> None:
        self.point.append(r)
        self._advance(r)

    def can_finish(self) -> bool:
        return all(item.row is not None and isinstance(item.f, np.ndarray) for item in self.running)

    def finish(self, talk: Talk) -> None:
        """The column variables, which all commitments have at the same time."""
        field = self.backend.field
        summands = [Summand(item.f, item.w, item.coef, 0, field.zero) for item in self.running]
        ends = self.backend.batch_rounds(summands, self.next, field.zero, field.zero, talk)
        self.point += talk.challenges
        self.bound = [f for f, _ in ends]

    def ends(self) -> list[Ext]:
        return self.bound or [Ext.from_array(self.backend.field, item.f) for item in self.running]

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
                q = c.layout.row_weights(field, as_point(self.point[len(self.point) - c.layout.variables :]))
                part = backend.to_host(backend.fold_axis(c.rho[None], backend.to_device(q))).reshape(2, -1)
                message = field.add(message, field.kscale(backend.to_host(item.row), gamma))
                blinding[:, : part.shape[1]] = field.add(blinding[:, : part.shape[1]], field.kscale(part, gamma))
            v1 = field.add(v1, field.kscale(backend.coefficients(code, message, blinding), rho))
        tails = backend.coefficients(self.masks.short, self.masks.tails, self.masks.tails_rho)
        return v1, field.add(self.masks.r2, field.kscale(tails, rho))

    def before_positions(self) -> None:
        self.spend()

    def open(self, commitment: int, positions: I64) -> Query:
        return self.commitments[commitment].query(positions)


def span_of(box: Box, shape: tuple[int, ...]) -> tuple[int, int]:
    """The first cell of a box in C order, and the one after its last."""
    first = last = 0
    for (start, stop), n in zip(box, shape, strict=True):
        first, last = first * n + start, last * n + stop - 1
    return first, last + 1
