"""Backends of the prover: `select` returns the one to use."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from protocol.field import GOLDILOCKS
from prover.backend.base import Backend
from prover.backend.reference import ReferenceBackend

NAMES = ("auto", "cpu", "cuda", "reference")


def cuda_module() -> ModuleType | None:
    """The module cupy if it is installed and finds a device."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return None
    try:
        return cupy if cupy.cuda.runtime.getDeviceCount() else None
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver, or one that is too old
        return None


@functools.cache
def _cuda_backend(cupy: ModuleType) -> Backend:
    """One for the process: its module is compiled and loaded once."""
    from prover.backend.cuda import CudaBackend

    return CudaBackend(cupy)


def select(name: str = "auto") -> Backend:
    """The backend of that name over Goldilocks; `auto` is the fastest one this machine can run."""
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}, choose one of {', '.join(NAMES)}")
    if name == "reference":
        return ReferenceBackend(GOLDILOCKS)
    cupy = cuda_module() if name in ("auto", "cuda") else None
    if cupy is not None:
        return _cuda_backend(cupy)
    if name == "cuda":
        raise RuntimeError("no CUDA device, or CuPy is not installed: pip install 'verilora[gpu]'")
    from prover.backend.cpu import CpuBackend  # builds the kernels on first use

    return CpuBackend()
