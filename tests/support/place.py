"""A place for killing things: PostgreSQL with a ledger for each project, a Prefect server, workers, and projects of a user.

Used by tests/crash/test_cluster.py. Stores are on this machine's disk, so that its lock files say who holds which claim.
"""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from examples.postgres import Postgres, binaries
from examples.services import Service, Services, free_port
from flows.config import load_config
from flows.environment import SETTINGS
from protocol.manifest import RunManifest
from protocol.statement import task_list
from storage.fsck import fsck
from storage.ledger import open_ledger
from tasks.context import Stores, open_stores
from tasks.record import collect
from tasks.verify import judge
from tests.support.project import project

TASKS = 13
Rows = set[str]


def until(what: str, ready: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something; fails if it does not come."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{seconds:.0f} s passed before {what}"
        time.sleep(0.05)


class Project:
    """One run.yaml of a user, and what the ledger has of it."""

    def __init__(self, folder: Path, services: Services) -> None:
        self.folder, self.services, self.yaml = folder, services, folder / "run.yaml"
        self._opened: Stores | None = None

    @property
    def stores(self) -> Stores:
        """Opened when there is something to open."""
        if self._opened is None:
            config = load_config(self.yaml)
            self._opened = open_stores(config.ledger_url, config.objects_url, config.private_url)
        return self._opened

    def run(self, **environment: str) -> Service:
        """`verilora run`, going on beside this process."""
        return self.services.verilora(f"run-{self.folder.name}", "run", str(self.yaml), "--json", **environment)

    def rows(self) -> Rows:
        """Every row of the one run that there may be; an acknowledged one never changes."""
        return {repr(row) for run in self.stores.ledger.runs() for row in self.stores.ledger.record(run.run_id).rows()}

    def proofs(self) -> int:
        """How many statements are proved; 0 before there is a ledger."""
        return sum(row.startswith("ProofRow") for row in self.rows())

    def reach(self, proofs: int, service: Service, seconds: float = 120) -> None:
        """Wait for so many proofs, as long as the process works."""
        until(f"{proofs} proofs: {service.said(1000)}", lambda: not service.alive or self.proofs() >= proofs, seconds)
        assert self.proofs() >= proofs, service.said()

    def finish(self, service: Service, lives: int = 4, seconds: float = 300, **environment: str) -> int:
        """Wait for its end, and start it again as long as it ends with a message that says so; how often it was."""
        for life in range(lives):
            until(f"{service.name} ends", lambda service=service: not service.alive, seconds)  # type: ignore[misc]
            if service.process.returncode == 0:
                return life
            assert "Traceback" not in service.said(20000), service.said(20000)
            service = self.run(**environment)
        raise AssertionError(f"{lives} lives did not finish the run: {service.said()}")

    def claims(self) -> set[int]:
        """Processes that hold a statement of this project."""
        return self._holders([p for p in (self.folder / "var" / "private").glob(".*.lock") if p.name != ".log.lock"])

    def signs(self) -> set[int]:
        """The process that holds the log."""
        return self._holders([self.folder / "var" / "private" / ".log.lock"])

    @staticmethod
    def _holders(locks: list[Path]) -> set[int]:
        files = {p.stat().st_ino for p in locks if p.exists()}
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return {int(words[4]) for words in lines if "->" not in words and int(words[5].rpartition(":")[2]) in files}

    def check(self, before: Rows) -> None:
        """Nothing acknowledged is lost or doubled; all proved once, within budgets; fsck is clean, an auditor accepts."""
        ledger = self.stores.ledger
        assert before <= self.rows()
        [run] = ledger.runs()
        record = ledger.record(run.run_id)
        assert len(record.proofs) == len(record.statements) == len(task_list(RunManifest.from_json(run.manifest.encode()))) == TASKS
        assert [event.kind for event in record.events] == ["finished"]
        for row in record.commitments:
            slots = [o.slot for o in record.openings if o.commitment_id == row.commitment_id]
            assert slots == list(range(len(slots))) and row.budget is not None and len(slots) <= row.budget
        secrets = [self.stores.private.get(name) for name in self.stores.private.names("runs/") if "/commitments/" in name]
        seeds = [np.load(io.BytesIO(secret), allow_pickle=False)["seed"].tobytes() for secret in secrets]
        assert len(seeds) >= len(record.commitments) and len(set(seeds)) == len(seeds)
        found = fsck(ledger, self.stores.objects, self.stores.log.keys().policy, lambda *_: None)
        assert not [item for item in found if not item.harmless]
        verdict = judge(collect(self.stores.log, run.run_id))
        assert verdict.accepted, verdict.reason
        now = self.rows(), ledger.log_size()
        again = self.run()
        until("a finished run is left alone", lambda: not again.alive)
        assert again.process.returncode == 0 and '"finished_before": true' in again.said(200), again.said()
        assert (self.rows(), ledger.log_size()) == now


class Place:
    """Servers and workers, each of which may be killed."""

    def __init__(self, folder: Path) -> None:
        programs = binaries()
        if programs is None:
            raise FileNotFoundError("PostgreSQL is not installed")
        self.folder, self.port = folder, free_port()
        os.chmod(folder, 0o711)
        self.postgres = Postgres(folder / "pg", programs, max_connections="200", shared_buffers="32MB")
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.services = Services(folder, {
            **SETTINGS, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_API_URL": self.api, "OMP_NUM_THREADS": "1", "HOME": str(folder),
        })
        self._projects = 0

    def start(self) -> None:
        self.postgres.create()
        self.postgres.start()
        self.server = self.services.prefect_server(self.port)
        self.services.call("deploy", str(self.project(pool=True).yaml))
        self.provers = [self.prover(k) for k in range(2)]
        self.trainer = self.services.verilora("trainer", "worker", "trainers", "--threads", "1", "--name", "trainer")

    def prover(self, number: int) -> Service:
        """One more worker of the provers' pool."""
        name = f"prover-{number}"
        return self.services.verilora(name, "worker", "gpu-provers", "--threads", "1", "--name", name)

    def project(self, pool: bool = False, **orchestration: object) -> Project:
        """A new project: on PostgreSQL and proved by the pool, or all in its own folder and one process."""
        self._projects += 1
        found = Project(project(self.folder / f"p{self._projects}"), self.services)
        settings = yaml.safe_load(found.yaml.read_text())
        settings["training"]["seed"] = self._projects
        if pool:
            name = f"ledger_{self._projects}"
            with self.postgres.connect() as admin:
                admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
            open_ledger(self.postgres.url(name)).close()
            settings["storage"] = {"ledger": self.postgres.url(name, "verilora_writer")}
            settings["orchestration"] = {"provers": "gpu-provers", "patience": 30, **orchestration}
        found.yaml.write_text(yaml.safe_dump(settings))
        return found

    def close(self) -> None:
        self.services.close()
        self.postgres.kill()
