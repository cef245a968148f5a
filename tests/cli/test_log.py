"""`verilora log`: provider, cosigner and auditor, each with what it has."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from storage.log import NEWEST
from tests.support.log_place import Place

RUN_YAML = """base_model: model
dataset: data.jsonl
training: {learning_rate: 0.1}
storage: {ledger: "sqlite:///ledger.db", objects: "file:objects", private: "file:private"}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "run.yaml").write_text(RUN_YAML)
    found = Place(tmp_path)
    found.grow(4)
    return found


def run(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["log", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


def provider(place: Place, *arguments: object, exit_code: int = 0) -> str:
    return run(*arguments, "--config", place.folder / "run.yaml", exit_code=exit_code)


def public(place: Place) -> list[object]:
    return ["--ledger", f"sqlite:///{place.folder / 'ledger.db'}", "--objects", f"file:{place.folder / 'objects'}"]


def test_a_row_is_proved_and_checked(place: Place, tmp_path: Path) -> None:
    key = provider(place, "key", "--origin", "example.com/log")
    assert key.startswith("example.com/log+") and provider(place, "key") == key
    policy, proof = tmp_path / "policy", tmp_path / "row.tlog-proof"
    policy.write_text(provider(place, "key", "--policy"))
    assert "no checkpoint" in run("prove", 3, *public(place), exit_code=3)
    note = provider(place, "checkpoint")
    assert note.encode() == place.objects.read(NEWEST)
    assert json.loads(provider(place, "checkpoint", "--json"))["new"] is False
    run("prove", 3, "--out", proof, *public(place))
    assert json.loads(run("check", proof, "--policy", policy, "--json")) == {
        "origin": "example.com/log", "size": 5, "position": 3, "table": "run_events",
        "row": {"run_id": "run-1", "kind": "note", "window": 3, "detail": '{"n":3}'},
    }
    assert "entry 3 of the 5" in run("check", proof, "--policy", policy)
    assert "left as it is" in run("prove", 3, "--out", proof, *public(place), exit_code=2)
    proof.write_bytes(proof.read_bytes().replace(b"index 3", b"index 2"))
    assert "inclusion" in run("check", proof, "--policy", policy, exit_code=1)
    assert "neither" in run("prove", "nonsense", *public(place), exit_code=2)
    assert "has no entry 5" in run("prove", 5, *public(place), exit_code=2)
    shown = json.loads(run("show", "--json", *public(place)))
    assert shown["entries"] == 5 and shown["newest"]["size"] == 5 and shown["cosigned"] is None
    assert "5 entries" in run("show", *public(place))


def test_a_new_ledger_gets_its_tables_and_may_still_be_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("base_model: m\ndataset: d\ntraining: {learning_rate: 0.1}\n")
    config = ("--config", tmp_path / "run.yaml")
    assert "empty" in run("checkpoint", *config) and (tmp_path / "var" / "ledger.db").exists()
    assert json.loads(run("checkpoint", *config, "--json")) == {"size": 0, "new": False, "note": ""}
    assert "nothing to sign" in run("checkpoint", *config, "--out", tmp_path / "note", exit_code=2)
    assert run("key", *config, "--origin", "example.com/log").startswith("example.com/log+")


def test_cosigning(place: Place, tmp_path: Path) -> None:
    provider(place, "checkpoint")
    policy = tmp_path / "policy"
    policy.write_text(provider(place, "key", "--policy"))
    mine = ["--policy", policy, "--key", tmp_path / "own" / "key", "--state", tmp_path / "own" / "state"]
    where = ["--objects", f"file:{place.folder / 'objects'}"]
    assert "--name" in run("cosign", *mine, *where, exit_code=2)
    first = json.loads(run("cosign", *mine, *where, "--name", "auditor.example", "--json"))
    old = tmp_path / "old"
    old.write_bytes(place.objects.read(NEWEST))
    place.grow(3)
    provider(place, "checkpoint")
    note = tmp_path / "cosigned"
    assert "add-cosignature" in run("cosign", *mine, *where, "--out", note)
    provider(place, "add-cosignature", note, "--key", first["key"])
    assert place.objects.read(NEWEST) == note.read_bytes()
    strict = tmp_path / "strict"
    strict.write_text(policy.read_text().replace("quorum none", f"witness a {first['key']}\nquorum a"))
    proof = tmp_path / "proof"
    run("prove", 6, "--cosigned", "--out", proof, *public(place))
    assert "entry 6" in run("check", proof, "--policy", strict)
    assert "rollback" in run("cosign", *mine, *where, "--checkpoint", old, exit_code=1)
    proof.write_bytes(proof.read_bytes().replace(note.read_bytes(), note.read_bytes().rsplit("—".encode(), 1)[0]))
    assert "quorum" in run("check", proof, "--policy", strict, exit_code=1)


def test_rotation_and_errors(place: Place, tmp_path: Path) -> None:
    provider(place, "checkpoint")
    before = provider(place, "key")
    policy = provider(place, "rotate-key")
    assert f"log {before.strip()} until:5" in policy and provider(place, "key") != before
    assert provider(place, "key", "--policy") == policy
    assert "cannot change" in provider(place, "key", "--origin", "example.com/other", exit_code=2)
    assert "cannot be read" in run("check", tmp_path / "none", "--policy", tmp_path / "none", exit_code=2)
    assert "key-format" in provider(place, "add-cosignature", place.folder / "run.yaml", "--key", "x", exit_code=1)
    place.private.remove("log/key")
    assert "has no key" in provider(place, "key", exit_code=3)
    assert "needs --objects" in run("show", "--ledger", public(place)[1], exit_code=2)


def test_a_changed_ledger_is_refused(place: Place) -> None:
    provider(place, "checkpoint")
    place.rewrite("UPDATE run_events SET detail = '{}' WHERE window = 2")
    assert "Nothing was signed" in provider(place, "checkpoint", exit_code=1)
