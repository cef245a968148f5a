"""protocol/field.py's products and sums on the compiled kernels: bit for bit what GOLDILOCKS computes.

The schedule (protocol/schedule) does its own algebra with the channel's field: weights of claims, forms, eq tables. With NumPy
that took a prover as long as half of its kernels, most of it in calls on a few hundred entries. The CPU backend's field is this one;
the verifier never sees it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.field import GOLDILOCKS, I64, U64, Ext, Field
from prover.backend.integers import kind_of


class KernelField(Field):
    """Goldilocks; `call` runs a kernel by name on an index space (prover/backend/cpu.py)."""

    _call: Callable[..., None]

    def __init__(self, call: Callable[..., None]) -> None:
        super().__init__(GOLDILOCKS.p, GOLDILOCKS.w, GOLDILOCKS.generator, GOLDILOCKS.two_adicity)
        object.__setattr__(self, "_call", call)

    def embed(self, x: I64) -> U64:
        out = np.empty(np.shape(x), dtype=np.uint64)
        x = np.ascontiguousarray(x)
        self._call("vl_embed", 1, x.size, *integers(x), address(out))
        return out

    def mul(self, a: U64, b: U64) -> U64:
        shape = _common(np.shape(a), np.shape(b))
        a, b = _fit(a, shape), _fit(b, shape)
        out = np.empty(shape, dtype=np.uint64)
        self._call("vl_mul", 1, out.size, address(a), address(b), address(out))
        return out

    def sum(self, a: U64) -> U64:
        a = np.ascontiguousarray(a, dtype=np.uint64)
        out = np.zeros(a.shape[:-1], dtype=np.uint64)
        self._call("vl_sum_last", out.size, 1, address(a), address(out), a.shape[-1])
        return out

    def powers(self, x: int, n: int) -> U64:
        out = np.empty(n, dtype=np.uint64)
        self._call("vl_powers", n, 1, x % self.p, address(out))
        return out

    def kmul(self, a: U64, b: U64) -> U64:
        shape = (2, *_common(a.shape[1:], b.shape[1:]))
        a, b = _kfit(a, shape), _kfit(b, shape)
        out = np.empty(shape, dtype=np.uint64)
        self._call("vl_kmul", 1, out.size // 2, *planes(a), *planes(b), *planes(out))
        return out

    def kmulf(self, a: U64, b: U64) -> U64:
        shape = (2, *_common(a.shape[1:], b.shape))
        return self.mul(_kfit(a, shape), _fit(b, shape))

    def kscale(self, a: U64, r: Ext) -> U64:
        a = np.ascontiguousarray(a, dtype=np.uint64)
        out = np.empty(a.shape, dtype=np.uint64)
        self._call("vl_kscale", 1, out.size // 2, *planes(a), *planes(out), r.c0, r.c1)
        return out

    def integer_dot(self, values: I64, w: U64) -> U64:
        values, w = np.ascontiguousarray(values), np.ascontiguousarray(w, dtype=np.uint64)
        out = np.empty((2, *values.shape[:-1]), dtype=np.uint64)
        self._call("vl_fold_last_int", out.size // 2, 1, *integers(values), *planes(w), *planes(out), values.shape[-1])
        return out

    def sumcheck_end(self, point: list[Ext], eq_point: list[Ext] | None, messages: list[Ext]) -> tuple[Ext, Ext, list[Ext]]:
        given = np.array([(x.c0, x.c1) for some in (point, eq_point or point, messages) for x in some], dtype=np.uint64)
        out = np.empty((2 + 2 * len(point), 2), dtype=np.uint64)
        self._call("vl_sumcheck_end", 1, 1, address(given), address(out), len(point), int(eq_point is not None))
        factor, total, *coefs = [Ext(c0, c1, self) for c0, c1 in out.tolist()]
        return factor, total, coefs

    def eq_table(self, point: U64) -> U64:
        m, point = point.shape[1], np.ascontiguousarray(point, dtype=np.uint64)
        out = np.empty((2, 2 << m), dtype=np.uint64)  # the table of the last k variables begins at entry 2^k
        out[:, 1] = 1, 0
        self._call("vl_eq_suffixes", m, 1, *planes(point), *planes(out))
        return out[:, 1 << m :]


_first_byte, _addressof = ctypes.c_char.from_buffer, ctypes.addressof


def address(a: npt.NDArray[Any]) -> int:
    """Where an array begins. By the buffer of a contiguous array, which takes a quarter of the time of `ctypes.data`; there are
    thousands of them in a proof. One that is read-only, empty or strided has no such buffer."""
    try:
        return _addressof(_first_byte(a))
    except (TypeError, ValueError):
        return a.ctypes.data


def planes(a: npt.NDArray[Any]) -> tuple[int, int]:
    """Addresses of the two planes of a K array."""
    first = address(a[:1])  # a[0] of two single numbers would be a copy
    return first, first + a.strides[0]


def integers(x: npt.NDArray[Any]) -> tuple[int, int]:
    """A contiguous array of integers as kernels read it."""
    return address(x), kind_of(x)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return a if a == b else np.broadcast_shapes(a, b)


def _fit(a: U64, shape: tuple[int, ...]) -> U64:
    """An F array spread to this shape, contiguous."""
    return np.ascontiguousarray(a if np.shape(a) == shape else np.broadcast_to(a, shape), dtype=np.uint64)


def _kfit(a: U64, shape: tuple[int, ...]) -> U64:
    """A K array spread to this shape, contiguous; axes that it lacks come after its planes."""
    if a.shape == shape:
        return np.ascontiguousarray(a, dtype=np.uint64)
    return _fit(a.reshape(2, *[1] * (len(shape) - a.ndim), *a.shape[1:]), shape)
