"""A whole audited run with both stores in buckets of a real server: run, verify, fsck; the private bucket holds nothing readable."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.buckets import admin, new_bucket, s3_server

ROOT = Path(__file__).resolve().parents[2]


def verilora(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-c", "from cli import app; app()", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return json.loads(done.stdout)


@pytest.mark.gateway
def test_a_run_in_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with s3_server("gateway", monkeypatch) as query:
        public, private = new_bucket(query, ObjectLockEnabledForBucket=True), new_bucket(query)
        folder = tmp_path / "project"
        verilora(tmp_path, "init", str(folder))
        settings = yaml.safe_load((folder / "run.yaml").read_text())
        settings["training"] |= {"max_steps": 1, "window_steps": 1}
        settings["storage"] = {
            "ledger": "sqlite:///var/ledger.db", "objects": f"s3://{public}/audit{query}&lock=GOVERNANCE:1d",
            "private": f"s3://{private}/secrets{query}&key=keys/private.key",
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(settings))
        run_id = verilora(folder, "run", "run.yaml")["run"]
        verdict = verilora(folder, "verify", run_id)
        assert verdict["accepted"] and len(verdict["tasks"]) > 5
        assert verilora(folder, "fsck") == {"clean": True, "signatures_checked": True, "findings": []}
        assert len(verilora(folder, "links", run_id)) == len(verdict["tasks"])
        keys = [item["Key"] for item in admin(query).list_objects_v2(Bucket=private)["Contents"]]
        assert any(run_id in key for key in keys)
        for key in keys:
            stored = admin(query).get_object(Bucket=private, Key=key)["Body"].read()
            assert stored[:4] == b"VLP1" and b"tensor." not in stored and b"NUMPY" not in stored
    assert not list((folder / "var").glob("objects*")) and not list((folder / "var").glob("private*"))
