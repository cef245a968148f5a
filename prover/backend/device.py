"""Arrays on a GPU and launches of the compiled kernels on them: the ground that the CUDA backend stands on.

A kernel takes its body (a struct of 8-byte words) by value, then the two extents of its index space (prover/kernels/launch.h).
An argument on the host where the device's is needed is a TypeError, never a silent copy.

What is fixed costs more than what is computed wherever there is little to compute, so it is kept small: a sum is one launch, whose last
block writes its words to memory of the host, and one wait; small arrays reach the device by one queued copy. Memory of the host that
the device reads or writes is pinned, and pinned memory has the same address on both sides. All of it is in the order of the current
stream, the null stream unless a caller chose another, where torch works too.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from protocol.code import Code
from protocol.field import U64, Ext
from prover.backend.base import U8
from prover.backend.cpu import CpuBackend
from prover.backend.device_memory import DeviceMemory
from prover.backend.field import address
from prover.backend.field import planes as host_planes
from prover.backend.host import DenseLeaves
from prover.backend.integers import kind_of
from prover.backend.leaves import Run
from prover.backend.memory import kept_bytes
from prover.backend.tiled import Tiled
from prover.kernels.source import single_source

HAND_OVER = 1 << 12  # entries
THREADS = 128  # of a block, VL_THREADS in launch.h; the sums of fractions hold 135 registers each
# Blocks of a launch per multiprocessor; each thread walks over several entries. As many as fit at once, times a whole number, leave none
# of a launch's last blocks alone: 3 or 5 fit of sums, whose blocks are added up in the end, 4 to 16 of others.
SUM_BLOCKS, BLOCKS = 15, 48
SUM_WORDS, NOTES = 18, 4  # of the largest sum; launch.h
STAGING = 1 << 24  # bytes of pinned memory through which small arrays pass
SMALL = 1 << 18  # bytes of such an array
LARGE = 1 << 18  # bytes of an array whose way back is worth pinned memory

Method = TypeVar("Method", bound=Callable[..., Any])


def _first(argument: Any) -> Any:
    while isinstance(argument, list | tuple):
        argument = argument[0]
    if isinstance(argument, Run):
        return argument.columns[0]
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


@functools.cache
def _body(words: int) -> np.dtype[Any]:
    return np.dtype(f"V{8 * words}")


class DeviceArrays(DenseLeaves):
    """`xp` is the module cupy (on a GPU, or on the card of tests/support/card); `host` computes what lies on the host."""

    strip_bytes = 1 << 28  # a strip is as many launches whatever its size

    def __init__(self, xp: Any, hand_over: int = HAND_OVER, threads: int = THREADS) -> None:
        self.xp, self.hand_over, self.threads, self.host = xp, hand_over, threads, CpuBackend()
        self.field = self.host.field  # the schedule's own algebra is the CPU's
        self.allocated = DeviceMemory(xp)
        self.memory = self.allocated.size
        self.kept_bytes = kept_bytes(self.memory)
        module = xp.RawModule(code=single_source(), options=("--std=c++17", f"-DVL_THREADS={threads}"), backend="nvrtc")
        self._kernel = functools.cache(module.get_function)
        multiprocessors = int(xp.cuda.Device().attributes["MultiProcessorCount"])
        self._grid, self._sum_grid = BLOCKS * multiprocessors, SUM_BLOCKS * multiprocessors
        self._lock, self._staging_lock = threading.Lock(), threading.Lock()
        self._staging, self._staged = self._pinned(STAGING // 8).view(np.uint8), 0
        self._staging_at = address(self._staging)
        self._result = self._pinned(NOTES + SUM_WORDS)
        room = np.zeros(2 + NOTES + SUM_WORDS * self._sum_grid, dtype=np.uint64)
        room[1] = address(self._result)
        self._sums = xp.asarray(room)

    # ---- places --------------------------------------------------------------------------------------------------

    def to_device(self, a: Any) -> Any:
        """Arrays of another library on this device, as torch's, are shared, not copied."""
        if isinstance(a, np.ndarray):
            return self._queued(a) if 0 < a.nbytes <= SMALL else self.xp.asarray(a)
        return a if isinstance(a, self.xp.ndarray) else self.xp.from_dlpack(a)

    def _queued(self, a: Any) -> Any:
        """A small array's copy: it waits for nothing, and the array may be changed at once."""
        out = self.xp.empty(a.shape, dtype=a.dtype)
        with self._staging_lock:
            if self._staged + a.nbytes > STAGING:
                self.xp.cuda.Device().synchronize()  # every copy out of this memory is done
                self._staged = 0
            place = self._staging_at + self._staged
            if a.flags.c_contiguous:
                ctypes.memmove(place, address(a), a.nbytes)
            else:
                self._staging[self._staged : self._staged + a.nbytes].view(a.dtype).reshape(a.shape)[...] = a
            out.data.copy_from_host_async(place, a.nbytes)
            self._staged += -(-a.nbytes // 64) * 64
        return out

    def to_host(self, a: Any) -> Any:
        """A large array comes back as a read-only one in pinned memory, at several times the speed."""
        if not isinstance(a, self.xp.ndarray) or a.nbytes < LARGE:
            return self.xp.asnumpy(a)
        out = self._pinned_bytes(a.nbytes).view(a.dtype).reshape(a.shape)
        self.xp.ascontiguousarray(a).get(out=out)
        out.flags.writeable = False  # a copy to the device, should there be one, would not wait
        return out

    def release(self) -> None:
        """Between phases whose arrays differ: what is not used goes back (device_memory.py)."""
        self.allocated.release()

    def _pinned_bytes(self, size: int) -> U8:
        return np.frombuffer(self.xp.cuda.alloc_pinned_memory(max(1, size)), dtype=np.uint8, count=size)

    def _pinned(self, *shape: int) -> U64:
        """Fresh words of the host that kernels write to; they are there after a wait."""
        return self._pinned_bytes(8 * math.prod(shape)).view(np.uint64).reshape(shape)

    def _place(self, size: int) -> Any:
        """Fresh memory for a table K (2, size), on the host if it is small."""
        return self._pinned(2, size) if size <= self.hand_over else self.xp.empty((2, size), dtype=np.uint64)

    # ---- what lies on the host: short vectors, tables of the last rounds -------------------------------------------

    def outer(self, vectors: Sequence[U64]) -> U64:
        return self.host.outer(vectors)

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
        if n0 and n1:  # an array of size one goes in by value
            body = np.frombuffer(struct.pack(f"{len(words)}Q", *words), dtype=_body(len(words)))
            self._kernel(name)((grid,), (self.threads,), (body, np.uint64(n0), np.uint64(n1)))

    def _wait(self) -> None:
        """Until all that was launched is done."""
        self.xp.cuda.get_current_stream().synchronize()

    def _sum(self, name: str, sums: int, n0: int, n1: int, words: Sequence[int], *tail: int) -> list[Ext]:
        """Kernels with sums over K: the address of their room follows the array addresses. Waits for the device."""
        return self._sum_noted(name, sums, n0, n1, words, *tail)[0]

    def _sum_noted(self, name: str, sums: int, n0: int, n1: int, words: Sequence[int], *tail: int) -> tuple[list[Ext], list[int]]:
        """The same with the kernel's notes."""
        if not n0 * n1:
            return [self.field.zero] * sums, [0] * NOTES
        with self._lock:  # one place for sums
            self._launch(name, min(self._sum_grid, -(-n0 * n1 // self.threads)), n0, n1, (*words, self._sums.data.ptr, *tail))
            self._wait()
            notes, found = self._result[:NOTES].tolist(), self._result[NOTES : NOTES + 2 * sums].tolist()
        return [Ext(c0, c1, self.field) for c0, c1 in zip(found[::2], found[1::2], strict=True)], notes

    # ---- arguments -----------------------------------------------------------------------------------------------

    def _on_device(self, a: Any) -> Any:
        if not isinstance(a, self.xp.ndarray):
            raise TypeError(f"an array on the host ({type(a).__name__}) where the device's is needed")
        return a

    def _contiguous(self, a: Any, dtype: Any) -> Any:
        return self.xp.ascontiguousarray(self._on_device(a), dtype=dtype)

    def _integers(self, a: Any) -> tuple[Any, tuple[int, int]]:
        """A contiguous array of integers, the array itself where possible, and the kernels' words for it."""
        a = self.xp.ascontiguousarray(self._on_device(a))
        at = int(a.data.ptr)
        if at % a.itemsize:  # a device does not load such words
            raise ValueError(f"integers of {a.itemsize} bytes at an odd address")
        return a, (at, kind_of(a))

    def _words(self, a: Any) -> Any:
        return self._contiguous(a, np.uint64)

    def _result_of(self, out: Any, size: int) -> Any:
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
    shape = tuple(a.shape)
    if shape != wanted and (len(shape) != len(wanted) or any(w not in (-1, d) for w, d in zip(wanted, shape, strict=True))):
        raise ValueError(f"array of shape {shape} where {wanted} is needed")
    return shape


def planes(a: Any) -> tuple[int, int]:
    """Addresses of the two planes of a K array, there or in pinned memory."""
    if isinstance(a, np.ndarray):
        return host_planes(a)
    first = int(a.data.ptr)
    return first, first + a.strides[0]


def half_planes(a: Any) -> tuple[int, int, int, int]:
    """Plane addresses of the low and of the high half."""
    if a.shape[1] % 2:
        raise ValueError(f"a table of {a.shape[1]} entries has no halves")
    first, second = planes(a)
    middle = a.shape[1] // 2 * 8
    return first, second, first + middle, second + middle
