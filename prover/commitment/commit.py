"""The hiding row commitment, prover's side (protocol.md 2): rows → codewords → salted column leaves → root.

Deterministic given the seed, so a commitment is reopened, or checked by whoever is given the seed, by recomputing it.
Called by tasks (boundary commitments) and by prover/argument (the witness).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol import merkle
from protocol.field import I64, U64
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.schedule.opening import Query
from prover.backend.base import Backend
from prover.randomness import SecretStream


@dataclass(frozen=True, eq=False)
class CommitmentData:
    """A commitment with everything needed to open it; rows F (R, ℓ), rho F (R, B), codeword F (R + extra, n) lie where the backend
    computes, salts (n, 32) and the tree's levels on the host."""

    backend: Backend
    layout: CommitmentLayout
    rows: U64
    rho: U64
    salts: U8
    codeword: U64
    levels: list[U8]

    @property
    def root(self) -> bytes:
        return self.levels[-1].tobytes()

    @property
    def id(self) -> str:
        return self.layout.identity(self.root)

    def query(self, positions: I64) -> Query:
        """Columns, salts and Merkle siblings at these positions."""
        chosen = positions.tolist()
        return Query(
            np.ascontiguousarray(self.backend.to_host(self.codeword[:, self.backend.to_device(positions)])),
            [self.salts[i].tobytes() for i in chosen],
            merkle.prove(self.levels, chosen),
        )


def as_field(backend: Backend, values: Any) -> Any:
    """Integers into F; arrays of uint64 are field elements already."""
    return values if values.dtype == np.uint64 else backend.embed(values.astype(np.int64, copy=False))


def place_blocks(layout: CommitmentLayout, flat: Any, name: str, arranged: Any) -> None:
    """Write a tensor's arranged blocks (…, blocks, 2^k) into rows flattened to (…, R·ℓ)."""
    starts, size = physical_starts(layout, name), arranged.shape[-1]
    firsts = [0, *(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]  # of runs of neighbours
    for first, last in zip(firsts, firsts[1:], strict=False):
        at = int(starts[first])
        flat[..., at : at + (last - first) * size] = arranged[..., first:last, :].reshape(*arranged.shape[:-2], -1)


def place_of(layout: CommitmentLayout, name: str) -> slice | None:
    """Where a tensor's cells lie in flattened rows if they do so in one piece and in their natural order, else None."""
    tensor, starts = layout.by_name[name].tensor, physical_starts(layout, name)
    size = 1 << tensor.block_bits
    if any(odd > 1 for odd in tensor.odd[1:]) or np.any(np.diff(starts) != size):
        return None
    return slice(int(starts[0]), int(starts[0]) + len(starts) * size)


def physical_starts(layout: CommitmentLayout, name: str) -> I64:
    """Where each valid block of a tensor begins among the cells of the existing rows."""
    starts = layout.block_starts(layout.by_name[name])
    ell = layout.code.ell
    row = np.searchsorted(layout.rows, starts >> layout.column_bits)
    return np.asarray(row * ell + (starts & (ell - 1)), dtype=np.int64)


def build_rows(backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, Any]) -> Any:
    """Rows F (R, ℓ) of named tensors, wherever these lie; every slot must be given with its shape."""
    rows = backend.xp.zeros((len(layout.rows), layout.code.ell), dtype=np.uint64)
    flat = rows.reshape(-1)
    for slot in layout.slots:
        values = backend.to_device(tensors[slot.name])
        if values.shape != slot.tensor.shape:
            raise ValueError(f"{slot.name}: shape {values.shape}, the layout says {slot.tensor.shape}")
        place_blocks(layout, flat, slot.name, slot.tensor.arrange(as_field(backend, values)))
    return rows


def commit(
    backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, Any], seed: bytes, extra: Sequence[Any] = (),
) -> CommitmentData:
    """Commit to tensors; `extra` are codewords F (k, n) that ride in the same tree below the rows."""
    code = layout.code
    stream = SecretStream(code.field, seed)
    rows = build_rows(backend, layout, tensors)
    rho = backend.to_device(stream.elements("rho", len(rows), code.blinding))
    salts = stream.salts("salts", code.n)
    codeword = backend.xp.empty((len(rows) + sum(len(x) for x in extra), code.n), dtype=np.uint64)
    backend.encode(code, rows, rho, codeword[: len(rows)])
    if extra:
        codeword[len(rows) :] = backend.xp.concatenate(list(map(backend.to_device, extra)))
    levels = backend.merkle_levels(backend.hash_columns(codeword, backend.to_device(salts)))
    return CommitmentData(backend, layout, rows, rho, salts, codeword, list(map(backend.to_host, levels)))
