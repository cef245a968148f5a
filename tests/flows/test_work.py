"""What is tried again, and what ends a run at once."""

import pytest

import flows.work as work
from storage.errors import IntegrityError, LedgerUnavailable, StoreFull, StoreUnavailable
from tasks.context import RunError

PASSING = (LedgerUnavailable("away"), StoreUnavailable("slow"), ConnectionError("reset"), TimeoutError("late"))
LASTING = (StoreFull("no space left"), IntegrityError("another hash"), RunError("stopped"), ValueError("wrong"))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(work.time, "sleep", found.append)
    return found


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_fault_that_may_pass_is_tried_again_within_limits(error: Exception, pauses: list[float]) -> None:
    faults = [error] * len(work.RETRY_DELAYS)

    def fails() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert work.is_transient(error) and work.patiently(fails) == "done" and pauses == work.RETRY_DELAYS
    faults = [error] * 99
    with pytest.raises(type(error)):
        work.patiently(fails)
    assert pauses == 2 * work.RETRY_DELAYS and len(faults) == 99 - len(work.RETRY_DELAYS) - 1


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_a_fault_that_lasts_is_not(error: Exception, pauses: list[float]) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        work.patiently(fails)
    assert not work.is_transient(error) and pauses == []
