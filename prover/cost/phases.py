"""One proof with the time of each of its phases, through the interfaces that the schedule calls, so for any backend.

    witness      pads, multiplicities, rows, codewords, leaves and levels of the witness tree
    tree         the tree of fractions: leaves, levels, rounds
    claims       factors of products and one-hot rows folded to tables
    products     rounds on these tables
    opening      the weights of all claims on committed cells, rounds on these, masked rows, columns
    schedule     everything else: counting pads, affine forms, transcript, what a verifier computes too

Called by rates.py and by benchmarks/gpu.py.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from protocol.params import Params
from protocol.relation.graph import IntArray
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from prover.argument.counting import count
from prover.argument.finish import FinishingChannel, FinishingProver
from prover.argument.prove import TaskProverImpl
from prover.backend.base import Backend
from prover.backend.talk import Talk
from prover.commitment.commit import CommitmentData

Clock = Callable[[], float]
_PARTS = {
    "tree": dict.fromkeys(("root", "descend", "round", "bind", "finish", "ends"), "tree"),
    "batch": dict.fromkeys(("begin", "round", "bind", "finish", "ends"), "products"),
    "opening": dict.fromkeys(("begin", "round", "bind", "finish", "ends", "sigma", "masked_rows", "open"), "opening"),
}


class _Timed:
    """Another object whose named methods are timed."""

    def __init__(self, inner: Any, phases: Mapping[str, str], seconds: Counter[str], clock: Clock) -> None:
        self.inner, self.phases, self.seconds, self.clock = inner, phases, seconds, clock

    def __getattr__(self, name: str) -> Any:
        found, phase = getattr(self.inner, name), self.phases.get(name)
        if phase is None:
            return found

        def call(*arguments: Any) -> Any:
            start = self.clock()
            try:
                return found(*arguments)
            finally:
                self.seconds[phase] += self.clock() - start

        return call


class _TimedRounds(_Timed, FinishingProver):
    """A sub-prover, which finishes its rounds if the channel lets it."""

    def can_finish(self) -> bool:
        return bool(self.inner.can_finish())

    def finish(self, talk: Talk) -> None:
        self.__getattr__("finish")(talk)


class _TimedTask(_Timed):
    """A TaskProver and its three sub-provers, of which the tree is another one for each of the task's trees."""

    def __init__(self, inner: TaskProverImpl, seconds: Counter[str], clock: Clock) -> None:
        super().__init__(inner, {"start_tree": "tree", "claim": "claims", "triples": "schedule"}, seconds, clock)
        self.batch, self.opening = self._part("batch"), self._part("opening")

    @property
    def tree(self) -> _TimedRounds:
        return self._part("tree")

    def _part(self, name: str) -> _TimedRounds:
        return _TimedRounds(getattr(self.inner, name), _PARTS[name], self.seconds, self.clock)


def timed_proof(
    backend: Backend, shape: TaskShape, statement: bytes, inputs: Sequence[tuple[str, CommitmentData]], values: Iterable[Any],
    published: Mapping[str, IntArray], params: Params, seed: bytes, clock: Clock = time.perf_counter,
) -> tuple[bytes, dict[str, float]]:
    """As prove_task, with the seconds of each phase; no opening is counted."""
    start, seconds = clock(), Counter[str]()
    count(shape)
    counted = clock()
    inner = TaskProverImpl(backend, shape, inputs, shape.witness_layout(params), values, seed, lambda: None)
    seconds["witness"] = clock() - counted
    channel = FinishingChannel(backend.field, inner.pads, inner.tails)
    commitments = [Committed(role, data.layout, data.root) for role, data in inputs]
    run_task(channel, shape, statement, commitments, params, published, _TimedTask(inner, seconds, clock))  # type: ignore[arg-type]
    seconds["schedule"] += clock() - start - sum(seconds.values())
    return bytes(channel.proof), dict(seconds)
