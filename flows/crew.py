"""Who proves while a flow trains: threads of its own process, or workers of a Prefect work pool (orchestration.provers in run.yaml).

Both are given the same three orders:  offer (a window was recorded)   wait (until at most so many statements are left)   dismiss.

A pool's worker takes a *shift*: a run of the flow `prove` (flows/prove.py) that claims statement after statement from the ledger's
backlog. This process only keeps as many shifts in the pool as there are workers and statements, and looks at the ledger for progress:
a shift that dies is followed by another one, a pool that makes no progress ends the flow with what to do. Called by flows/finetune.py.
"""

import logging
import time
from typing import Protocol

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Cancelling

from flows.config import EMBEDDED
from flows.session import Session
from flows.work import patiently, prove
from tasks.backlog import Backlog
from tasks.context import RunError

POLL_SECONDS = 2.0
LEAST_WAIT = 120.0  # seconds without a proof that no pool is blamed for: a shift takes half a minute to start on a busy machine
DEATHS = 5  # shifts in a row that die, and waits in vain, without a proof between them
log = logging.getLogger(__name__)
ENDED = {StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}


class Crew(Protocol):
    """What a training flow needs of its provers."""

    def offer(self) -> None: ...

    def wait(self, behind: int) -> None: ...

    def finish(self) -> None: ...

    def dismiss(self) -> None: ...


def crew_of(session: Session, config_path: str, backlog: Backlog) -> Crew:
    """The crew that run.yaml asks for."""
    if session.config.orchestration.provers == EMBEDDED:
        return Threads(session, config_path, backlog)
    return Pool(session, config_path, backlog)


class Threads:
    """Proofs as Prefect tasks on the flow's own task runner."""

    def __init__(self, session: Session, config_path: str, backlog: Backlog) -> None:
        self.session, self.config_path, self.backlog = session, config_path, backlog
        self._futures: dict[str, tuple[int, PrefectFuture[str]]] = {}

    def offer(self) -> None:
        """Submit every statement that can be proved and was not submitted before."""
        patiently(self.backlog.refresh)
        for identity, task in self.backlog.left:
            if identity not in self._futures:
                self._futures[identity] = (task.window, prove.submit(self.config_path, identity, str(task)))

    def wait(self, behind: int) -> None:
        """Until statements of at most `behind` windows are left; raises what a proof raised."""
        while len({window for window, _ in self._futures.values() if window >= 0}) > behind:
            self._result()

    def finish(self) -> None:
        """Until every statement that was offered is proved; raises what a proof raised."""
        while self._futures:
            self._result()

    def _result(self) -> None:
        identity, (_, future) = next(iter(self._futures.items()))  # submitted first
        future.result()
        del self._futures[identity]

    def dismiss(self) -> None:
        """Queued proofs give up."""
        self.session.stopped.set()


class Pool:
    """Shifts in a work pool of the Prefect server."""

    def __init__(self, session: Session, config_path: str, backlog: Backlog) -> None:
        self.session, self.config_path, self.backlog = session, config_path, backlog
        self.settings = session.config.orchestration
        self.limit = max(float(self.settings.patience), LEAST_WAIT)
        self.tag = run_tag(backlog.context.run_id)
        self._known = set(backlog.proved)
        self._progress, self._deaths = time.monotonic(), 0
        with get_client(sync_client=True) as client:  # how the shifts of earlier attempts ended is history
            self._judged = {run.id for run in shifts(client, self.tag) if run.state_type in ENDED}

    def offer(self) -> None:
        """Have as many shifts in the pool as there are workers and statements; RunError if the pool cannot go on."""
        self._refresh()
        try:
            self._fill()
        except httpx.HTTPError as error:  # the shifts that there are go on without the server
            if time.monotonic() - self._progress > self.limit:
                raise RunError(
                    f"the Prefect server does not answer ({type(error).__name__}), and nothing has been proved for "
                    f"{self.limit:.0f} s: start the server, then start the same run again; it continues where it stopped"
                ) from None
            log.warning("the Prefect server does not answer: %s", type(error).__name__)

    def _fill(self) -> None:
        with get_client(sync_client=True) as client:
            found = shifts(client, self.tag)
            self._judge([run for run in found if run.state_type in ENDED and run.id not in self._judged])
            alive = [run for run in found if run.state_type not in ENDED | {StateType.CANCELLING}]  # which proves nothing more
            if time.monotonic() - self._progress > self.limit:
                self._in_vain(alive)
                alive = []  # shifts that have proved nothing for so long may be gone with their machines
            wanted = min(self._workers(client), self.settings.workers, len(self.backlog.left))
        for _ in range(wanted - len(alive)):
            self._start()

    def wait(self, behind: int) -> None:
        """Until statements of at most `behind` windows are left; RunError if the pool cannot go on."""
        while self.backlog.behind > behind:
            self._poll()

    def finish(self) -> None:
        """Until the whole run is proved; RunError if the pool cannot go on."""
        while not self.backlog.finished:
            self._poll()

    def _poll(self) -> None:
        self.offer()
        time.sleep(POLL_SECONDS)
        self._refresh()

    def dismiss(self) -> None:
        """Cancel this run's shifts, those that wait and those that work."""
        try:
            with get_client(sync_client=True) as client:
                cancel_shifts(client, self.tag)
        except httpx.HTTPError as error:  # must not hide why the run ends; shifts without work end by themselves
            log.warning("shifts could not be cancelled, the Prefect server does not answer: %s", type(error).__name__)

    def _refresh(self) -> None:
        idle = not self.backlog.left
        patiently(self.backlog.refresh)
        if idle:  # nobody could have proved anything
            self._progress = time.monotonic()
        for identity in self.backlog.proved - self._known:
            self._progress, self._deaths = time.monotonic(), 0
            self.session.proved(identity, str(self.backlog.context.statements.get(identity, "")))
        self._known = set(self.backlog.proved)

    def _judge(self, ended: list[FlowRun]) -> None:
        for run in ended:
            self._judged.add(run.id)
            if run.state_type == StateType.COMPLETED:
                continue
            self._deaths += 1
            what = run.state.message if run.state and run.state.message else "no message"
            log.warning("shift %s ended as %s: %s", run.name, run.state_name, what)
            if run.state_type == StateType.FAILED or self._deaths >= DEATHS:
                raise RunError(f"a prover of the pool {self.settings.provers!r} ended as {run.state_name}: {what}")

    def _in_vain(self, alive: list[FlowRun]) -> None:
        self._progress, self._deaths = time.monotonic(), self._deaths + 1
        if self._deaths >= DEATHS or not any(run.state_type == StateType.RUNNING for run in alive):
            raise RunError(
                f"no worker of the pool {self.settings.provers!r} has proved anything for {self.limit:.0f} s: start one with "
                f"`verilora worker {self.settings.provers}`, then start the same run again; it continues where it stopped"
            )

    def _workers(self, client: SyncPrefectClient) -> int:
        online = WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
        try:
            return max(1, len(client.read_workers_for_work_pool(self.settings.provers, online)))  # one shift waits for the first worker
        except ObjectNotFound:
            raise RunError(
                f"orchestration.provers: this Prefect server has no work pool {self.settings.provers!r}: run `verilora deploy`"
            ) from None

    def _start(self) -> None:
        parameters = {"config_path": self.config_path, "run": self.backlog.context.run_id}
        name = f"prove/{self.settings.provers}"
        try:
            run_deployment(name, parameters=parameters, timeout=0, tags=[self.tag], work_queue_name=self.settings.priority)
        except ObjectNotFound:
            raise RunError(f"this Prefect server has no deployment {name!r}: run `verilora deploy`") from None


def run_tag(run_id: str) -> str:
    """The tag of a run's shifts."""
    return f"verilora-run:{run_id}"


def shifts(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    """The newest shifts with this tag."""
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    return client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)


def cancel_shifts(client: SyncPrefectClient, tag: str) -> int:
    """Ask for the end of every shift with this tag that has not ended, and end those that no worker has taken yet, because none would;
    their number."""
    alive = [run for run in shifts(client, tag) if run.state_type not in ENDED]
    for run in alive:
        state = Cancelled if run.state_type == StateType.SCHEDULED else Cancelling
        client.set_flow_run_state(run.id, state(message="the run was stopped"))
    return len(alive)
