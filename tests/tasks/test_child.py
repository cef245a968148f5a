"""Children of a pool end with a parent that is killed and can no longer tell them to."""

import os
import subprocess
import sys
import time
from pathlib import Path

from examples.services import tree

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
