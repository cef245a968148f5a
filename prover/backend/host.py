"""What backends share: those whose arrays are NumPy arrays have nothing to move, those without narrow tiles write every leaf."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from protocol.code import Code
from protocol.field import I64, U64, Field
from protocol.layout import bits_of
from prover.backend.leaves import Place, Run
from prover.backend.memory import give_back, host_memory, host_resident, kept_bytes
from prover.backend.tiled import Tiled, aligned

LOOK_SECONDS = 0.05  # in which less memory is filled than a phase may leave free


class HostArrays:
    """The part of base.py about places and conversions."""

    strip_bytes = 1 << 26
    encode: Callable[[Code, U64, U64, U64], U64]
    field: Field
    xp: Any = np

    @cached_property
    def memory(self) -> int:
        """Bytes that this process may use."""
        return host_memory()

    @cached_property
    def kept_bytes(self) -> int:
        """A codeword of at most so many bytes is kept."""
        return kept_bytes(self.memory)

    def columns(self, code: Code, messages: U64, rho: U64, positions: I64) -> U64:
        """A strip of codewords at a time."""
        rows, step = len(messages), max(1, self.strip_bytes // (8 * code.n))
        room, out = aligned(min(step, rows), code.n), np.empty((rows, len(positions)), dtype=np.uint64)
        for first in range(0, rows, step):
            part = slice(first, first + step)
            strip = self.encode(code, messages[part], rho[part], room[: len(messages[part])])
            np.take(strip, positions, axis=1, out=out[part])
        return out

    _looked = 0.0  # when `release` last asked the system

    def to_device(self, a: Any) -> Any:
        return np.asarray(a)

    def to_host(self, a: Any) -> Any:
        return a

    def release(self) -> None:
        """Between phases whose arrays differ: holes that the last one left in the heap go back to the system once more than half of
        this process's memory is in use. Before, they stay, because fresh pages are slow (prover/kernels/memory.h). A small proof has
        dozens of phases, so the system is asked once in a while."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if host_resident() > self.memory // 2:
            give_back()

    def embed(self, x: Any, out: U64 | None = None) -> U64:
        made = self.field.embed(x)
        if out is None:
            return made
        out[...] = made
        return out

    def embed_runs(self, arrays: Sequence[Any], places: Sequence[Place], out: U64) -> None:
        for x, place in zip(arrays, places, strict=True):
            n = max(1, x.shape[-1]) if x.ndim else 1
            (i, j), piece = divmod(np.arange(x.size), n), place.piece or n
            out[place.start + i * piece + j // piece * place.apart + j % piece] = self.embed(x.reshape(-1))

    def pad(self, a: U64) -> U64:
        shape = tuple(1 << bits_of(n) for n in a.shape[1:])
        if shape == a.shape[1:]:
            return np.ascontiguousarray(a.reshape(2, -1))
        out = np.zeros((2, *shape), dtype=np.uint64)
        out[(slice(None), *(slice(n) for n in a.shape[1:]))] = a
        return out.reshape(2, -1)

    def lift(self, x: Any) -> U64:
        return self.field.lift(x if x.dtype == np.uint64 else self.field.embed(x))


class DenseLeaves:
    """Backend.fingerprints where no tile is narrow, and layers one by one."""

    lincombs: Callable[[Sequence[Run], Any], None]
    fraction_layer: Callable[[Tiled, Tiled], tuple[Tiled, Tiled]]

    def fingerprints(self, runs: Sequence[Run], q: Tiled) -> Tiled:
        for run in runs:
            q.open(run.start, run.end)
        self.lincombs(runs, q.cells)
        return q

    def fraction_layers(self, p: Tiled, q: Tiled) -> list[tuple[Tiled, Tiled]]:
        if p.size == 1:
            return []
        made = self.fraction_layer(p, q)
        return [made, *self.fraction_layers(*made)]


def check_portion(states: Any, rows: int, before: int, last: bool) -> None:
    """What Backend.hash_rows demands of its arguments: a block of SHA-256 holds eight rows, and a state whole blocks."""
    if before % 8 or rows % 8 and not last or (states is None) != (before == 0):
        raise ValueError(f"{rows} rows after {before}, {'the last' if last else 'with more to come'}")


def row_groups(rows: I64, count: int) -> I64:
    """Row indices (4, n) of a table of `count` rows as Backend.open_sums takes them, or ValueError."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    if rows.ndim != 2 or len(rows) != 4 or rows.size and not -1 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError(f"row indices of shape {rows.shape}, or outside -1 … {count - 1}")
    return rows
