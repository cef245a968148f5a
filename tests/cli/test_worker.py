"""`verilora worker` starts its worker again, and ends when it is told to, whatever it is waiting for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEEP = """
import os, sys
from cli.deploy import _keep_running
sys.exit(_keep_running([sys.executable, "-c", sys.argv[1]], dict(os.environ)))
"""


def keeper(program: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", KEEP, program]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_worker_that_ends_is_started_again_and_the_pause_can_be_cut_short() -> None:
    process = keeper("import sys; print('began', flush=True); sys.exit(3)")
    assert process.stdout and process.stderr
    assert process.stdout.readline() == process.stdout.readline() == "began\n"
    assert "exit code 3; it is started again in 1 s" in process.stderr.readline() and "in 5 s" in process.stderr.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0 and time.monotonic() - begin < 4


def test_the_worker_ends_with_the_command() -> None:
    process = keeper("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    assert process.stdout
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0 and not Path(f"/proc/{child}").exists()
