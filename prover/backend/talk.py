"""The rounds that a sumcheck has left, for a backend that runs them all in one call, messages and challenges included.

A round's arithmetic on a small table takes less time than the way from a kernel to the channel and back, so the channel hands over
what its next rounds need: the transcript's state, the tag and the pads. What was said comes back. Made by
prover/argument/finish.py, filled by `Backend.fraction_rounds` and `Backend.batch_rounds`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from protocol.channel import Transcript
from protocol.field import U64, Ext, Field

ROUNDS_AT_ONCE = 12  # of a level of the tree of fractions: what a GPU hands over, and what a core computes before another one is awake


@dataclass
class Talk:
    """`pads` (rounds, 4): the words of those of g(1), then of g(2). `messages` and `challenges` grow by one a round."""

    field: Field
    transcript: Transcript
    tag: str
    pads: U64
    messages: bytes = b""
    challenges: list[Ext] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many rounds are left."""
        return len(self.pads) - len(self.challenges)

    def said(self, state: bytes, messages: bytes, challenges: U64) -> None:
        """All rounds that were left: the transcript's state after them, their messages, their challenges (rounds, 2)."""
        self.transcript.state = state
        self.messages += messages
        self.challenges += [Ext(c0, c1, self.field) for c0, c1 in challenges.tolist()]

    def say(self, g1: Ext, g2: Ext) -> Ext:
        """One round as Channel.secrets and Channel.challenge have it."""
        words = zip((g1.c0, g1.c1, g2.c0, g2.c1), self.pads[len(self.challenges)].tolist(), strict=True)
        message = struct.pack(">4Q", *((value - pad) % self.field.p for value, pad in words))
        self.transcript.absorb(self.tag, message)
        self.challenges.append(self.field.ext(*self.transcript.draw(self.tag, 2, self.field.p)))
        self.messages += message
        return self.challenges[-1]


@dataclass(frozen=True)
class Summand:
    """One product of a batch: tables A and B, K (2, n), its coefficient, how many rounds pass before its own, and Σ A·B if any do."""

    a: U64
    b: U64
    coef: Ext
    waiting: int
    total: Ext
