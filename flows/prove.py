"""A shift of one prover: claim and prove statement after statement of a run, while there is something to do (deployments `prove/POOL`).

The process that trains keeps shifts in the pool (flows/crew.py); any number of workers may take one. A shift begins with a small statement
of its own (prover/rehearsal.py): a machine that proves it wrongly gets no task. It ends when nothing is left, when the next window is long
in coming, or after SHIFT_SECONDS, so that a more urgent run gets the worker. While others hold all that is left it stays as long as it
takes until a stuck one's statement is its own. A shift whose GPU fails, or is not there, ends as a killed one does: others go on, and five
in a row without a proof end the run (flows/crew.py). As many shifts at a time use a GPU as its memory is divided among: VERILORA_SLOT, set
by `verilora worker --gpu N --processes K`, names a concurrency limit of K on the Prefect server.
"""

import contextlib
import os
import time
from collections.abc import Iterator

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Crashed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.deploy import slots
from flows.session import open_session
from flows.work import patiently
from flows.work import prove as prove_task
from prover.backend.base import Backend
from prover.backend.memory import SHARES, shares
from tasks.backlog import Backlog
from tasks.context import RunError
from tasks.gpu_fault import GpuFailed
from tasks.prove import rehearse_here
from tasks.telemetry import shift

SHIFT_SECONDS = 600.0
IDLE_SECONDS = 30.0
POLL_SECONDS = 1.0
REST_SECONDS = 60.0  # of a worker whose GPU fails: were it at once in the next shift, it would end a run on which others work well
LEASE_SECONDS = 60.0  # how long the slot of a worker that is gone stays taken


@flow(name="prove", task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False, validate_parameters=False)
def prove(config_path: str, run: str) -> int | State:
    """Prove what can be proved of a run; the number of proofs. run.yaml says where ledger and stores are."""
    try:
        return _shift(config_path, run)
    except GpuFailed as failed:
        ended = Crashed(message=str(failed))
    time.sleep(REST_SECONDS)
    return ended


def _shift(config_path: str, run: str) -> int:
    session = patiently(lambda: open_session(config_path))
    session.stopped.clear()
    backlog, proofs, patience = patiently(lambda: Backlog(session.join(run))), 0, session.config.orchestration.patience
    end = time.monotonic() + SHIFT_SECONDS
    _given_gpu(backlog.context.backend)
    with _slot(), shift():
        rehearse_here(backlog.context)
        idle_since = time.monotonic()

        def more() -> bool:
            idle = time.monotonic() - idle_since
            if idle < IDLE_SECONDS:
                return time.monotonic() < end
            return idle < patience + 2 * IDLE_SECONDS and bool(backlog.left)

        while not backlog.finished and more():
            with contextlib.closing(backlog.claims(patience, more)) as claims:  # whatever happens, what it holds is free then
                while (claim := patiently(lambda claims=claims: next(claims, None))) is not None:  # type: ignore[misc]
                    prove_task(config_path, claim[0], str(claim[1]))
                    proofs += 1
                    idle_since = time.monotonic()
            time.sleep(0 if backlog.finished else POLL_SECONDS)
    return proofs


def _given_gpu(backend: Backend) -> None:
    """GpuFailed if this worker was given a GPU that is not there: it would prove with the host's cores and memory, for which nobody
    planned."""
    name = os.environ.get("VERILORA_SLOT", "")
    if name and backend.name != "cuda":
        raise GpuFailed(f"this worker was given {name} (`verilora worker --gpu`), and finds no CUDA device there, or no CuPy: `nvidia-smi` "
                        "lists the devices that there are, and the system's log (`dmesg`, Xid) says what became of others")


@contextlib.contextmanager
def _slot() -> Iterator[None]:
    name = os.environ.get("VERILORA_SLOT", "")
    if not name:
        yield
        return
    with concurrency(name, occupy=1, lease_duration=LEASE_SECONDS, strict=True):
        patiently(lambda: _same_shares(name))
        yield


def _same_shares(name: str) -> None:
    """RunError if the GPU was divided anew since this worker was started: it would take more than is its own."""
    with get_client(sync_client=True) as client:
        found = slots(client, name)
    if found is not None and found.limit != shares():
        raise RunError(
            f"{name} is divided among {found.limit} processes since another worker was started, and this one takes one of {shares()} "
            f"shares: end both, and start them with the same number (--processes, {SHARES})"
        )
