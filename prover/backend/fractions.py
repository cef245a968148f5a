"""The tree of fractions on the compiled kernels (prover/kernels/fractions.h): base.py's methods for Tiled tables, the CPU backend's part.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from protocol.field import U64, Ext
from prover.backend.base import Round
from prover.backend.calls import AnyArray, Kernels
from prover.backend.calls import planes as _planes
from prover.backend.calls import shape as _shape
from prover.backend.calls import written as _written
from prover.backend.field import address, integers
from prover.backend.field import planes as _at
from prover.backend.leaves import Run, run_words
from prover.backend.talk import ROUNDS_AT_ONCE, Talk
from prover.backend.tiled import TILE, TILE_BITS, Narrow, Tiled, aligned

MAX_DEPTH = 8  # folds of a narrow tile that stays so: 2^9 products of words are added up without a carry
_NO_NARROW = bytes(8 * 18)
_NO_TILES = _NO_NARROW + bytes(8 * 4)
_LINE = 8  # words of a cache line


class Fractions(Kernels):
    """Tables of fractions, their layers and their rounds."""

    fold_top: Callable[[U64, Ext], U64]

    def __init__(self, level: str | None = None) -> None:
        super().__init__(level)
        self._inverse = self.field.one, self.field.one  # the last λ and 1/λ: one λ serves all rounds of a level
        self._level: tuple[list[Tiled] | None, bytes] = None, b""  # the last round's tables without tiles, and their words

    def lincombs(self, runs: Sequence[Run], out: U64) -> None:
        held = list[AnyArray]()
        _written(out, out.shape[1])
        table, _ = run_words(runs, out.shape[1], lambda column, n: _column(column, n, held))
        self._call("vl_lincombs", len(runs), 1, address(table), *_at(out), len(runs))

    def fingerprints(self, runs: Sequence[Run], q: Tiled) -> Tiled:
        dense, narrow, minus_one = list[Run](), list[Run](), -self.field.one
        for run in runs:
            whole = q.uniform is not None and len(run.columns) == 1 and not (run.start % TILE or run.end % TILE)
            (narrow if whole and run.coefs[0] == minus_one else dense).append(run)
        for run in dense:
            q.open(run.start, run.end)
        self.lincombs(dense, q.cells)
        return self._narrow(narrow, q) if narrow else q

    def _narrow(self, runs: Sequence[Run], q: Tiled) -> Tiled:
        """q with these runs of whole tiles const − x in it, as 16 bits where they fit into these from 0 or from −2^15 on."""
        made, held, tiles = q.narrow or Narrow.none(q.size), list[AnyArray](), (q.size // TILE,)
        table, _ = run_words(runs, q.size, lambda column, n: _column(column, n, held))
        for array, shape in ((q.uniform, tiles), (made.tiles, tiles), (made.base, (2, *tiles)), (made.words, (q.size,))):
            _shape(array, shape)  # type: ignore[arg-type]
        flags = (address(made.tiles), address(q.uniform))  # type: ignore[arg-type]
        self._call("vl_narrow", len(runs), TILE, address(table), *_at(q.cells), address(made.words), *flags, *_at(made.base), TILE)
        return replace(q, narrow=made)

    def fraction_layer(self, p: Tiled, q: Tiled) -> tuple[Tiled, Tiled]:
        (p0, p1), (q0, q1) = p.halves(), q.halves()
        tables, size = self._tables((p0, p1, q0, q1), p0.size)
        made, stays, tiles = [Tiled(aligned(2, p0.size)) for _ in range(2)], None, p0.size // size
        if all(t.uniform is not None for t in tables):
            flags, values = np.empty((3, tiles), dtype=np.bool_), np.empty((2, 2, tiles), dtype=np.uint64)
            narrow = None if tables[2].narrow is None else replace(tables[2].narrow, tiles=flags[2])  # the same words
            made, stays = [Tiled(made[0].cells, flags[0], values[0]), Tiled(made[1].cells, flags[1], values[1], narrow)], narrow
        words = [word for t in tables for word in _table(t, _at(t.cells))]
        words += [word for t in made for word in _at(t.cells)]
        words += [0 if t.uniform is None else address(t.uniform) for t in made]
        words += [word for t in made for word in ((0, 0) if t.values is None else _at(t.values))]
        self._call("vl_fraction_layer", tiles, size, *words, 0 if stays is None else address(stays.tiles), size)
        return made[0].simplest(), made[1].simplest()

    def fraction_layers(self, p: Tiled, q: Tiled) -> list[tuple[Tiled, Tiled]]:
        out = [(p, q)]
        while (size := out[-1][0].size) > 1:
            p, q = out[-1]
            if size > 1 << ROUNDS_AT_ONCE or not (p.plain() and q.plain()):
                out.append(self.fraction_layer(p, q))
                continue
            self._tables((p, q), size)
            sizes = [size >> k for k in range(1, size.bit_length())]
            room = [4 * max(n, _LINE) for n in sizes]
            cells, ends = aligned(sum(room)), accumulate(room)
            self._call("vl_fraction_layers", 1, size, *_at(p.cells), *_at(q.cells), address(cells), _LINE)
            for n, words, end in zip(sizes, room, ends, strict=True):
                both = cells[end - words : end].reshape(2, 2, -1)[:, :, :n]
                out.append((Tiled(both[0]), Tiled(both[1])))
        return out[1:]

    def fraction_round(self, tables: Sequence[Tiled], low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        held = self._tables(tables, low.shape[1] * high.shape[1])[0]
        flagged = [t.uniform is not None for t in held]
        if flagged[0] and flagged[1] and (flagged[2] or flagged[3]):  # tiles may be linear in a denominator: room for its sums
            held = [*held[:2], *(t.tiled() for t in held[2:])]
        head = _fraction_head(held, held)
        self._level = (held, head) if all(t.plain() for t in held) else (None, b"")
        return held, self._fraction_sum("vl_fraction_round", held[0].size, head, low, high, lam, self.field.zero)

    def fraction_fold_round(self, tables: Sequence[Tiled], r: Ext, low: U64, high: U64, lam: Ext) -> tuple[list[Tiled], Round]:
        if self._level[0] is tables:  # without tiles, so nothing moved
            size = tables[0].cells.shape[1] // 2
            made, head = [Tiled(t.cells[:, :size]) for t in tables], self._level[1]
            self._level = (made, head) if size > 2 else (None, b"")  # no table is kept beyond its level
            return made, self._fraction_sum("vl_fraction_fold_round", size, head, low, high, lam, r)
        held = self._tables(tables, low.shape[1] * high.shape[1])[0]
        made = self._folded_tiles(held)
        head, size = _fraction_head(held, made), made[0].size
        narrow, end = list[Narrow | None]([None] * 4), _NO_NARROW
        if any(t.narrow is not None for t in held):
            narrow = self._folded_narrow(held, r)
            end = _narrow_words(held, narrow, high.shape[1] > 1)
        flags = struct.pack("4Q", *(0 if t.uniform is None else address(t.uniform) for t in made))
        g = self._fraction_sum("vl_fraction_fold_round", size, head, low, high, lam, r, end + flags)
        if not (made[0].any_uniform() and made[1].any_uniform()):  # nothing is linear in a denominator any more
            made = [t.simplest() for t in made]
        made = [t if n is None or not n.tiles.any() else replace(t, narrow=n) for t, n in zip(made, narrow, strict=True)]
        self._level = (made, head) if size > 2 and all(t.plain() for t in held) else (None, b"")
        return made, g

    def fraction_rounds(self, tables: Sequence[Tiled], first: Round | None, point: U64, lam: Ext, talk: Talk) -> list[Ext]:
        cells, point = [_planes(t.cells, 1 << talk.rounds) for t in tables], _planes(point, talk.rounds - 1)
        mu, words = self._reciprocal(lam), [word for x in (*cells, point) for word in _at(x)]
        self._talk("vl_fraction_rounds", talk, first, *words, TILE_BITS, mu.c0, mu.c1, lam.c0, lam.c1)
        self._level = None, b""  # the level is over
        return [Ext(*x[:, 0].tolist(), self.field) for x in cells]

    def _reciprocal(self, lam: Ext) -> Ext:
        if self._inverse[0] != lam:
            self._inverse = lam, lam.inverse()
        return self._inverse[1]

    def _folded_narrow(self, held: Sequence[Tiled], r: Ext) -> list[Narrow | None]:
        """Narrow tiles after a fold; the kernel sets the flags of those that stay so."""
        field, out = self.field, list[Narrow | None]()
        weights = None
        for t in held:
            if t.narrow is None:
                out.append(None)
                continue
            if weights is None:  # the same for all
                upper = field.kscale(t.narrow.weights, r)
                weights = np.stack([field.sub(t.narrow.weights, upper), upper], axis=-1).reshape(2, -1)
            out.append(Narrow(np.zeros(t.narrow.tiles.size // 2, dtype=np.bool_), self.fold_top(t.narrow.base, r), t.narrow.words, weights))
        return out

    def _folded_tiles(self, held: Sequence[Tiled]) -> list[Tiled]:
        """Tables after a fold; the kernel sets flags and values."""
        size = held[0].size // 2
        flags, values = np.empty((4, size // TILE), dtype=np.bool_), np.empty((4, 2, size // TILE), dtype=np.uint64)
        made = list[Tiled]()
        for t, own, its in zip(held, flags, values, strict=True):
            cells = t.cells[:, :size]  # in place: an entry is read before the one that replaces it is written
            made.append(Tiled(cells) if t.uniform is None else Tiled(cells, own, its))
        return made

    def _fraction_sum(
        self, name: str, length: int, head: bytes, low: U64, high: U64, lam: Ext, r: Ext, end: bytes = _NO_TILES
    ) -> Round:
        size, tiles = min(low.shape[1] * high.shape[1], TILE), high.shape[1]
        low, high = _planes(low, size), _planes(high)
        if length != 2 * size * tiles:
            raise ValueError(f"weights of {size * tiles} entries for tables of {length}")
        mu = self._reciprocal(lam)
        tail = (size, tiles, mu.c0, mu.c1, lam.c0, lam.c1, r.c0, r.c1)
        g = self._sum(name, 2, tiles, size, (*_at(low), *_at(high)), *tail, head=head, end=end)
        return g[0], g[1]

    def _tables(self, tables: Sequence[Tiled], half: int) -> tuple[list[Tiled], int]:
        """Tables as a kernel reads them, and the size of its tiles."""
        held = list(tables) if half >= TILE else [t.dense() for t in tables]
        for t in held:
            if t.size != held[0].size:
                raise ValueError(f"tables of {t.size} and {held[0].size} entries")
            if t.cells.ndim != 2 or t.cells.shape[0] != 2 or t.cells.dtype != np.uint64 or t.cells.strides[-1] != 8:
                raise ValueError("a table of fractions needs contiguous planes of 64-bit words")
            if t.uniform is not None and t.values is not None:
                _shape(t.uniform, (t.size // TILE,))
                _shape(t.values, (2, t.size // TILE))
            if t.narrow is not None:
                _shape(t.narrow.tiles, (t.size // TILE,))
                _shape(t.narrow.base, (2, t.size // TILE))
                _shape(t.narrow.words, (t.size << t.narrow.depth,))
        return held, min(half, TILE)


def _column(column: AnyArray, size: int, held: list[AnyArray]) -> tuple[int, int]:
    """Where so many contiguous integers are, and of which kind; `held` keeps them there."""
    held.append(np.ascontiguousarray(column))
    _shape(held[-1], (size,))
    return integers(held[-1])


def _fraction_head(held: Sequence[Tiled], made: Sequence[Tiled]) -> bytes:
    """The words of a round's tables: as they are, where the results lie, whose values come with them."""
    at = [_at(t.cells) for t in held]
    words = [word for t, a in zip(held, at, strict=True) for word in _table(t, a)]
    words += [word for a in at for word in a]
    words += [word for t in made for word in ((0, 0) if t.values is None else _at(t.values))]
    return struct.pack(f"{len(words)}Q", *words)


def _table(t: Tiled, at: tuple[int, int]) -> tuple[int, ...]:
    """A table's words; `at` are the addresses of its planes."""
    tiles = (0, 0, 0) if t.uniform is None or t.values is None else (address(t.uniform), *_at(t.values))
    narrow = (0, 0, 0, 0) if t.narrow is None else (address(t.narrow.tiles), *_at(t.narrow.base), address(t.narrow.words))
    return (*at, *tiles, *narrow)


def _narrow_words(held: Sequence[Tiled], after: Sequence[Narrow | None], tiles_follow: bool) -> bytes:
    """What a fold knows about narrow tiles, of which all tables have the same weights; they stay while a round of whole tiles follows."""
    before = next(t.narrow for t in held if t.narrow is not None)
    folded = next(n for n in after if n is not None)
    bases = [word for n in after for word in ((0, 0) if n is None else _at(n.base))]
    flags = [0 if n is None else address(n.tiles) for n in after]
    stay = tiles_follow and before.depth < MAX_DEPTH
    words = (*_at(before.weights), *_at(folded.weights), *bases, *flags, before.depth, int(stay))
    return struct.pack(f"{len(words)}Q", *words)
