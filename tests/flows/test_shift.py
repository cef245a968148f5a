"""A shift begins with a statement of the machine's own (prover/rehearsal.py), before it claims anything."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flows.prove as shift
from protocol.params import profile
from prover.backend import select
from tasks.context import RunError


class Claimed(Exception):
    """The shift came to its first claim."""


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """This machine's, in a shift of a run whose backlog says when it is asked for a statement."""
    found = select("cpu")

    def claims(*_: Any) -> Any:
        raise Claimed

    context = SimpleNamespace(backend=found, params=profile("goldilocks-2^10"))
    backlog = SimpleNamespace(context=context, finished=False, left=1, claims=claims)
    session = SimpleNamespace(
        stopped=threading.Event(), join=lambda run: None, config=SimpleNamespace(orchestration=SimpleNamespace(patience=1.0)))
    monkeypatch.setattr(shift, "open_session", lambda path: session)
    monkeypatch.setattr(shift, "Backlog", lambda context: backlog)
    return found


def test_a_machine_that_proves_wrongly_claims_nothing(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = backend.hash_rows
    monkeypatch.setattr(backend, "hash_rows", lambda *given: np.bitwise_xor(right(*given), np.uint8(1)))
    with pytest.raises(RunError, match="small statement made on this machine does not verify"):
        shift.prove.fn("run.yaml", "run")


def test_one_that_is_right_does(backend: Any) -> None:
    with pytest.raises(Claimed):
        shift.prove.fn("run.yaml", "run")
