"""What is left of a run: statements that can be proved now, taken by several provers without two of them doing the same.

    recorded windows → their statements − proofs in the ledger = left;   left ∩ held by nobody → claimed

The ledger alone says what is done; who works on what is known by locks that die with their process (storage/holding.py), so a killed
prover's statement is free at once. One that is held for `patience` seconds without a proof (a process that hangs, a machine that
sleeps) is taken over: both attempts have seeds and openings of their own, and one proof is recorded, whoever is first. Clocks are
monotonic, so one that is set does not matter. Called by flows/.
"""

import time
from collections.abc import Callable, Iterator

from protocol.statement import Task
from storage.holding import holding
from tasks.context import RunContext
from tasks.train import window_names

Statement = tuple[str, Task]


class Backlog:
    """One run's statements, read anew from the ledger by `refresh`."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.recorded = 0  # windows whose commitments are all in the ledger
        self.proved: set[str] = set()
        self._first_seen: dict[str, float] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read how far the run is."""
        windows = len(self.context.manifest.windows())
        while self.recorded < windows and self.context.recorded(window_names(self.context, self.recorded)[-1]):
            self.recorded += 1  # rows of a window are appended in this order, so its last one stands for all
        self.proved = self.context.stores.ledger.proved(self.context.run_id)

    @property
    def left(self) -> list[Statement]:
        """Statements of recorded windows that have no proof, in order."""
        return [(i, t) for i, t in self.context.statements.items() if t.window < self.recorded and i not in self.proved]

    @property
    def finished(self) -> bool:
        """Every statement of the run has its proof."""
        return len(self.proved) >= len(self.context.statements)

    @property
    def behind(self) -> int:
        """Recorded windows with a statement that is left."""
        return len({task.window for _, task in self.left if task.window >= 0})

    def claims(self, patience: float, go_on: Callable[[], bool]) -> Iterator[Statement]:
        """Claimed statements, one after the other, as long as `go_on()` and something can be claimed; held while the caller works."""
        stores, found = self.context.stores, True
        while found and go_on():
            self.refresh()
            found = False
            for identity, task in self.left:
                if not go_on():
                    return
                with holding(stores.private, stores.ledger, identity) as mine:
                    if not mine and not self._held_too_long(identity, patience):
                        continue
                    if stores.ledger.proof(identity) is not None:
                        continue
                    found = True
                    yield identity, task

    def _held_too_long(self, identity: str, patience: float) -> bool:
        return time.monotonic() - self._first_seen.setdefault(identity, time.monotonic()) > patience
