"""The four tables of a level's sumcheck on a GPU, from round to round: what a round's launch has to be told of them, and no more.

They are folded where they lie, so of a round there is little to know beside its size. Flags and values of all tiles to come are allocated
at once, those of c tiles at tile c of each table. Made by device_tree.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from prover.backend.device import planes
from prover.backend.tiled import TILE, Tiled

Words = tuple[int, ...]
NO_TILES = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Level(Sequence[Tiled]):
    """Tables p0, p1, q0, q1 of `size` entries at the beginning of `cells`; `at` are the addresses of their planes, `tiles` those of their
    flags and of their values' planes, all 0 for a table without uniform tiles. The flags are those of `given`, or in `room`."""

    cells: tuple[Any, ...]
    size: int
    at: tuple[Words, ...]
    tiles: tuple[Words, ...]
    given: tuple[Tiled, ...]
    room: tuple[Any, Any] | None = None

    @staticmethod
    def of(tables: Sequence[Tiled]) -> Level:
        size = tables[0].size
        if any(t.size != size for t in tables):
            raise ValueError(f"tables of {[t.size for t in tables]} entries")
        cells = tuple(t.cells for t in tables)
        return Level(cells, size, tuple(map(planes, cells)), tuple(map(tile_words, tables)), tuple(tables))

    def words(self) -> list[int]:
        return [word for at, tiles in zip(self.at, self.tiles, strict=True) for word in (*at, *tiles)]

    def halved(self, xp: Any) -> Level:
        """What a fold will leave, with room for the flags of tables that have some; a single tile has none."""
        size, count = self.size // 2, self.size // 2 // TILE
        if count < 2 or not any(map(any, self.tiles)):
            return replace(self, size=size, tiles=(NO_TILES,) * 4)
        room = self.room or (xp.empty((4, 2 * count), dtype=np.bool_), xp.empty((8, 2 * count), dtype=np.uint64))
        stride = room[0].shape[1]
        flags, values = int(room[0].data.ptr) + count, int(room[1].data.ptr) + 8 * count
        tiles = tuple(
            (flags + k * stride, values + 16 * k * stride, values + (16 * k + 8) * stride) if any(has) else NO_TILES
            for k, has in enumerate(self.tiles))
        return replace(self, size=size, tiles=tiles, room=room)

    def noted(self, notes: Sequence[int]) -> Level:
        """Without the flags of tables that have no uniform tile any more."""
        if all(note or not any(has) for note, has in zip(notes, self.tiles, strict=True)):
            return self
        return replace(self, tiles=tuple(has if note else NO_TILES for note, has in zip(notes, self.tiles, strict=True)))

    def __len__(self) -> int:
        return 4

    @overload
    def __getitem__(self, k: int) -> Tiled: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Tiled]: ...
    def __getitem__(self, k: int | slice) -> Tiled | Sequence[Tiled]:
        if isinstance(k, slice):
            return [self[i] for i in range(4)[k]]
        cells = self.cells[k][:, : self.size]
        if not any(self.tiles[k]):
            return Tiled(cells)
        if self.room is None:
            return Tiled(cells, self.given[k].uniform, self.given[k].values)
        here = slice(self.size // TILE, 2 * self.size // TILE)
        return Tiled(cells, self.room[0][k, here], self.room[1][2 * k : 2 * k + 2, here])


def tile_words(t: Tiled) -> Words:
    """Addresses of a table's flags and values."""
    return NO_TILES if t.uniform is None or t.values is None else (t.uniform.data.ptr, *planes(t.values))
