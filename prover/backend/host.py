"""What backends share whose arrays are NumPy arrays: nothing has to be moved, and small conversions are the field's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from protocol.field import U64, Field


class HostArrays:
    """The part of base.py about places and conversions."""

    field: Field
    xp: Any = np

    def to_device(self, a: Any) -> Any:
        return np.asarray(a)

    def to_host(self, a: Any) -> Any:
        return a

    def embed(self, x: Any) -> U64:
        return self.field.embed(x)

    def lift(self, x: Any) -> U64:
        return self.field.lift(x if x.dtype == np.uint64 else self.field.embed(x))
