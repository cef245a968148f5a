"""`verilora deploy` and `verilora worker`: audited runs on a Prefect server, and the machines that work for it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import Debug, Json
from cli.output import UNAVAILABLE, USAGE, complain, console, emit_json, errors, reporting

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
    processes: Annotated[int, typer.Option(
        "--processes", min=1, max=64, help="Work with so many processes side by side, each with its share of cores and memory.")] = 1,
    gpu: Annotated[int | None, typer.Option("--gpu", min=0, help="Use this GPU alone; its memory is what the processes divide.")] = None,
    threads: Annotated[int | None, typer.Option(
        "--threads", min=1, help="Kernel threads of a process (default: all cores, divided by --processes).")] = None,
    name: Annotated[str, typer.Option("--name", help="The worker's name on the server (default: host, pool and process).")] = "",
    metrics_port: Annotated[int | None, typer.Option(
        "--metrics-port", min=1, max=65535, help="Serve Prometheus metrics of these workers' tasks on loopback.")] = None,
    debug: Debug = False,
) -> None:
    """Work for a Prefect server: take tasks of a pool, one at a time in each process, until interrupted. A process that ends by itself is
    started again."""
    from flows.environment import SETTINGS

    with reporting(debug):
        _needs_server()
        from tasks.telemetry import log_format

        host = socket.gethostname()
        environment = {"VERILORA_LOG": log_format()} | SETTINGS | _share(processes, threads)
        if gpu is not None:
            environment |= {"CUDA_VISIBLE_DEVICES": str(gpu)}
            _needs_gpu(gpu, environment)
            from prefect.client.orchestration import get_client

            from flows.deploy import slot
            from prover.backend.memory import shares

            with get_client(sync_client=True) as client:
                environment |= {"VERILORA_SLOT": slot(client, host, gpu, shares(environment))}
        label = name or f"{host}-{pool}-{os.getpid()}"
        labels = [label] if processes == 1 else [f"{label}-{k}" for k in range(1, processes + 1)]
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", "1", "--name"]
        if metrics_port is not None:
            from tasks.telemetry import serve_metrics

            environment |= serve_metrics(metrics_port)
        raise typer.Exit(_keep_running({label: [*command, label] for label in labels}, environment))


def _share(processes: int, threads: int | None) -> dict[str, str]:
    """The caller's environment, and each process's share of the machine. VERILORA_SHARES of the caller goes before `processes`: other
    commands may take shares of the same memory."""
    from prover.backend.memory import SHARES, divided, shares

    environment = {SHARES: str(processes)} | os.environ
    sharing = shares(environment)
    if sharing < processes:
        raise complain(f"{SHARES}: {sharing} shares are too few for --processes {processes}; valid is at least {processes}", USAGE)
    if sharing > 1:
        environment = divided(sharing) | environment
    return environment if threads is None else environment | {"VERILORA_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def _keep_running(commands: Mapping[str, list[str]], environment: Mapping[str, str]) -> int:
    """Run every worker by its name until somebody stops them; what they are at work on is finished or cancelled by Prefect."""
    stopping = threading.Event()
    workers = [_Worker(label, command, environment, stopping) for label, command in commands.items()]

    def stop(number: int, _: Any) -> None:
        stopping.set()
        for each in workers:
            each.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return 0


class _Worker(threading.Thread):
    """One worker process, started again whenever it ends by itself."""

    def __init__(self, label: str, command: list[str], environment: Mapping[str, str], stopping: threading.Event) -> None:
        super().__init__(name=label)
        self.command, self.environment, self.stopping = command, environment, stopping
        self._process: subprocess.Popen[bytes] | None = None

    def terminate(self) -> None:
        """Tell the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def run(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            started = time.monotonic()
            self._process = subprocess.Popen(self.command, env=self.environment)
            if self.stopping.is_set():  # while it was being started
                self._process.terminate()
            code = self._process.wait()
            if self.stopping.is_set():
                break
            failures = 0 if time.monotonic() - started > STEADY_SECONDS else failures
            pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            failures += 1
            text = f"the worker {self.name} ended with exit code {code}; it is started again in {pause} s"
            errors.print(text, highlight=False, markup=False, soft_wrap=True)
            self.stopping.wait(pause)


def _needs_gpu(gpu: int, environment: Mapping[str, str]) -> None:
    """Asked in a process of its own: this one shall hold no context on it."""
    look = "import sys; from prover.backend import cuda_module; sys.exit(cuda_module() is None)"
    if subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, check=False).returncode:
        raise complain(f"--gpu {gpu}: this machine has no such CUDA device (`nvidia-smi -L` lists those that it has), or CuPy is not "
                       "installed: pip install 'verilora[gpu]'", UNAVAILABLE)


def _needs_server() -> None:
    if not os.environ.get("PREFECT_API_URL"):
        raise complain("PREFECT_API_URL is not set: start a server (`prefect server start`) and set it, as http://HOST:4200/api", USAGE)


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

