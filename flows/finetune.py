"""The audited fine-tune of one run.yaml: plan → for every window train, then prove what it made possible → finished.

Windows are trained one after the other; proofs queue up behind them and run one at a time, because a proof's kernels use all
cores already (VERILORA_PROOFS sets another number; each proof needs its own memory). Everything that counts is appended to
the ledger by the tasks themselves, so a flow that died is simply started again. Called by `verilora run` and by Prefect deployments.
"""

import json
import os

from prefect import flow
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_run
from flows.session import open_session
from flows.work import prove, statements, train
from tasks.context import RunContext

PROOFS_AT_ONCE = int(os.environ.get("VERILORA_PROOFS", "1"))


@flow(name="finetune", task_runner=ThreadPoolTaskRunner(max_workers=PROOFS_AT_ONCE), persist_result=False, validate_parameters=False)
def finetune(config_path: str) -> str:
    """Run a run.yaml to its end, or continue it; the run's summary as JSON."""
    session = open_session(config_path)
    session.stopped.clear()
    with session.exclusive():
        context = session.context
        futures = _submit(config_path, context, -1)
        for window in range(len(context.manifest.windows())):
            try:
                train(config_path, window)
            except Exception:
                session.stopped.set()
                raise
            futures += _submit(config_path, context, window)
            if session.stopped.is_set():
                break
        for future in futures:
            future.result()
        summary = session.finish()
        show_run(context, summary)
        return json.dumps(summary.to_json())


def _submit(config_path: str, context: RunContext, window: int) -> list["PrefectFuture[str]"]:
    return [prove.submit(config_path, identity, str(task)) for identity, task in statements(context, window)]
