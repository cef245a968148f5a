"""The rounds that a sumcheck has left, in one call of the prover's backend (prover/backend/talk.py): the same messages, the same proof.

Called by prove.py, whose channel this is. Every message of a `ProvingChannel` passes its `_message`, where tests look at it, so that
channel stays as it is.
"""

import struct
from abc import ABC, abstractmethod

import numpy as np

from protocol.channel import Form, RoundProver
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

    def play(self, tag: str, rounds: int, prover: RoundProver | None, pool: str) -> list[tuple[Ext, list[Form]]]:
        if not isinstance(prover, FinishingProver):
            return super().play(tag, rounds, prover, pool)
        out = list[tuple[Ext, list[Form]]]()
        while len(out) < rounds and not prover.can_finish():
            out += super().play(tag, 1, prover, pool)
        return out + self._finish(tag, rounds - len(out), prover, pool) if len(out) < rounds else out

    def _finish(self, tag: str, rounds: int, prover: FinishingProver, pool: str) -> list[tuple[Ext, list[Form]]]:
        first = self.take(pool, 2 * rounds)
        talk = Talk(self.field, self.transcript, tag, self._rows[pool][first : first + 2 * rounds].reshape(rounds, 4))
        prover.finish(talk)
        self.proof += talk.messages
        self.sent += len(talk.messages)
        self.rounds += rounds
        out, one, words = [], self.field.one, struct.unpack(f">{4 * rounds}Q", talk.messages)
        for k, r in enumerate(talk.challenges):
            forms = [Form(Ext(*words[4 * k + 2 * i : 4 * k + 2 * i + 2], self.field), {(pool, first + 2 * k + i): one}) for i in (0, 1)]
            out.append((r, forms))
        return out
