"""The weights W of all claims on one commitment's cells, made for a few rows at a time: W as a whole would take twice the memory of
what is committed.

    W[cell] = Σ_terms coef·Π_axis weights_axis[index]      in each tensor Σ_last (Σ coef·lead) ⊗ last: terms with the same weights on the
                                                           last axis are added up before they are spread over it

A part is such a sum over a box of a tensor, with its place in the virtual index (protocol/layout.py); of what a piece of the index needs
the overlapping parts are cut. Called by opening.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from protocol.field import I64
from protocol.layout import CommitmentLayout, Slot, TensorLayout
from protocol.schedule.constraints import Box, CellTerm, whole
from protocol.schedule.gkr import as_point
from prover.argument.outer import outers
from prover.backend.base import Backend
from prover.backend.outer import OuterSum
from prover.commitment.commit import place_of


@dataclass(frozen=True, eq=False)
class Part:
    """Σ_t us[t] ⊗ vs[t] from virtual cell `first` on: rows of `piece` cells lie side by side, one for each entry of the us, and the next
    pieces of all rows `apart` cells further."""

    first: int
    us: Sequence[Any]
    vs: Sequence[Any]
    piece: int
    apart: int

    @property
    def block(self) -> int:
        """Cells of one piece of all rows."""
        return int(self.us[0].shape[1]) * self.piece

    @property
    def blocks(self) -> int:
        return int(self.vs[0].shape[1]) // self.piece

    @property
    def end(self) -> int:
        return self.first + (self.blocks - 1) * self.apart + self.block

    def between(self, start: int, stop: int, out: Any) -> Iterator[OuterSum]:
        """The sums for cells start … stop − 1, into K (2, stop − start)."""
        whole = max(0, -((self.first - start) // self.apart)), min(self.blocks, (stop - self.first - self.block) // self.apart + 1)
        if whole[0] < whole[1]:
            vs = [v[:, whole[0] * self.piece : whole[1] * self.piece] for v in self.vs]
            pieces = (self.piece, self.apart) if whole[1] - whole[0] > 1 else ()
            yield OuterSum(self.us, vs, out[:, self.first + whole[0] * self.apart - start :], *pieces)
        for k in {whole[0] - 1, max(whole)}:  # blocks of which only some cells lie there
            at = self.first + k * self.apart
            low, high = max(start - at, 0), min(stop - at, self.block)
            if 0 <= k < self.blocks and low < high:
                yield from self._some(k, low, high, out[:, at + low - start :])

    def _some(self, k: int, low: int, high: int, out: Any) -> Iterator[OuterSum]:
        """Cells low … high − 1 of the k-th block: the end of a row, whole rows, the beginning of another."""
        (i, j), (last, rest), at = divmod(low, self.piece), divmod(high, self.piece), 0
        cuts = [(i, last, 0, self.piece), (last, last + 1, 0, rest)]
        if j:
            cuts = [(i, i + 1, j, min(self.piece, j + high - low)), (i + 1, last, 0, self.piece), (last, last + (last > i), 0, rest)]
        for first, end, left, right in cuts:
            if first < end and left < right:
                vs = [v[:, k * self.piece + left : k * self.piece + right] for v in self.vs]
                yield OuterSum([u[:, first:end] for u in self.us], vs, out[:, at:])
                at += (end - first) * (right - left)


@dataclass(frozen=True)
class Piece:
    """Cells of a tensor that lie in the order of a part, from virtual cell `first` on: a range of each axis but the last."""

    ranges: Box
    first: int
    piece: int
    apart: int


def pieces(layout: CommitmentLayout, slot: Slot) -> list[Piece]:
    """All cells of a tensor if they lie in one order, else those of each choice of odd digits of the axes before the last."""
    tensor, place = slot.tensor, place_of(layout, slot.name)
    if place and not place.piece:
        return [Piece(whole(tensor.shape[:-1]), slot.offset, tensor.shape[-1], prod(tensor.shape))]
    firsts = slot.offset + (tensor.blocks[:: tensor.odd[-1]] << tensor.block_bits)  # the last axis has the innermost digits
    ranges = (tuple((d << k, d + 1 << k) for d, k in zip(digits, tensor.low, strict=False)) for digits in np.ndindex(*tensor.odd[:-1]))
    last = 1 << tensor.low[-1], 1 << tensor.block_bits
    return [Piece(inside, first, *last) for inside, first in zip(ranges, firsts.tolist(), strict=True)]


class Weights:
    """W of one commitment from the terms on its cells."""

    def __init__(self, backend: Backend, layout: CommitmentLayout, terms: Sequence[CellTerm]) -> None:
        self.backend, self.layout = backend, layout
        together: dict[str, dict[int, list[CellTerm]]] = {}  # by tensor and last weights, which the terms keep alive
        for term in terms:
            together.setdefault(term.place[1], {}).setdefault(id(term.weights[-1]), []).append(term)
        leads = iter(_leads(backend, [group for by_last in together.values() for group in by_last.values()]))
        self.parts = list[Part]()
        for name, by_last in together.items():
            slot, groups = layout.by_name[name], [(group, next(leads)) for group in by_last.values()]
            found = pieces(layout, slot)
            if len(found) > 1:
                before = TensorLayout(slot.tensor.shape[:-1])
                groups = [(group, before.arrange(lead.reshape(2, *before.shape))) for group, lead in groups]
            boxes = [(k, term.box) for k, (group, _) in enumerate(groups) for term in group]
            for number, piece in enumerate(found):
                for start, stop, some in runs(piece, boxes):
                    us = [(groups[k][1][:, number] if len(found) > 1 else groups[k][1])[:, start:stop] for k in some]
                    vs = [groups[k][0][0].weights[-1] for k in some]
                    self.parts.append(Part(piece.first + start * piece.piece, us, vs, piece.piece, piece.apart))
        self.parts.sort(key=lambda part: part.first)
        self._ends = np.array([(part.first, part.end) for part in self.parts], dtype=np.int64).reshape(-1, 2)
        self._unwritten = self._gaps()

    def _gaps(self) -> I64:
        """(start, stop) of what no part writes to."""
        firsts = [part.first + part.apart * np.arange(part.blocks) for part in self.parts]
        starts = np.concatenate([np.zeros(0, dtype=np.int64), *firsts])
        stops = starts + np.repeat(*np.array([(part.block, part.blocks) for part in self.parts], dtype=np.int64).reshape(-1, 2).T)
        order = np.argsort(starts)
        starts, stops = np.append(starts[order], 1 << self.layout.variables), np.append(0, np.maximum.accumulate(stops[order]))
        return np.stack([stops, starts], axis=1)[stops < starts]

    def rows(self, ranges: Sequence[tuple[int, int]], out: Any) -> None:
        """W in these ranges of virtual rows, one after the other, into K (2, rows·ℓ)."""
        ell, at, sums = self.layout.code.ell, 0, list[OuterSum]()
        for first, end in ranges:
            start, stop, piece = first * ell, end * ell, out[:, at * ell : (at + end - first) * ell]
            for low, high in self._unwritten[overlapping(self._unwritten, start, stop)].tolist():
                sums.append(OuterSum([], [], piece[:, max(low - start, 0) : high - start]))
            for k in overlapping(self._ends, start, stop).tolist():
                sums += self.parts[k].between(start, stop, piece)
            at += end - first
        self.backend.outer_sums(sums)


def overlapping(spans: I64, start: int, stop: int) -> I64:
    """Which of the spans (first, end) have something of start … stop − 1."""
    return np.flatnonzero((spans[:, 0] < stop) & (spans[:, 1] > start))


def _leads(backend: Backend, groups: Sequence[Sequence[CellTerm]]) -> list[Any]:
    """Σ_terms coef·⊗ weights on the axes before the last: K (2, rows) for each group of terms."""
    distinct = {tuple(map(id, term.weights[:-1])): term.weights[:-1] for group in groups for term in group}
    made = dict(zip(distinct, outers(backend, list(distinct.values())), strict=True))
    sizes = [prod(w.shape[1] for w in group[0].weights[:-1]) for group in groups]
    room, sums, found, at = backend.xp.empty((2, sum(sizes)), dtype=np.uint64), list[OuterSum](), list[Any](), 0
    for group, size in zip(groups, sizes, strict=True):
        found.append(room[:, at : at + size])
        at, coefs = at + size, as_point([term.coef for term in group])
        leads = [made[tuple(map(id, term.weights[:-1]))] for term in group]
        sums.append(OuterSum([coefs[:, k : k + 1] for k in range(len(group))], leads, found[-1]))
    backend.outer_sums(sums)
    return found


def runs(piece: Piece, boxes: Sequence[tuple[int, Box]]) -> Iterator[tuple[int, int, list[int]]]:
    """(start, stop, groups): rows of a piece on which the same groups of terms, given with the boxes of each, weigh something."""
    shape, spans = tuple(b - a for a, b in piece.ranges), list[tuple[int, int, int]]()
    for k, box in boxes:
        inside = tuple((max(a, x) - x, min(b, y) - x) for (a, b), (x, y) in zip(box, piece.ranges, strict=False))
        if all(a < b for a, b in inside):
            spans.append((*span_of(inside, shape), k))
    cuts = sorted({at for span in spans for at in span[:2]})
    for start, stop in zip(cuts, cuts[1:], strict=False):
        some = list(dict.fromkeys(k for first, last, k in spans if first <= start and stop <= last))
        if some:
            yield start, stop, some


def span_of(box: Box, shape: tuple[int, ...]) -> tuple[int, int]:
    """The first cell of a box in C order, and the one after its last."""
    first = last = 0
    for (start, stop), n in zip(box, shape, strict=True):
        first, last = first * n + start, last * n + stop - 1
    return first, last + 1
