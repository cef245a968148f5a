"""Independent verification as a flow, for schedules: judge one run, or every finished run that this verifier has not judged yet.

The verdict comes from tasks/verify.py, which is all that `verilora verify` uses; an auditor needs no orchestrator. This flow reads a
ledger and an object store and nothing of the provider's private store; with `record` it appends signed verdicts (on PostgreSQL the
role verilora_auditor may). A rejected run fails the flow, so that a schedule's alarms see it. Called by Prefect deployments.
"""

import json
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.config import load_config
from storage.ledger import Ledger, open_ledger
from storage.log import LogPublisher
from storage.object_store import open_object_store
from tasks.record import collect, find_run
from tasks.trust import read_order, read_policy, read_seen
from tasks.verify import default_key, judge, submit
from verifier.receipt import load_key, sign_receipt
from verifier.report import report, write_whole


class RunRejected(Exception):
    """Runs whose verdict is a rejection; the message has the reasons."""


@flow(name="verify", persist_result=False, validate_parameters=False)
def verify(
    config_path: str = "", run: str = "", ledger: str = "", objects: str = "", policy: str = "", expect: str = "", seen: str = "",
    verifier: str = "verification flow", record: bool = True,
) -> str:
    """Verify `run` (an id or its beginning), or all finished runs without a verdict of `verifier`; what was judged as JSON.

    `ledger` and `objects` are URLs; without them the run.yaml `config_path` says where both are. `policy`, `expect` (the order) and
    `seen` are files, as in `verilora verify`. RunRejected if a run is rejected.
    """
    where = load_config(Path(config_path or "run.yaml")) if not ledger else None
    book = open_ledger(where.ledger_url if where else ledger, read_only=not record)
    log = LogPublisher(book, open_object_store(where.objects_url if where else objects, read_only=True))
    ids = [find_run(book, run).run_id] if run else unjudged(book, verifier)
    found = [verify_run(log, identity, policy, expect, seen, verifier, record) for identity in ids]
    rejected = [f"run {values['run']}: {values['reason']}" for values in found if values["state"] == "rejected"]
    if rejected:
        raise RunRejected("\n".join(rejected))
    return json.dumps([{"run": values["run"], "tasks": len(values["tasks"]), "bits": values["bits"]} for values in found])


def unjudged(book: Ledger, verifier: str) -> list[str]:
    """Finished runs on which nobody of this name has given a verdict, oldest first."""
    found: list[str] = []
    after = None
    while page := book.query_runs(state="finished", after=after):
        found += [summary.run_id for summary in page if verifier not in summary.verifiers]
        after = page[-1].cursor
    return found[::-1]


@task(name="verify-run", cache_policy=NO_CACHE, persist_result=False, task_run_name="verify-{run_id}")
def verify_run(log: LogPublisher, run_id: str, policy: str, expect: str, seen: str, verifier: str, record: bool) -> dict[str, Any]:
    """The report on one run; its receipt is appended to the ledger, and its tables are shown as artifacts."""
    trusted = read_policy(Path(policy)) if policy else None
    before = read_seen(Path(seen), trusted) if seen else None
    evidence = collect(log, run_id, before.size if before else 0, trusted is not None and trusted.quorum != "none")
    verdict = judge(evidence, read_order(Path(expect)) if expect else None, policy=trusted, seen=before)
    values = report(verdict)
    if record and verdict.checkpoint:
        submit(log.ledger, sign_receipt(values, verifier, load_key(default_key())))
    if seen and verdict.rows:
        write_whole(Path(seen), verdict.checkpoint)
    show(values)
    return values


def show(values: dict[str, Any]) -> None:
    """The verdict as artifacts: a page for people, and a table of the tasks."""
    lines = [f"# {values['state']}: run {values['run']}", "", values["reason"], values["order"], values["log"].get("trust", ""), ""]
    lines += ["| what became public | |", "|---|---|"] + [f"| {topic} | {_short(value)} |" for topic, value in values["public"].items()]
    create_markdown_artifact("\n".join(lines), key=f"verification-{values['run'].lower()}", description=f"verdict: {values['state']}")
    columns = ("task", "accepted", "bits", "proof_bytes", "reason")
    table = [{key: item[key] for key in columns} for item in values["tasks"]]
    create_table_artifact(table, key=f"verdicts-{values['run'].lower()}", description="verdict on every task")


def _short(value: Any, limit: int = 300) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    text = text.replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= limit else text[:limit] + " …"
