"""The audited fine-tune of one run.yaml: plan → for every window train, offer what it made possible to the provers → finished.

Windows are trained one after the other; their proofs are made meanwhile by threads of this process or by any free worker of a pool
(flows/crew.py). In this process proofs run one at a time, because a proof's kernels use all cores already (VERILORA_PROOFS sets
another number; each proof needs its own memory). Training waits when more than `orchestration.backlog` windows are trained but not
proved; with 0 no window is trained while another one is proved.
Everything that counts is appended to the ledger by the tasks themselves, so a flow that died is simply started again. Called by
`verilora run` and by Prefect deployments.
"""

import json
import os
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import Board
from flows.config import EMBEDDED
from flows.crew import cancel_shifts, crew_of, run_tag
from flows.session import open_session
from flows.work import patiently, train
from tasks.backlog import Backlog

PROOFS_AT_ONCE = int(os.environ.get("VERILORA_PROOFS", "1"))


def dismiss(flow: Any, flow_run: Any, state: Any) -> None:
    """When a run is cancelled or its process was killed, its shifts in the pool end too."""
    session = open_session(flow_run.parameters["config_path"])
    context = session.resume() if session.config.orchestration.provers != EMBEDDED else None
    if context is not None:
        with get_client(sync_client=True) as client:
            cancel_shifts(client, run_tag(context.run_id))


@flow(
    name="finetune", task_runner=ThreadPoolTaskRunner(max_workers=PROOFS_AT_ONCE), persist_result=False, validate_parameters=False,
    on_cancellation=[dismiss], on_crashed=[dismiss],
)
def finetune(config_path: str) -> str:
    """Run a run.yaml to its end, or continue it; the run's summary as JSON. To a finished run nothing is added but a signature over
    what others appended meanwhile."""
    config_path = str(Path(config_path).absolute())  # workers have other current folders
    session = patiently(lambda: open_session(config_path))
    if session.finished():
        patiently(session.stores.log.publish)  # what auditors appended since, their verdicts
        return json.dumps(session.summary().to_json())
    session.stopped.clear()
    with session.exclusive():
        backlog, board = Backlog(session.context), Board(session)
        crew = crew_of(session, config_path, backlog)
        try:
            crew.offer()
            for window in range(len(session.context.manifest.windows())):
                crew.wait(session.config.orchestration.backlog)
                train(config_path, window)
                crew.offer()
            crew.finish()
        except BaseException:
            crew.dismiss()
            raise
        summary = patiently(session.finish)
        board.finish(summary)
        return json.dumps(summary.to_json())
