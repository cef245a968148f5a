"""A stand-in for the module `cupy` on a device that computes nothing: it counts what it is asked for, so that real sizes can be counted.

Arrays have shapes, strides and addresses in one reserved piece of the address space that nobody touches; what comes back to the host is
0, and every condition that the prover asks of an array holds. As the prover's launches do not depend on values, they are
those of a real proof (tests/prover/test_launches.py). Called by benchmarks/launches.py.

Counted: "launch NAME" of the prover's kernels; "library NAME" of what the array library would launch (views are free); "queued" and
"copies" to the device, small ones by the backend and others by the library; "back" to the host; "waits"; bytes of these.
"""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from prover.backend.field import address

SPAN = 1 << 42  # bytes of addresses, used again from the start
_NORESERVE = 0x4000

counted: Counter[str] = Counter()


def _count(kind: str, size: int) -> None:
    counted[kind] += 1
    counted[f"bytes {kind}"] += size


class _Space:
    """Addresses without memory behind them."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, SPAN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        self.used = 0

    def take(self, shape: Any, dtype: Any) -> np.ndarray:
        size = math.prod(shape if isinstance(shape, Sequence) else (shape,)) * np.dtype(dtype).itemsize
        if self.used + size > SPAN:
            self.used = 0
        start, self.used = self.used, self.used + -(-size // 512) * 512
        return np.ndarray(shape, dtype, self.map, start)


_space: list[_Space] = []


def _fresh(shape: Any, dtype: Any) -> ndarray:
    if not _space:
        _space.append(_Space())
    return ndarray(_space[0].take(shape, dtype))


def _computed(name: str, shape: Any, dtype: Any) -> ndarray:
    counted[f"library {name}"] += 1
    return _fresh(shape, dtype)


class _Pointer(NamedTuple):
    ptr: int

    def copy_from_host_async(self, _: int, size: int) -> None:
        _count("queued", size)


class ndarray:
    """An array of the device."""

    __array_ufunc__ = None

    def __init__(self, view: np.ndarray) -> None:
        self._view = view

    shape = property(lambda self: self._view.shape)
    dtype = property(lambda self: self._view.dtype)
    ndim = property(lambda self: self._view.ndim)
    size = property(lambda self: self._view.size)
    nbytes = property(lambda self: self._view.nbytes)
    strides = property(lambda self: self._view.strides)
    flags = property(lambda self: self._view.flags)
    data = property(lambda self: _Pointer(address(self._view)))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a device array where the host's is needed")

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        self.get()
        return True

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        _count("back", self.nbytes)
        counted["waits"] += 1
        found = np.zeros(self.shape, self.dtype) if out is None else out
        found[...] = 0
        return found

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        if not any(isinstance(k, ndarray) for k in parts):
            return ndarray(np.asarray(self._view[key]))
        host = tuple(np.zeros(k.shape, dtype=np.int64) if isinstance(k, ndarray) else k for k in parts)
        return _computed("take", np.broadcast_to(np.uint8(0), self.shape)[host].shape, self.dtype)

    def __setitem__(self, key: Any, value: Any) -> None:
        counted["library set" if isinstance(value, ndarray) else "library fill"] += 1

    def reshape(self, *shape: Any) -> ndarray:
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        try:
            return ndarray(self._view.reshape(wanted, copy=False))
        except ValueError:
            return _computed("copy", np.broadcast_to(np.uint8(0), (self.size,)).reshape(wanted).shape, self.dtype)

    def transpose(self, *order: Any) -> ndarray:
        return ndarray(self._view.transpose(*order))

    def copy(self) -> ndarray:
        return _computed("copy", self.shape, self.dtype)

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == dtype else _computed("astype", self.shape, dtype)


def _reduction(name: str, dtype: Any = None) -> Callable[..., ndarray]:
    def call(a: ndarray, axis: int | None = None) -> ndarray:
        shape = () if axis is None else tuple(n for k, n in enumerate(a.shape) if k != axis % a.ndim)
        return _computed(name, shape, dtype or a.dtype)

    return call


def _elementwise(name: str, dtype: Any = None) -> Callable[..., ndarray]:
    def call(*given: Any) -> ndarray:
        arrays = [a for a in given if isinstance(a, ndarray)]
        return _computed(name, np.broadcast_shapes(*(a.shape for a in arrays)), dtype or arrays[-1].dtype)

    return call


for each in ("any", "all", "max", "min", "sum"):
    setattr(ndarray, each, _reduction(each))
ndarray.argmax = _reduction("argmax", np.int64)  # type: ignore[attr-defined]
for each in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(ndarray, f"__{each}__", _elementwise(each, np.bool_))
for each in ("add", "sub", "mul", "and", "or", "invert"):
    setattr(ndarray, f"__{each}__", _elementwise(each))


def _filled(name: str) -> Callable[..., ndarray]:
    return lambda shape, dtype=float: _computed(name, shape, dtype)


def _joined(arrays: Sequence[ndarray], shape: list[int]) -> ndarray:
    counted["library copy"] += len(arrays)
    return _fresh(tuple(shape), arrays[0].dtype)


def stack(arrays: Sequence[ndarray], axis: int = 0) -> ndarray:
    shape = list(arrays[0].shape)
    return _joined(arrays, [*shape[:axis], len(arrays), *shape[axis:]])


def concatenate(arrays: Sequence[ndarray], axis: int = 0) -> ndarray:
    shape = list(arrays[0].shape)
    return _joined(arrays, [*shape[:axis], sum(a.shape[axis] for a in arrays), *shape[axis + 1 :]])


def asarray(a: Any) -> ndarray:
    if isinstance(a, ndarray):
        return a
    _count("copies", a.nbytes)
    return _fresh(a.shape, a.dtype)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    return a if a.flags.c_contiguous and dtype in (None, a.dtype) else _computed("copy", a.shape, dtype or a.dtype)


class RawModule:
    """Any kernel."""

    def __init__(self, **_: Any) -> None:
        pass

    def get_function(self, name: str) -> Callable[..., None]:
        def call(*_: Any) -> None:
            counted[f"launch {name}"] += 1

        return call


def _wait() -> None:
    counted["waits"] += 1


def module(multiprocessors: int, memory: int) -> Any:
    """The module, of a device with so many multiprocessors and bytes."""
    device = SimpleNamespace(attributes={"MultiProcessorCount": multiprocessors}, mem_info=(memory, memory), synchronize=_wait)
    cuda = SimpleNamespace(
        Device=lambda: device, get_current_stream=lambda: SimpleNamespace(synchronize=_wait), alloc_pinned_memory=bytearray,
        set_allocator=lambda allocator: None)
    pool = SimpleNamespace(
        used_bytes=lambda: 0, total_bytes=lambda: 0, free_all_blocks=lambda: None, set_limit=lambda size: None)
    return SimpleNamespace(
        ndarray=ndarray, empty=_fresh, zeros=_filled("zeros"), ones=_filled("ones"),
        count_nonzero=_reduction("count_nonzero", np.int64), where=_elementwise("where"), stack=stack, concatenate=concatenate,
        asarray=asarray, asnumpy=lambda a: a.get() if isinstance(a, ndarray) else np.asarray(a), ascontiguousarray=ascontiguousarray,
        RawModule=RawModule, cuda=cuda, get_default_memory_pool=lambda: pool)
