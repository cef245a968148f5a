"""Verification as a flow, for schedules: judge a run, append the signed verdict to the ledger, show it as an artifact.

The verdict comes from tasks/verify.py, which is all that `verilora verify` uses; an auditor needs no orchestrator. A rejected
run fails the flow, so that a schedule's alarms see it. Called by Prefect deployments.
"""

import json

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.session import open_session
from tasks.record import collect, find_run
from tasks.verify import default_key, judge, submit
from verifier.receipt import load_key, sign_receipt
from verifier.report import report


class RunRejected(Exception):
    """A run whose verdict is a rejection; the message is the reason."""


@flow(name="verify", persist_result=False, validate_parameters=False)
def verify(config_path: str, run: str, verifier: str = "flow") -> str:
    """Verify one run of a run.yaml's ledger; the number of tasks and soundness bits as JSON. RunRejected otherwise."""
    stores = open_session(config_path).stores
    log = stores.log
    log.publish()  # what was appended since is evidence only under a checkpoint
    verdict = judge(collect(log, find_run(stores.ledger, run).run_id))
    values = report(verdict)
    if verdict.checkpoint:
        submit(stores.ledger, sign_receipt(values, verifier, load_key(default_key())))
        log.publish()
    columns = ("task", "accepted", "bits", "proof_bytes", "reason")
    tasks = [{key: item[key] for key in columns} for item in values["tasks"]]
    create_table_artifact(tasks, key="verdicts", description=f"run {verdict.run_id}: {verdict.reason or 'accepted'}; {verdict.order}")
    if not verdict.accepted:
        raise RunRejected(f"run {verdict.run_id}: {verdict.reason}")
    return json.dumps({"run": verdict.run_id, "tasks": len(values["tasks"]), "bits": values["bits"]})
