"""The CUDA backend on the emulated device, and a coat for it that takes and gives NumPy arrays."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from prover.backend.cuda import CudaBackend
from prover.backend.device import HAND_OVER, THREADS
from prover.backend.device_level import Level
from prover.backend.leaves import Run
from prover.backend.outer import OuterSum
from prover.backend.tiled import Tiled
from tests.support.cuda import stand_in

ON_HOST = {  # arguments that every backend takes there
    "eq_table": {0}, "eq_suffixes": {0}, "open_sums": {1}, "open_fold": {1, 3}, "fraction_rounds": {0, 1, 2}, "batch_rounds": {0},
    "outer": {0},
}


@functools.cache
def emulated(hand_over: int = HAND_OVER, threads: int = THREADS) -> CudaBackend:
    """`hand_over` = 0 leaves everything to the device; fewer threads make more blocks of few entries."""
    return CudaBackend(stand_in.module(), hand_over, threads)


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
