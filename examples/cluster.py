"""A small cluster on this machine: an audited fine-tune is scheduled, one prover is killed, the run finishes, an auditor accepts it.

    python -m examples.cluster        (make cluster-demo, which installs what is absent)

Everything is a process of its own on loopback, in a temporary folder, and ends with this program:

    PostgreSQL            the ledger with its roles, and the Prefect server's own database
    Ceph RADOS gateway    buckets `public` (proofs, log) and `secret` (encrypted), two accounts: provider, auditor
    Prefect server        verilora deploy; the run is scheduled on it
    workers               one trainer, two provers with one thread each, one verifier
    verilora serve        role reader; what is shown here is read from its JSON and pages

Each prover has a key file and lock files of its own, as another machine would have. The verifier's worker has the database role
auditor and an account that may read the public bucket: no private store, no run.yaml of the provider.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from examples.gateway import Gateway, GatewayError
from examples.gateway import missing as missing_programs
from examples.postgres import Postgres, PostgresError, binaries
from examples.services import ServiceError, Services, answers, free_port

BUCKETS = ("public", "secret")
TRAINING = {"max_steps": 3, "window_steps": 1}
RUN_SECONDS, VERIFY_SECONDS = 600.0, 240.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class DemoFailed(Exception):
    """The cluster did not do what it should: what happened."""


class Cluster:
    """Everything that runs, and what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._began = folder, time.monotonic()
        self.postgres = Postgres(folder / "pg", _programs(), max_connections="200", shared_buffers="32MB")
        self.gateway = Gateway(folder / "s3")
        self.gateway.folder.mkdir()
        self.api, self.pages = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
        (folder / "auditor").mkdir()
        from flows.environment import SETTINGS

        self.services = Services(folder, {
            **SETTINGS, **self.gateway.environment(), "AWS_EC2_METADATA_DISABLED": "true", "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"{self.api}/api", "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_LOGGING_LEVEL": "WARNING",
            "OMP_NUM_THREADS": "1",
        })
        self.auditor = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "XDG_CONFIG_HOME": str(folder / "auditor"),
        }
        self.run_yaml = folder / "project" / "run.yaml"

    def say(self, text: str) -> None:
        """One line of the timeline."""
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    def ledger_url(self, role: str) -> str:
        return self.postgres.url("ledger", f"verilora_{role}")

    def objects_url(self) -> str:
        return f"s3://public/audit?endpoint={self.gateway.endpoint}"

    def private_url(self, machine: str) -> str:
        return f"s3://secret/secrets?endpoint={self.gateway.endpoint}&sse=none&key={self.folder / machine / 'private.key'}"

    def start_stores(self) -> None:
        """Database and buckets."""
        self.postgres.create()
        self.postgres.start()
        with self.postgres.connect() as admin:
            admin.execute("CREATE DATABASE ledger TEMPLATE template0")
            admin.execute("CREATE ROLE prefect LOGIN")
            admin.execute("CREATE DATABASE prefect TEMPLATE template0 OWNER prefect")
        from storage.ledger import open_ledger

        open_ledger(self.postgres.url("ledger")).close()
        self.say("PostgreSQL is up; the ledger has its roles writer, auditor, reader")
        self.gateway.start()
        self.gateway.account("auditor", self.auditor["AWS_ACCESS_KEY_ID"], self.auditor["AWS_SECRET_ACCESS_KEY"])
        client = self.gateway.client()
        for bucket in BUCKETS:
            client.create_bucket(Bucket=bucket)
        reading = {"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam:::user/auditor"]},
                   "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::public", "arn:aws:s3:::public/*"]}
        client.put_bucket_policy(Bucket="public", Policy=json.dumps({"Version": "2012-10-17", "Statement": [reading]}))
        self.say(f"RADOS gateway is up at {self.gateway.endpoint}; the auditor may read the public bucket")

    def write_project(self) -> None:
        """run.yaml on these stores; each machine that writes secrets gets a copy of the key file."""
        self.services.call("init", str(self.run_yaml.parent))
        settings = yaml.safe_load(self.run_yaml.read_text())
        settings["training"] |= TRAINING
        settings["orchestration"] = {"provers": "gpu-provers", "patience": 60}
        settings["storage"] = {"ledger": self.ledger_url("writer"), "objects": self.objects_url(), "private": self.private_url("trainer")}
        self.run_yaml.write_text(yaml.safe_dump(settings))
        policy = self.services.call("log", "key", "--policy", "--config", str(self.run_yaml))  # makes both keys
        (self.folder / "auditor" / "policy").write_text(policy)
        for machine in ("prover-1", "prover-2"):
            (self.folder / machine).mkdir(mode=0o700)
            key = self.folder / machine / "private.key"
            key.touch(mode=0o600)
            key.write_bytes((self.folder / "trainer" / "private.key").read_bytes())

    def start_server(self) -> None:
        """Prefect, its deployments, the workers, the pages."""
        database = self.postgres.url("prefect", "prefect", driver="asyncpg")
        self.services.prefect_server(int(self.api.rpartition(":")[2]), PREFECT_SERVER_DATABASE_CONNECTION_URL=database)
        self.say(f"Prefect server is up at {self.api} on its own database")
        self.services.call("deploy", str(self.run_yaml))
        self.say("deployed: pools trainers, gpu-provers, verifiers and their flows")
        self.provers = [
            self.services.verilora(f"prover-{k}", "worker", "gpu-provers", "--threads", "1", "--name", f"prover-{k}",
                                   VERILORA_STORAGE_PRIVATE=self.private_url(f"prover-{k}")) for k in (1, 2)
        ]
        self.services.verilora("trainer", "worker", "trainers", "--threads", "1", "--name", "trainer")
        self.services.verilora("verifier", "worker", "verifiers", "--name", "verifier", **self.auditor)
        where = ["--ledger", self.ledger_url("reader"), "--objects", self.objects_url()]
        pages = self.services.verilora("pages", "serve", "--port", self.pages.rpartition(":")[2], *where, **self.auditor)
        pages.wait("the pages answer", lambda: answers(f"{self.pages}/healthz"), 60)
        self.say(f"pages are up at {self.pages} (database role reader); two provers, a trainer, a verifier start")

    def get(self, path: str) -> Any:
        """JSON of the ledger's API."""
        found = httpx.get(f"{self.pages}/api/v1{path}", timeout=30, trust_env=False)
        found.raise_for_status()
        return found.json()

    def schedule(self, deployment: str, parameters: dict[str, object]) -> Any:
        """Have the Prefect server run a deployment now; the flow run's id."""
        from prefect.deployments import run_deployment

        return run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False).id  # type: ignore[union-attr]

    def flow_run(self, identity: Any) -> Any:
        """A flow run's state as the server has it."""
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            return client.read_flow_run(identity).state

    def train(self) -> str:
        """Schedule the fine-tune, kill a prover half-way, watch it to its end; the run's id."""
        flow = self.schedule("finetune/audited", {"config_path": str(self.run_yaml)})
        self.say("scheduled finetune/audited")
        run = ""
        for items in self._polled(flow, RUN_SECONDS, "/runs"):
            if items:
                run = items[0]["run"]
                break
        total = _tasks(self.get(f"/runs/{run}")["manifest"])
        self.say(f"run {run[:12]} is planned: {total} tasks")
        shown, killed, state = -1, False, ""
        for item in self._polled(flow, RUN_SECONDS, f"/runs/{run}"):
            if item["proofs"] != shown and (item["proofs"] - max(shown, 0) >= 3 or item["proofs"] == total):
                shown = item["proofs"]
                self.say(f"{shown} of {total} proofs, {item['state']}")
            state = item["state"]
            if not killed and item["proofs"] * 2 >= total:
                killed = self._kill_a_prover()
        last = self.flow_run(flow)
        state = self.get(f"/runs/{run}")["state"]
        if last.type.value != "COMPLETED" or state != "finished" or not killed:
            raise DemoFailed(f"the fine-tune ended as {last.name}: {last.message}; the run is {state}, a prover was killed: {killed}")
        self.say(f"run {run[:12]} is finished")
        return run

    def _polled(self, flow: Any, seconds: float, path: str) -> Iterator[Any]:
        """What the API says every half a second, until the flow run has ended; once more after that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.flow_run(flow).type.value in ENDED
            document = self.get(path)
            yield document.get("items", document)
            if ended:
                return
            time.sleep(0.5)
        raise DemoFailed(f"{seconds:.0f} s have passed and the flow run is {self.flow_run(flow).name}")

    def _kill_a_prover(self) -> bool:
        """kill −9 for a prover's worker and its child while it holds a claim; whether one did."""
        for prover in self.provers:
            claims = [p.name[1:-5] for p in (self.folder / prover.name).glob(".*.lock") if p.name != ".log.lock"]
            if claims and len(prover.tree()) > 2:
                count = len(prover.tree())
                prover.kill()
                self.say(f"kill -9: {prover.name} with its children ({count} processes) while it held the claim of statement {claims[0]}")
                return True
        return False

    def verify(self, run: str) -> None:
        """Have the verifiers' pool judge the run, and read the verdict from page and JSON."""
        parameters = {"config_path": "", "run": run, "ledger": self.ledger_url("auditor"), "objects": self.objects_url(),
                      "policy": str(self.folder / "auditor" / "policy"), "verifier": "the auditor"}
        flow = self.schedule("verify/verification", parameters)
        self.say("scheduled verify/verification: database role auditor, read-only account, no private store")
        for _ in self._polled(flow, VERIFY_SECONDS, f"/runs/{run}"):
            pass
        item, state = self.get(f"/runs/{run}"), self.flow_run(flow)
        page = httpx.get(f"{self.pages}/runs/{run}", timeout=30, trust_env=False).text
        accepted = item["accepted_verdicts"] == 1 and item["verifiers"] == ["the auditor"]
        if state.type.value != "COMPLETED" or not accepted or "the auditor" not in page:
            raise DemoFailed(f"the verification ended as {state.name}: {state.message}; verdicts of {item['verifiers']}")
        self.say(f"accepted: every one of {item['proofs']} proofs, chain and log; the verdict is in the ledger, on the page and in JSON")

    def close(self) -> None:
        """Stop everything."""
        for end in (self.services.close, self.gateway.stop, self.postgres.stop):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                end()


def _tasks(manifest: dict[str, Any]) -> int:
    from protocol.encoding import canonical_json
    from protocol.manifest import RunManifest
    from protocol.statement import task_list

    return len(task_list(RunManifest.from_json(canonical_json(manifest))))


def _programs() -> Path:
    folder = binaries()
    if folder is None or missing_programs():
        raise ServiceError("PostgreSQL or Ceph's gateway is not installed: make cluster-demo installs both")
    return folder


def main() -> int:
    """The demonstration; 0 if everything happened as it should."""
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="verilora-", ignore_cleanup_errors=True) as folder:
        cluster, failed = None, True
        try:
            os.chmod(folder, 0o711)  # PostgreSQL's own user passes through
            cluster = Cluster(Path(folder))
            steps: list[Callable[[], None]] = [cluster.start_stores, cluster.write_project, cluster.start_server]
            for step in steps:
                step()
            os.environ |= {name: cluster.services.environment[name] for name in cluster.services.environment if name.startswith("PREFECT_")}
            cluster.verify(cluster.train())
            failed = False
        except (DemoFailed, ServiceError, GatewayError, PostgresError, httpx.HTTPError) as error:
            if cluster is not None:
                _logs(cluster.services.folder)
            print(f"failed: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted: everything is stopped", file=sys.stderr)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # stopping is not interrupted
            if cluster is not None:
                cluster.close()
                cluster.say("everything is stopped")
    return 1 if failed else 0


def _logs(folder: Path) -> None:
    """The end of each log, for whoever has to find out why."""
    for path in sorted(folder.glob("*.log")):
        print(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
