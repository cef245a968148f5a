"""Leaves of the tree of fractions while they are written: runs of neighbours, all of a table's at once.

A task has hundreds of lookups, most of a few hundred cells, so a call or a launch for each costs more than its leaves. Made by
prover/argument/tree.py, read by `Backend.lincombs` and `Backend.fingerprints`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protocol.field import U64, Ext

COLUMNS = 4  # of a run, as in LincombRun (prover/kernels/leaves.h)
_NONE = (0,) * COLUMNS


@dataclass(frozen=True, eq=False)
class Run:
    """Entries [start, start + n) of a table over K: const + Σ_k coefs[k]·columns[k], columns i64 (n,)."""

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


def run_words(runs: Sequence[Run], size: int, column: Callable[[Any, int], int]) -> tuple[U64, int]:
    """Runs into a table of `size` entries as the kernels read them, and how many entries they have together; `column` checks an array
    of so many integers and says where it is."""
    words, total = list[int](), 0
    for run in runs:
        n, count = run.end - run.start, len(run.columns)
        if not 0 < count == len(run.coefs) <= COLUMNS:
            raise ValueError(f"{count} columns and {len(run.coefs)} coefficients")
        if not 0 <= run.start <= size - n:
            raise ValueError(f"{n} entries from {run.start} on in a table of {size}")
        none = _NONE[count:]
        words += (*(column(c, n) for c in run.columns), *none, *(c.c0 for c in run.coefs), *none, *(c.c1 for c in run.coefs), *none)
        words += (run.const.c0, run.const.c1, run.start, n, count, total)
        total += n
    return np.array(words, dtype=np.uint64), total
