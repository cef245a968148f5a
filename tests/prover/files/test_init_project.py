"""`verilora init`: a complete project, never over existing files."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from protocol.errors import VerificationError
from prover.files.dataset import load_dataset
from prover.files.hf_model import open_model
from prover.files.init_project import InitError, init_project
from verifier.order import compare_order


def test_project_is_complete_and_readable(tmp_path: Path) -> None:
    written = init_project(tmp_path / "new" / "project")
    assert written[0].name == "run.yaml" and all(file.is_file() for file in written)
    settings = yaml.safe_load(written[0].read_text())
    assert settings.keys() == {"base_model", "dataset", "data", "lora", "training", "quantisation", "audit", "storage"}
    training, folder = settings["training"], written[0].parent
    assert open_model(folder / settings["base_model"]).config.layers == 2
    data = load_dataset(folder / settings["dataset"], folder / settings["base_model"], training["sequence_length"])
    assert len(data.tokens) >= training["max_steps"] * training["batch_size"]
    assert training["max_steps"] >= 2 * training["window_steps"]


def test_run_yaml_is_accepted_by_the_configuration(tmp_path: Path) -> None:
    config = pytest.importorskip("flows.config")
    init_project(tmp_path)
    assert config.load_config(tmp_path / "run.yaml").training.window_steps == 4


def test_the_order_is_that_of_the_run(tmp_path: Path) -> None:
    session, plan = pytest.importorskip("flows.session"), pytest.importorskip("tasks.plan")
    init_project(tmp_path)
    request = session.request_of(session.load_config(tmp_path / "run.yaml"))
    manifest = plan.draft(request, "key").manifest
    order = yaml.load((tmp_path / "order.yaml").read_text(), yaml.BaseLoader)
    assert len(compare_order(manifest, order)) > 25
    with pytest.raises(VerificationError, match="optimizer.schedule"):
        compare_order(replace(manifest, optimizer=replace(manifest.optimizer, schedule="linear")), order)


@pytest.mark.parametrize("name", ["run.yaml", "haiku.jsonl", "tiny-llama/config.json"])
def test_existing_files_stay(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(InitError, match=f"{name}.*nothing was written"):
        init_project(tmp_path)
    assert file.read_text() == "mine" and sum(f.is_file() for f in tmp_path.rglob("*")) == 1
