"""Looking after a ledger, for schedules: bring back from replicas what was lost, then check everything (storage/repair.py, fsck.py).

Fails if something cannot be restored or is still wrong, so that a schedule's alarms see it. Called by Prefect deployments.
"""

import json
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.config import load_config
from storage.fsck import fsck
from storage.ledger import open_ledger
from storage.object_store import open_object_store
from storage.repair import repair as restore
from tasks.trust import read_policy
from tasks.upkeep import own_policy, replicas


class NotRepaired(Exception):
    """Something is lost or wrong; the message names it."""


@flow(name="repair", persist_result=False, validate_parameters=False)
def repair(config_path: str = "run.yaml", sources: list[str] | None = None, policy: str = "") -> str:
    """Restore from `sources` (URLs of replicas: object stores and ledgers), then check; what was done as JSON.

    The log's signatures are checked with the file `policy`, or with the key in run.yaml's private store.
    """
    config = load_config(Path(config_path))
    book, store = open_ledger(config.ledger_url), open_object_store(config.objects_url)
    copies, ledgers = replicas(sources or ())
    trusted = read_policy(Path(policy)) if policy else own_policy(config.private_url)
    done = list(restore(book, store, copies, ledgers, trusted, lambda *_: None))
    wrong = [item for item in fsck(book, store, trusted, lambda *_: None) if not item.harmless]
    rows = [{"where": item.where, "what": item.what, "state": "restored" if item.done else "LOST"} for item in done]
    rows += [{"where": item.where, "what": item.what, "state": f"WRONG: {item.kind}"} for item in wrong]
    create_table_artifact(rows or [{"where": "everything", "what": "is as it was written", "state": "fine"}], key="repair")
    bad = [f"{row['state']} {row['where']}: {row['what']}" for row in rows if row["state"] != "restored"]
    if bad:
        raise NotRepaired("\n".join(bad))
    return json.dumps({"restored": [item.where for item in done], "signatures_checked": trusted is not None})
