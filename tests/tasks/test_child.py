"""Children of a pool end with a parent that is killed and can no longer tell them to, and when somebody interrupts them all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from examples.services import tree
from tests.cli.build_run import RUN_ID, Built

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from tasks.child import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent)
    list(pool.map(time.sleep, [0.2, 0.2]))
    print("idle", flush=True)
    time.sleep(600)
"""


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"  # spawned children import it again
    program.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout and parent.stdout.readline() == "idle\n"
        children = tree(parent.pid)[1:]
        assert len(children) >= 2
        parent.kill()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, "a child waits for work that cannot come"
        time.sleep(0.1)


def test_an_interrupt_ends_all_processes_and_is_no_verdict(built: Built) -> None:
    """Ctrl-C reaches every process of a terminal: one message at most, nobody left, and not the exit code of a rejection."""
    command = [sys.executable, "-m", "cli", "verify", RUN_ID, *built.arguments, "--workers", "2"]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as program:
        end = time.monotonic() + 60
        while len(children := tree(program.pid)[1:]) < 3:  # two workers and the tracker of multiprocessing
            assert program.poll() is None and time.monotonic() < end
        time.sleep(0.2)  # while they start, none of them listens
        os.killpg(program.pid, signal.SIGINT)
        output, complaints = program.communicate(timeout=60)
    assert program.returncode == 130 and output.strip() == "" and "Traceback" not in complaints, complaints
    while any(Path(f"/proc/{child}").exists() for child in children):  # the tracker ends a moment after the others
        assert time.monotonic() < end
