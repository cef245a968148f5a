"""run.yaml: every error names the key, the value and what would be valid; numbers stay exact; secrets stay apart."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config import TARGET_MODULES, RunConfig, load_config
from flows.config_errors import ConfigError

FULL = """
base_model: examples/tiny-llama
dataset: examples/haiku.jsonl
lora: {r: 8, lora_alpha: 16, target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}
training: {optimizer: sgd, momentum: 0.9, learning_rate: 0.05, epochs: 1, batch_size: 4, sequence_length: 64, seed: 7}
audit: {base_model: private, publish_loss: true, soundness_bits: 100}
storage: {ledger: sqlite:///var/ledger.db, objects: file:var/objects}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(folder: Path, key: str, value: Any) -> Path:
    data = yaml.safe_load(FULL)
    section = data
    *parents, last = key.split(".")
    for part in parents:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return write(folder, yaml.safe_dump(data))


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    return caught.value.problems


def test_documented_example(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert config.hyperparameters() == {
        "lora": {"r": 8, "lora_alpha": 16, "target_modules": list(TARGET_MODULES)},
        "training": {
            "optimizer": "sgd", "momentum": "0.9", "learning_rate": "0.05", "epochs": 1, "batch_size": 4,
            "sequence_length": 64, "seed": 7, "window_steps": 4,
        },
        "audit": {"base_model": "private", "publish_loss": True, "soundness_bits": 100},
    }
    assert config.folder == tmp_path
    assert config.base_model_path == tmp_path / "examples/tiny-llama"
    assert config.dataset_path == tmp_path / "examples/haiku.jsonl"
    assert config.ledger_url == f"sqlite:///{tmp_path}/var/ledger.db"
    assert config.objects_url == f"file:{tmp_path}/var/objects"
    assert config.private_url == f"file:{tmp_path}/var/private"


def test_only_what_has_no_sensible_default_is_required(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "base_model: m\ndataset: d\ntraining: {learning_rate: 5e-2, max_steps: 8}\n"))
    assert config.training.learning_rate == Decimal("0.05") and config.training.max_steps == 8
    assert config.lora.target_modules == TARGET_MODULES and config.training.optimizer == "sgd"
    lines = problems(write(tmp_path, "base_model: m\n"))
    assert lines == [
        "dataset: missing; valid is the path of a JSONL file",
        "training: missing; valid is a section with at least learning_rate",
    ]


@pytest.mark.parametrize("written, exact", [("0.1", "0.1"), ("1e-05", "0.00001"), ("1.0e-5", "0.00001"), ("1", "1"), ("0.30", "0.3")])
def test_numbers_are_exact(tmp_path: Path, written: str, exact: str) -> None:
    config = load_config(write(tmp_path, f"base_model: m\ndataset: d\ntraining: {{learning_rate: {written}}}\n"))
    assert config.hyperparameters()["training"]["learning_rate"] == exact


@pytest.mark.parametrize(("key", "value", "parts"), [
    ("base_model", None, ["base_model: missing", "Hugging Face LLaMA folder"]),
    ("base_model", "", ["base_model: ''", "Hugging Face LLaMA folder"]),
    ("dataset", 7, ["dataset: 7", "JSONL"]),
    ("lora", "all", ["lora: 'all'", "section with r"]),
    ("lora.r", 0, ["lora.r: 0", "1 to 1024"]),
    ("lora.r", "8", ["lora.r: '8'", "integer from 1 to 1024"]),
    ("lora.r", 12, ["lora: lora_alpha / r = 16/12", "24"]),
    ("lora.target_modules", [], ["lora.target_modules: []", "q_proj, k_proj"]),
    ("lora.target_modules", ["q_proj", "kproj"], ["lora.target_modules.1: 'kproj'", "k_proj"]),
    ("lora.target_modules", ["q_proj", "q_proj"], ["lora.target_modules", "names a module twice"]),
    ("training.optimizer", "adamw", ["training.optimizer: 'adamw'", "not supported yet: use sgd"]),
    ("training.optimizer", "lion", ["training.optimizer: 'lion'", "valid is sgd"]),
    ("training.momentum", 1.0, ["training.momentum: 1.0", "not including, 1"]),
    ("training.learning_rate", None, ["training.learning_rate: missing", "above 0"]),
    ("training.learning_rate", 0, ["training.learning_rate: 0", "above 0"]),
    ("training.learning_rate", -0.1, ["training.learning_rate: -0.1", "above 0"]),
    ("training.learning_rate", float("nan"), ["training.learning_rate: nan", "above 0"]),
    ("training.learning_rate", True, ["training.learning_rate: True", "above 0"]),
    ("training.epochs", True, ["training.epochs: True", "at least 1"]),
    ("training.batch_size", 4.0, ["training.batch_size: 4.0", "integer of at least 1"]),
    ("training.sequence_length", 1, ["training.sequence_length: 1", "at least 2"]),
    ("training.seed", -1, ["training.seed: -1", "0 to 2^63"]),
    ("training.seed", 2**63, ["training.seed: 9223372036854775808", "0 to 2^63"]),
    ("training.window_steps", 0, ["training.window_steps: 0", "at least 1"]),
    ("training.max_steps", 0, ["training.max_steps: 0", "at least 1"]),
    ("training.learning_rat", 1, ["training.learning_rat: unknown key (value 1)", "did you mean learning_rate?", "batch_size"]),
    ("datset", "x", ["datset: unknown key (value 'x')", "did you mean dataset?"]),
    ("audit.base_model", "secret", ["audit.base_model: 'secret'", "private or public"]),
    ("audit.publish_loss", "maybe", ["audit.publish_loss: 'maybe'", "true or false"]),
    ("audit.soundness_bits", 99, ["audit.soundness_bits: 99", "100 to 128"]),
    ("storage.ledger", "postgresql+psycopg://u:secret@h/d", ["storage.ledger", "not supported yet", "sqlite:///PATH"]),
    ("storage.ledger", "file:x", ["storage.ledger: 'file:x'", "sqlite:///PATH"]),
    ("storage.objects", "s3://bucket", ["storage.objects: 's3://bucket'", "s3, which is not supported yet", "file:PATH"]),
    ("storage.objects", "var/objects", ["storage.objects: 'var/objects'", "file:PATH"]),
    ("storage.private", "file:var/objects/private", ["storage.private", "separate folders"]),
    ("storage.private", "file:var", ["storage.private", "separate folders"]),
    ("storage.privat", "x", ["storage.privat: unknown key", "did you mean private?"]),
])
def test_bad_value(tmp_path: Path, key: str, value: Any, parts: list[str]) -> None:
    lines = problems(changed(tmp_path, key, value))
    assert len(lines) == 1 or key in ("datset",)
    assert any(all(part in line for part in parts) for line in lines), lines
    assert "secret@" not in "".join(lines)


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = FULL.replace("r: 8", "r: -8").replace("seed: 7", "seed: seven").replace("private,", "hidden,")
    assert [line.split(":")[0] for line in problems(write(tmp_path, text))] == ["lora.r", "training.seed", "audit.base_model"]


@pytest.mark.parametrize(("text", "part"), [
    ("base_model: [", "no valid YAML"), ("base_model: a\nbase_model: b\n", "written twice"), ("", "valid is a mapping"),
    ("- a", "valid is a mapping"), ("a: !!python/object/apply:os.getcwd []", "no valid YAML"),
    ("? [a]\n: b\n", "no plain word"), ("7: b\n", "no plain word"),
])
def test_no_usable_yaml(tmp_path: Path, text: str, part: str) -> None:
    assert part in problems(write(tmp_path, text))[0]


def test_missing_and_binary_file(tmp_path: Path) -> None:
    assert "verilora init" in problems(tmp_path / "none.yaml")[0]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "cannot be read" in problems(tmp_path / "binary.yaml")[0]


def test_only_storage_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERILORA_STORAGE_LEDGER", "sqlite:////data/ledger.db")
    for name in ("LEARNING_RATE", "TRAINING_LEARNING_RATE", "VERILORA_TRAINING_LEARNING_RATE", "SEED", "R", "LEDGER"):
        monkeypatch.setenv(name, "3")
    config = load_config(write(tmp_path, FULL))
    assert config.ledger_url == "sqlite:////data/ledger.db"
    assert config.training.learning_rate == Decimal("0.05") and config.training.seed == 7
    monkeypatch.setenv("VERILORA_STORAGE_OBJECTS", "s3://bucket")
    assert "storage.objects" in problems(write(tmp_path, FULL))[0]


def test_frozen(tmp_path: Path) -> None:
    config: RunConfig = load_config(write(tmp_path, FULL))
    with pytest.raises(Exception, match="frozen"):
        config.training.seed = 8  # type: ignore[misc]
