"""Whole runs while workers, flows, the Prefect server, the database, the disk or the clock fail (`make crash`, about a quarter of an hour).

After each: what was acknowledged is there once, everything is proved within budgets, fsck is clean, an auditor accepts, and running again
adds nothing (tests/support/place.py). A process that gives up says why, and starting the same run again continues it.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.postgres import binaries
from examples.services import Service, left
from tests.support.place import TASKS, Place, Project, until

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed: make services")]
CLOCK = """\
import sys, time
from pathlib import Path
real, real_ns = time.time, time.time_ns
def offset():
    return int(Path(sys.argv[2]).read_text() or 0)
time.time, time.time_ns = lambda: real() + offset(), lambda: real_ns() + offset() * 10**9
from cli import app
app(["run", sys.argv[1], "--json"])
"""
SLOW = """\
import sys, time
from storage.local import LocalObjectStore
from storage.private import LocalPrivateStore
def slow(owner, method, seconds):
    inner = getattr(owner, method)
    def called(*arguments, **named):
        time.sleep(seconds)
        return inner(*arguments, **named)
    setattr(owner, method, called)
slow(LocalObjectStore, "put", 3.0), slow(LocalObjectStore, "publish", 0.3), slow(LocalPrivateStore, "put", 0.3)
from cli import app
app(["run", sys.argv[1], "--json"])
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="vl-"))
    found = Place(folder)
    try:
        found.start()
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def works(place: Place, project: Project, prover: Service) -> bool:
    """Whether this prover holds a claim of this project now."""
    return bool(project.claims() & set(prover.tree()))


def test_a_prover_that_is_killed_with_its_child(place: Place) -> None:
    project = place.project(pool=True)
    run = project.run()
    project.reach(2, run)
    until("the first prover holds a claim", lambda: works(place, project, place.provers[0]))
    place.provers[0].kill()
    before = project.rows()
    place.provers[0] = place.prover(0)
    assert project.finish(run) == 0
    project.check(before)


def test_a_prover_that_hangs(place: Place) -> None:
    project = place.project(pool=True)
    run = project.run()
    project.reach(2, run)
    until("a prover holds a claim", lambda: [p for p in place.provers if works(place, project, p)])
    victim = next((p for p in place.provers if works(place, project, p)), place.provers[0])
    victim.signal(signal.SIGSTOP)
    while project.signs() & set(victim.tree()):  # what is stopped in the milliseconds in which it signs is told, but not overcome
        victim.signal(signal.SIGCONT)
        time.sleep(0.1)
        victim.signal(signal.SIGSTOP)
    try:
        before = project.rows()
        assert project.finish(run) == 0
        done = project.rows()
    finally:
        victim.signal(signal.SIGCONT)
    until("the late original lets go", lambda: not project.claims())
    time.sleep(3)
    assert {r for r in project.rows() if "ProofRow" in r} == {r for r in done if "ProofRow" in r}  # it may have spent openings, no more
    project.check(before | done)


def test_the_prefect_server_is_killed(place: Place) -> None:
    project = place.project(pool=True)
    run = project.run()
    project.reach(2, run)
    place.server.kill()
    before = project.rows()
    time.sleep(10)
    place.server = place.services.prefect_server(place.port)
    project.finish(run)
    project.check(before)


@pytest.mark.parametrize(("provers", "proofs"), [("gpu-provers", 2), ("embedded", 3)])
def test_the_database_is_killed(place: Place, provers: str, proofs: int) -> None:
    project = place.project(pool=True)
    project.yaml.write_text(project.yaml.read_text().replace("provers: gpu-provers", f"provers: {provers}"))
    run = project.run()
    project.reach(proofs, run)
    before = project.rows()
    place.postgres.kill()
    time.sleep(5)
    place.postgres.start()
    project.finish(run)
    project.check(before)


def engines(place: Place) -> list[str]:
    """Processes of flow runs."""
    programs = ("prefect.flow_engine", "prefect.engine", "flow-run execute")
    return [command for _, command in left(place.folder) if any(name in command for name in programs)]


def test_a_cancelled_run_leaves_no_process(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    project = place.project(pool=True)
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, place.services.environment[name])
    until("earlier shifts have ended", lambda: not engines(place), 90)
    client = [sys.executable, "-m", "prefect"]
    environment = place.services.environment

    def prefect(*arguments: str) -> str:
        return subprocess.run([*client, *arguments], env=environment, capture_output=True, text=True, check=True).stdout

    said = prefect("deployment", "run", "finetune/audited", "--param", f'config_path="{project.yaml}"')
    identity = next(word for line in said.splitlines() if "UUID" in line for word in line.split() if len(word) == 36)
    until("three proofs", lambda: project.proofs() >= 3)
    for prover in place.provers:  # which would be done before the command has started
        prover.signal(signal.SIGSTOP)
    try:
        assert len(engines(place)) >= 2 and project.proofs() < TASKS
        prefect("flow-run", "cancel", identity)
    finally:
        for prover in place.provers:
            prover.signal(signal.SIGCONT)
    until(f"no flow's process is left: {engines(place)}", lambda: not engines(place), 90)
    before = project.rows()
    time.sleep(5)
    assert project.rows() == before and len(before) > 0
    assert project.proofs() < TASKS
    project.finish(project.run())
    project.check(before)


def kill(run: Service, folder: Path) -> None:
    """kill −9 for the process of the flow alone; whatever it had started must end by itself."""
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    until("its embedded server is gone", lambda: not [c for _, c in left(folder) if "flows.server" in c], 30)


def test_an_embedded_run_is_killed_at_random_moments(place: Place) -> None:
    project, chance, before = place.project(), random.Random(5), set[str]()
    for _ in range(4):
        run = project.run(PREFECT_API_URL="")
        time.sleep(chance.uniform(2, 40))
        kill(run, place.folder)
        assert before <= project.rows()
        before = project.rows()
    project.finish(project.run(PREFECT_API_URL=""), PREFECT_API_URL="")
    project.check(before)


def test_an_embedded_run_is_killed_at_every_boundary(place: Place) -> None:
    """As soon as there is one run or proof more than when it was killed last."""
    project, before, lives = place.project(), set[str](), 0

    def count(rows: set[str]) -> int:
        return sum(row.startswith(("RunRow", "ProofRow")) for row in rows)

    while count(before) < TASKS + 1:
        run = project.run()
        until("one row more", lambda run=run, before=before: not run.alive or count(project.rows()) > count(before))  # type: ignore[misc]
        if not run.alive:
            break
        kill(run, place.folder)
        lives += 1
        assert before <= project.rows()
        before = project.rows()
    assert lives > 8
    project.finish(project.run())
    project.check(before)


def test_a_full_disk(place: Place) -> None:
    project = place.project()
    var = project.folder / "var"
    var.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(var)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        home = {"PREFECT_HOME": str(place.folder / "prefect")}
        run = project.run(**home)
        until("it gives up", lambda: not run.alive)
        assert run.process.returncode == 3 and "space" in run.said() and "Traceback" not in run.said(20000), run.said()
        before = project.rows()
        subprocess.run(["mount", "-o", "remount,size=200m", str(var)], check=True)
        project.finish(project.run(**home), **home)
        project.check(before)
    finally:
        project.stores.ledger.close()
        subprocess.run(["umount", "-l", str(var)], check=True)


def test_the_object_store_is_away_for_a_while(place: Place) -> None:
    project = place.project()
    run = project.run()
    project.reach(3, run)
    before, objects = project.rows(), project.folder / "var" / "objects"
    objects.rename(objects.with_name("elsewhere"))
    objects.write_text("no folder")
    time.sleep(8)
    objects.unlink()
    objects.with_name("elsewhere").rename(objects)
    project.finish(run)
    project.check(before)


def test_slow_stores(place: Place) -> None:
    project = place.project()
    run = place.services.start("slow", sys.executable, "-c", SLOW, str(project.yaml))
    assert project.finish(run) == 0
    project.check(set())


def test_the_clock_is_set_a_day_forth_and_back(place: Place) -> None:
    project, before = place.project(), set[str]()
    moved = project.folder / "clock"
    moved.write_text("0")
    run = place.services.start("clock", sys.executable, "-c", CLOCK, str(project.yaml), str(moved))
    for proofs, offset in ((2, "86400"), (6, "-86400")):
        project.reach(proofs, run)
        moved.write_text(offset)
        before |= project.rows()
    project.finish(run)
    project.check(before)
