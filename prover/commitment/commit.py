"""The hiding row commitment, prover's side (protocol.md 2): rows → codewords → salted column leaves → root.

Deterministic given the seed, so a commitment is reopened, or checked by whoever is given the seed, by recomputing it.
Called by tasks (boundary commitments) and by prover/argument (the witness).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protocol import merkle
from protocol.field import I64, U64, Field
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.schedule.opening import Query
from prover.backend.base import Backend
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


def as_field(field: Field, values: np.ndarray) -> U64:
    """Integers into F; arrays of uint64 are field elements already."""
    return values if values.dtype == np.uint64 else field.embed(values.astype(np.int64, copy=False))


def place_blocks(layout: CommitmentLayout, flat: np.ndarray, name: str, arranged: np.ndarray) -> None:
    """Write a tensor's arranged blocks (…, blocks, 2^k) into rows flattened to (…, R·ℓ)."""
    slot = layout.by_name[name]
    size = 1 << slot.tensor.block_bits
    for i, start in enumerate(physical_starts(layout, name).tolist()):
        flat[..., start : start + size] = arranged[..., i, :]


def physical_starts(layout: CommitmentLayout, name: str) -> I64:
    """Where each valid block of a tensor begins among the cells of the existing rows."""
    starts = layout.block_starts(layout.by_name[name])
    ell = layout.code.ell
    row = np.searchsorted(layout.rows, starts >> layout.column_bits)
    return np.asarray(row * ell + (starts & (ell - 1)), dtype=np.int64)


def build_rows(layout: CommitmentLayout, tensors: Mapping[str, np.ndarray]) -> U64:
    """Rows F (R, ℓ) of named tensors; every slot must be given with its shape."""
    field = layout.code.field
    rows = field.zeros(len(layout.rows), layout.code.ell)
    flat = rows.reshape(-1)
    for slot in layout.slots:
        values = tensors[slot.name]
        if values.shape != slot.tensor.shape:
            raise ValueError(f"{slot.name}: shape {values.shape}, the layout says {slot.tensor.shape}")
        place_blocks(layout, flat, slot.name, slot.tensor.arrange(as_field(field, values)))
    return rows


def commit(
    backend: Backend, layout: CommitmentLayout, tensors: Mapping[str, np.ndarray], seed: bytes,
    extra: Sequence[U64] = (),
) -> CommitmentData:
    """Commit to tensors; `extra` are codewords F (k, n) that ride in the same tree below the rows."""
    field, code = layout.code.field, layout.code
    stream = SecretStream(field, seed)
    rows = build_rows(layout, tensors)
    rho = stream.elements("rho", len(rows), code.blinding)
    salts = stream.salts("salts", code.n)
    codeword = backend.encode(code, rows, rho)
    if extra:
        codeword = np.concatenate([codeword, *extra])
    levels = backend.merkle_levels(backend.hash_columns(codeword, salts))
    return CommitmentData(layout, rows, rho, salts, codeword, levels)
