"""The row code, protocol.md section 2 (Reed-Solomon over F with a blinding multiple of the vanishing polynomial).

A message m in F^ell becomes p(X) = interpolation of m over H + (X^ell - 1)·rho(X), deg rho < blinding, where
H = {h^i} are the ell-th roots of unity in natural order. The codeword is p on D = {shift·g^i}, g of order n, in natural
order, shift the generator of F*, so that D and H are disjoint. Any `blinding` positions reveal nothing of m.

Everything is linear over F and batched over leading axes, so a K array (2, …, length) works like two F rows. A shorter
code on the same D is `Code(field, smaller_ell, n, other_blinding)`. Used by the verifier (`evaluate`, `message_of`), and
by the reference backend as the definition of `encode`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protocol.field import U64, Field


@dataclass(frozen=True)
class Code:
    """ell message values, codeword length n (powers of two), `blinding` random coefficients per row."""

    field: Field
    ell: int
    n: int
    blinding: int

    def __post_init__(self) -> None:
        for name, value in (("ell", self.ell), ("n", self.n)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} = {value} is not a power of two")
        if self.blinding < 0 or self.ell + self.blinding > self.n:
            raise ValueError(f"{self.ell} + {self.blinding} coefficients do not fit a codeword of {self.n}")
        if (self.field.p - 1) % self.n or pow(self.shift, self.n, self.field.p) == 1:
            raise ValueError(f"no coset of order {self.n} beside the roots of unity modulo {self.field.p}")

    @property
    def shift(self) -> int:
        return self.field.generator

    @property
    def length(self) -> int:
        """Number of coefficients of a row polynomial."""
        return self.ell + self.blinding

    def coefficients(self, message: U64, rho: U64) -> U64:
        """(…, ell), (…, blinding) to the coefficients (…, ell + blinding) of p."""
        f = self.field
        out = np.concatenate([intt(f, message), rho], axis=-1)
        # blinding may exceed ell, so -rho is subtracted in place on the low coefficients of the whole row
        out[..., : self.blinding] = f.sub(out[..., : self.blinding], rho)
        return out

    def encode(self, messages: U64, rho: U64) -> U64:
        """Messages (…, ell), blinding (…, blinding) to codewords (…, n)."""
        return self.codeword(self.coefficients(messages, rho))

    def codeword(self, coefs: U64) -> U64:
        """The polynomial with coefficients (…, length) on all of D: (…, n)."""
        scaled = self.field.mul(coefs, self.field.powers(self.shift, coefs.shape[-1]))
        padded = np.zeros(coefs.shape[:-1] + (self.n,), dtype=np.uint64)
        padded[..., : coefs.shape[-1]] = scaled
        return ntt(self.field, padded)

    def message_of(self, coefs: U64) -> U64:
        """The message (…, ell) of a polynomial: reduce modulo X^ell - 1, evaluate on H."""
        total = coefs[..., : self.ell].copy()
        for start in range(self.ell, coefs.shape[-1], self.ell):
            part = coefs[..., start : start + self.ell]
            total[..., : part.shape[-1]] = self.field.add(total[..., : part.shape[-1]], part)
        return ntt(self.field, total)

    def evaluate(self, coefs: U64, positions: npt.NDArray[np.int64]) -> U64:
        """Values (…, t) of short polynomials at the points of D with these positions, without the rest of the codeword."""
        f, x = self.field, self.points(positions)[:, None]
        powers = np.ones_like(x)  # (t, 1, 2, 4, …)
        while powers.shape[1] < coefs.shape[-1]:
            powers, x = np.concatenate([powers, f.mul(powers, x)], axis=1), f.mul(x, x)
        return f.dot(coefs[..., None, :], powers[:, : coefs.shape[-1]])

    def points(self, positions: npt.NDArray[np.int64]) -> U64:
        """The points shift·g^i of D for the given positions."""
        f = self.field
        root = f.root_of_unity(self.n.bit_length() - 1)
        return f.array([self.shift * pow(root, int(i), f.p) for i in positions])


def ntt(field: Field, coefs: U64) -> U64:
    """Values at 1, g, g^2, … (g of order n = length of the last axis) of the polynomials with these coefficients."""
    return _transform(field, coefs, field.root_of_unity(coefs.shape[-1].bit_length() - 1))


def intt(field: Field, values: U64) -> U64:
    """The inverse of `ntt`."""
    n = values.shape[-1]
    root = pow(field.root_of_unity(n.bit_length() - 1), -1, field.p)
    return field.mul(_transform(field, values, root), np.asarray(np.uint64(pow(n, -1, field.p))))


def _transform(field: Field, x: U64, root: int) -> U64:
    """Stockham: log2 n passes of x[j] + x[j + n/2], (x[j] - x[j + n/2])·g^…, natural order in and out."""
    n = x.shape[-1]
    lead = x.shape[:-1]
    twiddles = field.powers(root, max(n // 2, 1))
    out = x.reshape(lead + (n, 1))  # (…, remaining length, finished stride)
    stride = 1
    while n > 1:
        n //= 2
        low, high = out[..., :n, :], out[..., n:, :]
        turned = field.mul(field.sub(low, high), twiddles[::stride, None])
        out = np.stack([field.add(low, high), turned], axis=-2).reshape(lead + (n, 2 * stride))
        stride *= 2
    return out.reshape(x.shape).copy() if stride == 1 else out.reshape(x.shape)
