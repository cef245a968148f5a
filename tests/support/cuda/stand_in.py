"""A stand-in for the module `cupy`, over the emulated device: what prover/backend/cuda.py and the prover use of CuPy, no more.

Its arrays are no NumPy arrays: NumPy cannot convert them, they do not mix with NumPy arrays, and the only ways between the two
are `asarray` and `asnumpy` (or `get`, `tolist`, `item`, `tobytes`), as with CuPy, so a forgotten copy or array module is
an error here as it is on a device. Fresh arrays hold garbage, and so does fresh pinned memory.

Launches and copies out of pinned memory do not happen when they are asked for but together, in their order, once the host waits or the
library computes something: what the host reads without a wait is garbage, what it overwrites too early is lost.

Every array's memory is asked of the allocator that `cuda.set_allocator` names, and counted by a pool that keeps what was freed and
has a limit, as CuPy's has.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.support.cuda import emulator

Scalar = (int, float, bool, np.generic)
GARBAGE = 0xA5


class Counted:
    """What went from the device to the host since the test set it to 0, how often the host waited, how many launches there were."""

    bytes = 0
    copies = 0
    waits = 0
    launches = 0


_queue: list[Callable[[], None]] = []
_freed: list[np.ndarray] = []  # memory of arrays that are gone, for work in the queue may be about it


def settle() -> None:
    """All that was asked for is done."""
    asked = _queue.copy()
    _queue.clear()
    for work in asked:
        work()
    _freed.clear()


def synchronize() -> None:
    Counted.waits += 1
    settle()


class OutOfMemoryError(MemoryError):
    """CuPy's."""


class Pool:
    """CuPy's memory pool, as far as sizes go: a freed block stays and serves arrays of its own size; the limit counts such blocks too,
    and whoever reaches it gets an error before any of them is given back."""

    def __init__(self) -> None:
        self.limit = 0
        self._used = 0
        self._kept: Counter[int] = Counter()

    def malloc(self, size: int) -> None:
        if self._kept[size]:
            self._kept[size] -= 1
        elif self.limit and self.total_bytes() + size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self.total_bytes():,} bytes, limit set "
                                   f"to: {self.limit:,} bytes).")
        self._used += size

    def free(self, size: int) -> None:
        self._used -= size
        self._kept[size] += 1

    def free_all_blocks(self) -> None:
        self._kept.clear()

    def used_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return sum(size * count for size, count in self._kept.items())

    def total_bytes(self) -> int:
        return self.used_bytes() + self.free_bytes()

    def set_limit(self, size: int) -> None:
        self.limit = size


pool = Pool()
_allocators: list[Callable[[int], object]] = [pool.malloc]
_owners: set[int] = set()  # arrays whose memory is counted


def set_allocator(allocator: Callable[[int], object]) -> None:
    _allocators[:] = [allocator]


def _counted(memory: np.ndarray) -> None:
    """Ask for an array's memory, unless it is another one's."""
    identity, size, owner = id(memory), memory.nbytes, pool
    if memory.base is not None or identity in _owners:
        return
    _allocators[0](size)
    _owners.add(identity)
    weakref.finalize(memory, lambda: (_owners.discard(identity), owner.free(size))).atexit = False


class ndarray:
    """A device array. `_memory` is its memory, `_held` the same once everything is done."""

    __array_ufunc__ = None  # NumPy arrays and operators do not take it

    def __init__(self, held: np.ndarray) -> None:
        _counted(held)
        self._memory = held

    def __del__(self) -> None:
        if _queue and hasattr(self, "_memory"):
            _freed.append(self._memory)

    @property
    def _held(self) -> np.ndarray:
        settle()
        return self._memory

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()` instead.")

    def __array_function__(self, func: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} on a device array")

    # what an array says of itself
    shape = property(lambda self: self._memory.shape)
    dtype = property(lambda self: self._memory.dtype)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    nbytes = property(lambda self: self._memory.nbytes)
    strides = property(lambda self: self._memory.strides)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._memory.flags.c_contiguous))
    T = property(lambda self: ndarray(self._memory.T))
    data = property(lambda self: MemoryPointer(self._memory))

    def __len__(self) -> int:
        return len(self._memory)

    # to the host, in the open
    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        Counted.bytes += self.nbytes
        Counted.copies += 1
        Counted.waits += 1
        if out is None:
            return self._held.copy()
        if not self._memory.flags.c_contiguous or (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError("only into a host array of the same kind")
        out[...] = self._held
        return out

    def tolist(self) -> Any:
        return self.get().tolist()

    def item(self) -> Any:
        return self.get().item()

    def tobytes(self) -> bytes:
        return self.get().tobytes()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    # on the device
    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        view = all(k is None or k is Ellipsis or isinstance(k, int | slice) for k in parts)
        return ndarray(np.asarray((self._memory if view else self._held)[_key(key)]))

    def reshape(self, *shape: Any) -> ndarray:
        return ndarray((self._memory if self._memory.flags.c_contiguous else self._held).reshape(*shape))

    def transpose(self, *order: Any) -> ndarray:
        return ndarray(self._memory.transpose(*order))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._held[_key(key)] = _operand(value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))


class MemoryPointer:
    """Where an array's memory begins."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory, self.ptr = memory, memory.ctypes.data

    def copy_from_host_async(self, mem: int, size: int) -> None:
        memory = self._memory
        if size > memory.nbytes or not memory.flags.c_contiguous:
            raise ValueError(f"{size} bytes into {memory.nbytes}")
        _queue.append(lambda: ctypes.memmove(memory.ctypes.data, mem, size) and None)


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(k) for k in key)
    if isinstance(key, np.ndarray | list):
        raise TypeError("a device array is indexed by device arrays")
    return key._held if isinstance(key, ndarray) else key


def _operand(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, Scalar):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def _method(name: str) -> Any:
    def call(self: ndarray, *arguments: Any, **named: Any) -> ndarray:
        return ndarray(np.asarray(getattr(self._held, name)(*arguments, **named)))

    return call


def _operator(name: str, in_place: bool = False) -> Any:
    def call(self: ndarray, *others: Any) -> Any:
        result = getattr(self._held, name)(*(_operand(x) for x in others))
        return self if in_place else NotImplemented if result is NotImplemented else ndarray(np.asarray(result))

    return call


for each in ("copy", "astype", "ravel", "any", "all", "max", "min", "sum", "view", "argmax"):
    setattr(ndarray, each, _method(each))
for each in ("add", "radd", "sub", "rsub", "mul", "rmul", "and", "rand", "or", "xor", "lshift", "rshift", "eq", "ne", "lt", "le", "gt",
             "ge", "neg", "invert", "mod", "floordiv"):
    setattr(ndarray, f"__{each}__", _operator(f"__{each}__"))
for each in ("iadd", "isub", "imul", "iand", "ior"):
    setattr(ndarray, f"__{each}__", _operator(f"__{each}__", in_place=True))


def _function(name: str) -> Any:
    def call(*arguments: Any, **named: Any) -> ndarray:
        def plain(x: Any) -> Any:
            if isinstance(x, np.ndarray):
                raise TypeError(f"cupy.{name} of a NumPy array")
            return [plain(y) for y in x] if isinstance(x, list | tuple) else x._held if isinstance(x, ndarray) else x

        return ndarray(np.asarray(getattr(np, name)(*map(plain, arguments), **{k: plain(v) for k, v in named.items()})))

    return call


def _garbage(shape: Any, dtype: Any) -> np.ndarray:
    out = np.empty(shape, dtype=dtype)
    out.reshape(-1).view(np.uint8)[...] = GARBAGE
    return out if out.dtype != np.bool_ else np.ones(shape, dtype=dtype)


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(_garbage(shape, dtype) if np.prod(shape, dtype=np.int64) else np.empty(shape, dtype))


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """A device array as it is, a NumPy array or list as a copy on the device."""
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    return ndarray(np.array(a, dtype=dtype, order="C"))


def asnumpy(a: Any) -> np.ndarray:
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    if not isinstance(a, ndarray):
        raise TypeError("cupy.ascontiguousarray of a host array")
    return a if a._memory.flags.c_contiguous and dtype in (None, a.dtype) else ndarray(np.ascontiguousarray(a._held, dtype=dtype))


def copyto(to: ndarray, a: ndarray) -> None:
    to._held[...] = a._held


def alloc_pinned_memory(size: int) -> np.ndarray:
    """At least so many bytes of the host, for `numpy.frombuffer`; the device reads and writes them by their address."""
    return np.full(-(-size // 512) * 512, GARBAGE, dtype=np.uint8)


def from_dlpack(a: Any) -> ndarray:
    """Another library's device array without a copy (here: a tensor in this machine's memory)."""
    return ndarray(np.from_dlpack(a))


class RawModule:
    """A compiled CUDA source; only NVRTC's options that the emulator understands have an effect."""

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self._library, self._names = emulator.compiled(code, options)

    def get_function(self, name: str) -> Any:
        if name not in self._names:
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: {name}")

        def call(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            body, n0, n1 = args
            if not isinstance(body, np.ndarray) or body.size != 1:
                raise TypeError("a NumPy array of size 1 passes its element by value, others are refused")
            if type(n0) is not np.uint64 or type(n1) is not np.uint64:
                raise TypeError("extents are 64-bit words")
            if not 0 < grid[0] < 2**31 or len(grid) != 1 or len(block) != 1:
                raise ValueError(f"grid {grid}, block {block}")
            Counted.launches += 1
            held = body.copy()  # by value
            _queue.append(lambda: emulator.launch(self._library, name, grid[0], block[0], held, int(n0), int(n1)))

        return call


class _Module(SimpleNamespace):
    """A module is hashed by what it is, not by what it holds."""

    __hash__ = object.__hash__


def module(multiprocessors: int = 2, memory: int = 1 << 33) -> SimpleNamespace:
    """The module, of a device with this many multiprocessors and bytes."""
    names = ("stack", "concatenate", "where", "arange", "zeros", "ones", "full", "zeros_like", "ones_like", "count_nonzero", "bincount",
             "argmax")
    device = SimpleNamespace(attributes={"MultiProcessorCount": multiprocessors}, mem_info=(memory, memory), synchronize=synchronize)
    stream = SimpleNamespace(synchronize=synchronize)
    runtime = SimpleNamespace(deviceSynchronize=synchronize, getDeviceProperties=lambda _: {"name": b"emulated"})
    cuda = SimpleNamespace(
        runtime=runtime, Device=lambda: device, get_current_stream=lambda: stream, alloc_pinned_memory=alloc_pinned_memory,
        set_allocator=set_allocator)
    return _Module(
        __name__="cupy", get_default_memory_pool=lambda: pool,
        ndarray=ndarray, empty=empty, asarray=asarray, asnumpy=asnumpy, ascontiguousarray=ascontiguousarray,
        from_dlpack=from_dlpack, RawModule=RawModule, cuda=cuda, copyto=copyto, empty_like=lambda a: empty(a.shape, a.dtype),
        **{name: _function(name) for name in names})
