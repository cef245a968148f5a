"""`verilora deploy` and `verilora worker`: audited runs on a Prefect server, and the machines that work for it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Debug, Json
from cli.output import USAGE, complain, console, emit_json, errors, reporting

RESTART_SECONDS = (1, 5, 15, 60)  # pauses before a worker that ended by itself is started again; the last one repeats
STEADY_SECONDS = 120.0  # a worker that ran so long begins with the first pause again


def deploy(
    path: Annotated[Path, typer.Argument(metavar="RUN.YAML", help="What the deployments run; an absolute path on every machine.")],
    as_json: Json = False, debug: Debug = False,
) -> None:
    """Make work pools, queues and deployments on the Prefect server of PREFECT_API_URL. Again: upgrade them."""
    from flows.config import load_config
    from flows.environment import SETTINGS

    with reporting(debug):
        config = load_config(path)
        _needs_server()
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from flows.deploy import deploy as make

        done = make(path, config)
        if as_json:
            emit_json(asdict(done))
            return
        for name in done.deployments:
            _print(f"deployed {name}")
        for text in done.warnings:
            errors.print(f"[yellow]warning:[/] {text}", highlight=False, soft_wrap=True)
        _print(f"next, on the machines that work: {', '.join(f'verilora worker {name}' for name in done.pools)}")
        _print("then: prefect deployment run finetune/audited")


def worker(
    pool: Annotated[str, typer.Argument(metavar="POOL", help="trainers, gpu-provers or verifiers.")],
    gpu: Annotated[int | None, typer.Option("--gpu", min=0, help="Use this GPU alone, one task at a time.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Kernel threads of a task (default: all cores).")] = None,
    name: Annotated[str, typer.Option("--name", help="The worker's name on the server (default: host, pool and process).")] = "",
    metrics_port: Annotated[int | None, typer.Option(
        "--metrics-port", min=1, max=65535, help="Serve Prometheus metrics of this worker's tasks on loopback.")] = None,
    debug: Debug = False,
) -> None:
    """Work for a Prefect server: take tasks of a pool, one at a time, until interrupted. Started again if it ends by itself."""
    from flows.environment import SETTINGS

    with reporting(debug):
        _needs_server()
        from tasks.telemetry import log_format

        host = socket.gethostname()
        environment = {"VERILORA_LOG": log_format()} | SETTINGS | os.environ
        if threads is not None:
            environment |= {"VERILORA_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        if gpu is not None:
            from prefect.client.orchestration import get_client

            from flows.deploy import slot

            with get_client(sync_client=True) as client:
                environment |= {"CUDA_VISIBLE_DEVICES": str(gpu), "VERILORA_SLOT": slot(client, host, gpu)}
        label = name or f"{host}-{pool}-{os.getpid()}"
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", "1", "--name", label]
        if metrics_port is not None:
            from tasks.telemetry import serve_metrics

            environment |= serve_metrics(metrics_port)
        raise typer.Exit(_keep_running(command, environment))


def _keep_running(command: list[str], environment: dict[str, str]) -> int:
    """Run the worker until somebody stops it; what it is at work on is finished or cancelled by Prefect."""
    stopping = threading.Event()
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, _: Any) -> None:
        stopping.set()
        if process is not None:
            process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    failures = 0
    while not stopping.is_set():
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment)
        if stopping.is_set():  # while it was being started
            process.terminate()
        code = process.wait()
        if stopping.is_set():
            break
        failures = 0 if time.monotonic() - started > STEADY_SECONDS else failures
        pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
        failures += 1
        errors.print(f"the worker ended with exit code {code}; it is started again in {pause} s", highlight=False, markup=False)
        stopping.wait(pause)
    return 0


def _needs_server() -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise complain("PREFECT_API_URL is not set: start a server (`prefect server start`) and set it, as http://HOST:4200/api", USAGE)


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

