"""The Prefect tasks of a run: thin wrappers that pass a path, numbers and digests, never tensors or errors with values.

Retried, after pauses that add up to a minute and a half, are only faults that may pass (a locked database, a connection); a
retried proof is a new attempt with a new seed that spends its own openings. A range overflow, a full disk or a wrong input is not
retried: the flow ends with what to do, and starting it again continues the run. Called by flows/finetune.py, flows/crew.py and
flows/prove.py.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.session import open_session
from storage.errors import LedgerError, LedgerUnavailable, StorageError, StoreUnavailable
from tasks.context import RunError
from tasks.prove import find_task, prove_statement
from tasks.telemetry import retried
from tasks.train import train_window

T = TypeVar("T")
log = logging.getLogger(__name__)
RETRY_DELAYS: list[float] = [1, 5, 20, 60]


def is_transient(error: BaseException) -> bool:
    """Whether the same attempt may succeed later; subclasses of storage errors each say what the user must do."""
    passing = (LedgerError, StorageError, LedgerUnavailable, StoreUnavailable)
    return type(error) in passing or isinstance(error, ConnectionError | TimeoutError)


def patiently(work: Callable[[], T]) -> T:
    """The same for what is no task: done, and done again after pauses as long as its fault may pass."""
    for delay in RETRY_DELAYS:
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("tried again in %s s: %s", delay, error)
        time.sleep(delay)
    return work()


def _retry(task: Any, run: Any, state: Any) -> bool:
    try:
        state.result()
    except Exception as error:
        if is_transient(error):
            retried(task.name, error)
            return True
    return False


@task(name="train-window", retries=len(RETRY_DELAYS), retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=_retry,
      cache_policy=NO_CACHE, persist_result=False)
def train(config_path: str, window: int) -> str:
    """Have one window trained and its commitments recorded; the run id."""
    session = open_session(config_path)
    train_window(session.context, window, lambda step, loss: session.trained(window, step, loss))
    return session.context.run_id


@task(name="prove-statement", retries=len(RETRY_DELAYS), retry_delay_seconds=RETRY_DELAYS, retry_condition_fn=_retry,
      cache_policy=NO_CACHE, persist_result=False, task_run_name="prove-{label}")
def prove(config_path: str, identity: str, label: str) -> str:
    """Have one statement proved; the digest of its proof."""
    session = open_session(config_path)
    if session.stopped.is_set():
        raise RunError(f"{label} was not started, because another task of this run failed")
    try:
        done = prove_statement(session.context, find_task(session.context, identity))
    except Exception as error:
        if not is_transient(error):
            session.stopped.set()
        raise
    session.proved(identity, done.task)
    return done.object_digest
