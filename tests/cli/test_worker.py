"""`verilora worker` starts its worker again, and ends when it is told to, whatever it is waiting for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from prover.backend.memory import SHARES, shares

ROOT = Path(__file__).resolve().parents[2]
KEEP = """
import os, sys
from cli.deploy import _keep_running
commands = {f"worker-{k}": [sys.executable, "-c", sys.argv[1]] for k in range(int(sys.argv[2]))}
sys.exit(_keep_running(commands, dict(os.environ)))
"""


def keeper(program: str, workers: int = 1) -> "subprocess.Popen[str]":
    command, environment = [sys.executable, "-c", KEEP, program, str(workers)], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_worker_that_ends_is_started_again_and_the_pause_can_be_cut_short() -> None:
    process = keeper("import sys; print('began', flush=True); sys.exit(3)")
    assert process.stdout and process.stderr
    assert process.stdout.readline() == process.stdout.readline() == "began\n"
    assert "worker-0 ended with exit code 3; it is started again in 1 s" in process.stderr.readline()
    assert "in 5 s" in process.stderr.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0 and time.monotonic() - begin < 4


def test_the_worker_ends_with_the_command() -> None:
    process = keeper("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0 and not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_of_several_is_started_again_and_all_end_with_the_command(number: signal.Signals) -> None:
    process = keeper("import os, time; os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)", 3)
    assert process.stdout and process.stderr
    first = [int(process.stdout.readline()) for _ in range(3)]
    os.kill(first[1], signal.SIGKILL)
    assert "ended with exit code -9; it is started again in 1 s" in process.stderr.readline()
    again = int(process.stdout.readline())
    alive = {first[0], first[2], again}
    assert again not in first and all(Path(f"/proc/{pid}").exists() for pid in alive)
    process.send_signal(number)
    assert process.wait(10) == 0 and not any(Path(f"/proc/{pid}").exists() for pid in alive)
    assert process.stdout.read() == "" and process.stderr.read() == ""


Kept = tuple[dict[str, list[str]], dict[str, str]]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Kept]]:
    """What `verilora worker` would keep running."""
    found: list[Kept] = []
    monkeypatch.setattr(sys.modules["cli.deploy"], "_keep_running", lambda *given: found.append(given) or 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    for name in (SHARES, "VERILORA_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield found


def worker(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["worker", "gpu-provers", *arguments])
    return done.exit_code, done.output


def test_several_workers_divide_cores_and_memory(kept: list[Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    assert [worker("--name", "one")[0], worker("--name", "p", "--processes", "3")[0], worker("--processes", "40")[0]] == [0, 0, 0]
    assert worker("--processes", "3", "--threads", "2")[0] == 0
    monkeypatch.setenv(SHARES, "5")  # a trainer has two shares of this machine
    assert worker("--processes", "3")[0] == 0
    (alone, whole), (three, third), (many, thin), (_, asked), (_, fifth) = kept
    assert list(alone) == ["one"] and shares(whole) == 1 and "VERILORA_THREADS" not in whole
    assert list(three) == ["p-1", "p-2", "p-3"] and [command[-1] for command in three.values()] == list(three)
    assert all(command[command.index("--limit") + 1] == "1" for command in three.values())
    assert (shares(third), third["VERILORA_THREADS"], third["OMP_NUM_THREADS"]) == (3, "5", "5")
    assert len(many) == 40 and thin["VERILORA_THREADS"] == "1"
    assert (shares(asked), asked["VERILORA_THREADS"], asked["OMP_NUM_THREADS"]) == (3, "2", "2")
    assert (shares(fifth), fifth["VERILORA_THREADS"]) == (5, "3")


def test_more_processes_than_parts_are_refused(kept: list[Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARES, "2")
    assert worker("--processes", "3") == (2, "error: VERILORA_SHARES: 2 shares are too few for --processes 3; valid is at least 3\n")
    monkeypatch.setenv(SHARES, "half")
    code, said = worker()
    assert code == 2 and "VERILORA_SHARES: 'half' is not valid; valid is an integer of at least 1" in said and not kept


def test_a_gpu_that_is_not_there_is_refused(kept: list[Kept]) -> None:
    """Proofs would be made on the host, for which nobody planned."""
    code, said = worker("--gpu", "99")
    assert code == 3 and "--gpu 99: this machine has no such CUDA device" in said and not kept
