"""Crews on their own: what is submitted and started, when training waits, and when a pool counts as unable to go on."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

import flows.crew as crew
from flows.config import OrchestrationConfig
from flows.session import Session
from tasks.backlog import Backlog
from tasks.context import RunError


class FakeBacklog:
    """Statements (window, number) of recorded windows; `prove` says that one has its proof."""

    def __init__(self, windows: int, each: int = 2) -> None:
        self.all = {f"{w}/{n}": SimpleNamespace(window=w) for w in range(-1, windows) for n in range(each)}
        self.trained = self.recorded = 0
        self.proved, self.context = set[str](), SimpleNamespace(run_id="ab" * 16, statements=self.all)

    def refresh(self) -> None:
        self.recorded = self.trained

    @property
    def left(self) -> list[tuple[str, Any]]:
        return [(i, t) for i, t in self.all.items() if t.window < self.recorded and i not in self.proved]

    @property
    def behind(self) -> int:
        return len({t.window for _, t in self.left if t.window >= 0})

    @property
    def finished(self) -> bool:
        return len(self.proved) == len(self.all)


def session(**settings: Any) -> Session:
    config = SimpleNamespace(orchestration=OrchestrationConfig(provers="gpu-provers", **settings))
    return cast(Session, SimpleNamespace(config=config, proved=lambda *_: None, stopped=SimpleNamespace(set=lambda: None)))


def test_training_waits_for_windows_that_are_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    backlog, done = FakeBacklog(4), list[str]()

    def submit(path: str, identity: str, label: str) -> Any:
        return SimpleNamespace(result=lambda: done.append(identity))

    monkeypatch.setattr(crew, "prove", SimpleNamespace(submit=submit))
    threads = crew.Threads(session(), "run.yaml", cast(Backlog, backlog))
    threads.offer()
    threads.wait(2)
    assert done == []  # nothing is behind: range tasks are no window
    for window in range(3):
        backlog.trained = window + 1
        threads.offer()
        threads.offer()  # nothing twice
    threads.wait(2)
    assert done == ["-1/0", "-1/1", "0/0", "0/1"]
    threads.wait(0)
    assert [identity for identity in done if identity >= "0"] == ["0/0", "0/1", "1/0", "1/1", "2/0", "2/1"]
    backlog.proved |= set(done)
    backlog.all["-1/9"] = SimpleNamespace(window=-1)
    threads.offer()
    threads.wait(0)
    assert "-1/9" not in done
    threads.finish()
    assert len(done) == len(set(done)) == 9


def test_what_a_proof_raises_reaches_the_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RunError("no")

    monkeypatch.setattr(crew, "prove", SimpleNamespace(submit=lambda *_: SimpleNamespace(result=fails)))
    threads = crew.Threads(session(), "run.yaml", cast(Backlog, FakeBacklog(1)))
    threads.offer()
    with pytest.raises(RunError, match="no"):
        threads.finish()


class Server:
    """A Prefect server as far as a crew sees it."""

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.workers, self.cancelled = 2, list[Any]()
        self.fault: Exception | None = None
        self.at_sleep = lambda: None
        self.clock = 0.0

    def start(self, name: str, parameters: dict[str, str], timeout: int, tags: list[str], work_queue_name: str) -> None:
        assert (name, timeout, work_queue_name) == ("prove/gpu-provers", 0, "normal") and parameters["run"] in tags[0]
        self.runs.append(SimpleNamespace(id=uuid4(), name="shift", state_type=StateType.SCHEDULED, state_name="Scheduled", state=None))

    def end(self, kind: StateType, message: str = "") -> None:
        run = next(r for r in self.runs if r.state_type not in crew.ENDED)
        run.state_type, run.state_name, run.state = kind, kind.name.title(), SimpleNamespace(message=message)

    @property
    def alive(self) -> int:
        return sum(r.state_type not in crew.ENDED for r in self.runs)

    def read_flow_runs(self, **_: Any) -> list[Any]:
        if self.fault:
            raise self.fault
        return list(self.runs)

    def read_workers_for_work_pool(self, name: str, _: Any) -> list[int]:
        return list(range(self.workers))

    def set_flow_run_state(self, identity: Any, state: Any) -> None:
        self.cancelled.append(state.type)
        run = next(r for r in self.runs if r.id == identity)
        run.state_type, run.state_name = state.type, state.name


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()

    def sleep(seconds: float) -> None:
        made.clock += seconds
        made.at_sleep()

    monkeypatch.setattr(crew, "get_client", lambda sync_client: contextlib.nullcontext(made))
    monkeypatch.setattr(crew, "run_deployment", made.start)
    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: made.clock, sleep=sleep))
    yield made


def pool(backlog: FakeBacklog, **settings: Any) -> crew.Pool:
    return crew.Pool(session(**settings), "run.yaml", cast(Backlog, backlog))


def test_a_shift_for_every_worker_and_never_more_than_statements(server: Server) -> None:
    backlog = FakeBacklog(2)
    made = pool(backlog)
    for _ in range(3):
        made.offer()
    assert server.alive == 2  # two workers
    server.workers = 8
    made.offer()
    assert server.alive == 2  # two statements are left
    backlog.trained = 1
    made.offer()
    assert server.alive == 4
    server.workers = 0
    server.runs.clear()
    made.offer()
    assert server.alive == 1  # for the first worker that comes
    limited = pool(FakeBacklog(1, each=9), workers=3)
    server.runs.clear()
    server.workers = 9
    limited.offer()
    assert server.alive == 3


def test_shifts_that_die_are_followed_by_others_until_there_is_no_sense_in_it(server: Server) -> None:
    backlog = FakeBacklog(1, each=9)
    made = pool(backlog)
    for turn in range(3 * crew.DEATHS):
        made.offer()
        assert server.alive == 2
        server.end(StateType.CRASHED, "killed")
        if turn % 2:
            backlog.proved.add(backlog.left[0][0])  # as long as something is proved in between
            backlog.all[f"-1/{turn + 9}"] = SimpleNamespace(window=-1)
    with pytest.raises(RunError, match="ended as Crashed: killed"):
        for _ in range(crew.DEATHS - 1):  # two have died since the last proof
            made.offer()
            server.end(StateType.CRASHED, "killed")


def test_a_shift_that_fails_ends_the_run_with_its_message(server: Server) -> None:
    made = pool(FakeBacklog(1))
    made.offer()
    server.end(StateType.FAILED, "no space left")
    with pytest.raises(RunError, match="'gpu-provers' ended as Failed: no space left"):
        made.offer()
    pool(FakeBacklog(1)).offer()  # the next attempt at the run does not hold it against the pool


def test_a_pool_without_workers_is_named_after_a_while(server: Server) -> None:
    server.workers = 0
    made = pool(FakeBacklog(1), patience=10)
    with pytest.raises(RunError, match="verilora worker gpu-provers"):
        made.finish()
    assert crew.LEAST_WAIT < server.clock < crew.LEAST_WAIT + 10 and server.alive == 1


def test_long_training_is_not_taken_for_a_pool_that_sleeps(server: Server) -> None:
    backlog = FakeBacklog(1)
    made = pool(backlog, patience=10)
    made.offer()
    backlog.proved |= {"-1/0", "-1/1"}
    made.offer()
    server.end(StateType.COMPLETED), server.end(StateType.COMPLETED)
    server.clock += 3600  # a window is trained
    backlog.trained = 1
    made.offer()
    assert server.alive == 2


def test_shifts_that_hang_get_company(server: Server) -> None:
    made = pool(FakeBacklog(1), patience=10)
    made.offer()
    for run in server.runs:
        run.state_type = StateType.RUNNING
    server.clock += crew.LEAST_WAIT + 1
    made.offer()
    assert server.alive == 4


def test_a_server_that_is_away_for_a_while_does_no_harm(server: Server) -> None:
    backlog = FakeBacklog(1)
    made = pool(backlog, patience=10)
    made.offer()
    server.fault = httpx.ConnectError("refused")

    def back() -> None:
        if server.clock > 30:
            server.fault = None
            backlog.trained, backlog.proved = 1, set(backlog.all)

    server.at_sleep = back
    made.finish()
    server.at_sleep = lambda: None
    made = pool(FakeBacklog(1), patience=10)
    server.fault = httpx.ConnectError("refused")
    with pytest.raises(RunError, match="Prefect server does not answer .ConnectError.*start the server"):
        made.finish()
    made.dismiss()  # does not hide it


def test_what_is_missing_on_the_server_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ObjectNotFound(RuntimeError("404"))

    made = pool(FakeBacklog(1))
    monkeypatch.setattr(crew, "run_deployment", absent)
    with pytest.raises(RunError, match="no deployment 'prove/gpu-provers': run `verilora deploy`"):
        made.offer()
    monkeypatch.setattr(server, "read_workers_for_work_pool", absent)
    with pytest.raises(RunError, match="no work pool 'gpu-provers': run `verilora deploy`"):
        made.offer()


def test_dismissing_cancels_what_has_not_ended(server: Server) -> None:
    """A shift that no worker has taken is ended: no worker would ever do it."""
    server.workers = 3
    made = pool(FakeBacklog(1, each=9))
    made.offer()
    server.end(StateType.COMPLETED)
    server.runs[1].state_type = StateType.RUNNING
    made.dismiss()
    assert server.cancelled == [StateType.CANCELLING, StateType.CANCELLED]


def test_shifts_that_are_being_cancelled_are_not_waited_for(server: Server) -> None:
    """Their worker may be gone, and the same run was started again."""
    pool(FakeBacklog(1)).offer()
    for run in server.runs:
        run.state_type = StateType.CANCELLING
    again = pool(FakeBacklog(1))
    again.offer()
    assert [run.state_type for run in server.runs] == [StateType.CANCELLING] * 2 + [StateType.SCHEDULED] * 2
