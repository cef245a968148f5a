"""Runs of entries, each from arrays of its own, for kernels that take all of them in one call or launch.

A task has hundreds of lookups and of committed tensors, most of a few hundred cells, and a call or a launch for each costs more than
its cells. Leaves of the tree of fractions are made by prover/argument/tree.py; read by the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from protocol.field import U64, Ext

COLUMNS = 4  # of a run, as in LincombRun (prover/kernels/leaves.h)
_NONE = (0,) * COLUMNS


_WHOLE = 63  # bits of a piece that is a whole row


@dataclass(frozen=True)
class Place:
    """Where an array's entries go: from `start` on, in their natural order, or, with `piece`, a power of two, so that pieces of the last
    axis of that many entries lie side by side for all rows, and the next piece of each is `apart` entries further."""

    start: int
    piece: int = 0
    apart: int = 0


def pieces(rows: int, n: int, piece: int, apart: int) -> tuple[int, int, int, int]:
    """Rows of n entries in pieces, as the kernels read them (Pieces in prover/kernels/leaves.h). ValueError if pieces do not fit."""
    if not piece:
        return n, _WHOLE, n, 0
    if piece & (piece - 1) or n % piece or apart < rows * piece:
        raise ValueError(f"rows of {n} entries in pieces of {piece}, {rows} at intervals of {apart}")
    return n, piece.bit_length() - 1, piece, apart


def extent(rows: int, n: int, piece: int, apart: int) -> int:
    """Entries from the first to the last one in these pieces."""
    return (n // piece - 1) * apart + rows * piece if piece and rows * n else rows * n


@dataclass(frozen=True, eq=False)
class Run:
    """Entries [start, start + n) of a table over K: const + Σ_k coefs[k]·columns[k], columns integers (n,)."""

    columns: Sequence[Any]
    coefs: Sequence[Ext]
    const: Ext
    start: int

    @property
    def end(self) -> int:
        return self.start + int(self.columns[0].size)

    def placed(self, place: Callable[[Any], Any]) -> Run:
        """The run with its columns moved."""
        return replace(self, columns=[place(c) for c in self.columns])


def run_words(runs: Sequence[Run], size: int, column: Callable[[Any, int], tuple[int, int]]) -> tuple[U64, int]:
    """Runs into a table of `size` entries as the kernels read them, and how many entries they have together; `column` checks an array
    of so many integers and says where and of which kind it is."""
    words, total = list[int](), 0
    for run in runs:
        n, count = run.end - run.start, len(run.columns)
        if not 0 < count == len(run.coefs) <= COLUMNS:
            raise ValueError(f"{count} columns and {len(run.coefs)} coefficients")
        if not 0 <= run.start <= size - n:
            raise ValueError(f"{n} entries from {run.start} on in a table of {size}")
        none = _NONE[count:]
        words += (*(word for c in run.columns for word in column(c, n)), *none, *none)
        words += (*(c.c0 for c in run.coefs), *none, *(c.c1 for c in run.coefs), *none)
        words += (run.const.c0, run.const.c1, run.start, n, count, total)
        total += n
    return np.array(words, dtype=np.uint64), total


def array_runs(arrays: Sequence[tuple[int, int]], sizes: Sequence[int]) -> U64:
    """Arrays as the kernels read them: where and of which kind each is, its size, where it begins among all."""
    firsts = [0, *accumulate(sizes)]
    return np.array([(*x, size, first) for x, size, first in zip(arrays, sizes, firsts, strict=False)], dtype=np.uint64)


def embed_runs(arrays: Sequence[tuple[int, int]], shapes: Sequence[tuple[int, ...]], places: Sequence[Place], room: int) -> U64:
    """The same of arrays that go to places in `room` entries, and these. ValueError if they do not fit."""
    words, first = list[tuple[int, ...]](), 0
    for array, shape, place in zip(arrays, shapes, places, strict=True):
        rows, n = prod(shape[:-1]), shape[-1] if shape else 1
        if not 0 <= place.start <= room - extent(rows, n, place.piece, place.apart):
            raise ValueError(f"an array of shape {shape} from {place.start} on in {room}")
        words.append((*array, rows * n, first, place.start, *pieces(rows, n, place.piece, place.apart)))
        first += rows * n
    return np.array(words, dtype=np.uint64)
