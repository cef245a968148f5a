"""Processes of the program on loopback, which can be killed with everything below them: a Prefect server, workers, any command.

Each has a log file and, in its environment, a mark by which `left` finds whatever outlived it. Used by examples/cluster.py and by
tests that kill processes. Linux only: it reads /proc.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "VERILORA_SERVICES"
_STOP_SECONDS = 15.0


class ServiceError(Exception):
    """A process that ended or did not answer: the end of its log."""


class Service:
    """One process with its children."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def tree(self) -> list[int]:
        """Its process and everything below."""
        return tree(self.process.pid) if self.alive else []

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole tree."""
        for pid in self.tree():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill −9 for the whole tree."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end; the whole tree is killed if it does not."""
        below = self.tree()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def said(self, characters: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-characters:]

    def wait(self, what: str, ready: Callable[[], bool], seconds: float) -> None:
        """Until it is ready; ServiceError if it ends before, or if that takes too long."""
        end = time.monotonic() + seconds
        while not ready():
            if not self.alive:
                raise ServiceError(f"{self.name} ended with {self.process.returncode} before {what}:\n{self.said()}")
            if time.monotonic() > end:
                raise ServiceError(f"{seconds:.0f} s passed before {what}:\n{self.said()}")
            time.sleep(0.1)


class Services:
    """All processes of one place; `environment` is what all of them get."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        python = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = os.environ | {"PYTHONPATH": python, MARK: str(folder)} | environment
        self._started: list[Service] = []

    def start(self, name: str, *command: str, **environment: str) -> Service:
        """One more process, in a session of its own."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment | environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )
        service = Service(name, process, log)
        self._started.append(service)
        return service

    def verilora(self, name: str, *arguments: str, **environment: str) -> Service:
        """A command of the program that goes on running."""
        return self.start(name, sys.executable, "-m", "cli", *arguments, **environment)

    def call(self, *arguments: str, **environment: str) -> str:
        """A command of the program that ends; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments], cwd=self.folder, env=self.environment | environment, capture_output=True, text=True,
            check=False,
        )
        if done.returncode:
            raise ServiceError(f"verilora {' '.join(arguments)} ended with {done.returncode}:\n{(done.stderr + done.stdout)[-3000:]}")
        return done.stdout

    def prefect_server(self, port: int, **environment: str) -> Service:
        """A Prefect server without pages; back when it answers."""
        command = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")
        service = self.start("prefect-server", *command, **environment)
        service.wait("the Prefect server answers", lambda: answers(f"http://127.0.0.1:{port}/api/health"), 180)
        return service

    def close(self) -> list[str]:
        """Stop everything; command lines of processes that had outlived their parent."""
        for service in self._started:
            with contextlib.suppress(ProcessLookupError):
                service.process.terminate()
        for service in reversed(self._started):
            service.stop()
        lost = list(left(self.folder))
        for pid, _ in lost:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return [command for _, command in lost]


def tree(pid: int) -> list[int]:
    """A process and everything below it, itself first."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(entry.parent.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def left(folder: Path) -> Iterator[tuple[int, str]]:
    """Running processes with the mark of these services, wherever they hang in the tree now."""
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if int(entry.parent.name) != os.getpid() and mark in entry.read_bytes().split(b"\0"):
                yield int(entry.parent.name), (entry.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether there is a 200 at this address; proxies of the environment are not asked."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
