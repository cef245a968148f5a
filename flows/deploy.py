"""Setting up a Prefect server for audited runs: work pools, queues by priority, the watch for silent workers, then `prefect deploy --all`.

What exists already is left or updated, so deploying again is how to upgrade. Called by `verilora deploy`.
"""

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prefect import __version__ as installed
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from flows.config import EMBEDDED, RunConfig
from prover.backend.memory import SHARES

PREFECT_YAML = Path(__file__).resolve().parent.parent / "prefect.yaml"
POOLS = {"trainers": "trains audited runs", "gpu-provers": "proves their tasks", "verifiers": "verifies finished runs"}
PRIORITIES = {"high": 1, "normal": 2, "low": 3}
WATCH = "verilora: silent flow runs have crashed"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
_SILENCE = timedelta(seconds=120)


class DeployError(Exception):
    """A server or a run.yaml that cannot be deployed to or from: what to do."""


@dataclass(frozen=True)
class Deployed:
    """What the server has now; `warnings` are things that will not work as they are."""

    server: str
    pools: list[str]
    deployments: list[str]
    warnings: list[str]


def deploy(run_yaml: Path, config: RunConfig) -> Deployed:
    """Make the pools and deploy prefect.yaml with this run.yaml as the flows' parameter."""
    if not PREFECT_YAML.is_file():
        raise DeployError(f"{PREFECT_YAML} is missing: run `verilora deploy` from a checkout of the repository")
    with get_client(sync_client=True) as client:
        _same_version(client)
        for name, what in POOLS.items():
            _pool(client, name, what)
        _watch(client)
    environment = os.environ | {"VERILORA_CONFIG": str(run_yaml.resolve())}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", PREFECT_YAML.name]
    done = subprocess.run(command, cwd=PREFECT_YAML.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeployError(f"prefect deploy failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    with get_client(sync_client=True) as client:
        found = sorted(f"{client.read_flow(d.flow_id).name}/{d.name}" for d in client.read_deployments())
    return Deployed(os.environ.get("PREFECT_API_URL", ""), sorted(POOLS), found, warnings(config))


def slot(client: SyncPrefectClient, host: str, gpu: int, processes: int) -> str:
    """The name of a GPU's concurrency limit: so many shifts at a time use it, each with an equal share of its memory. Made if it is
    absent, changed if nobody uses it; DeployError if somebody does, whose share would be another one."""
    name = f"gpu:{host}:{gpu}"
    found = slots(client, name)
    if found and found.limit != processes and found.active_slots:
        raise DeployError(
            f"GPU {gpu} of {host} is divided among {found.limit} processes, {found.active_slots} of them at work, and would be among "
            f"{processes}: end the other worker first (one that was killed counts for a minute), or give both the same number "
            f"(--processes, {SHARES})"
        )
    with contextlib.suppress(ObjectAlreadyExists):  # another worker of this GPU has just made it
        client.upsert_global_concurrency_limit_by_name(name, processes)
    return name


def slots(client: SyncPrefectClient, name: str) -> GlobalConcurrencyLimitResponse | None:
    """A concurrency limit as the server has it."""
    try:
        return client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return None


def warnings(config: RunConfig) -> list[str]:
    """What keeps other machines from taking part."""
    found = []
    if config.orchestration.provers == EMBEDDED:
        found.append(f"orchestration.provers is {EMBEDDED}: the fine-tune will prove in its own process; gpu-provers uses the pool")
    local = [key for key, url in (("ledger", config.ledger_url), ("objects", config.objects_url), ("private", config.private_url))
             if url.startswith(("sqlite:", "file:"))]
    if local:
        found.append(f"storage.{', storage.'.join(local)}: on this machine's disk, so workers must run on this machine")
    if urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname in ("127.0.0.1", "localhost", "::1") and not local:
        found.append("PREFECT_API_URL is this machine's loopback address: other machines need another one")
    return found


def _same_version(client: SyncPrefectClient) -> None:
    try:
        running = client.api_version()
    except httpx.HTTPError as error:
        raise DeployError(
            f"no Prefect server answers at {client.api_url} ({type(error).__name__}): start one with `prefect server start`, and set "
            "PREFECT_API_URL"
        ) from None
    if running.split(".")[:2] != installed.split(".")[:2]:
        raise DeployError(f"the Prefect server is {running}, this program has {installed}: use the same minor version on both sides")


def _pool(client: SyncPrefectClient, name: str, what: str) -> None:
    try:
        pool = client.read_work_pool(name)
        if pool.type != "process":
            raise DeployError(f"work pool {name!r} is of type {pool.type}, not process: delete it or rename it")
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=what))
    queues = {queue.name: queue for queue in client.read_work_queues(work_pool_name=name)}
    for queue, priority in PRIORITIES.items():
        if queue not in queues:
            client.create_work_queue(name=queue, work_pool_name=name, priority=priority)
        elif queues[queue].priority != priority:
            client.update_work_queue(queues[queue].id, priority=priority)


def _watch(client: SyncPrefectClient) -> None:
    """Flow runs whose heartbeat stops count as crashed: their machine or their worker is gone."""
    if client.read_automations_by_name(WATCH):
        return
    trigger = EventTrigger(
        after={_HEARTBEAT}, expect={_HEARTBEAT, *_ENDS}, match={"prefect.resource.id": ["prefect.flow-run.*"]},  # type: ignore[arg-type]
        for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=_SILENCE,
    )
    crash = ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process, worker or machine is gone")
    client.create_automation(AutomationCore(name=WATCH, trigger=trigger, actions=[crash]))
