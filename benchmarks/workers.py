"""`make bench-workers`: how proving scales with workers of a pool, and what orchestration costs a task.

    scaling   S(k) = k · W(1) / W(k)        W(k): length of all shifts together, k workers of one thread each, waiting at the end included;
                                            workers take up work when they next ask for it, some seconds apart, which is not counted
    overhead  (span of a shift − seconds of its proofs) / number of proofs, for one worker; and its share of a task of 5 s
    start     from the order of a shift to its start: a process and its imports
    machine   k · t(1) / t(k) of processes that only hash a short text again and again, in their own cache: what cores are worth here

A Prefect server and the workers are real processes on this machine. Every run is planned and trained before its clock starts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import yaml

from flows.environment import SETTINGS
from flows.server import embedded
from prover.files.init_project import init_project

WORKERS = (1, 2)
STEPS, WINDOW = 12, 2
TASK_SECONDS = 5.0

_TRAIN = """
import sys
from flows.session import open_session
from tasks.train import train_window
session = open_session(sys.argv[1])
for window in range(len(session.context.manifest.windows())):
    train_window(session.context, window)
print(session.context.run_id)
"""
_SHIFTS = """
import json, sys, time
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from flows.session import open_session
path, run, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
shifts = [run_deployment("prove/gpu-provers", parameters={"config_path": path, "run": run}, timeout=0) for _ in range(number)]
with get_client(sync_client=True) as client:
    while not all(shift.end_time for shift in shifts):
        time.sleep(1)
        shifts = [client.read_flow_run(shift.id) for shift in shifts]
begun, ended = min(s.start_time for s in shifts), max(s.end_time for s in shifts)
proofs = open_session(path).stores.ledger.record(run).proofs
print(json.dumps({
    "start": (begun - min(s.created for s in shifts)).total_seconds(), "span": (ended - begun).total_seconds(),
    "shifts": sum((s.end_time - s.start_time).total_seconds() for s in shifts),
    "later": (max(s.start_time for s in shifts) - begun).total_seconds(),
    "work": sum(proof.seconds for proof in proofs), "proofs": len(proofs), "states": [s.state_name for s in shifts],
}))
"""


_HASH = "import hashlib\nfor _ in range(12_000_000):\n    hashlib.sha256(b'0123456789abcdef').digest()"


def _cores(number: int) -> float:
    """Seconds until `number` processes have done the same arithmetic, each its own."""
    started = time.perf_counter()
    for process in [subprocess.Popen([sys.executable, "-c", _HASH]) for _ in range(number)]:
        process.wait()
    return time.perf_counter() - started


def main() -> None:
    alone = _cores(1)
    print("arithmetic alone scales " + ", ".join(f"{k * alone / _cores(k):.2f} with {k}" for k in WORKERS))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.update({**SETTINGS, "PREFECT_HOME": str(folder / "prefect")})
        stack.enter_context(embedded())
        found = {k: _measure(folder / f"with-{k}", k) for k in WORKERS}
    one = found[1]
    overhead = (one["span"] - one["work"]) / one["proofs"]
    print(f"{one['proofs']:.0f} proofs of {one['work'] / one['proofs']:.2f} s on average, one thread each")
    for k, item in found.items():
        slower = item["work"] / one["work"]  # side by side proofs share caches, memory and the page tables' owner
        print(f"{k} worker{'s' if k > 1 else ' '}  shifts {item['shifts']:7.2f} s in {item['span']:.2f} s, the last begins "
              f"{item['later']:.1f} s after the first   scaling {k * one['shifts'] / item['shifts']:.2f} (aim {0.9 * k:.1f})   "
              f"proofs themselves {item['work']:.2f} s, {slower:.2f} times as long")
    share = 100 * overhead / TASK_SECONDS
    print(f"orchestration {1000 * overhead:.0f} ms a proof: {share:.2f} % of a task of {TASK_SECONDS:.0f} s (aim 5 %)")
    print(f"start of a shift {one['start']:.1f} s: {100 * one['start'] / 600:.2f} % of a shift of ten minutes")


def _measure(folder: Path, workers: int) -> dict[str, float]:
    init_project(folder)
    path = folder / "run.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["training"] |= {"max_steps": STEPS, "window_steps": WINDOW}
    settings["orchestration"] = {"provers": "gpu-provers"}
    path.write_text(yaml.safe_dump(settings))
    run = _python("-c", _TRAIN, str(path)).strip()
    _python("-m", "cli", "deploy", str(path))
    command = [sys.executable, "-m", "cli", "worker", "gpu-provers", "--threads", "1", "--processes", str(workers)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(15)  # until the workers ask for work
        found = json.loads(_python("-c", _SHIFTS, str(path), run, str(workers)))
        if set(found.pop("states")) != {"Completed"}:
            raise RuntimeError("a shift did not complete")
        return {key: float(value) for key, value in found.items()}
    finally:
        started.terminate()
        started.wait(60)


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
