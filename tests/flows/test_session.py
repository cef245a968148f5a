"""What flows add to tasks: one process at a time, what is retried, deployments that exist, settings that keep secrets."""

import ast
import os
from pathlib import Path

import pytest
import yaml

from flows.config import load_config
from flows.environment import SETTINGS, embed
from flows.session import request_of
from storage.errors import BudgetExhausted, LedgerError, MissingObject, StorageError, StoreFull, StoreUnavailable

ROOT = Path(__file__).parents[2]


def test_a_request_says_what_run_yaml_says(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "base_model: m\ndataset: d.jsonl\nlora: {r: 4, lora_alpha: 8, target_modules: [v_proj, q_proj]}\n"
        "training: {learning_rate: 0.050, momentum: 0.90, epochs: 2, window_steps: 3}\naudit: {publish_loss: false}\n"
    )
    found = request_of(load_config(tmp_path / "run.yaml"))
    assert (found.base_model, found.dataset) == (tmp_path / "m", tmp_path / "d.jsonl")
    assert (found.optimizer.learning_rate, found.optimizer.momentum, found.max_steps) == ("0.05", "0.9", None)
    assert (found.lora.r, found.lora.target_modules, found.epochs, found.window_steps) == (4, ("q_proj", "v_proj"), 2, 3)
    assert (found.publish_loss, found.base_visibility, found.soundness_bits) == (False, "private", 100)


def test_only_faults_that_may_pass_are_retried() -> None:
    from flows.work import is_transient

    assert all(is_transient(e) for e in (LedgerError("locked"), StorageError("busy"), StoreUnavailable("down"), TimeoutError()))
    assert not any(is_transient(e) for e in (StoreFull("full"), MissingObject("gone"), BudgetExhausted("spent"), ValueError("bug")))


def test_every_deployment_names_a_flow() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    pools = {d["name"]: d["work_pool"]["name"] for d in deployments}
    assert pools == {
        "audited": "trainers", "nightly": "trainers", "gpu-provers": "gpu-provers", "verification": "verifiers", "repair": "trainers",
    }
    for deployment in deployments:
        module, name = deployment["entrypoint"].rsplit(".", 1)
        tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
        function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
        given = {argument.arg for argument in function.args.args}
        assert set(deployment.get("parameters", {})) <= given, deployment["name"]
    assert {d["name"] for d in deployments if d.get("schedules")} == {"nightly", "verification", "repair"}


def test_prefect_is_kept_in_the_project_and_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*SETTINGS, "PREFECT_HOME", "PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL"]:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it
        monkeypatch.delenv(name)
    monkeypatch.setenv("DO_NOT_TRACK", "yes")
    embed(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "var" / "prefect") and (tmp_path / "var" / "prefect").is_dir()
    assert os.environ["PREFECT_LOGGING_TO_API_ENABLED"] == "false" and os.environ["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"
    assert os.environ["DO_NOT_TRACK"] == "yes"  # what was set stands
