"""The tree of fractions on a GPU (prover/kernels/device_tree.h): base.py's methods for Tiled tables and for their weights, the CUDA
backend's part.

A layer is one launch, a round one launch and one wait. Which tiles stay uniform the kernel finds out by itself, and with a round's sums
comes which tables still have such tiles; flags and values stay on the device. What a layer or a fold leaves of at most `hand_over`
entries the kernel writes, in full, to memory of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from protocol.field import U64, Ext
from prover.backend.base import Round
from prover.backend.device import DeviceArrays, check_shape, planes, where_arrays_are
from prover.backend.device_level import NO_TILES, Level, tile_words
from prover.backend.field import address
from prover.backend.tiled import TILE, Tiled

VARIABLES = 32  # of the largest table of eq, as in EqLevels
_NO_RESULT = (0,) * 20  # words of four tables


class DeviceTree(DeviceArrays):
    """Tables of fractions, their layers and their rounds; tables of eq."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._inverse = self.field.one, self.field.one  # the last λ and 1/λ: one λ serves all rounds of a level
        # the last two results of eq_suffixes: their tables on the host, and the same on the device once it needed one
        self._suffixes: tuple[tuple[U64, Any], ...] = ()

    # ---- eq --------------------------------------------------------------------------------------------------------

    def eq_table(self, point: U64) -> Any:
        return self._eq_levels(point)[:, 1 << point.shape[1] :]

    def eq_suffixes(self, point: U64) -> list[Any]:
        """Tables of at most `hand_over` entries lie on the host, as the tables that they weigh do towards the end."""
        m, small = point.shape[1], self.hand_over.bit_length() - 1
        levels = self._eq_levels(point) if m > small else None
        if small < 0:
            return [levels[:, 1 << k : 2 << k] for k in range(m + 1)]  # type: ignore[index]
        tables: list[Any] = self.host.eq_suffixes(np.ascontiguousarray(point[:, max(0, m - small) :]))
        self._suffixes = ((tables[0].base, levels), *self._suffixes[:1])
        return tables + [levels[:, 1 << k : 2 << k] for k in range(small + 1, m + 1)]  # type: ignore[index]

    def _eq_levels(self, point: U64) -> Any:
        """K (2, 2^(m+1)): eq of the last k variables at entry 2^k, k = 0 … m; entry 0 is nothing."""
        m = check_shape(point, (2, -1))[1]
        if m > VARIABLES:
            raise ValueError(f"a point of {m} variables")
        out = self.xp.empty((2, 2 << m), dtype=np.uint64)
        ends = (0,) * (VARIABLES - m)
        words = [word for plane in point[:, ::-1].tolist() for word in (*plane, *ends)]
        self._call("vl_eq_levels", 1, 1 << m, *words, *planes(out), m)
        return out

    def _weights(self, x: Any) -> tuple[int, tuple[int, int], Any]:
        """Entries and addresses of a table of eq, and what holds it; tables that eq_suffixes left on the host are brought over once."""
        if isinstance(x, np.ndarray):
            for k, (base, there) in enumerate(self._suffixes):
                if x.base is base:
                    if there is None:
                        there = self.to_device(base)
                        self._suffixes = tuple((b, there if k == i else t) for i, (b, t) in enumerate(self._suffixes))
                    offset = address(x[:1]) - address(base)
                    first, second = planes(there)
                    return x.shape[1], (first + offset, second + offset), there
            x = self.to_device(x)
        x = self._planes(x)
        return x.shape[1], planes(x), x

    # ---- fractions ---------------------------------------------------------------------------------------------------

    @where_arrays_are
    def fraction_layer(self, p: Tiled, q: Tiled) -> tuple[Tiled, Tiled]:
        (p0, p1), (q0, q1) = p.halves(), q.halves()
        tables, size = self._tables((p0, p1, q0, q1), p0.size)
        tiled = any(t.uniform is not None for t in tables)
        made = [self._made(self._place(p0.size), tiled) for _ in range(2)]
        words = [word for t in (*tables, *made) for word in (*planes(t.cells), *tile_words(t))]
        self._call("vl_fraction_layer", p0.size // size, size, *words, size)
        if p0.size <= self.hand_over:
            self._wait()
        return made[0], made[1]

    @where_arrays_are
    def fraction_layers(self, p: Tiled, q: Tiled) -> list[tuple[Tiled, Tiled]]:
        return super().fraction_layers(p, q)

    @where_arrays_are
    def fraction_round(self, tables: Sequence[Tiled], low: Any, high: Any, lam: Ext) -> tuple[Sequence[Tiled], Round]:
        held, size = self._tables(tables, low.shape[1] * high.shape[1])
        level = Level.of(held)
        g, notes = self._fraction_sum("vl_fraction_round", level, _NO_RESULT, size, low, high, lam, self.field.zero)
        return level.noted(notes), g

    def fraction_fold_round(self, tables: Sequence[Tiled], r: Ext, low: Any, high: Any, lam: Ext) -> tuple[Sequence[Tiled], Round]:
        half = low.shape[1] * high.shape[1]
        if isinstance(tables, Level) and half >= TILE:
            level, size = tables, TILE
        elif isinstance(tables[0].cells, np.ndarray):
            return self.host.fraction_fold_round(tables, r, low, high, lam)
        else:
            held, size = self._tables(tables, half)
            level = Level.of(held)
        if 2 * half > self.hand_over:
            made = level.halved(self.xp)  # in place: a thread reads an entry before it writes the one that replaces it
            g, notes = self._fraction_sum("vl_fraction_fold_round", level, made.words(), size, low, high, lam, r, 2)
            return made.noted(notes), g
        over = self._pinned(4, 2, 2 * half)
        words = [word for cells in over for word in (*planes(cells), *NO_TILES)]
        g, _ = self._fraction_sum("vl_fraction_fold_round", level, words, size, low, high, lam, r, 2)
        return [Tiled(cells) for cells in over], g

    def _made(self, cells: Any, tiled: bool) -> Tiled:
        """A table to be written, with room for flags unless it is written in full; one tile alone would have no halves."""
        count = cells.shape[1] // TILE
        if not tiled or count < 2 or isinstance(cells, np.ndarray):
            return Tiled(cells)
        return Tiled(cells, self.xp.empty(count, dtype=np.bool_), self.xp.empty((2, count), dtype=np.uint64))

    def _fraction_sum(
        self, name: str, level: Level, made: Sequence[int], size: int, low: Any, high: Any, lam: Ext, r: Ext, folds: int = 1
    ) -> tuple[Round, list[int]]:
        if self._inverse[0] != lam:
            self._inverse = lam, lam.inverse()
        mu = self._inverse[1]
        (within, lo, _low), (tiles, hi, _high) = self._weights(low), self._weights(high)
        if size != within or level.size != 2 * folds * size * tiles:
            raise ValueError(f"weights of {tiles} tiles of {within} entries for tables of {level.size}")
        words = (*level.words(), *made, *lo, *hi)
        square = lam * lam
        scalars = [word for x in (mu, lam, square, r) for word in (x.c0, x.c1)]
        g, notes = self._sum_noted(name, 2, tiles, size, words, size, tiles, *scalars)
        return (g[0] * lam, g[1] * lam), notes

    def _tables(self, tables: Sequence[Tiled], half: int) -> tuple[list[Tiled], int]:
        """Tables as a kernel reads them, and the size of its tiles."""
        held = list(tables) if half >= TILE else [t.dense() for t in tables]
        for t in held:
            if self._planes(t.cells) is not t.cells:
                raise ValueError("a table of fractions needs contiguous planes of 64-bit words")
            if t.uniform is not None and t.values is not None:
                check_shape(self._on_device(t.uniform), (t.size // TILE,))
                check_shape(self._on_device(t.values), (2, t.size // TILE))
        return held, min(half, TILE)
