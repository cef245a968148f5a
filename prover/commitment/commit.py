"""The hiding row commitment, prover's side (protocol.md 2): rows → codewords → salted column leaves → root.

Deterministic given the seed, so a commitment is reopened, or checked by whoever is given the seed, by recomputing it.
Codewords are made and hashed in strips of rows, as large as suits the backend. One of at most `kept_bytes` (by default what the backend
says) is kept for its columns; of a larger one only the columns' hash states are, and opened columns are encoded again: the bytes are
the same.
Called by tasks (boundary commitments) and by prover/argument (the witness).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol import merkle
from protocol.code import Code
from protocol.field import I64, U64
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.schedule.opening import Query
from prover.backend.base import Backend
from prover.backend.leaves import Place
from prover.backend.tiled import aligned
from prover.randomness import SecretStream


@dataclass(frozen=True, eq=False)
class CommitmentData:
    """A commitment with everything needed to open it; rows F (R, ℓ), rho F (R, B), extra codewords F (k, n), and the codeword
    F (R + k, n) if it was kept, lie where the backend computes, salts (n, 32) and the tree's levels on the host."""

    backend: Backend
    layout: CommitmentLayout
    rows: U64
    rho: U64
    extra: U64
    salts: U8
    codeword: U64 | None
    levels: list[U8]

    @property
    def root(self) -> bytes:
        return self.levels[-1].tobytes()

    @property
    def id(self) -> str:
        return self.layout.identity(self.root)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays that grow with the rows."""
        return int(self.rows.nbytes + self.rho.nbytes + (self.extra if self.codeword is None else self.codeword).nbytes)

    def query(self, positions: I64) -> Query:
        """Columns, salts and Merkle siblings at these positions."""
        backend, there = self.backend, self.backend.to_device(positions)
        if self.codeword is not None:
            columns = backend.to_host(backend.xp.take(self.codeword, there, axis=1))
        else:
            extra = backend.to_host(backend.xp.take(self.extra, there, axis=1))
            columns = np.concatenate([backend.columns(self.layout.code, self.rows, self.rho, positions), extra])
        return Query(columns, self.salts[positions].tobytes(), b"".join(merkle.prove(self.levels, positions.tolist())))


def _strips(backend: Backend, code: Code, rows: Any, rho: Any, extra: Any, codeword: Any) -> Iterator[tuple[int, Any]]:
    """(first row, F (r, n)) of the codeword with `extra` below it, a multiple of eight rows each but the last; written into
    `codeword` if given, else all into the same place."""
    total, count = len(rows) + len(extra), len(rows)
    step = max(8, backend.strip_bytes // (8 * code.n) // 8 * 8)  # a block of SHA-256 holds eight rows
    room = aligned(min(step, total), code.n, xp=backend.xp) if codeword is None else None
    for start in range(0, total, step):
        end = min(start + step, total)
        strip = codeword[start:end] if room is None else room[: end - start]
        if start < count:
            part = slice(start, min(end, count))
            backend.encode(code, rows[part], rho[part], strip[: part.stop - start])
        if end > count:
            first = max(start, count)
            strip[first - start :] = extra[first - count : end - count]
        yield start, strip


def as_field(backend: Backend, values: Any) -> Any:
    """Integers into F; arrays of uint64 are field elements already."""
    return values if values.dtype == np.uint64 else backend.embed(values)


def place_blocks(layout: CommitmentLayout, flat: Any, name: str, arranged: Any) -> None:
    """Write a tensor's arranged blocks (…, blocks, 2^k) into rows flattened to (…, R·ℓ)."""
    starts, size = physical_starts(layout, name), arranged.shape[-1]
    firsts = [0, *(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]  # of runs of neighbours
    for first, last in zip(firsts, firsts[1:], strict=False):
        at = int(starts[first])
        flat[..., at : at + (last - first) * size] = arranged[..., first:last, :].reshape(*arranged.shape[:-2], -1)


def place_of(layout: CommitmentLayout, name: str) -> Place | None:
    """Where a tensor's cells lie among those of the existing rows. None if in no such order: an odd length behind an axis that has low
    bits, or a second one."""
    slot = layout.by_name[name]
    tensor, ell = slot.tensor, layout.code.ell
    odd = [axis for axis, n in enumerate(tensor.odd) if n > 1]
    natural = not odd or max(tensor.shape[: odd[0]], default=1) == 1
    if len(odd) > 1 or not natural and odd[0] < len(tensor.shape) - 1:
        return None
    row = int(np.searchsorted(layout.rows, slot.offset >> layout.column_bits))  # blocks of one odd length are neighbours
    start = row * ell + (slot.offset & (ell - 1))
    return Place(start) if natural else Place(start, 1 << tensor.low[-1], 1 << tensor.block_bits)


def physical_starts(layout: CommitmentLayout, name: str) -> I64:
    """Where each valid block of a tensor begins among the cells of the existing rows."""
    slot, ell = layout.by_name[name], layout.code.ell
    starts = slot.offset + (slot.tensor.blocks << slot.tensor.block_bits)
    row = np.searchsorted(layout.rows, starts >> layout.column_bits)
    return np.asarray(row * ell + (starts & (ell - 1)), dtype=np.int64)


def build_rows(backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, Any]) -> Any:
    """Rows F (R, ℓ) of named tensors, wherever these lie; every slot must be given with its shape."""
    rows = backend.xp.zeros((len(layout.rows), layout.code.ell), dtype=np.uint64)
    flat, integers, places = rows.reshape(-1), list[Any](), list[Place]()
    for slot in layout.slots:
        values = backend.to_device(tensors[slot.name])
        if values.shape != slot.tensor.shape:
            raise ValueError(f"{slot.name}: shape {values.shape}, the layout says {slot.tensor.shape}")
        place = place_of(layout, slot.name)
        if place is None or values.dtype == np.uint64:
            place_blocks(layout, flat, slot.name, slot.tensor.arrange(as_field(backend, values)))
        else:
            integers.append(values)
            places.append(place)
    backend.embed_runs(integers, places, flat)
    return rows


def commit(
    backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, Any], seed: bytes, extra: Sequence[Any] = (),
    kept_bytes: int | None = None,
) -> CommitmentData:
    """Commit to tensors; `extra` are codewords F (k, n) that ride in the same tree below the rows."""
    code, xp = layout.code, backend.xp
    stream = SecretStream(code.field, seed)
    rows = build_rows(backend, layout, tensors)
    rho = backend.to_device(stream.elements("rho", len(rows), code.blinding))
    salts = stream.salts("salts", code.n)
    below = xp.concatenate([xp.zeros((0, code.n), dtype=np.uint64), *map(backend.to_device, extra)])
    total = len(rows) + len(below)
    kept = 8 * total * code.n <= (backend.kept_bytes if kept_bytes is None else kept_bytes)
    codeword = aligned(total, code.n, xp=xp) if kept else None
    states, there = None, backend.to_device(salts)
    for start, strip in _strips(backend, code, rows, rho, below, codeword):
        states = backend.hash_rows(states, strip, there, start, start + len(strip) == total)
    levels = list(map(backend.to_host, backend.merkle_levels(states)))
    return CommitmentData(backend, layout, rows, rho, below, salts, codeword, levels)
