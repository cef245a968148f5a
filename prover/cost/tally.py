"""How much algebra a schedule does, without doing any: a blank field (prover/argument/counting.py) that takes notes.

    scalars     operations on single elements of K, which Python does (but for those on two elements that came from arrays)
    calls       operations on arrays
    products    products in F that these come to: 5 for an entry of K (Karatsuba's three, one by w, sums), 3/10 for a sum's term

An array call takes about as long as CALL scalars before its first entry, so `steps` = scalars + CALL·calls is one count of what
Python and NumPy take beside the entries. Prover and verifier run the same schedule: with these counts, but each with its own field, so each
with its own rates. Called by claims.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.field import U64, Ext, Field
from prover.argument.counting import BlankField

CALL = 20  # measured: 40 µs a call, 1.5 to 2 µs an operation and what Python does around it
K_PRODUCT, TERM = 5.0, 0.3  # of a product in F
PUBLIC_CELL = 0.2  # integers that meet the halves of a vector (Field.integer_dot)


@dataclass(frozen=True)
class Algebra:
    """Of one run of a schedule, or of a part of it."""

    scalars: float = 0
    calls: float = 0
    products: float = 0

    @property
    def steps(self) -> float:
        return self.scalars + CALL * self.calls

    def __add__(self, other: "Algebra") -> "Algebra":
        return Algebra(self.scalars + other.scalars, self.calls + other.calls, self.products + other.products)


class _Noted(Ext):
    """X, whatever it is combined with; its field counts."""

    __slots__ = ()
    field: "TallyField"

    def _note(self, *_: object) -> Ext:
        self.field.noted[0] += 1
        return self.field.same

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __truediv__ = __rtruediv__ = __pow__ = inverse = _note


class TallyField(BlankField):
    """Blank results, counted operations: [scalars, calls, products] in `noted`."""

    noted: list[float]

    def __init__(self, of: Field) -> None:
        super().__init__(of)
        object.__setattr__(self, "noted", [0.0, 0.0, 0.0])
        self._stand_in(_Noted(0, 1, self))

    @property
    def algebra(self) -> Algebra:
        """So far."""
        return Algebra(*self.noted)

    def ext(self, c0: int, c1: int = 0) -> Ext:
        """Challenges differ, or vectors of different points would be one (protocol/layout.py, Vectors)."""
        return _Noted(c0 % self.p, c1 % self.p, self)

    def _note(self, products: float) -> None:
        self.noted[1] += 1
        self.noted[2] += products

    def embed(self, x: Any) -> U64:
        self._note(TERM * np.size(x))
        return super().embed(x)

    def add(self, a: U64, b: U64) -> U64:
        out = super().add(a, b)
        self._note(TERM * out.size)
        return out

    sub = add

    def mul(self, a: U64, b: U64) -> U64:
        out = super().mul(a, b)
        self._note(out.size)
        return out

    def sum(self, a: U64) -> U64:
        self._note(TERM * a.size)
        return super().sum(a)

    def integer_dot(self, values: Any, w: U64) -> U64:
        self._note(0)  # its cells are counted by PUBLIC_CELL
        return super().integer_dot(values, w)

    def kmul(self, a: U64, b: U64) -> U64:
        out = super().kmul(a, b)
        self._note(K_PRODUCT * out.size / 2)
        return out

    def kmulf(self, a: U64, b: U64) -> U64:
        out = super().kmulf(a, b)
        self._note(out.size)
        return out

    def kscale(self, a: U64, r: Ext) -> U64:
        self._note(K_PRODUCT * a.size / 2)
        return super().kscale(a, r)

    def sumcheck_end(self, point: list[Ext], eq_point: list[Ext] | None, messages: list[Ext]) -> tuple[Ext, Ext, list[Ext]]:
        return Field.sumcheck_end(self, point, eq_point, messages)  # on scalars, as a verifier does it

    def eq_table(self, point: U64) -> U64:
        self._note(K_PRODUCT * (1 << point.shape[1]))
        return super().eq_table(point)
