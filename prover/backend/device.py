"""Arrays on a GPU and launches of the compiled kernels on them: the ground that the CUDA backend stands on.

A kernel takes its body (a struct of 8-byte words) by value, then the two extents of its index space (prover/kernels/launch.h).
An argument on the host where the device's is needed is a TypeError, never a silent copy.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from protocol.code import Code
from protocol.field import Ext
from prover.backend.cpu import CpuBackend
from prover.backend.host import DenseLeaves
from prover.backend.memory import kept_bytes
from prover.backend.tiled import Tiled
from prover.kernels.source import single_source

HAND_OVER = 1 << 12  # entries
THREADS = 128  # of a block, VL_THREADS in launch.h; the sums of fractions hold 138 registers each
BLOCKS = 16  # blocks in flight per multiprocessor: each thread then walks over several entries
SUM_WORDS = 4  # of the largest sum

Method = TypeVar("Method", bound=Callable[..., Any])


def _first(argument: Any) -> Any:
    while isinstance(argument, list | tuple):
        argument = argument[0]
    return argument.cells if isinstance(argument, Tiled) else argument


def where_arrays_are(method: Method) -> Method:
    """The CPU's method of that name if the first array lies on the host."""

    @functools.wraps(method)
    def call(self: DeviceArrays, *arguments: Any, **named: Any) -> Any:
        array = _first(arguments[1] if isinstance(arguments[0], Code) else arguments[0])
        if isinstance(array, np.ndarray):
            return getattr(self.host, method.__name__)(*arguments, **named)
        return method(self, *arguments, **named)

    return call  # type: ignore[return-value]


class DeviceArrays(DenseLeaves):
    """`xp` is the module cupy (tests pass one that emulates a device); `host` computes what lies on the host."""

    def __init__(self, xp: Any, hand_over: int = HAND_OVER, threads: int = THREADS) -> None:
        self.xp, self.hand_over, self.threads, self.host = xp, hand_over, threads, CpuBackend()
        self.field = self.host.field  # the schedule's own algebra is the CPU's
        self.kept_bytes = kept_bytes(int(xp.cuda.Device().mem_info[1]))
        self._lock = threading.Lock()
        module = xp.RawModule(code=single_source(), options=("--std=c++17", f"-DVL_THREADS={threads}"), backend="nvrtc")
        self._kernel = functools.cache(module.get_function)
        self._grid = BLOCKS * int(xp.cuda.Device().attributes["MultiProcessorCount"])
        self._sums = xp.zeros(1 + SUM_WORDS * (1 + self._grid), dtype=np.uint64)

    # ---- places --------------------------------------------------------------------------------------------------

    def to_device(self, a: Any) -> Any:
        """Arrays of another library on this device, as torch's, are shared, not copied."""
        return self.xp.asarray(a) if isinstance(a, np.ndarray | self.xp.ndarray) else self.xp.from_dlpack(a)

    def to_host(self, a: Any) -> Any:
        return self.xp.asnumpy(a)

    def release(self) -> None:
        """Nothing: the pool finds its arrays again."""

    def _settled(self, table: Any) -> Any:
        """A table that a fold or a layer left, on the host if it is small."""
        return self.to_host(table) if table.shape[1] <= self.hand_over else table

    def _settled_tiles(self, t: Tiled) -> Tiled:
        return t.placed(self.to_host) if t.size <= self.hand_over else t

    # ---- rounds whose tables lie on the host ---------------------------------------------------------------------

    def fraction_rounds(self, *arguments: Any) -> list[Ext]:
        return self.host.fraction_rounds(*arguments)

    def batch_rounds(self, *arguments: Any) -> list[tuple[Ext, Ext]]:
        return self.host.batch_rounds(*arguments)

    # ---- launches ------------------------------------------------------------------------------------------------

    def _call(self, name: str, n0: int, n1: int, *words: int) -> None:
        """One thread per index, up to the grid's size; they walk over the rest."""
        self._launch(name, min(self._grid, -(-n0 * n1 // self.threads)), n0, n1, words)

    def _blocks(self, name: str, blocks: int, *words: int) -> None:
        """One thread block per index."""
        self._launch(name, min(self._grid, blocks), blocks, 1, words)

    def _launch(self, name: str, grid: int, n0: int, n1: int, words: Sequence[int]) -> None:
        if n0 and n1:
            body = np.array(words, dtype=np.uint64).view(f"V{8 * len(words)}")  # an array of size one goes in by value
            self._kernel(name)((grid,), (self.threads,), (body, np.uint64(n0), np.uint64(n1)))

    def _sum(self, name: str, sums: int, n0: int, n1: int, words: Sequence[int], *tail: int) -> list[Ext]:
        """Kernels with sums over K: the result's address follows the array addresses. The one wait for the device."""
        if not n0 * n1:
            return [self.field.zero] * sums
        with self._lock:  # one place for sums
            self._call(name, n0, n1, *words, self._sums.data.ptr, *tail)
            values = self.to_host(self._sums[1 : 1 + 2 * sums])
        return [Ext.from_array(self.field, value) for value in values.reshape(sums, 2)]

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _on_device(self, a: Any) -> Any:
        if not isinstance(a, self.xp.ndarray):
            raise TypeError(f"an array on the host ({type(a).__name__}) where the device's is needed")
        return a

    def _contiguous(self, a: Any, dtype: Any) -> Any:
        return self.xp.ascontiguousarray(self._on_device(a), dtype=dtype)

    def _words(self, a: Any) -> Any:
        return self._contiguous(a, np.uint64)

    def _result(self, out: Any, size: int) -> Any:
        """The K array (2, size) that a kernel writes: a fresh one unless given."""
        if out is None:
            return self.xp.empty((2, size), dtype=np.uint64)
        check_shape(self._on_device(out), (2, size))
        if out.dtype != np.uint64 or out.strides[-1] != 8:
            raise ValueError("a result needs contiguous planes of 64-bit words")
        return out

    def _planes(self, a: Any, size: int = -1) -> Any:
        """A K array (2, size) whose planes are contiguous, the array itself where possible."""
        check_shape(self._on_device(a), (2, size))
        return a if a.dtype == np.uint64 and a.strides[-1] == 8 else self._words(a)


def check_shape(a: Any, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Kernels trust their extents, so every array is checked; -1 stands for any."""
    if a.ndim != len(wanted) or any(w not in (-1, d) for w, d in zip(wanted, a.shape, strict=True)):
        raise ValueError(f"array of shape {a.shape} where {wanted} is needed")
    return tuple(a.shape)


def planes(a: Any) -> tuple[int, int]:
    """Addresses of the two planes of a K array."""
    first = int(a.data.ptr)
    return first, first + a.strides[0]


def half_planes(a: Any) -> tuple[int, int, int, int]:
    """Plane addresses of the low and of the high half."""
    if a.shape[1] % 2:
        raise ValueError(f"a table of {a.shape[1]} entries has no halves")
    first, second = planes(a)
    middle = a.shape[1] // 2 * 8
    return first, second, first + middle, second + middle
