"""kill −9 at every step between a counter and its proof: budgets hold, nothing random is used twice, the run is finished.

Each life of the prover is a real process killed by SIGKILL (tests/crash/worker.py); the next one continues. `make test` has one run
that dies a dozen times; `-m attacks` kills at every moment of every kind of task, rotated copies included.
"""

import json
import multiprocessing
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.statement import task_list
from storage.errors import BudgetExhausted
from tests.crash.worker import KEY, PROFILE, live

Live = Callable[..., int]
# (moment, at which of its occurrences in that life)
DEATHS = (
    ("after plan", 1), ("before spend", 1), ("after spend", 1), ("after positions", 2), ("before object", 2), ("after object", 2),
    ("after window", 1), ("before proof row", 1), ("after proof row", 2), ("after spend", 3), ("after positions", 2), ("before object", 1),
)
MOMENTS = ("statement row", "spend", "object", "proof row", "checkpoint", "window", "secret", "plan", "commitment row")


@pytest.fixture(scope="module")
def process() -> Live:
    """Run one life in a process of its own, forked from a server that has everything imported; its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.crash.worker"])

    def run(folder: Path, moment: str = "", number: int = 0) -> int:
        child = context.Process(target=live, args=(folder, moment, number))
        child.start()
        child.join(120)
        assert child.exitcode is not None, "a life that does not end"
        return child.exitcode

    return run


class Remains:
    """What lives have left in a folder."""

    def __init__(self, folder: Path) -> None:
        from tasks.plan import planned
        from tests.tasks.toy_run import stores

        context = planned(stores(folder), KEY)
        assert context is not None
        self.context, self.record = context, context.stores.ledger.record(context.run_id)
        self.notes: list[dict[str, Any]] = [json.loads(line) for line in (folder / "fingerprints").read_text().splitlines()]

    def check_budgets(self) -> Counter[str]:
        """Slots are consecutive and within the budget recorded; the number spent by commitment name."""
        slots: dict[str, list[int]] = defaultdict(list)
        for row in self.record.openings:
            slots[row.commitment_id].append(row.slot)
        spent: Counter[str] = Counter()
        for row in self.record.commitments:
            found = sorted(slots.pop(row.commitment_id, []))
            assert found == list(range(len(found))) and row.budget is not None and len(found) <= row.budget, row.name
            spent[f"{row.name}@{row.window}"] = len(found)
        assert not slots
        return spent

    def check_counted_before_drawn(self) -> None:
        """Every attempt that drew positions has its rows: one for each commitment that its statement names."""
        attempts = Counter(note["attempt"] for note in self.notes if "attempt" in note)
        draws = sum("positions" in note for note in self.notes)
        complete = Counter((row.statement_id, row.attempt) for row in self.record.openings)
        sizes = {s.statement_id: len(json.loads(s.content)["commitments"]) for s in self.record.statements}
        counted = sum(rows == sizes[statement] for (statement, _), rows in complete.items())
        assert draws <= counted <= sum(attempts.values())

    def check_nothing_is_shared(self) -> int:
        """A seed makes one commitment or one attempt, and no word comes from two streams; the number of words compared."""
        use: dict[str, set[str]] = defaultdict(set)
        source: dict[int, tuple[str, str]] = {}
        attempts: Counter[str] = Counter()
        for note in self.notes:
            if "root" in note:
                use[note["seed"]].add(note["root"])
            if "attempt" in note:
                attempts[note["seed"]] += 1
                use[note["seed"]].add("attempt")
            for word in note.get("words", ()):
                assert source.setdefault(word, (note["seed"], note["label"])) == (note["seed"], note["label"])
        assert all(len(uses) == 1 for uses in use.values()) and set(attempts.values()) <= {1}
        return len(source)

    def check_finished(self) -> None:
        assert len(self.record.proofs) == len(task_list(self.context.manifest)) == len({p.object_digest for p in self.record.proofs})

    def check(self) -> Counter[str]:
        self.check_counted_before_drawn()
        assert self.check_nothing_is_shared() > 1000
        return self.check_budgets()


def test_a_run_that_dies_a_dozen_times(process: Live, tmp_path: Path) -> None:
    for moment, number in DEATHS:
        assert process(tmp_path, moment, number) == -signal.SIGKILL, moment
    assert process(tmp_path) == 0
    remains = Remains(tmp_path)
    spent = remains.check()
    remains.check_finished()
    kinds = {row.statement_id: row.kind for row in remains.record.statements}
    tries = Counter(statement for statement, _ in {(row.statement_id, row.attempt) for row in remains.record.openings})
    assert {"range", "embed", "head", "rotate"} <= {kinds[statement] for statement, count in tries.items() if count > 1}  # where it died
    assert remains.context.manifest.profile == PROFILE and {"base/0@1", "dataset@1", "embedding@1", "head@1"} <= spent.keys()
    before = remains.record
    assert process(tmp_path) == 0 and Remains(tmp_path).record == before  # nothing is added


def test_dying_between_counter_and_proof_ends_at_the_budget(process: Live, tmp_path: Path) -> None:
    """Whoever kills the prover after each draw of positions gets no more draws than the blinding allows."""
    assert process(tmp_path, "before spend", 1) == -signal.SIGKILL
    budget = next(row.budget for row in Remains(tmp_path).record.commitments if row.name == "base/0")  # opened by the first task
    assert budget is not None
    for _ in range(budget):
        assert process(tmp_path, "after positions", 1) == -signal.SIGKILL
    assert process(tmp_path, "after positions", 1) == 1  # refused, with an exception
    remains = Remains(tmp_path)
    assert max(remains.check().values()) == budget and not remains.record.proofs
    with pytest.raises(BudgetExhausted):
        row = next(r for r in remains.record.commitments if r.commitment_id == remains.record.openings[0].commitment_id)
        remains.context.stores.ledger.spend_opening(row.commitment_id, row.budget, remains.record.statements[0].statement_id, "one more")


def test_the_checks_see_what_they_look_for(process: Live, tmp_path: Path) -> None:
    """Controls: a seed used for two attempts, a word in two streams, positions drawn without a row."""
    assert process(tmp_path, "after proof row", 2) == -signal.SIGKILL
    remains = Remains(tmp_path)
    remains.check()
    attempt = next(n for n in remains.notes if "attempt" in n)
    words = next(n for n in remains.notes if "words" in n)
    for note, check in (
        (attempt, remains.check_nothing_is_shared), ({**words, "label": "other"}, remains.check_nothing_is_shared),
        ({"positions": "x"}, remains.check_counted_before_drawn),
        ({"seed": attempt["seed"], "root": "00"}, remains.check_nothing_is_shared),
    ):
        remains.notes.append(note)
        with pytest.raises(AssertionError):
            check()
        remains.notes.pop()


@pytest.mark.attacks
@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment(process: Live, tmp_path: Path, moment: str, side: str) -> None:
    """Die at the 1st, 2nd, 3rd … occurrence, each life going on where the last one ended, as far as spare openings reach."""
    deaths = 0
    for number in (1, 2, 3, 5, 8):
        code = process(tmp_path, f"{side} {moment}", number)
        deaths += code == -signal.SIGKILL
        if code == 0:
            break
        assert code == -signal.SIGKILL
    code = process(tmp_path)
    remains = Remains(tmp_path)
    remains.check()
    assert deaths and code == 0
    remains.check_finished()
