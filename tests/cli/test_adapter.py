"""The delivered adapter: exported with its opening, checked by the customer, and what does not pass for it."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from cli import app
from prover.files.adapter import AdapterFileError
from storage.private import open_private_store
from tasks.adapter import export_adapter
from tasks.signature import public_key, sign_folder, signing_key
from tests.cli.build_run import RUN_ID, Built

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
