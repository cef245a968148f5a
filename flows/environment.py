"""Prefect's settings: nothing sent anywhere, nothing pickled, and for the embedded default a home in the project's own folder.

Must run before Prefect is imported, because it reads the environment once. What the caller's environment sets already
stands, so that PREFECT_API_URL of a real server is used. Called by the command line and tests.
"""

import os
from pathlib import Path

SETTINGS = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # flows/server.py starts the embedded one
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",  # an error's text may hold a secret value
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # a flow run that is killed with its worker is noticed by its silence
}


def embed(folder: Path, debug: bool = False) -> None:
    """Settings for a run.yaml in `folder`; with `debug` Prefect logs to standard error."""
    level = "INFO" if debug else "CRITICAL"
    levels = {"PREFECT_LOGGING_LEVEL": level, "PREFECT_SERVER_LOGGING_LEVEL": level}
    for name, value in {"PREFECT_HOME": str(folder / "var" / "prefect"), **SETTINGS, **levels}.items():
        os.environ.setdefault(name, value)
    # Prefect makes no parents, and where ledger and stores are on servers nobody else has made var/
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
