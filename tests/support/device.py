"""The CUDA backend of the tests, on a card that is not there or on a real one, and a coat for it that takes and gives NumPy arrays.

VERILORA_TEST_GPU=1 (`make test-gpu`) takes this machine's GPU; otherwise no test touches one.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from prover.backend.cuda import CudaBackend
from prover.backend.device import HAND_OVER, THREADS
from prover.backend.device_level import Level
from prover.backend.leaves import Run
from prover.backend.outer import OuterSum
from prover.backend.tiled import Tiled
from tests.support import card

REAL = os.environ.get("VERILORA_TEST_GPU") == "1"
card_only = pytest.mark.skipif(REAL, reason="of the card that is not there: what it was asked for, what it finds")

ON_HOST = {  # arguments that every backend takes there
    "eq_table": {0}, "eq_suffixes": {0}, "open_sums": {1}, "open_fold": {1, 3}, "fraction_rounds": {0, 1, 2}, "batch_rounds": {0},
    "outer": {0}, "columns": {3},
}


def module(**of_the_card: Any) -> ModuleType:
    """The module cupy; a test, or a file of them, that asks for it is skipped where it cannot be had."""
    if REAL:
        return importlib.import_module("cupy")
    try:
        return card.cupy(**of_the_card)
    except card.NoCard as error:
        pytest.skip(str(error), allow_module_level=True)


@functools.cache
def device(hand_over: int = HAND_OVER, threads: int = THREADS) -> CudaBackend:
    """`hand_over` = 0 leaves everything to the device; fewer threads make more blocks of few entries."""
    return CudaBackend(module(), hand_over, threads)


@contextmanager
def fresh_pool() -> Iterator[Any]:
    """CuPy's default pool is one that nobody has used, meanwhile; afterwards the card has its own size again."""
    cupy = module()
    pool = cupy.cuda.MemoryPool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy, "get_default_memory_pool", lambda: pool)
        yield pool
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    module()


def asked(work: Callable[[], object]) -> tuple[int, int, int]:
    """How many launches of the backend's kernels some work asks the card for, how many waits, how many copies back."""
    found = card.watched(work)
    return launches(found), found["wait"], found["copy back"]


def launches(found: Counter[str]) -> int:
    """Of the backend's kernels, not of the library's own."""
    return sum(n for what, n in found.items() if what.startswith("launch vl_"))


class Shared:
    """Another library's array on the device, as torch's are: all that CuPy asks of one."""

    def __init__(self, backend: CudaBackend, values: np.ndarray) -> None:
        self.array = backend.xp.asarray(values)

    def __dlpack__(self, **asked: Any) -> Any:
        return self.array.__dlpack__(**asked)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class Carried:
    """Every method with its arrays moved there and back, so that tests of one backend serve the other."""

    def __init__(self, backend: CudaBackend) -> None:
        self.backend, self.name = backend, backend.name

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if method == "outer_sums":
                return self._outer_sums(*arguments)
            host = ON_HOST.get(method, set())
            there = [x if k in host else self._there(x) for k, x in enumerate(arguments)]
            result = self._here(getattr(self.backend, method)(*there, **named))
            for mine, moved in zip(arguments, there, strict=True):  # what was written in place
                if isinstance(mine, np.ndarray) and mine.flags.writeable and isinstance(moved, self.backend.xp.ndarray):
                    mine[...] = moved.get()
            return result

        return call

    def _outer_sums(self, sums: list[OuterSum]) -> None:
        """Every other vector stays on the host, as it may."""
        there = [replace(x, us=self._there(list(x.us)), vs=[v if k % 2 else self._there(v) for k, v in enumerate(x.vs)],
                         out=self._there(x.out)) for x in sums]
        self.backend.outer_sums(there)
        for mine, moved in zip(sums, there, strict=True):
            mine.out[...] = moved.out.get()

    def _there(self, x: Any) -> Any:
        if isinstance(x, list | tuple):
            return type(x)(map(self._there, x))
        if isinstance(x, Tiled | Run):
            return x.placed(self._there)
        if isinstance(x, np.ndarray) and not x.flags.c_contiguous:  # stays so: gaps between rows, or between entries
            n, rows = x.shape[-1], x.strides[-1] == x.itemsize
            gaps = self.backend.xp.empty((*x.shape[:-1], 2 * n), dtype=x.dtype)[..., slice(n) if rows else slice(None, None, 2)]
            gaps[...] = self.backend.to_device(x)
            return gaps
        return self.backend.to_device(x) if isinstance(x, np.ndarray) else x

    def _here(self, x: Any) -> Any:
        if isinstance(x, Level):
            x = list(x)
        if isinstance(x, list | tuple):
            return type(x)(map(self._here, x))
        if isinstance(x, Tiled):
            return x.placed(self.backend.to_host)
        return self.backend.to_host(x) if isinstance(x, self.backend.xp.ndarray) else x
