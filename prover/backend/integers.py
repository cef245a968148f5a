"""Integers as the kernels read them: where they lie, and a word that says which they are (Integers in prover/kernels/integers.h).

A proof keeps each tensor in the smallest integers that hold its range (prover/witness/task.py). Arrays of uint64 are field elements, never
integers. Called by the CPU and the CUDA backend.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]
INTEGERS = {np.dtype(name): kind for kind, name in enumerate(("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"))}


def kind_of(x: Any) -> int:
    """The kernels' word for an array's integers. TypeError of an array of anything else."""
    kind = INTEGERS.get(x.dtype)
    if kind is None:
        raise TypeError(f"an array of {x.dtype} where integers of at most 64 bits, signed if of so many, are needed")
    return kind
