"""What is left of a run: statements that can be proved now, taken by several provers without two of them doing the same.

    recorded windows → their statements − proofs in the ledger = left;   left ∩ held by nobody → claimed

The ledger alone says what is done; who works on what is known by locks that die with their process (storage/holding.py), so a killed
prover's statement is free at once. One that is held for `patience` seconds without a proof (a process that hangs, a machine that
sleeps) is taken over by one other prover, which holds its next place: both attempts have seeds and openings of their own, and one proof
is recorded, whoever is first. Were it taken over by all that wait, spare openings would be used up. Clocks are monotonic, so one that
is set does not matter. Called by flows/.
"""

import contextlib
import hashlib
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator

from protocol.statement import Task
from storage.holding import holding
from tasks import telemetry
from tasks.context import RunContext
from tasks.train import window_names

Statement = tuple[str, Task]
PLACES = 3  # provers at one statement at the same time, all but the last of them stuck


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
        if self.recorded < windows and self._is_recorded(self.recorded):  # in order, so a new process need not ask for every window
            self.recorded = bisect_left(range(windows), True, lo=self.recorded + 1, key=lambda window: not self._is_recorded(window))
        self.proved = self.context.stores.ledger.proved(self.context.run_id)
        telemetry.left(self.context.run_id, len(self.left))

    def _is_recorded(self, window: int) -> bool:
        """Rows of a window are appended in this order, so its last one stands for all."""
        return self.context.recorded(window_names(self.context, window)[-1]) is not None

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

    def claims(self, patience: float, go_on: Callable[[], bool]) -> Generator[Statement, None, None]:
        """Claimed statements, one after the other, as long as `go_on()` and something can be claimed; held while the caller works."""
        stores, found = self.context.stores, True
        while found and go_on():
            self.refresh()
            found = False
            for identity, task in self.left:
                if not go_on():
                    return
                with self._place(identity, patience) as place:
                    if place is None or stores.ledger.proof(identity) is not None:
                        continue
                    found = True
                    if place:
                        telemetry.taken_over(self.context, task)
                    yield identity, task

    @contextlib.contextmanager
    def _place(self, identity: str, patience: float) -> Iterator[int | None]:
        """Hold a statement's first place that is free, if every place before it was held for too long; its number, or None."""
        stores = self.context.stores
        for place in range(PLACES):
            key = hashlib.sha256(f"{identity}/{place}".encode()).hexdigest() if place else identity
            with holding(stores.private, stores.ledger, key) as mine:
                if mine:
                    self._first_seen.pop(key, None)
                    yield place
                    return
            if time.monotonic() - self._first_seen.setdefault(key, time.monotonic()) <= patience:
                break
        yield None
