"""Children of a pool end with a parent that is killed and can no longer tell them to, and when somebody interrupts them all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.services import tree
from tasks.verify import _uninterrupted
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
        # at once: an interrupt while they start is not lost
        os.killpg(program.pid, signal.SIGINT)
        output, complaints = program.communicate(timeout=60)
    assert program.returncode == 130 and output.strip() == "" and "Traceback" not in complaints, complaints
    while any(Path(f"/proc/{child}").exists() for child in children):  # the tracker ends a moment after the others
        assert time.monotonic() < end


def test_an_interrupt_while_processes_start_reaches_the_parent_alone_and_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    asleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(0.5); print('done')"]
    child = None
    with pytest.raises(KeyboardInterrupt), _uninterrupted():
        child = subprocess.Popen(asleep, stdout=subprocess.PIPE, text=True)
        assert child.stdout and child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert child.wait() == 0 and child.stdout.read() == "done\n"
    assert child is not None and child.returncode == 0
    assert (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before
    with _uninterrupted():
        pass
