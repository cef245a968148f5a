"""The proving channel: hides secrets under pads and collects the proof's bytes."""

import struct
from collections.abc import Callable, Sequence

from protocol.channel import Cell, Channel, Transcript, Values
from protocol.field import U64, Field


class ProvingChannel(Channel):
    """`pad_values` (2, pads) and `tail_values` (2, tails) are the committed one-time pads; each is used once."""

    checking = False  # the caller verifies the finished proof as a verifier would

    def __init__(self, field: Field, pad_values: U64, tail_values: U64, transcript: Transcript | None = None) -> None:
        super().__init__(field, transcript)
        self.pad_values, self.tail_values = pad_values, tail_values
        self._words = {"pad": pad_values.T.tolist(), "tail": tail_values.T.tolist()}
        self.proof = bytearray()

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        data = produce()
        if len(data) != size:
            raise RuntimeError(f"{tag}: the prover made {len(data)} bytes, the schedule expects {size}")
        self.proof += data
        return data

    def _hide(self, values: Values, cells: Sequence[Cell]) -> bytes:
        if len(values) != len(cells):
            raise RuntimeError(f"{len(values)} values for {len(cells)} pads")
        p, masked = self.field.p, list[int]()
        for value, (pool, i) in zip(values, cells, strict=True):
            c0, c1 = self._words[pool][i]
            masked += (value.c0 - c0) % p, (value.c1 - c1) % p
        return struct.pack(f">{len(masked)}Q", *masked)
