"""A table over K that is cut into tiles of TILE entries, where a tile may be uniform: one value, its cells meaningless.

Looked-up leaves of the tree of fractions have the numerator 1 and free leaves are 0/1: their tiles cost neither memory
traffic nor products. Denominators of leaves with one column are α minus a small integer: on the CPU a tile may be narrow, which is
those integers in 16 bits. Made by prover/argument/tree.py, read by the backends' fraction methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.field import GOLDILOCKS, I64, U64
from prover.backend.field import address

TILE_BITS = 9  # 8 KB of weights in the first-level cache; ifma.h and limbs.h add up to 2^7 vectors without a carry
TILE = 1 << TILE_BITS
Flags = npt.NDArray[np.bool_]
U16 = npt.NDArray[np.uint16]


def aligned(*shape: int, xp: Any = np) -> U64:
    """An uninitialised array of words that begins at a cache line, as loads and stores of 64 bytes want it."""
    if xp is not np:  # allocators of devices align by themselves
        return xp.empty(shape, dtype=np.uint64)  # type: ignore[no-any-return]
    size = math.prod(shape)
    words = np.empty(size + 8, dtype=np.uint64)
    first = -address(words) % 64 // 8
    return words[first : first + size].reshape(shape)


@dataclass(frozen=True, eq=False)
class Narrow:
    """Where tiles (n / TILE,) has a flag, entry j of tile t is base[t] − words[t·TILE + j] over Goldilocks: base K (2, n / TILE),
    words (n,). Folded k times, which leaves m = n / TILE / 2^k tiles, it is base[t] + Σ_c weights[c]·words[(t + c·m)·TILE + j]:
    tiles (m,), base K (2, m), weights K (2, 2^k)."""

    tiles: Flags
    base: U64
    words: U16
    weights: U64 = field(default_factory=lambda: np.array([[GOLDILOCKS.p - 1], [0]], dtype=np.uint64))

    @property
    def depth(self) -> int:
        return int(self.weights.shape[1]).bit_length() - 1

    @staticmethod
    def none(size: int) -> Narrow:
        tiles = size // TILE
        return Narrow(np.zeros(tiles, dtype=np.bool_), np.zeros((2, tiles), dtype=np.uint64), np.empty(size, dtype=np.uint16))

    def placed(self, place: Callable[[Any], Any]) -> Narrow:
        return Narrow(*map(place, (self.tiles, self.base, self.words, self.weights)))

    def half(self, low: bool) -> Narrow:
        at = slice(0, self.tiles.size // 2) if low else slice(self.tiles.size // 2, None)
        return Narrow(self.tiles[at], self.base[:, at], self.words[: self.words.size // 2] if low else self.words[self.words.size // 2 :])

    def spread(self, tiles: I64) -> U64:
        """The cells of these tiles, K (2, tiles, TILE)."""
        words, field = self.words.reshape(1 << self.depth, -1, TILE)[:, tiles].astype(np.uint64), GOLDILOCKS
        out = np.broadcast_to(self.base[:, tiles, None], (2, tiles.size, TILE))
        for c, weight in enumerate(self.weights.T):
            out = field.add(out, field.mul(words[c][None], weight[:, None, None]))
        return out


@dataclass(frozen=True, eq=False)
class Tiled:
    """cells K (2, n); uniform (n / TILE,) with values K (2, n / TILE), canonical everywhere, or both None: no tile is uniform.
    Cells of narrow tiles are meaningless too; such a tile is not uniform.

    While leaves are written (`filled`, `set`, `open`) flags and values are NumPy arrays wherever the cells lie; `placed` moves them.
    """

    cells: U64
    uniform: Flags | None = None
    values: U64 | None = None
    narrow: Narrow | None = None

    @staticmethod
    def filled(size: int, value: int, xp: Any = np) -> Tiled:
        """A table of `size` entries, all equal to an element of F; tiled if it is large enough."""
        cells = aligned(2, size, xp=xp)
        if size < 4 * TILE:
            cells[0], cells[1] = value, 0
            return Tiled(cells)
        values = np.zeros((2, size // TILE), dtype=np.uint64)
        values[0] = value
        return Tiled(cells, np.ones(size // TILE, dtype=np.bool_), values)

    @property
    def size(self) -> int:
        return int(self.cells.shape[1])

    def open(self, start: int, end: int) -> None:
        """Let cells [start, end) be written: tiles that they share with other cells keep these."""
        if self.uniform is None or self.values is None or start == end:
            return
        first, last = start // TILE, (end - 1) // TILE
        for tile in {first, last}:
            if self.uniform[tile] and (tile * TILE < start or end < (tile + 1) * TILE):
                for plane in (0, 1):
                    self.cells[plane, tile * TILE : (tile + 1) * TILE] = self.values[plane, tile]
        self.uniform[first : last + 1] = False

    def set(self, start: int, end: int, value: int) -> None:
        """Cells [start, end) become an element of F."""
        first, last = -(-start // TILE), end // TILE  # whole tiles
        if self.uniform is None or self.values is None or first >= last:
            self.open(start, end)
            self.cells[0, start:end], self.cells[1, start:end] = value, 0
            return
        self.uniform[first:last] = True
        self.values[0, first:last], self.values[1, first:last] = value, 0
        for edge in ((start, first * TILE), (last * TILE, end)):
            if edge[0] < edge[1]:
                self.set(*edge, value)

    def placed(self, place: Callable[[Any], Any]) -> Tiled:
        """The table with each of its arrays moved."""
        narrow = None if self.narrow is None else self.narrow.placed(place)
        if self.uniform is None or self.values is None:
            return Tiled(place(self.cells), narrow=narrow)
        return Tiled(place(self.cells), place(self.uniform), place(self.values), narrow)

    def dense(self) -> Tiled:
        """The same table, all cells written (in place)."""
        if self.uniform is None and self.narrow is None:
            return self
        spread = None
        if self.narrow is not None:
            tiles = np.flatnonzero(self.narrow.tiles)
            spread = self.narrow.spread(tiles)
        for plane in (0, 1):
            cells = self.cells[plane].reshape(-1, TILE)
            if self.uniform is not None and self.values is not None:
                cells *= (~self.uniform).astype(np.uint64)[:, None]
                cells += (self.values[plane] * self.uniform)[:, None]
            if spread is not None:
                cells[tiles] = spread[plane]
        return Tiled(self.cells)

    def halves(self) -> tuple[Tiled, Tiled]:
        """Views of the low and of the high half."""
        middle = self.size // 2
        low, high = self.cells[:, :middle], self.cells[:, middle:]
        if self.uniform is None and self.narrow is None:
            return Tiled(low), Tiled(high)
        if middle % TILE:
            raise ValueError(f"a tiled table of {self.size} entries has no halves of whole tiles")
        at = middle // TILE
        below, above = (None if self.narrow is None else self.narrow.half(x) for x in (True, False))
        if self.uniform is None or self.values is None:
            return Tiled(low, narrow=below), Tiled(high, narrow=above)
        return (Tiled(low, self.uniform[:at], self.values[:, :at], below), Tiled(high, self.uniform[at:], self.values[:, at:], above))

    def tiled(self) -> Tiled:
        """With flags, and with room for values."""
        if self.uniform is not None:
            return self
        tiles = self.size // TILE
        return Tiled(self.cells, np.zeros(tiles, dtype=np.bool_), np.zeros((2, tiles), dtype=np.uint64), self.narrow)

    def any_uniform(self) -> bool:
        return self.uniform is not None and bool(self.uniform.any())

    def settled(self) -> Flags | None:
        """Tiles whose cells are meaningless."""
        if self.uniform is None or self.narrow is None:
            return self.uniform if self.narrow is None else self.narrow.tiles
        return self.uniform | self.narrow.tiles

    def plain(self) -> bool:
        """Whether every entry lies in its cell."""
        return self.uniform is None and self.narrow is None

    def simplest(self) -> Tiled:
        """Without flags if no tile is uniform, or none narrow."""
        narrow = self.narrow if self.narrow is not None and self.narrow.tiles.any() else None
        return Tiled(self.cells, self.uniform, self.values, narrow) if self.any_uniform() else Tiled(self.cells, narrow=narrow)
