"""`verilora init`: a complete project, never over existing files."""

from pathlib import Path

import pytest
import yaml

from prover.files.dataset import load_dataset
from prover.files.hf_model import open_model
from prover.files.init_project import InitError, init_project


def test_project_is_complete_and_readable(tmp_path: Path) -> None:
    written = init_project(tmp_path / "new" / "project")
    assert written[0].name == "run.yaml" and all(file.is_file() for file in written)
    settings = yaml.safe_load(written[0].read_text())
    assert settings.keys() == {"base_model", "dataset", "lora", "training", "audit", "storage"}
    training, folder = settings["training"], written[0].parent
    assert open_model(folder / settings["base_model"]).config.layers == 2
    data = load_dataset(folder / settings["dataset"], folder / settings["base_model"], training["sequence_length"])
    assert len(data.tokens) >= training["max_steps"] * training["batch_size"]
    assert training["max_steps"] >= 2 * training["window_steps"]


def test_run_yaml_is_accepted_by_the_configuration(tmp_path: Path) -> None:
    config = pytest.importorskip("flows.config")
    init_project(tmp_path)
    assert config.load_config(tmp_path / "run.yaml").training.window_steps == 4


@pytest.mark.parametrize("name", ["run.yaml", "haiku.jsonl", "tiny-llama/config.json"])
def test_existing_files_stay(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(InitError, match=f"{name}.*nothing was written"):
        init_project(tmp_path)
    assert file.read_text() == "mine" and sum(f.is_file() for f in tmp_path.rglob("*")) == 1
