"""`verilora base check`: the folder's commitments are the run's, or the difference is named."""

import json
from pathlib import Path

import pytest

from flows.session import Session
from tests.cli.commands import run
from tests.prover.files.conftest import Folder
from tests.support.project import RUN_YAML, project


def planned(folder: Path, visibility: str) -> str:
    """The id of a run that has been planned and recorded, not trained."""
    (project(folder) / "run.yaml").write_text(RUN_YAML + f"audit: {{base_model: {visibility}}}\n")
    session = Session(folder / "run.yaml")
    return session.begin(session.draft()).run_id


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(run id, ledger URL) of a run on Folder's weights, made public."""
    folder = tmp_path_factory.mktemp("public") / "run"
    return planned(folder, "public"), f"sqlite:///{folder}/var/ledger.db"


@pytest.fixture
def small(tmp_path: Path) -> Folder:
    (tmp_path / "model").mkdir()
    return Folder(tmp_path / "model")


def check(model: Path, public: tuple[str, str]) -> tuple[int, dict]:
    code, output = run("base", "check", str(model), public[0], "--ledger", public[1], "--json")
    return code, json.loads(output)


def test_the_same_model_is_recognised(public: tuple[str, str], small: Folder) -> None:
    code, found = check(small.write(shards=2), public)
    assert code == 0 and found["accepted"] and [c["name"] for c in found["commitments"]] == ["base/0", "base/1", "embedding", "head"]
    code, output = run("base", "check", str(small.path), public[0], "--ledger", public[1])
    assert code == 0 and "yes:" in output
    shown = json.loads(run("ledger", "show", public[0], "--ledger", public[1], "--json")[1])
    assert {c["name"]: c["salts"] for c in shown["commitments"]} == dict.fromkeys(("base/0", "base/1", "embedding", "head"), "public") | {
        "dataset": "secret"}


def test_another_weight_is_named(public: tuple[str, str], small: Folder) -> None:
    small.tensors["model.layers.1.mlp.up_proj.weight"][3, 2] *= -1
    code, found = check(small.write(), public)
    wrong = [c for c in found["commitments"] if not c["accepted"]]
    assert code == 1 and [c["name"] for c in wrong] == ["base/1"] and "commitment-id" in wrong[0]["reason"]


def test_the_same_integers_under_another_exponent_are_another_model(public: tuple[str, str], small: Folder) -> None:
    small.tensors["model.layers.0.self_attn.o_proj.weight"] *= 2
    code, found = check(small.write(), public)
    wrong = [c for c in found["commitments"] if not c["accepted"]]
    assert code == 1 and [c["name"] for c in wrong] == ["base/0"] and "exponent: base/0/W_o" in wrong[0]["reason"]


def test_another_configuration_is_named(public: tuple[str, str], small: Folder) -> None:
    small.config["rope_theta"] = 500000.0
    code, found = check(small.write(), public)
    assert code == 1 and "model.rope_theta: 10000 in the manifest, 500000 in the folder" in found["commitments"][0]["reason"]


def test_a_private_base_and_a_missing_folder_are_usage(tmp_path: Path, public: tuple[str, str], small: Folder) -> None:
    identity = planned(tmp_path / "private", "private")
    code, output = run("base", "check", str(small.write()), identity, "--ledger", f"sqlite:///{tmp_path}/private/var/ledger.db")
    assert code == 2 and "base model is private" in output
    code, output = run("base", "check", str(tmp_path / "none"), public[0], "--ledger", public[1])
    assert code == 2 and "config.json" in output
