"""Backends of the prover: `select` returns the one to use."""

from __future__ import annotations

from protocol.field import GOLDILOCKS
from prover.backend.base import Backend
from prover.backend.reference import ReferenceBackend

NAMES = ("auto", "cpu", "reference")


def select(name: str = "auto") -> Backend:
    """The backend of that name over Goldilocks; `auto` is the fastest one this machine can run."""
    if name == "reference":
        return ReferenceBackend(GOLDILOCKS)
    if name in ("auto", "cpu"):
        from prover.backend.cpu import CpuBackend  # builds the kernels on first use

        return CpuBackend()
    raise ValueError(f"unknown backend {name!r}, choose one of {', '.join(NAMES)}")
