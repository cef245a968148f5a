"""The hiding row commitment, prover's side (protocol.md 2): rows → codewords → salted column leaves → root.

Deterministic given the seed, so a commitment is reopened, or checked by whoever is given the seed, by recomputing it.
Called by tasks (boundary commitments) and by prover/argument (the witness).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protocol import merkle
from protocol.field import I64, U64
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.schedule.opening import Query
from prover.backend.base import Backend
from prover.backend.tiled import aligned
from prover.randomness import SecretStream


@dataclass(frozen=True, eq=False)
class CommitmentData:
    """A commitment with everything needed to open it; rows F (R, ℓ), rho F (R, B), codeword F (R + extra, n)."""

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
            np.ascontiguousarray(self.codeword[:, positions]),
            [self.salts[i].tobytes() for i in chosen],
            merkle.prove(self.levels, chosen),
        )


def as_field(backend: Backend, values: np.ndarray) -> U64:
    """Integers into F; arrays of uint64 are field elements already."""
    return values if values.dtype == np.uint64 else backend.embed(values.astype(np.int64, copy=False))


def place_blocks(layout: CommitmentLayout, flat: np.ndarray, name: str, arranged: np.ndarray) -> None:
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


def build_rows(backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, np.ndarray]) -> U64:
    """Rows F (R, ℓ) of named tensors; every slot must be given with its shape."""
    rows = layout.code.field.zeros(len(layout.rows), layout.code.ell)
    flat = rows.reshape(-1)
    for slot in layout.slots:
        values = tensors[slot.name]
        if values.shape != slot.tensor.shape:
            raise ValueError(f"{slot.name}: shape {values.shape}, the layout says {slot.tensor.shape}")
        place_blocks(layout, flat, slot.name, slot.tensor.arrange(as_field(backend, values)))
    return rows


def commit(
    backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, np.ndarray], seed: bytes,
    extra: Sequence[U64] = (),
) -> CommitmentData:
    """Commit to tensors; `extra` are codewords F (k, n) that ride in the same tree below the rows."""
    field, code = layout.code.field, layout.code
    stream = SecretStream(field, seed)
    rows = build_rows(backend, layout, tensors)
    rho = stream.elements("rho", len(rows), code.blinding)
    salts = stream.salts("salts", code.n)
    codeword = aligned(len(rows) + sum(len(x) for x in extra), code.n)
    backend.encode(code, rows, rho, codeword[: len(rows)])
    if extra:
        codeword[len(rows) :] = np.concatenate(extra)
    levels = backend.merkle_levels(backend.hash_columns(codeword, salts))
    return CommitmentData(layout, rows, rho, salts, codeword, levels)
