"""Where a proof's processor time goes: a backend that passes every call on and adds up what each kind of kernel takes.

Seconds are those of the whole process (all threads), so other programs on the machine count little. A call inside a call counts once,
for the outer one. Everything outside is "the rest": the schedule's own algebra, the transcript, copies, Python.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from prover.backend.base import Backend

KINDS = {
    "encode": ("encode",),
    "hash": ("hash_columns", "hash_rows", "merkle_levels"),
    "tree, building": ("fingerprints", "lincombs", "fraction_layers", "count"),
    "tree, rounds": ("fraction_round", "fraction_fold_round", "fraction_rounds", "eq_suffixes"),
    "products": ("fold_axis", "weight", "kmul", "kdot", "product_rounds", "batch_rounds"),
    "opening": ("outer", "outer_sums", "open_sums", "open_fold", "product_round", "fold_top", "eq_table"),
}
_KIND_OF = {method: kind for kind, methods in KINDS.items() for method in methods}


class MeteredBackend:
    """Wraps a backend; `seconds` by kind."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._inside = False
        self.seconds: dict[str, float] = defaultdict(float)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return self._metered(_KIND_OF[name], found) if name in _KIND_OF else found

    def _metered(self, kind: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self._inside:
                return method(*args, **more)
            self._inside, start = True, time.process_time()
            try:
                return method(*args, **more)
            finally:
                self.seconds[kind] += time.process_time() - start
                self._inside = False

        return call
