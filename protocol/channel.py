"""The transcript: affine forms, one-time pads, and the channel in which sending is absorbing.

A secret v ∈ K is never sent: v̂ = v − P is, with the next unused pad P, and everybody goes on with the affine form
v = v̂ + P (protocol.md 3; Frigo–shelat eprint 2024/2010). Pads are committed cells, so a statement about forms is a
linear statement about cells, checked by the opening. A product of two forms that were just sent is the form
x̂ŷ + x̂·P_y + ŷ·P_x + c with c = P_x·P_y committed beside the pads.

One class, three uses of the same schedule: a count (no data: how many pads and products a shape needs), a prover
(produces messages), a verifier (reads them, in fixed order with fixed sizes; nothing in the proof says how long
anything is). Challenges: SHA-256 chain with typed, length-prefixed inputs; field elements by rejection sampling.
"""

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Protocol, TypeAlias

import numpy as np

from protocol.errors import VerificationError
from protocol.field import I64, U64, Ext, Field

Cell: TypeAlias = tuple[str, int]  # ("pad" | "product" | "tail", index)


class Transcript:
    """state ← SHA-256(state ‖ kind ‖ tag ‖ data), all lengths included; challenges are drawn from the state."""

    def __init__(self) -> None:
        self.state = hashlib.sha256(b"verilora/transcript/1").digest()

    def absorb(self, tag: str, data: bytes) -> None:
        self._advance(b"\x01", tag, data)

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        """`words` uniform integers below `below` ≤ 2^64, by rejection from a counter stream."""
        self._advance(b"\x02", tag, words.to_bytes(8, "big") + below.to_bytes(9, "big"))
        out: list[int] = []
        limit, counter = (1 << 64) - (1 << 64) % below, 0
        while len(out) < words:
            block = hashlib.sha256(self.state + b"\x03" + counter.to_bytes(8, "big")).digest()
            counter += 1
            out += [word % below for word in struct.unpack(">4Q", block) if word < limit]
        return out[:words]

    def _advance(self, kind: bytes, tag: str, data: bytes) -> None:
        name = tag.encode()
        self.state = hashlib.sha256(
            self.state + kind + len(name).to_bytes(8, "big") + name + len(data).to_bytes(8, "big") + data
        ).digest()


@dataclass(frozen=True, slots=True)
class Form:
    """const + Σ terms[cell]·cell: what the verifier knows of a secret."""

    const: Ext
    terms: dict[Cell, Ext] = dataclass_field(default_factory=dict)

    def __add__(self, other: "Form | Ext") -> "Form":
        if isinstance(other, Ext):
            return Form(self.const + other, self.terms)
        return Form.combination(other.const.field, [(other.const.field.one, self), (other.const.field.one, other)])

    def __sub__(self, other: "Form | Ext") -> "Form":
        return self + (-other if isinstance(other, Ext) else other.scale(other.const.field.ext(-1)))

    @staticmethod
    def combination(field: Field, parts: "Sequence[tuple[Ext, Form]]") -> "Form":
        """Σ coef·form; most terms are a pad itself, and many coefficients 1."""
        const, terms, one = field.zero, dict[Cell, Ext](), field.one
        for coef, form in parts:
            const = const + (form.const if coef is one else form.const * coef)
            for cell, value in form.terms.items():
                part = coef if value is one else value if coef is one else value * coef
                terms[cell] = terms[cell] + part if cell in terms else part
        return Form(const, terms)

    def scale(self, factor: Ext) -> "Form":
        return Form(self.const * factor, {cell: value * factor for cell, value in self.terms.items()})


Values: TypeAlias = Sequence[Ext]


class RoundProver(Protocol):
    """The prover's side of one sumcheck."""

    def round(self) -> tuple[Ext, Ext]:
        """(g(1), g(2)) of the current round polynomial."""

    def bind(self, r: Ext) -> None:
        """Fix the current variable to r."""


class Channel(ABC):
    """Base: the verifier's view. Subclasses say where the bytes of a message come from.

    `checking` says whether equations are tested: not while counting (messages are zeros) nor while proving.
    """

    checking = True

    def __init__(self, field: Field, transcript: Transcript | None = None) -> None:
        self.field = field
        self.transcript = transcript or Transcript()
        self.pads = 0
        self.tails = 0
        self.rounds = 0
        self.sent = 0  # bytes
        self.products: list[tuple[int, int]] = []  # pad indices whose product is committed

    # where bytes come from ----------------------------------------------------------------------

    @abstractmethod
    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        """The bytes of the next message; only a prover's channel calls `produce`."""

    def _hide(self, values: Values, cells: Sequence[Cell]) -> bytes:
        """The bytes of values minus their pads."""
        raise RuntimeError("only a proving channel has pads")

    # messages ------------------------------------------------------------------------------------

    def bind(self, tag: str, data: bytes) -> None:
        """Absorb what both sides know already."""
        self.transcript.absorb(tag, data)

    def clear_bytes(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        """Send `size` bytes in clear; sending is absorbing."""
        data = self._message(tag, size, produce)
        self.sent += size
        self.transcript.absorb(tag, data)
        return data

    def clear_field(self, tag: str, count: int, produce: Callable[[], U64]) -> U64:
        """Send `count` elements of F in clear: (count,)."""
        data = self.clear_bytes(tag, 8 * count, lambda: self.field.to_bytes(produce()))
        return self.field.from_bytes(data, tag)

    def clear(self, tag: str, count: int, produce: Callable[[], U64]) -> U64:
        """Send `count` elements of K in clear: (2, count)."""
        data = self.clear_bytes(tag, 16 * count, lambda: self.field.kto_bytes(produce()))
        return self.field.kfrom_bytes(data, tag)

    def secrets(self, tag: str, count: int, produce: Callable[[], Values], pool: str = "pad") -> list[Form]:
        """Send `count` secrets under fresh pads of `pool` ("pad", or "tail" for the opening's own messages)."""
        start = self.take(pool, count)
        cells: list[Cell] = [(pool, start + i) for i in range(count)]
        data = self.clear_bytes(tag, 16 * count, lambda: self._hide(produce(), cells))
        one, read = self.field.one, self.field.ext_from_bytes
        return [Form(read(data[16 * i : 16 * i + 16], tag), {cell: one}) for i, cell in enumerate(cells)]

    def play(self, tag: str, rounds: int, prover: RoundProver | None, pool: str) -> tuple[list[Ext], list[Ext], list[Cell]]:
        """Rounds of a sumcheck: (g(1), g(2)) as secrets, then the challenge, to which a prover binds. Returns the challenges, the
        messages without their pads, and these."""
        self.rounds += rounds
        point, sent = list[Ext](), list[Form]()
        for _ in range(rounds):
            sent += self.secrets(tag, 2, lambda: prover.round() if prover else (), pool)
            point.append(self.challenge(tag))
            if prover:
                prover.bind(point[-1])
        return point, [form.const for form in sent], [cell for form in sent for cell in form.terms]

    def multiply(self, x: Form, y: Form) -> Form:
        """The product of two forms, each one pad plus a constant (that is, as `secrets` returned them)."""
        ((_, a),), ((_, b),) = x.terms, y.terms
        self.products.append((a, b))
        terms: dict[Cell, Ext] = {("pad", b): x.const}
        terms["pad", a] = terms.get(("pad", a), self.field.zero) + y.const
        terms["product", len(self.products) - 1] = self.field.one
        return Form(x.const * y.const, terms)

    def take(self, pool: str, count: int) -> int:
        """The next `count` pads of a pool are used: the first of them."""
        used = self.tails if pool == "tail" else self.pads
        if pool == "tail":
            self.tails += count
        else:
            self.pads += count
        return used

    # challenges ----------------------------------------------------------------------------------

    def challenge(self, tag: str) -> Ext:
        return self.field.ext(*self.transcript.draw(tag, 2, self.field.p))

    def challenges(self, tag: str, count: int) -> list[Ext]:
        words = self.transcript.draw(tag, 2 * count, self.field.p)
        return [self.field.ext(words[2 * i], words[2 * i + 1]) for i in range(count)]

    def point(self, tag: str, variables: int) -> U64:
        """A random point (2, variables)."""
        words = self.transcript.draw(tag, 2 * variables, self.field.p)
        return np.array(words, dtype=np.uint64).reshape(variables, 2).T.copy()

    def positions(self, tag: str, n: int, count: int) -> I64:
        """`count` distinct positions below n, ascending (partial Fisher–Yates)."""
        swapped: dict[int, int] = {}
        out = []
        for i in range(count):
            j = i + self.transcript.draw(tag, 1, n - i)[0]
            out.append(swapped.get(j, j))
            swapped[j] = swapped.get(i, i)
        return np.array(sorted(out), dtype=np.int64)


class CountingChannel(Channel):
    """Every message is zeros: after the schedule ran, `pads`, `tails`, `products` and `sent` are what it needs."""

    checking = False

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        return bytes(size)


class VerifyingChannel(Channel):
    """Reads a proof; a proof that ends early or late is rejected."""

    def __init__(self, field: Field, proof: bytes, transcript: Transcript | None = None) -> None:
        super().__init__(field, transcript)
        self.proof, self.at = proof, 0

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        if self.at + size > len(self.proof):
            raise VerificationError("truncated", tag, f"{size} more bytes", str(len(self.proof) - self.at))
        data = self.proof[self.at : self.at + size]
        self.at += size
        return data

    def finish(self) -> None:
        if self.at != len(self.proof):
            raise VerificationError("trailing", "end of proof", str(self.at), str(len(self.proof)))
