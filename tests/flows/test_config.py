"""run.yaml: every error names the key, the value and what would be valid; numbers stay exact; secrets stay apart."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config import TARGET_MODULES, RunConfig, load_config
from flows.config_errors import ConfigError
from flows.session import request_of
from protocol.manifest import Lora
from protocol.optimizer import Optimizer

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
    assert config.lora.proved() == Lora(8, 16, TARGET_MODULES)
    assert config.training.proved() == Optimizer(kind="sgd", momentum="0.9", learning_rate="0.05")
    assert (config.training.epochs, config.training.batch_size, config.training.window_steps) == (1, 4, 4)
    assert (config.audit.base_model, config.audit.publish_loss, config.audit.soundness_bits) == ("private", True, 100)
    assert (config.data.format, config.data.packing) == ("auto", False)
    assert (config.quantisation.weights, config.quantisation.scales, config.quantisation.headroom) == ("int12", "tensor", 0)
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
    assert problems(write(tmp_path, "base_model: m\n")) == ["training: missing; valid is a section with at least learning_rate"]
    lines = problems(write(tmp_path, "base_model: m\ntraining: {learning_rate: 1}\n"))
    assert lines == ["dataset: missing; valid is the path of a JSON Lines file, or dataset_opening"]


def test_a_dataset_or_its_opening(tmp_path: Path) -> None:
    opening = "base_model: m\ntraining: {learning_rate: 1}\ndataset_opening: owner/dataset-opening.npz\n"
    config = load_config(write(tmp_path, opening))
    assert config.dataset_path is None and config.dataset_opening_path == tmp_path / "owner/dataset-opening.npz"
    assert "stands beside dataset" in problems(write(tmp_path, opening + "dataset: d.jsonl\n"))[0]
    assert problems(write(tmp_path, opening + "data: {packing: true}\n"))[0].startswith("data: does not apply to dataset_opening")


def test_adamw_in_full(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, """
base_model: m
dataset: d
lora: {r: 12, lora_alpha: 16, use_rslora: true, lora_dropout: 0.0, bias: none, modules_to_save: null, use_dora: false}
training: {optimizer: adamw, learning_rate: 2e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.01, max_grad_norm: 1.0,
           schedule: cosine, warmup_steps: 10, gradient_accumulation: 4}
data: {format: messages, packing: true}
quantisation: {weights: int16, scales: row, headroom: 2}
"""))
    assert config.training.proved() == Optimizer(
        kind="adamw", learning_rate="0.0002", beta1="0.9", beta2="0.95", epsilon="0.00000001", weight_decay="0.01", max_grad_norm="1",
        schedule="cosine", warmup_steps=10,
    )
    assert config.lora.proved() == Lora(12, 16, TARGET_MODULES, use_rslora=True)
    found = request_of(config)
    assert (found.data_format, found.packing, found.weight_bits, found.weight_scales, found.headroom) == ("messages", True, 16, "row", 2)
    assert found.gradient_accumulation == 4 and found.optimizer == config.training.proved()


@pytest.mark.parametrize("written, exact", [("0.1", "0.1"), ("1e-05", "0.00001"), ("1.0e-5", "0.00001"), ("1", "1"), ("0.30", "0.3")])
def test_numbers_are_exact(tmp_path: Path, written: str, exact: str) -> None:
    config = load_config(write(tmp_path, f"base_model: m\ndataset: d\ntraining: {{learning_rate: {written}}}\n"))
    assert config.training.proved().learning_rate == exact


@pytest.mark.parametrize(("key", "value", "parts"), [
    ("base_model", None, ["base_model: missing", "Hugging Face model folder"]),
    ("base_model", "", ["base_model: ''", "Hugging Face model folder"]),
    ("dataset", 7, ["dataset: 7", "JSON Lines"]),
    ("lora", "all", ["lora: 'all'", "section with r"]),
    ("lora.r", 0, ["lora.r: 0", "1 to 64"]),
    ("lora.r", 65, ["lora.r: 65", "1 to 64"]),
    ("lora.r", "8", ["lora.r: '8'", "integer from 1 to 64"]),
    ("lora.use_rslora", "yes", ["lora.use_rslora: 'yes'", "true"]),
    ("lora.lora_dropout", 0.1, ["lora.lora_dropout: 0.1 is not supported", "valid is 0"]),
    ("lora.bias", "all", ["lora.bias: 'all' is not supported", "valid is none"]),
    ("lora.modules_to_save", ["lm_head"], ["lora.modules_to_save: ['lm_head'] is not supported", "valid is null"]),
    ("lora.use_dora", True, ["lora.use_dora: True is not supported", "valid is false"]),
    ("lora.init_lora_weights", "pissa", ["lora.init_lora_weights: 'pissa' is not supported", "valid is true"]),
    ("lora.rank_pattern", {"q_proj": 4}, ["lora.rank_pattern", "is not supported"]),
    ("lora.target_modules", [], ["lora.target_modules: []", "q_proj, k_proj"]),
    ("lora.target_modules", ["q_proj", "kproj"], ["lora.target_modules.1: 'kproj'", "k_proj"]),
    ("lora.target_modules", ["q_proj", "q_proj"], ["lora.target_modules", "names a module twice"]),
    ("training.optimizer", "adamw", ["training.momentum: 0.9 does not apply to adamw", "beta1, beta2, epsilon, weight_decay"]),
    ("training.optimizer", "lion", ["training.optimizer: 'lion'", "valid is sgd or adamw"]),
    ("training.beta2", 0.99, ["training.beta2: 0.99 does not apply to sgd", "valid is momentum"]),
    ("training.weight_decay", 0, ["training.weight_decay: 0 does not apply to sgd"]),
    ("training.momentum", 1.0, ["training.momentum: 1 is not valid", "0 … 0.9999"]),
    ("training.learning_rate", 1e-14, ["training.learning_rate: 0.00000000000001 is not valid", "0.000000000001 …"]),
    ("training.learning_rate", "0.0000000000000000001", ["training.learning_rate", "at most 17 decimals"]),
    ("training.max_grad_norm", -1, ["training.max_grad_norm: -1", "no clipping"]),
    ("training.schedule", "polynomial", ["training.schedule: 'polynomial'", "constant, linear or cosine"]),
    ("training.warmup_steps", -1, ["training.warmup_steps: -1", "0, at most"]),
    ("training.gradient_accumulation", 0, ["training.gradient_accumulation: 0", "1 to 4096"]),
    ("data", {"packing": "bfd"}, ["data.packing: 'bfd' is a packing mode that is not supported", "true (documents one after another"]),
    ("data", {"format": "alpaca"}, ["data.format: 'alpaca'", "prompt_completion"]),
    ("quantisation", {"weights": "int8"}, ["quantisation.weights: 'int8'", "int12 or int16"]),
    ("quantisation", {"scales": "block"}, ["quantisation.scales: 'block'", "tensor or row"]),
    ("quantisation", {"headroom": 5}, ["quantisation.headroom: 5", "0 to 4"]),
    ("training.learning_rate", None, ["training.learning_rate: missing", "above 0"]),
    ("training.learning_rate", 0, ["training.learning_rate: 0", "above 0"]),
    ("training.learning_rate", -0.1, ["training.learning_rate: -0.1", "above 0"]),
    ("training.learning_rate", float("nan"), ["training.learning_rate: nan", "above 0"]),
    ("training.learning_rate", True, ["training.learning_rate: True", "above 0"]),
    ("training.epochs", True, ["training.epochs: True", "at least 1"]),
    ("training.batch_size", 4.0, ["training.batch_size: 4.0", "integer from 1 to 4096"]),
    ("training.sequence_length", 1, ["training.sequence_length: 1", "from 2 to 4096"]),
    ("training.seed", -1, ["training.seed: -1", "0 to 2^63"]),
    ("training.seed", 2**63, ["training.seed: 9223372036854775808", "0 to 2^63"]),
    ("training.window_steps", 0, ["training.window_steps: 0", "at least 1"]),
    ("training.max_steps", 0, ["training.max_steps: 0", "at least 1"]),
    ("training.learning_rat", 1, ["training.learning_rat: unknown key (value 1)", "did you mean learning_rate?", "batch_size"]),
    ("datset", "x", ["datset: unknown key (value 'x')", "did you mean data"]),
    ("audit.base_model", "secret", ["audit.base_model: 'secret'", "private or public"]),
    ("audit.publish_loss", "maybe", ["audit.publish_loss: 'maybe'", "true or false"]),
    ("audit.soundness_bits", 99, ["audit.soundness_bits: 99", "100 to 128"]),
    ("storage.ledger", "postgresql://u:secret@h/d", ["storage.ledger", "postgresql+psycopg://"]),
    ("storage.ledger", "file:x", ["storage.ledger: 'file:x'", "sqlite:///PATH"]),
    ("storage.objects", "s3://bucket?secret=x", ["storage.objects", "secret"]),
    ("storage.objects", "var/objects", ["storage.objects: 'var/objects'", "file:PATH"]),
    ("storage.private", "file:var/objects/private", ["storage.private", "separate folders"]),
    ("storage.private", "file:var", ["storage.private", "separate folders"]),
    ("orchestration", {"prover_memory": "much"}, ["orchestration.prover_memory: 'much' is no size", "kB, MB, GB"]),
    ("orchestration", {"prover_memory": "0GB"}, ["orchestration.prover_memory: '0GB' is no size"]),
    ("orchestration", {"prover_memory": True}, ["orchestration.prover_memory: True is no size"]),
    ("orchestration", {"prover_memory": "8GB", "prover_device": "tpu"}, ["orchestration.prover_device: 'tpu'", "cpu or cuda"]),
    ("orchestration", {"prover_device": "cuda"}, ["orchestration.prover_device: 'cuda' stands without prover_memory", "or neither"]),
    ("storage.privat", "x", ["storage.privat: unknown key", "did you mean private?"]),
])
def test_bad_value(tmp_path: Path, key: str, value: Any, parts: list[str]) -> None:
    lines = problems(changed(tmp_path, key, value))
    assert len(lines) == 1 or key in ("datset",)
    assert any(all(part in line for part in parts) for line in lines), lines
    assert "secret@" not in "".join(lines)


@pytest.mark.parametrize(("written", "expected"), [("17GB", 17 * 10**9), ("16GiB", 16 << 30), (4000000000, 4 * 10**9)])
def test_what_a_prover_has(tmp_path: Path, written: Any, expected: int) -> None:
    told = load_config(changed(tmp_path, "orchestration", {"prover_memory": written, "prover_device": "cuda"})).orchestration
    assert (told.prover_memory, told.prover_device) == (expected, "cuda")
    assert load_config(write(tmp_path, FULL)).orchestration.prover_memory is None


@pytest.mark.parametrize("lines", [
    "  ledgr: postgresql+psycopg://me:geheim@host/db", "  ledger: [postgresql+psycopg://me:geheim@host/db]",
    "  ledger: postgresql+psycopg://me:geheim@host/db: x", "  ledger: \"postgresql+psycopg://me:geheim@host/db",
    "- postgresql://me:geheim@host/db", "  ledger: postgresql://me:ge#heim@host/db",
    "  objects: postgresql://me:geheim@host/db", "  private: [s3://me:geheim@host/db]",
])
def test_no_message_shows_a_password(tmp_path: Path, lines: str) -> None:
    text = lines if lines.startswith("-") else FULL.partition("storage:")[0] + f"storage:\n{lines}\n"
    said = "".join(problems(write(tmp_path, text)))
    assert said and "heim" not in said, said


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
    monkeypatch.setenv("VERILORA_STORAGE_OBJECTS", "bucket")
    assert "storage.objects" in problems(write(tmp_path, FULL))[0]


def test_frozen(tmp_path: Path) -> None:
    config: RunConfig = load_config(write(tmp_path, FULL))
    with pytest.raises(Exception, match="frozen"):
        config.training.seed = 8  # type: ignore[misc]
