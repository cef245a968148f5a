"""Verification as a flow, for schedules: judge a run, append the verdicts to the ledger, show them as an artifact.

The verdict comes from tasks/verify.py, which is all that `verilora verify` uses; an auditor needs no orchestrator. A rejected
run fails the flow, so that a schedule's alarms see it. Called by Prefect deployments.
"""

import json
import secrets

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.session import open_session
from tasks.record import collect, find_run
from tasks.verify import judge, report, verdict_rows


class RunRejected(Exception):
    """A run whose verdict is a rejection; the message is the reason."""


@flow(name="verify", persist_result=False, validate_parameters=False)
def verify(config_path: str, run: str, verifier: str = "flow") -> str:
    """Verify one run of a run.yaml's ledger; the number of tasks and soundness bits as JSON. RunRejected otherwise."""
    stores = open_session(config_path).stores
    collected = collect(stores.ledger, stores.objects, find_run(stores.ledger, run).run_id)
    verdict = judge(collected)
    for row in verdict_rows(verdict, secrets.token_hex(8), verifier):
        stores.ledger.append(row)
    columns = ("task", "accepted", "bits", "proof_bytes", "reason")
    tasks = [{key: item[key] for key in columns} for item in report(collected, verdict)["tasks"]]
    create_table_artifact(tasks, key="verdicts", description=f"run {verdict.run_id}: {verdict.reason or 'accepted'}; {verdict.order}")
    if not verdict.accepted:
        raise RunRejected(f"run {verdict.run_id}: {verdict.reason}")
    return json.dumps({"run": verdict.run_id, "tasks": len(verdict.tasks), "bits": verdict.bits})
