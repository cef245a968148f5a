"""Outer products of weight vectors, many at a time: each step of all of them is one call of the backend. Called by opening.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from prover.backend.base import Backend
from prover.backend.outer import OuterSum


def outers(backend: Backend, many: Sequence[Sequence[Any]]) -> list[Any]:
    """⊗ of each sequence of K (2, n), the last axis fastest: K (2, Π n). One of a single vector is that vector, wherever it lies; of
    none it is 1."""
    held = [list(vectors) or [np.array([[1], [0]], dtype=np.uint64)] for vectors in many]
    while longer := [vectors for vectors in held if len(vectors) > 1]:
        sizes = [v[0].shape[1] * v[1].shape[1] for v in longer]
        room, sums, at = backend.xp.empty((2, sum(sizes)), dtype=np.uint64), list[OuterSum](), 0
        for vectors, size in zip(longer, sizes, strict=True):
            out = room[:, at : at + size]
            sums.append(OuterSum([vectors[0]], [vectors[1]], out))
            vectors[:2], at = [out], at + size
        backend.outer_sums(sums)
    return [vectors[0] for vectors in held]
