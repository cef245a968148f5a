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

SHORT = 1 << 8  # values of X^s at which a polynomial's parts are evaluated; most queries ask for one of their own
COLUMNS = 32  # parts in one transform: 2^13 entries a plane


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
        return ntt(self.field, self._reduced(coefs))

    def message_at(self, coefs: U64, point: U64) -> U64:
        """Σ_i eq(point, i)·message_i, (2, 1), of a polynomial over K (2, length), at a point (2, log2 ell): h the generator of H, the sum
        is Σ_j c_j·Π_k ((1 - r_k) + r_k·h^(j·2^k)), k from the least significant variable. Factors from k on are the same for j and
        j + ell/2^k, so each variable halves the coefficients: five products for a pair, where the message itself takes log2 ell."""
        f, total = self.field, self._reduced(coefs)
        turns = f.powers(f.root_of_unity(self.ell.bit_length() - 1), max(self.ell // 2, 1))
        for c0, c1 in reversed(point.T.tolist()):
            low, high = total[:, : total.shape[1] // 2], total[:, total.shape[1] // 2 :]
            both = f.add(low, high)
            total = f.add(both, f.kscale(f.sub(f.kmulf(f.sub(low, high), turns), both), f.ext(c0, c1)))
            turns = turns[: len(turns) // 2]
            turns = f.mul(turns, turns)
        return total

    def _reduced(self, coefs: U64) -> U64:
        """The remainder modulo X^ell - 1."""
        total = coefs[..., : self.ell].copy()
        for start in range(self.ell, coefs.shape[-1], self.ell):
            part = coefs[..., start : start + self.ell]
            total[..., : part.shape[-1]] = self.field.add(total[..., : part.shape[-1]], part)
        return total

    def evaluate(self, coefs: U64, positions: npt.NDArray[np.int64]) -> U64:
        """Values (…, t) at the points of D with these positions: p(X) = Σ_a X^a·p_a(X^s), a < s. On D X^s takes n/s values, so short
        transforms give all p_a there, COLUMNS of them at a time, and t·s products are left. A p shorter than s is its own p_a."""
        f, x, length, lead = self.field, self.points(positions), coefs.shape[-1], coefs.shape[:-1]
        count = min(self.n, SHORT) if length * SHORT > self.n else 1
        root, s = f.root_of_unity(count.bit_length() - 1), self.n // count
        wide = f.zeros(*lead, -(-length // s) * s)
        wide[..., :length] = coefs
        wide = wide.reshape(*lead, -1, s)
        rows = wide.shape[-2]
        scale = f.powers(pow(self.shift, s, f.p), rows)[:, None]
        near, far, total = np.ones_like(x)[:, None], np.ones_like(x), f.zeros(*lead, len(x))
        while near.shape[1] < COLUMNS:  # powers of the points, and at last x = point^COLUMNS
            near, x = np.concatenate([near, f.mul(near, x[:, None])], axis=1), f.mul(x, x)
        for start in range(0, min(s, length), COLUMNS):
            part = wide[..., start : start + COLUMNS]
            padded = f.zeros(*lead, count, part.shape[-1])
            padded[..., :rows, :] = f.mul(part, scale)
            values = _transform(f, padded, root)[..., positions % count, :]
            total, far = f.add(total, f.mul(f.dot(values, near[:, : part.shape[-1]]), far)), f.mul(far, x)
        return total

    def points(self, positions: npt.NDArray[np.int64]) -> U64:
        """The points shift·g^i of D for the given positions."""
        f = self.field
        root = f.root_of_unity(self.n.bit_length() - 1)
        return f.array([self.shift * pow(root, int(i), f.p) for i in positions])


def ntt(field: Field, coefs: U64) -> U64:
    """Values at 1, g, g^2, … (g of order n = length of the last axis) of the polynomials with these coefficients."""
    return _transform(field, coefs[..., None], field.root_of_unity(coefs.shape[-1].bit_length() - 1))[..., 0]


def intt(field: Field, values: U64) -> U64:
    """The inverse of `ntt`."""
    n = values.shape[-1]
    root = pow(field.root_of_unity(n.bit_length() - 1), -1, field.p)
    return field.mul(_transform(field, values[..., None], root)[..., 0], np.asarray(np.uint64(pow(n, -1, field.p))))


def _transform(field: Field, x: U64, root: int) -> U64:
    """Columns of (…, n, columns), Stockham: log2 n passes of x[j] + x[j + n/2], (x[j] - x[j + n/2])·g^…, natural order in and out."""
    n = x.shape[-2]
    lead = x.shape[:-2]
    twiddles = field.powers(root, max(n // 2, 1))
    out, stride = x, 1  # (…, remaining length, finished stride · columns)
    while n > 1:
        n //= 2
        low, high = out[..., :n, :], out[..., n:, :]
        turned = field.mul(field.sub(low, high), twiddles[::stride, None])
        out = np.stack([field.add(low, high), turned], axis=-2).reshape(lead + (n, 2 * out.shape[-1]))
        stride *= 2
    return out.reshape(x.shape).copy() if stride == 1 else out.reshape(x.shape)
