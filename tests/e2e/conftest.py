"""One run for all tests of this folder: met a full disk, was continued, killed, continued."""

import json

import pytest

from tests.support.project import FULL_DISK, Finished, kill_after, ledger, project, python, verilora


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that met a full disk, was continued, killed, continued: folder, summary, the ledger when it was killed."""
    folder = project(tmp_path_factory.mktemp("run"))
    full = python(folder, "-c", FULL_DISK)
    assert (full.returncode, len(ledger(folder)["proofs"])) == (3, 2), full.stderr
    assert "no space left, free some" in full.stderr and "Traceback" not in full.stderr
    kill_after(folder, proofs=7)
    before = ledger(folder)
    done = verilora(folder, "run", "run.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), before
