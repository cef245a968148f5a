"""Arithmetic in a prime field F and its quadratic extension K = F[X]/(X^2 - w), protocol.md section 0.

Production uses Goldilocks, p = 2^64 - 2^32 + 1, w = 7; tests also use toy primes below 2^31 (`small_field`).
Arrays over F are np.uint64, canonical (every word < p), any shape. Arrays over K are two planes: shape (2, ...),
element i is a[0, i] + a[1, i]·X. `add`, `sub` therefore serve F and K alike; products over K have a `k` prefix.
Scalars of K are `Ext`. Everybody computes with this module: transcript, verifier, reference backend.

Goldilocks products: 2^64 = 2^32 - 1 and 2^96 = -1 modulo p, so hi·2^64 + lo = lo - hi_hi + hi_lo·(2^32 - 1).
Sums are exact modulo p because the low and high 32-bit halves are added apart (up to 2^32 terms).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.errors import VerificationError

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_P64 = 2**64 - 2**32 + 1
_EPS = np.uint64(2**32 - 1)  # 2^64 mod p, and the mask of a low half
_S32 = np.uint64(32)
_FEW = 32  # products over F, or four times as many over K: up to that Python's integers are faster than dozens of calls of NumPy
_BLOCK = 1 << 14  # products go through NumPy in blocks whose temporaries stay in the cache


@dataclass(frozen=True)
class Field:
    """F = integers modulo the prime p; K = F[X]/(X^2 - w); `generator` generates F*; 2^two_adicity divides p - 1."""

    p: int
    w: int
    generator: int
    two_adicity: int

    # ---- scalars -------------------------------------------------------------------------------------------

    def ext(self, c0: int, c1: int = 0) -> Ext:
        """The scalar c0 + c1·X; any integers, reduced."""
        return Ext(c0 % self.p, c1 % self.p, self)

    @cached_property
    def zero(self) -> Ext:
        return Ext(0, 0, self)

    @cached_property
    def one(self) -> Ext:
        return Ext(1, 0, self)

    def root_of_unity(self, k: int) -> int:
        """A fixed primitive 2^k-th root of unity in F, compatible: root(k)^2 = root(k - 1)."""
        if not 0 <= k <= self.two_adicity:
            raise ValueError(f"no root of unity of order 2^{k} modulo {self.p}")
        return pow(self.generator, (self.p - 1) >> k, self.p)

    # ---- arrays over F (add, sub and sum also over K, plane by plane) ------------------------------------

    def array(self, values: Any) -> U64:
        """Python integers of any size or sign, reduced into a canonical array."""
        return np.asarray(np.asarray(values, dtype=object) % self.p, dtype=np.uint64)

    def zeros(self, *shape: int) -> U64:
        return np.zeros(shape, dtype=np.uint64)

    def embed(self, x: I64) -> U64:
        """Signed 64-bit integers to F, negative x to p + x."""
        if self.p != _P64:
            return np.mod(x, np.int64(self.p)).astype(np.uint64)
        out = np.ascontiguousarray(x).astype(np.uint64)
        out[np.asarray(x) < 0] += np.uint64(_P64)
        return out.reshape(np.shape(x))

    def add(self, a: U64, b: U64) -> U64:
        # a - (p - b) borrows exactly when a + b < p; adding p back then undoes it (numbers are modulo 2^64)
        c = np.uint64(self.p) - b
        d = a - c
        return np.asarray(np.where(a < c, d + np.uint64(self.p), d), dtype=np.uint64)

    def sub(self, a: U64, b: U64) -> U64:
        d = a - b
        return np.asarray(np.where(a < b, d + np.uint64(self.p), d), dtype=np.uint64)

    def mul(self, a: U64, b: U64) -> U64:
        """Elementwise product over F, with broadcasting."""
        if self.p != _P64:
            return np.asarray(a * b % np.uint64(self.p), dtype=np.uint64)
        a, b = np.asarray(a), np.asarray(b)
        pairs = np.broadcast(a, b)
        if pairs.size <= _FEW:
            return np.array([int(x) * int(y) % _P64 for x, y in pairs], dtype=np.uint64).reshape(pairs.shape)
        return _blocked((), self._mul_block, a, b)

    def _mul_block(self, a: U64, b: U64) -> U64:
        a0, a1, b0, b1 = a & _EPS, a >> _S32, b & _EPS, b >> _S32
        mid = a0 * b0
        mid >>= _S32
        mid += a0 * b1
        low = a1 * b0
        low += mid & _EPS
        mid >>= _S32
        low >>= _S32
        mid += low
        mid += a1 * b1  # the high word of a·b
        return self._reduce128(a * b, mid)

    @staticmethod
    def _reduce128(lo: U64, hi: U64) -> U64:
        """hi·2^64 + lo modulo Goldilocks; both arguments are overwritten."""
        top = hi >> _S32
        borrow = lo < top
        lo -= top
        lo -= borrow * _EPS
        hi &= _EPS
        hi *= _EPS
        lo += hi
        lo += (lo < hi) * _EPS
        lo -= (lo >= np.uint64(_P64)) * np.uint64(_P64)
        return lo

    def sum(self, a: U64) -> U64:
        """Sum over the last axis (fewer than 2^32 terms)."""
        # one-entry axes are kept until the end: NumPy warns about wrap-around in arithmetic on scalars
        low: U64 = np.asarray(np.sum(a & _EPS, axis=-1, dtype=np.uint64, keepdims=True) % np.uint64(self.p))
        high: U64 = np.asarray(np.sum(a >> _S32, axis=-1, dtype=np.uint64, keepdims=True) % np.uint64(self.p))
        return np.asarray(self.add(low, self.mul(high, np.asarray(np.uint64(2**32 % self.p))))[..., 0])

    def dot(self, a: U64, b: U64) -> U64:
        """Sum of products over the last axis, over F."""
        return self.sum(self.mul(a, b))

    def powers(self, x: int, n: int) -> U64:
        """1, x, x^2, …, x^(n-1) in F, by doubling."""
        out = np.ones(n, dtype=np.uint64)
        done = 1
        while done < n:
            more = min(done, n - done)
            out[done : done + more] = self.mul(out[:more], np.asarray(np.uint64(pow(x, done, self.p))))
            done += more
        return out

    # ---- arrays over K -----------------------------------------------------------------------------------------

    def lift(self, a: U64) -> U64:
        """F to K: shape (...) to (2, ...)."""
        return np.concatenate([a[None], np.zeros((1, *a.shape), dtype=np.uint64)])

    def kmul(self, a: U64, b: U64) -> U64:
        """(a0 + a1 X)(b0 + b1 X), Karatsuba: three products over F and one by the constant w."""
        both = np.broadcast(a[0], b[0])
        if both.size <= 4 * _FEW and self.p == _P64:
            (a0, b0), (a1, b1) = ([x.reshape(-1).tolist() for x in np.broadcast_arrays(a[k], b[k])] for k in (0, 1))
            real = [(x0 * y0 + self.w * x1 * y1) % _P64 for x0, y0, x1, y1 in zip(a0, b0, a1, b1)]
            cross = [(x0 * y1 + x1 * y0) % _P64 for x0, y0, x1, y1 in zip(a0, b0, a1, b1)]
            return np.array([real, cross], dtype=np.uint64).reshape(2, *both.shape)
        return _blocked((2,), self._kmul_block, a[0], b[0], a[1], b[1])

    def _kmul_block(self, a0: U64, b0: U64, a1: U64, b1: U64) -> U64:
        low, high = self.mul(a0, b0), self.mul(a1, b1)
        cross = self.mul(self.add(a0, a1), self.add(b0, b1))
        real = self.add(low, self.mul(high, np.asarray(np.uint64(self.w))))
        return np.stack([real, self.sub(cross, self.add(low, high))])

    def kmulf(self, a: U64, b: U64) -> U64:
        """K array times F array."""
        return np.stack([self.mul(a[0], b), self.mul(a[1], b)])

    def kscale(self, a: U64, r: Ext) -> U64:
        """K array times one scalar of K."""
        return self.kmul(a, r.array().reshape((2,) + (1,) * (a.ndim - 1)))

    def ksum(self, a: U64) -> U64:
        """Sum over the last axis: (2, ..., n) to (2, ...)."""
        return self.sum(a)

    def kdot(self, a: U64, b: U64) -> U64:
        """Sum of products over the last axis: (2, ..., n), (2, ..., n) to (2, ...)."""
        return self.sum(self.kmul(a, b))

    def integer_dot(self, values: I64, w: U64) -> U64:
        """Σ over the last axis of integers (…, n) times one vector (2, n) over K: (2, …). The vector's 32-bit halves meet the values in
        64-bit integers, in pieces so short that no sum reaches 2^63: a tenth of the time that as many products in F take."""
        largest = max(int(values.max()), -int(values.min()))
        if largest >> 31:
            high, low = self.integer_dot(values >> 31, w), self.integer_dot(values & (1 << 31) - 1, w)
            return self.add(self.mul(high, np.asarray(np.uint64(1 << 31))), low)
        n = values.shape[-1]
        piece = min(n, (1 << 31) // (largest + 1))
        pieces = n // piece
        whole = pieces * piece
        halves = np.stack([w & np.uint64((1 << 32) - 1), w >> np.uint64(32)]).astype(np.int64)[..., :whole].reshape(2, 2, pieces, piece)
        sums = np.einsum("...cn,hkcn->hk...c", values[..., :whole].reshape(*values.shape[:-1], pieces, piece), halves)
        low, high = self.sum(self.embed(sums))
        total = self.add(low, self.mul(high, np.asarray(np.uint64(1 << 32))))
        return total if whole == n else self.add(total, self.integer_dot(values[..., whole:], w[:, whole:]))

    def eq_table(self, point: U64) -> U64:
        """eq(point, x) for all x in {0,1}^m, most significant variable first: (2, m) to (2, 2^m)."""
        m, p = point.shape[1], self.p
        if m > 4:
            high, low = self.eq_table(point[:, : m // 2]), self.eq_table(point[:, m // 2 :])
            return self.kmul(high[:, :, None], low[:, None, :]).reshape(2, -1)
        table = [(1, 0)]  # of few entries, by Python's integers
        for r0, r1 in point.T.tolist():
            ones = [((a * r0 + self.w * b * r1) % p, (a * r1 + b * r0) % p) for a, b in table]
            table = [x for (a, b), (c, d) in zip(table, ones, strict=True) for x in (((a - c) % p, (b - d) % p), (c, d))]
        return np.array(table, dtype=np.uint64).T.copy()

    def sumcheck_end(self, point: list[Ext], eq_point: list[Ext] | None, messages: list[Ext]) -> tuple[Ext, Ext, list[Ext]]:
        """(k, c, [c_1, …]): after rounds with these challenges the claim is k·claim + c with c = Σ c_i·(message i), as
        protocol/schedule/sumcheck.py has it; a round's messages are g(1) and g(2)."""
        half, factor, total, coefs = self.p // 2 + 1, self.one, self.zero, list[Ext]()
        for i in reversed(range(len(point))):
            r, square = point[i], point[i] * point[i]
            l1, l2 = r + r - square, (square - r) * half  # r(2 − r), r(r − 1)/2
            k = w1k = 1 - l1 - l2  # (r − 1)(r − 2)/2: Lagrange's polynomials add up to 1
            if eq_point:
                k = k * (1 - eq_point[i]).inverse()
                w1k = k * eq_point[i]
            c1, c2 = (l1 - w1k) * factor, l2 * factor  # g(0) = (claim − w1·g(1))/w0
            total = total + c1 * messages[2 * i] + c2 * messages[2 * i + 1]
            coefs += [c2, c1]
            factor = factor * k
        return factor, total, coefs[::-1]

    # ---- canonical bytes: words big-endian, 8 bytes each; K elements as c0, c1 ------------------------------------

    def to_bytes(self, a: U64) -> bytes:
        return np.ascontiguousarray(a).astype(">u8").tobytes()

    def from_bytes(self, data: bytes, where: str = "field array") -> U64:
        """Flat F array; VerificationError if a word is not below p or the length is not a multiple of 8."""
        if len(data) % 8:
            raise VerificationError("length", where, "a multiple of 8 bytes", str(len(data)))
        out = np.frombuffer(data, dtype=">u8").astype(np.uint64)
        if out.size and int(out.max()) >= self.p:
            index = int(np.argmax(out >= np.uint64(self.p)))
            raise VerificationError("non-canonical", f"{where}[{index}]", f"below {self.p}", str(int(out[index])))
        return out

    def kto_bytes(self, a: U64) -> bytes:
        """(2, n) to 16·n bytes."""
        return self.to_bytes(a.reshape(2, -1).T)

    def kfrom_bytes(self, data: bytes, where: str = "extension array") -> U64:
        """16·n bytes to (2, n)."""
        if len(data) % 16:
            raise VerificationError("length", where, "a multiple of 16 bytes", str(len(data)))
        return np.ascontiguousarray(self.from_bytes(data, where).reshape(-1, 2).T)

    def ext_from_bytes(self, data: bytes, where: str = "extension element") -> Ext:
        if len(data) != 16:
            raise VerificationError("length", where, "16 bytes", str(len(data)))
        words = struct.unpack(">2Q", data)
        if max(words) >= self.p:
            self.from_bytes(data, where)  # names the word
        return Ext(words[0], words[1], self)


def _blocked(lead: tuple[int, ...], compute: Callable[..., U64], *arrays: U64) -> U64:
    """compute(*arrays), elementwise with broadcasting, in flat blocks; its results have shape lead + (entries,)."""
    both = np.broadcast(*arrays)
    shape, size = both.shape, both.size
    if size <= _BLOCK:
        return compute(*(np.atleast_1d(x) for x in arrays)).reshape(lead + shape)
    flat = [x.reshape(1) if x.size == 1 else np.broadcast_to(x, shape).reshape(-1) for x in arrays]
    out = np.empty((*lead, size), dtype=np.uint64)
    for start in range(0, size, _BLOCK):
        part = slice(start, start + _BLOCK)
        out[..., part] = compute(*(x if x.size == 1 else x[part] for x in flat))
    return out.reshape(lead + shape)


class Ext:
    """A scalar c0 + c1·X of K; immutable by convention, mixes with Python integers."""

    __slots__ = ("c0", "c1", "field")

    def __init__(self, c0: int, c1: int, field: Field) -> None:
        self.c0, self.c1, self.field = c0, c1, field

    @staticmethod
    def from_array(field: Field, a: U64) -> Ext:
        """From an array with two entries, such as kdot returns."""
        c0, c1 = a.reshape(2).tolist()
        return Ext(c0, c1, field)

    def array(self) -> U64:
        return np.array([self.c0, self.c1], dtype=np.uint64)

    def to_bytes(self) -> bytes:
        return self.c0.to_bytes(8, "big") + self.c1.to_bytes(8, "big")

    def __add__(self, other: Ext | int) -> Ext:
        f = self.field
        if isinstance(other, int):
            return Ext((self.c0 + other) % f.p, self.c1, f)
        return Ext((self.c0 + other.c0) % f.p, (self.c1 + other.c1) % f.p, f)

    def __sub__(self, other: Ext | int) -> Ext:
        f = self.field
        if isinstance(other, int):
            return Ext((self.c0 - other) % f.p, self.c1, f)
        return Ext((self.c0 - other.c0) % f.p, (self.c1 - other.c1) % f.p, f)

    def __rsub__(self, other: int) -> Ext:
        return -self + other

    def __neg__(self) -> Ext:
        return Ext(-self.c0 % self.field.p, -self.c1 % self.field.p, self.field)

    def __mul__(self, other: Ext | int) -> Ext:
        f = self.field
        if isinstance(other, int):
            return Ext(self.c0 * other % f.p, self.c1 * other % f.p, f)
        real = self.c0 * other.c0 + f.w * self.c1 * other.c1
        return Ext(real % f.p, (self.c0 * other.c1 + self.c1 * other.c0) % f.p, f)

    __radd__ = __add__
    __rmul__ = __mul__

    def inverse(self) -> Ext:
        """1/self; zero raises ZeroDivisionError."""
        f = self.field
        norm = (self.c0 * self.c0 - f.w * self.c1 * self.c1) % f.p
        if norm == 0:
            raise ZeroDivisionError("inverse of zero in K")
        scale = pow(norm, -1, f.p)
        return Ext(self.c0 * scale % f.p, -self.c1 * scale % f.p, f)

    def __truediv__(self, other: Ext | int) -> Ext:
        return self * (other if isinstance(other, Ext) else self.field.ext(other)).inverse()

    def __rtruediv__(self, other: int) -> Ext:
        return self.inverse() * other

    def __pow__(self, e: int) -> Ext:
        base, out = (self, self.field.one) if e >= 0 else (self.inverse(), self.field.one)
        for bit in bin(abs(e))[2:]:
            out = out * out
            if bit == "1":
                out = out * base
        return out

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.c1 == 0 and self.c0 == other % self.field.p
        return isinstance(other, Ext) and (self.c0, self.c1, self.field.p) == (other.c0, other.c1, other.field.p)

    def __hash__(self) -> int:
        return hash((self.c0, self.c1, self.field.p))

    def __bool__(self) -> bool:
        return bool(self.c0 or self.c1)

    def __repr__(self) -> str:
        return f"({self.c0} + {self.c1}·X)"


GOLDILOCKS = Field(p=_P64, w=7, generator=7, two_adicity=32)


def small_field(p: int) -> Field:
    """A toy field for exhaustive tests: odd prime p below 2^31, generator and non-residue found by search."""
    if not 2 < p < 2**31 or _prime_factors(p) != [p]:
        raise ValueError(f"{p} is not an odd prime below 2^31")
    factors = _prime_factors(p - 1)
    generator = next(g for g in range(2, p) if all(pow(g, (p - 1) // d, p) != 1 for d in factors))
    # a generator of the multiplicative group is never a square, so it serves as w too
    return Field(p=p, w=generator, generator=generator, two_adicity=((p - 1) & -(p - 1)).bit_length() - 1)


def _prime_factors(n: int) -> list[int]:
    out, d = [], 2
    while d * d <= n:
        if n % d == 0:
            out.append(d)
            while n % d == 0:
                n //= d
        d += 1
    return out + ([n] if n > 1 else [])
