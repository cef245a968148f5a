"""Prove one window of a run whose commitments are in the ledger: the unit of work for a pool of provers.

Any number of workers may be given the same window: a statement has one proof, whoever is first. Called by deployments.
"""

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.session import open_session
from flows.work import prove, statements


@flow(name="prove-window", task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False, validate_parameters=False)
def prove_window(config_path: str, window: int) -> list[str]:
    """Digests of the proofs of one window; −1 for the tasks that belong to no window."""
    session = open_session(config_path)
    session.stopped.clear()
    futures = [prove.submit(config_path, identity, str(task)) for identity, task in statements(session.context, window)]
    return [future.result() for future in futures]
