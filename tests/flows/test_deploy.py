"""`verilora deploy` on a real Prefect server, and the scheduled flows as a worker would run them."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from examples.services import Services, free_port
from flows.environment import SETTINGS
from flows.server import ServerError, embedded
from prover.backend.memory import SHARES
from storage.ledger import open_ledger
from tests.cli.build_run import RUN_ID, Built
from tests.support.place import until
from tests.support.project import ROOT, ledger, project

RUN_YAML = """base_model: model
dataset: data.jsonl
training: {{learning_rate: 0.1}}
storage: {{ledger: "{0}", objects: "{1}", private: "file:{2}"}}
orchestration: {{provers: gpu-provers}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a server of its own."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        for name, value in {**SETTINGS, "PREFECT_HOME": str(home), "HOME": str(home), "PYTHONPATH": str(ROOT)}.items():
            patch.setenv(name, value)
        with embedded() as ready:
            ready()
            yield dict(os.environ)


def python(env: dict[str, str], *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, *arguments], env=env | more, capture_output=True, text=True, timeout=240, check=False)


def ask(env: dict[str, str], path: str, **body: Any) -> Any:
    return httpx.post(f"{env['PREFECT_API_URL']}{path}", json=body, trust_env=False).raise_for_status().json()


@pytest.fixture
def run_yaml(built: Built, tmp_path: Path) -> Path:
    shutil.copytree(built.folder, tmp_path / "run")
    path = tmp_path / "run.yaml"
    folder = tmp_path / "run"
    path.write_text(RUN_YAML.format(f"sqlite:///{folder / 'ledger.db'}", f"file:{folder / 'objects'}", folder / "private"))
    return path


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words, not those of an interpreter that dies with a thread at its standard input; it is gone afterwards."""
    (tmp_path / "prefect").write_text("a file where the server's home would be")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name, value in {**SETTINGS, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("flows.server._ATTEMPTS", 1)
    with pytest.raises(ServerError, match="did not start .*startup failed"), embedded() as ready:
        ready()
    assert "PREFECT_API_URL" not in os.environ


def test_deploying_twice_leaves_one_of_everything(server: dict[str, str], run_yaml: Path) -> None:
    for _ in range(2):
        done = python(server, "-m", "cli", "deploy", str(run_yaml), "--json")
        assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    names = ["finetune/audited", "finetune/nightly", "prove/gpu-provers", "repair/repair", "verify/verification"]
    assert said["deployments"] == names and said["pools"] == ["gpu-provers", "trainers", "verifiers"]
    assert any("on this machine's disk" in text for text in said["warnings"])
    deployments = {item["name"]: item for item in ask(server, "/deployments/filter")}
    assert len(deployments) == 5 and deployments["gpu-provers"]["work_pool_name"] == "gpu-provers"
    for name in ("audited", "nightly", "verification", "repair"):
        assert deployments[name]["parameters"] == {"config_path": str(run_yaml)}
    assert [s["schedule"]["cron"] for s in deployments["nightly"]["schedules"]] == ["0 1 * * *"]
    assert deployments["audited"]["global_concurrency_limit"]["limit"] == 1
    for pool in said["pools"]:
        queues = ask(server, f"/work_pools/{pool}/queues/filter")
        order = [q["name"] for q in sorted(queues, key=lambda q: q["priority"]) if q["name"] != "default"]
        assert order == ["high", "normal", "low"]
    assert len(ask(server, "/automations/filter")) == 1


def test_what_stands_in_the_way_is_said(server: dict[str, str], run_yaml: Path) -> None:
    alone = python({k: v for k, v in server.items() if k != "PREFECT_API_URL"}, "-m", "cli", "deploy", str(run_yaml))
    assert alone.returncode == 2 and "PREFECT_API_URL is not set" in alone.stderr
    nobody = python(server, "-m", "cli", "deploy", str(run_yaml), PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES="0")
    assert nobody.returncode == 2 and "no Prefect server answers at http://127.0.0.1:9/api" in nobody.stderr
    missing = python(server, "-m", "cli", "deploy", str(run_yaml.with_name("other.yaml")))
    assert missing.returncode == 2 and "there is no such file" in missing.stderr


VERIFY = "import json, sys; from flows.verify import verify; print(verify(**json.loads(sys.argv[1])))"


def test_finished_runs_are_verified_once_by_each_verifier(server: dict[str, str], run_yaml: Path) -> None:
    first = python(server, "-c", VERIFY, json.dumps({"config_path": str(run_yaml)}))
    assert first.returncode == 0, first.stderr[-2000:]
    assert [item["run"] for item in json.loads(first.stdout.splitlines()[-1])] == [RUN_ID]
    again = python(server, "-c", VERIFY, json.dumps({"config_path": str(run_yaml)}))
    assert json.loads(again.stdout.splitlines()[-1]) == []
    artifacts = {item["key"] for item in ask(server, "/artifacts/filter")}
    assert {f"verification-{RUN_ID}", f"verdicts-{RUN_ID}"} <= artifacts
    folder = run_yaml.parent / "run"
    [summary] = open_ledger(f"sqlite:///{folder / 'ledger.db'}", read_only=True).query_runs()
    assert summary.accepted == 1 and summary.verifiers == ("verification flow",)

    # another verifier needs neither run.yaml nor private store, and a run that was tampered with fails the flow
    shutil.rmtree(folder / "private")
    victim = next(p for p in sorted((folder / "objects").rglob("*")) if len(p.name) == 64)
    victim.chmod(0o600)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\x00")
    place = {"ledger": f"sqlite:///{folder / 'ledger.db'}", "objects": f"file:{folder / 'objects'}", "run": RUN_ID[:6]}
    place["verifier"] = "another"
    rejected = python(server, "-c", VERIFY, json.dumps(place))
    assert rejected.returncode == 1 and "RunRejected" in rejected.stderr and "damaged-object" in rejected.stderr


def test_repair_restores_from_a_replica_and_fails_without_one(server: dict[str, str], run_yaml: Path) -> None:
    program = "import json, sys; from flows.repair import repair; print(repair(**json.loads(sys.argv[1])))"
    objects = run_yaml.parent / "run" / "objects"
    shutil.copytree(objects, run_yaml.parent / "replica")
    victim = next(p for p in sorted(objects.rglob("*")) if len(p.name) == 64)
    victim.unlink()
    lost = python(server, "-c", program, json.dumps({"config_path": str(run_yaml)}))
    assert lost.returncode == 1 and "NotRepaired" in lost.stderr and victim.name in lost.stderr
    sources = [f"file:{run_yaml.parent / 'replica'}"]
    done = python(server, "-c", program, json.dumps({"config_path": str(run_yaml), "sources": sources}))
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"restored": [f"object {victim.name}"], "signatures_checked": True} and victim.is_file()


SLOT = """
import os, sys, time
from prefect.client.orchestration import get_client
from flows.deploy import slot
from flows.prove import _slot
from prover.backend.memory import shares
with get_client(sync_client=True) as client:
    os.environ["VERILORA_SLOT"] = slot(client, "host", int(sys.argv[1]), shares())
print("ready", flush=True)
sys.stdin.readline()
with _slot():
    print(time.monotonic(), flush=True)
    sys.stdin.readline()
    print(time.monotonic(), flush=True)
"""


class Shift:
    """A shift of a process that has one of so many shares of a GPU; it holds its place until it is told to end."""

    def __init__(self, env: dict[str, str], gpu: int, processes: int) -> None:
        command, env = [sys.executable, "-c", SLOT, str(gpu)], env | {SHARES: str(processes)}
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def read(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def tell(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def has_begun(self, seconds: float) -> bool:
        assert self.process.stdout
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self) -> tuple[int, str]:
        said = self.process.communicate(timeout=120)
        return self.process.returncode, said[1]


def limit_of(env: dict[str, str], gpu: int) -> Any:
    [found] = [item for item in ask(env, "/v2/concurrency_limits/filter", offset=0) if item["name"] == f"gpu:host:{gpu}"]
    return found


def test_as_many_shifts_use_a_gpu_as_divide_its_memory(server: dict[str, str]) -> None:
    """The next one waits for the end of one of them; a number that nobody uses is changed, one in use is not."""
    gpu, processes = 3, 2
    shifts = [Shift(server, gpu, processes) for _ in range(processes + 1)]
    for each in shifts:
        assert each.read() == "ready\n"
        each.tell()
    begun: list[Shift] = []
    while len(begun) < processes:
        begun += [each for each in shifts if each not in begun and each.has_begun(0.1)]
    [waiting] = [each for each in shifts if each not in begun]
    assert not waiting.has_begun(2)
    limit = limit_of(server, gpu)
    assert (limit["limit"], limit["active_slots"]) == (processes, processes)
    other = Shift(server, gpu, processes + 1)
    code, said = other.end()
    assert code == 1 and f"GPU {gpu} of host is divided among {processes} processes, {processes} of them at work" in said
    begun[0].read()
    begun[0].tell()
    ended = float(begun[0].read())
    assert begun[0].end()[0] == 0 and float(waiting.read()) > ended
    for each in (waiting, *begun[1:]):
        each.tell()
        assert each.end()[0] == 0
    late = Shift(server, gpu, processes + 3)  # nobody is at work: the number is changed, and then by another worker again
    assert late.read() == "ready\n" and limit_of(server, gpu)["limit"] == processes + 3
    path = f"{server['PREFECT_API_URL']}/v2/concurrency_limits/gpu:host:{gpu}"
    httpx.patch(path, json={"limit": processes}, trust_env=False).raise_for_status()
    late.tell()
    code, said = late.end()
    assert code == 1 and f"divided among {processes} processes since another worker was started" in said


def online(env: dict[str, str]) -> set[str]:
    """Names of the provers that the server knows to be there."""
    return {item["name"] for item in ask(env, "/work_pools/gpu-provers/workers/filter") if item["status"] == "ONLINE"}


def states(env: dict[str, str], tag: str) -> list[str]:
    """Of the flow runs with a tag."""
    return [item["state_type"] for item in ask(env, "/flow_runs/filter", flow_runs={"tags": {"all_": [tag]}})]


def test_two_provers_of_one_command_prove_a_run(server: dict[str, str], tmp_path: Path) -> None:
    """Both are workers to the server, and each takes a shift; their metrics are one; nothing is left of them when the command ends."""
    folder = project(tmp_path / "project")
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    settings["training"]["max_steps"] = 1
    settings["orchestration"] = {"provers": "gpu-provers", "patience": 30, "prover_memory": "2GB"}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    port, environment = free_port(), server | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    services = Services(tmp_path, environment)
    services.call("deploy", str(folder / "run.yaml"))
    command = ("worker", "gpu-provers", "--name", "pair", "--processes", "2", "--metrics-port", str(port))
    workers = services.verilora("workers", *command)
    try:
        until("both wait for work", lambda: online(environment) == {"pair-1", "pair-2"}, 240)
        run = services.start("run", sys.executable, "-m", "cli", "run", str(folder / "run.yaml"), "--json")
        assert run.process.wait(240) == 0, run.said()
        proofs = ledger(folder)["proofs"]
        assert len(proofs) == json.loads(run.said(600)[run.said(600).index("{"):])["tasks"]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert sum(float(line.split()[-1]) for line in metrics.splitlines()
                   if line.startswith("verilora_proofs_total") and 'outcome="fresh"' in line) == len(proofs)
        [row] = ledger(folder)["runs"]
        until("both shifts are over", lambda: states(environment, f"verilora-run:{row[0]}") == ["COMPLETED"] * 2, 120)
    finally:
        workers.stop()
        lost = services.close()
    assert workers.process.returncode == 0 and not lost
