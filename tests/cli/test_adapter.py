"""The delivered adapter: exported with its opening, checked by the customer, and what does not pass for it."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cli import app
from flows.config import load_config
from prover.files.adapter import AdapterFileError
from storage.ledger import open_ledger
from storage.private import open_private_store
from tasks.adapter import delivered_names, export_adapter
from tasks.deliver import save_committed
from tasks.record import recorded_root
from tasks.signature import public_key, sign_folder, signing_key
from tests.cli.build_run import RUN_ID, Built
from tests.cli.commands import example_run

WEIGHTS, CONFIG, OPENING = "adapter_model.safetensors", "adapter_config.json", "opening.json"


@pytest.fixture
def folder(built: Built, tmp_path: Path) -> Path:
    export_adapter(tmp_path / "adapter", built.manifest, RUN_ID, "base", built.delivered)
    return tmp_path / "adapter"


def check(built: Built, folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["adapter", "check", str(folder), RUN_ID, "--ledger", built.ledger_url])
    return result.exit_code, result.output


def test_the_exported_adapter_is_the_one_that_was_proved(built: Built, folder: Path) -> None:
    code, output = check(built, folder)
    assert code == 0 and "yes" in output
    result = CliRunner().invoke(app, ["adapter", "check", str(folder), RUN_ID[:6], "--ledger", built.ledger_url, "--json"])
    shown = json.loads(result.output)
    assert shown["accepted"] and [layer["layer"] for layer in shown["layers"]] == [0]


@pytest.mark.parametrize(("options", "recorded"), [((), "toy"), (("--base-model", "org/base-7b"), "org/base-7b")])
def test_nothing_handed_over_tells_where_the_provider_keeps_things(
    built: Built, tmp_path: Path, options: tuple[str, ...], recorded: str
) -> None:
    """PEFT's key has the base model's public name, or the one that is asked for."""
    private, root = open_private_store(f"file:{tmp_path / 'private'}"), recorded_root(open_ledger(built.ledger_url, read_only=True), RUN_ID)
    for name in delivered_names(built.manifest):
        seed, tensors = built.delivered[name.layer]
        save_committed(private, RUN_ID, name, root(name), seed, tensors)
    stores = f"storage: {{ledger: '{built.ledger_url}', objects: '{built.objects_url}', private: 'file:{tmp_path / 'private'}'}}\n"
    config, adapter = example_run(tmp_path, f"training: {{learning_rate: 0.05}}\n{stores}"), tmp_path / "adapter"
    result = CliRunner().invoke(app, ["adapter", "export", RUN_ID, str(adapter), *options, "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert json.loads((adapter / CONFIG).read_text())["base_model_name_or_path"] == recorded
    assert check(built, adapter)[0] == 0
    envelope = json.loads((adapter / "model.sig").read_text())["dsseEnvelope"]["payload"]
    handed = [base64.b64decode(envelope), *(path.read_bytes() for path in adapter.iterdir())]
    places = [str(tmp_path), str(built.folder), str(load_config(config).base_model_path.parent)]
    assert len(handed) == 5 and not any(place.encode() in data for place in places for data in handed)


def change_weight(folder: Path, amount: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[3]
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] += np.float32(amount)
    save_file(tensors, folder / WEIGHTS)


def test_one_unit_in_the_last_place_is_noticed(built: Built, folder: Path) -> None:
    change_weight(folder, 2.0**-14)
    code, output = check(built, folder)
    assert code == 1 and "other weights" in output


def test_a_value_between_the_proved_steps_is_noticed(built: Built, folder: Path) -> None:
    change_weight(folder, 2.0**-16)
    assert check(built, folder)[0] == 1


def test_another_seed_or_none_is_noticed(built: Built, folder: Path) -> None:
    opening = json.loads((folder / OPENING).read_text())
    opening["layers"][0]["seed"] = "00" * 32
    (folder / OPENING).write_text(json.dumps(opening))
    assert check(built, folder)[0] == 1
    (folder / OPENING).unlink()
    code, output = check(built, folder)
    assert code == 1 and OPENING in output


def test_another_configuration_is_noticed(built: Built, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": 8}))
    code, output = check(built, folder)
    assert code == 1 and "adapter-config" in output


def test_a_missing_folder_is_a_usage_error(built: Built, tmp_path: Path) -> None:
    assert check(built, tmp_path / "none")[0] == 2


def test_an_export_replaces_nothing(built: Built, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AdapterFileError):
        export_adapter(folder, built.manifest, RUN_ID, "base", built.delivered)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_export_signs_nothing_but_the_adapter(built: Built, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    for folder in (tmp_path, tmp_path / "secret"):
        with pytest.raises(AdapterFileError, match="no empty folder"):
            export_adapter(folder, built.manifest, RUN_ID, "base", built.delivered)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    (tmp_path / "empty").mkdir()
    assert len(export_adapter(tmp_path / "empty", built.manifest, RUN_ID, "base", built.delivered)) == 3


def test_a_signature_is_checked_against_the_providers_key(built: Built, folder: Path, tmp_path: Path) -> None:
    ours, theirs = (open_private_store(f"file:{tmp_path / name}") for name in ("ours", "theirs"))
    sign_folder(folder, signing_key(ours))
    for store, code, text in ((ours, 0, "yes"), (theirs, 1, "no: this folder is not accepted")):
        key = tmp_path / "key.pem"
        key.write_bytes(public_key(signing_key(store)))
        arguments = ["adapter", "check", str(folder), RUN_ID, "--ledger", built.ledger_url, "--signer", str(key)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code and text in result.output and ("model.sig" in result.output) == (code == 1)
