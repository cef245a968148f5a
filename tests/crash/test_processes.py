"""Provers and servers as processes that are killed or stopped: their work is free or taken over, and a late original does no harm.

Each prover takes claims from the backlog of one toy run like a shift of flows/prove.py, in a process of its own (tests/crash/worker.py),
and writes down what it drew at random. Whole runs under a Prefect server are in test_cluster.py.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from examples.services import ROOT, left, tree
from flows.environment import SETTINGS
from flows.server import embedded
from storage.fsck import fsck
from tests.crash.test_kill import Remains
from tests.crash.worker import live, shift

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.crash.worker"])
Start = Callable[..., BaseProcess]

PARENT = """
import sys, time
from flows.environment import embed
from pathlib import Path
embed(Path(sys.argv[1]))
import flows.server as server
if sys.argv[2] == "starting":
    server._answers = lambda process, port: time.sleep(600)
with server.embedded() as ready:
    ready()
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process of its own; none outlives the test."""
    started: list[BaseProcess] = []

    def begin(target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = CONTEXT.Process(target=target, args=arguments)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


@pytest.fixture
def trained(tmp_path: Path, start: Start) -> Path:
    """A run whose windows are all trained; no statement of them is proved."""
    process = start(live, tmp_path, "", 0, True)
    process.join(60)
    assert process.exitcode == 0
    return tmp_path


def until(what: str, ready: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def whole(folder: Path) -> Remains:
    """Everything proved once, within budgets, nothing random used twice, nothing wrong in ledger and stores."""
    remains = Remains(folder)
    remains.check()
    remains.check_finished()
    stores = remains.context.stores
    assert not [item for item in fsck(stores.ledger, stores.objects, stores.log.keys().policy, lambda *_: None) if not item.harmless]
    return remains


def tries(remains: Remains) -> dict[str, int]:
    """Attempts by statement that had more than one."""
    attempts = {(row.statement_id, row.attempt) for row in remains.record.openings}
    statements = [statement for statement, _ in attempts]
    return {str(remains.context.statements[s]): statements.count(s) for s in statements if statements.count(s) > 1}


def stopped(process: BaseProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_what_a_killed_prover_held_is_free_and_what_a_stuck_one_holds_is_taken_over(trained: Path, start: Start) -> None:
    killed = start(shift, trained, 1000.0, "after positions", 2, signal.SIGKILL)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    stuck = start(shift, trained, 1000.0, "after positions", 2, signal.SIGSTOP)
    until("a prover stops in the middle of an attempt", lambda: stopped(stuck))
    patient = start(shift, trained, 1000.0)
    patient.join(120)
    left_over = set(Remains(trained).context.statements) - {row.statement_id for row in Remains(trained).record.proofs}
    assert patient.exitcode == 0 and len(left_over) == 1  # only what is held; the killed one's was free at once
    others = [start(shift, trained, 6.0) for _ in range(2)]
    for process in others:
        process.join(120)
        assert process.exitcode == 0
    before = whole(trained)
    assert os.kill(stuck.pid or 0, signal.SIGCONT) is None
    stuck.join(60)
    after = whole(trained)
    assert stuck.exitcode == 0 and after.record == before.record  # the late original adds nothing
    assert sorted(tries(after).values()) == [2, 2], tries(after)  # of two that could take over, one did


def test_provers_that_are_killed_at_random_moments(trained: Path, start: Start) -> None:
    """Two at a time, killed and replaced, until nothing is left."""
    deaths, running = list[int | None](), list[BaseProcess]()
    end = time.monotonic() + 100
    while time.monotonic() < end and (running or len(deaths) < 3):
        running = [process for process in running if process.is_alive()]
        if len(deaths) < 3 and len(running) == 2:
            time.sleep(0.3 + 0.2 * len(deaths))
            victim = running.pop(0)
            victim.kill()
            victim.join(60)
            deaths.append(victim.exitcode)
        while len(running) < 2 and len(deaths) < 3:
            running.append(start(shift, trained, 1000.0))
        time.sleep(0.05)
    assert -signal.SIGKILL in deaths  # a quick machine may have finished before the last of them
    last = start(shift, trained, 1000.0)
    last.join(100)
    assert last.exitcode == 0
    whole(trained)


@pytest.mark.parametrize("when", ["starting", pytest.param("serving", marks=pytest.mark.cluster)])
def test_no_embedded_server_outlives_its_parent(tmp_path: Path, when: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VERILORA_SERVICES": str(tmp_path)}
    environment.pop("PREFECT_API_URL", None)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), when], env=environment, stdout=subprocess.PIPE)
    try:
        if when == "serving" and parent.stdout:
            assert parent.stdout.readline() == b"ready\n"
        until("the server's process has started", lambda: len(tree(parent.pid)) > 1)
    finally:
        parent.kill()
        parent.wait()
    until("the server ends with its parent", lambda: not list(left(tmp_path)))


@pytest.mark.cluster
def test_a_server_that_was_stopped_while_it_started_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is refused ends a server that is still making its database."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in {**SETTINGS, "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    database = tmp_path / "prefect.db-wal"
    for size in (1, 10**6, 2 * 10**6):
        with embedded():
            until("its database grows", lambda size=size: database.exists() and database.stat().st_size >= size)  # type: ignore[misc]
    with embedded() as ready:
        ready()
        assert "PREFECT_API_URL" in os.environ
    assert "PREFECT_API_URL" not in os.environ
