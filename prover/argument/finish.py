"""The rounds that a sumcheck has left, in one call of the prover's backend (prover/backend/talk.py): the same messages, the same proof.

Called by prove.py, whose channel this is. Every message of a `ProvingChannel` passes its `_message`, where tests look at it, so that
channel stays as it is.
"""

import struct
from abc import ABC, abstractmethod

import numpy as np

from protocol.channel import Cell, RoundProver
from protocol.field import U64, Ext, Field
from prover.argument.channel import ProvingChannel
from prover.backend.talk import Talk


class FinishingProver(ABC):
    """A prover of rounds that can hand all those that are left to its backend."""

    @abstractmethod
    def can_finish(self) -> bool:
        """Whether its tables are small, and on the host."""

    @abstractmethod
    def finish(self, talk: Talk) -> None:
        """All rounds that are left; the talk has their messages and challenges afterwards, and the prover is bound to these."""


class FinishingChannel(ProvingChannel):
    """Lets provers finish that can."""

    def __init__(self, field: Field, pad_values: U64, tail_values: U64) -> None:
        super().__init__(field, pad_values, tail_values)
        self._rows = {"pad": np.ascontiguousarray(pad_values.T), "tail": np.ascontiguousarray(tail_values.T)}

    def play(self, tag: str, rounds: int, prover: RoundProver | None, pool: str) -> tuple[list[Ext], list[Ext], list[Cell]]:
        if not isinstance(prover, FinishingProver):
            return super().play(tag, rounds, prover, pool)
        point, messages, cells = list[Ext](), list[Ext](), list[Cell]()
        while len(point) < rounds:
            one_by_one = not prover.can_finish()
            more = super().play(tag, 1, prover, pool) if one_by_one else self._finish(tag, rounds - len(point), prover, pool)
            point, messages, cells = point + more[0], messages + more[1], cells + more[2]
        return point, messages, cells

    def _finish(self, tag: str, rounds: int, prover: FinishingProver, pool: str) -> tuple[list[Ext], list[Ext], list[Cell]]:
        first, count = self.take(pool, 2 * rounds), 2 * rounds
        talk = Talk(self.field, self.transcript, tag, self._rows[pool][first : first + count].reshape(rounds, 4))
        prover.finish(talk)
        self.proof += talk.messages
        self.sent += len(talk.messages)
        self.rounds += rounds
        words = struct.unpack(f">{2 * count}Q", talk.messages)
        messages = [Ext(c0, c1, self.field) for c0, c1 in zip(words[::2], words[1::2], strict=True)]
        return talk.challenges, messages, [(pool, first + i) for i in range(count)]
