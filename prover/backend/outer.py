"""Many sums of outer products in one call, which is how the weights of an opening are made: thousands of small ones in a task.

`Backend.outer_sums` takes a list of them; the kernels (prover/kernels/bodies.h) take it as two tables of words, which are made here for
the CPU and the CUDA backend alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.field import U64
from prover.backend.leaves import extent, pieces


@dataclass(frozen=True, eq=False)
class OuterSum:
    """out(i, j) = Σ_t us[t][i]·vs[t][j]: K (2, n0) and K (2, n1) each into a K array (2, …) with contiguous planes, at i·n1 + j. A sum of
    nothing is 0 in all of `out`.

    With `piece`, a power of two, a row's entries lie in pieces of so many, those of all rows side by side, and the next piece of each
    `apart` entries further: at i·piece + (j // piece)·apart + j % piece. Sums of one call do not overlap."""

    us: Sequence[Any]
    vs: Sequence[Any]
    out: Any
    piece: int = 0
    apart: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        """(n0, n1), the shapes having been compared. ValueError if they do not fit, or what is written would not fit in `out`."""
        out = self.out
        n0, n1 = (int(self.us[0].shape[1]), int(self.vs[0].shape[1])) if self.us else (1, int(out.shape[-1]))
        first, second = (2, n0), (2, n1)
        for u, v in zip(self.us, self.vs, strict=True):
            if u.shape != first or v.shape != second:
                raise ValueError(f"vectors of shapes {u.shape} and {v.shape} in a sum of {first} and {second}")
        pieces(n0, n1, self.piece, self.apart)
        end = extent(n0, n1, self.piece, self.apart)
        if out.dtype != np.uint64 or out.ndim != 2 or out.shape[0] != 2 or out.shape[1] < end or end and out.strides[1] != 8:
            raise ValueError(f"a result of shape {out.shape} for {end} entries in contiguous planes")
        return n0, n1


def tables(sums: Sequence[OuterSum], planes: Callable[[Any], tuple[int, int]]) -> tuple[U64, U64, int, int]:
    """(items, terms, entries, products) for the kernel: `planes` says where the planes of an array are."""
    items, terms, entries, products = list[int](), list[int](), 0, 0
    for x in sums:
        n0, n1 = x.sizes
        if n0 * n1:
            items += (*planes(x.out), *pieces(n0, n1, x.piece, x.apart), len(terms) // 4, len(x.us), entries, n0 * n1)
            for u, v in zip(x.us, x.vs, strict=True):
                terms += (*planes(u), *planes(v))
            entries, products = entries + n0 * n1, products + n0 * n1 * len(x.us)
    return np.array(items, dtype=np.uint64), np.array(terms, dtype=np.uint64), entries, products
