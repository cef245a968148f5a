"""Groups of integer tensors by commitment name, made when they are asked for, so that a model need not fit in memory.

Groups used last are kept in the narrowest integers that hold them, as many as fit in `keep` bytes: of a small model all, of a large
one about two layers. What is handed out is int64 and new each time. Called by quantise.py (a folder's weights) and by
tasks/context.py (recorded ones).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from protocol.relation.graph import IntArray

KEEP_BYTES = 1 << 30
Group = Mapping[str, IntArray]


class Groups(Mapping[str, dict[str, IntArray]]):
    """`make(name)` gives a group, the same one every time."""

    def __init__(self, names: Sequence[str], make: Callable[[str], Group], keep: int = KEEP_BYTES) -> None:
        self.names, self.make, self.keep = tuple(names), make, keep
        self._kept: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> dict[str, IntArray]:
        if name not in self.names:
            raise KeyError(name)
        with self._lock:
            stored = self._kept.get(name)
            if stored is not None:
                self._kept.move_to_end(name)
        if stored is not None:
            return {key: values.astype(np.int64) for key, values in stored.items()}
        made = dict(self.make(name))
        self._remember(name, {key: narrowest(values) for key, values in made.items()})
        return made

    def _remember(self, name: str, group: dict[str, np.ndarray]) -> None:
        with self._lock:
            self._kept[name] = group
            total = sum(values.nbytes for kept in self._kept.values() for values in kept.values())
            while total > self.keep and self._kept:
                _, dropped = self._kept.popitem(last=False)
                total -= sum(values.nbytes for values in dropped.values())


def narrowest(values: IntArray) -> np.ndarray:
    """The same integers in the narrowest signed type that holds them."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.int64)
