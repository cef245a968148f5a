"""The tables of plan.py on a device, and how prover/kernels/device_ntt.h cuts a transform: made once per code by the CUDA backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.code import Code
from prover.backend.plan import make_plan

NTT_BLOCK = 4096  # words of a transform that one block finishes in shared memory
COLUMN_BLOCK = 512  # words of one of which opened columns are sums: of ell / 512 terms each, which costs less than what is left out


class DevicePlan:
    """`radices`: the passes that go through memory, from the top; what is left then has at most NTT_BLOCK words."""

    def __init__(self, code: Code, place: Callable[[Any], Any]) -> None:
        plan = make_plan(code)
        self.code = code
        self.inverse, self.forward, self.scale, self.powers = map(place, (plan.inverse, plan.forward, plan.scale, plan.powers))
        log = code.ell.bit_length() - 1
        first = 1 << (log % 3 if log >= 6 else log % 2)  # brings the size to 64·8^k, or to a power of 4 below 64
        self.radices = [first] if first > 1 else []
        size = code.ell // first
        while size > NTT_BLOCK:
            self.radices.append(8)
            size //= 8
        self.block, self.column_block = size, min(size, COLUMN_BLOCK)
        self.roots = place(code.field.powers(code.field.root_of_unity(log), code.ell))
        if first > 1 and len(self.radices) > 1:  # both while the words are at hand
            self.radices[:2] = [8 * first]
