"""Runs of entries, each from arrays of its own, for kernels that take all of them in one call or launch.

A task has hundreds of lookups and of committed tensors, most of a few hundred cells, and a call or a launch for each costs more than
its cells. Leaves of the tree of fractions are made by prover/argument/tree.py; read by the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from protocol.field import U64, Ext

COLUMNS = 4  # of a run, as in LincombRun (prover/kernels/leaves.h)
_NONE = (0,) * COLUMNS


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


def array_runs(
    arrays: Sequence[tuple[int, int]], sizes: Sequence[int], starts: Sequence[int] | None = None, room: int = 0,
) -> U64:
    """Arrays as the kernels read them: where and of which kind each is, its size, where in `room` entries it goes, if anywhere, where it
    begins among all."""
    places, firsts = [0] * len(sizes) if starts is None else starts, [0, *accumulate(sizes)][:-1]
    if starts is not None and any(not 0 <= start <= room - size for start, size in zip(starts, sizes, strict=True)):
        raise ValueError(f"arrays of {sizes} entries from {starts} on in {room}")
    return np.array([(*x, *rest) for x, *rest in zip(arrays, sizes, places, firsts, strict=True)], dtype=np.uint64)
