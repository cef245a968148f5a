"""How many pads, products and messages a task needs, without its arithmetic.

A prover commits to its pads before the schedule uses them, so they are counted beforehand: by the schedule itself, run over a field
that is blank. Its arrays have the shapes that arithmetic would give them and one zero in place of every entry, its scalars are all X,
which is no challenge that the schedule refuses. No size of the schedule depends on a value, so these are the counts of every proof,
and those of `TaskShape.counts` over the task's own field (tests). Called by prove.py and by prover/cost.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from protocol.channel import Cell, CountingChannel, Form, RoundProver, Transcript, Values
from protocol.field import U64, Ext, Field
from protocol.schedule.task import TaskShape


def count(shape: TaskShape) -> None:
    """Give `shape` its counts unless it has them."""
    if "counts" not in vars(shape):
        blank = replace(shape, field=BlankField(shape.field))
        vars(blank)["plans"] = shape.plans  # of the graph alone
        shape.adopt(blank.counts_on(_Count(blank.field, _Unhashed())))


class _Count(CountingChannel):
    """Rounds are counted without being played; what they leave of a claim has no terms. Of a secret only its pad is known."""

    def secrets(self, tag: str, count: int, produce: Callable[[], Values], pool: str = "pad") -> list[Form]:
        first, same = self.take(pool, count), self.field.one
        self.sent += 16 * count
        return [Form(same, {(pool, first + i): same}) for i in range(count)]

    def play(self, tag: str, rounds: int, prover: RoundProver | None, pool: str) -> tuple[list[Ext], list[Ext], list[Cell]]:
        self.take(pool, 2 * rounds)
        self.rounds += rounds
        self.sent += 32 * rounds
        return [self.field.zero] * rounds, [], []


class _Unhashed(Transcript):
    """Every challenge is made of twos, for nobody looks at them."""

    def absorb(self, tag: str, data: bytes) -> None:
        """Nothing is drawn from it."""

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        return [2] * words


class _Same(Ext):
    """X, whatever it is combined with."""

    __slots__ = ()
    field: "BlankField"

    def _same(self, *_: object) -> Ext:
        return self.field.same

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __truediv__ = __rtruediv__ = __pow__ = inverse = _same


class BlankField(Field):
    """As large as another field, and nothing is calculated; arrays take no memory but for `zeros`, which are written to."""

    same: Ext

    def __init__(self, of: Field) -> None:
        super().__init__(of.p, of.w, of.generator, of.two_adicity)
        self._stand_in(_Same(0, 1, self))

    def _stand_in(self, same: Ext) -> None:
        for name in ("same", "zero", "one"):
            object.__setattr__(self, name, same)

    def ext(self, c0: int, c1: int = 0) -> Ext:
        return self.same

    def ext_from_bytes(self, data: bytes, where: str = "extension element") -> Ext:
        return self.same

    def embed(self, x: Any) -> U64:
        return _blank(np.shape(x))

    def lift(self, a: U64) -> U64:
        return _blank((2, *a.shape))

    def add(self, a: U64, b: U64) -> U64:
        return _blank(np.broadcast(a, b).shape)

    sub = mul = add

    def sum(self, a: U64) -> U64:
        return _blank(a.shape[:-1])

    def integer_dot(self, values: Any, w: U64) -> U64:
        return _blank((2, *values.shape[:-1]))

    def kmul(self, a: U64, b: U64) -> U64:
        return _blank((2, *np.broadcast(a[0], b[0]).shape))

    def kmulf(self, a: U64, b: U64) -> U64:
        return _blank((2, *np.broadcast(a[0], b).shape))

    def kscale(self, a: U64, r: Ext) -> U64:
        return _blank(a.shape)

    def sumcheck_end(self, point: list[Ext], eq_point: list[Ext] | None, messages: list[Ext]) -> tuple[Ext, Ext, list[Ext]]:
        return self.same, self.same, [self.same] * len(messages)

    def eq_table(self, point: U64) -> U64:
        return _blank((2, 1 << point.shape[1]))


def _blank(shape: tuple[int, ...]) -> U64:
    """Zeros that share one word and cannot be written."""
    return np.ndarray(shape, np.uint64, bytes(8), strides=(0,) * len(shape))
