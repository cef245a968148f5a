"""`verilora fsck`, `repair` and `links`: exit codes, JSON, the names that are told; nothing is changed by looking."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.object_store import open_object_store
from tests.cli.commands import run
from tests.support.buckets import new_bucket, s3_server
from tests.support.ledger_run import Places, append_run, rewrite


def places_in(folder: Path) -> Places:
    return Places(f"sqlite:///{folder}/var/ledger.db", f"file:{folder}/var/objects", f"file:{folder}/var/private")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    append_run(places_in(folder), steps=1)
    (folder / "run.yaml").write_text("base_model: m\ndataset: d\ntraining: {learning_rate: 0.1}\n")
    return folder


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    shutil.copytree(honest, tmp_path / "copy")
    return tmp_path / "copy"


def objects(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "var" / "objects").rglob("*") if len(path.name) == 64)


def options(folder: Path) -> list[str]:
    return ["--ledger", places_in(folder).ledger, "--objects", places_in(folder).objects]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith("ledger.db-")}


def test_clean_is_0_and_nothing_is_touched(folder: Path) -> None:
    before = contents(folder)
    code, output = run("fsck", "--config", str(folder / "run.yaml"))
    assert code == 0 and output.strip() == "everything is as it was written"
    code, output = run("fsck", *options(folder))
    assert code == 0 and "signatures were not checked" in output
    code, output = run("fsck", "--config", str(folder / "run.yaml"), "--json")
    assert code == 0 and json.loads(output) == {"clean": True, "signatures_checked": True, "findings": []}
    assert contents(folder) == before


def test_wrong_is_1_and_named(folder: Path) -> None:
    path = objects(folder)[0]
    os.chmod(path, 0o644)
    path.write_bytes(b"torn")
    code, output = run("fsck", "--config", str(folder / "run.yaml"))
    assert code == 1 and f"WRONG  damaged-object  object {path.name}" in output and "1 wrong" in output
    code, output = run("fsck", *options(folder), "--json")
    found = json.loads(output)
    assert code == 1 and not found["clean"] and [item["where"] for item in found["findings"]] == [f"object {path.name}"]


def test_repair_from_a_copy(honest: Path, folder: Path) -> None:
    path = objects(folder)[0]
    path.unlink()
    rewrite(places_in(folder).ledger, "DELETE FROM run_events")
    config = ["--config", str(folder / "run.yaml")]
    code, output = run("repair", *config)
    assert code == 1 and f"LOST  object {path.name}" in output and "0 restored, 2 not" in output
    code, output = run("repair", *config, "--from", places_in(honest).objects, "--from", places_in(honest).ledger, "--json")
    found = json.loads(output)
    assert code == 0 and found["lost"] == [] and {item["where"] for item in found["restored"]} >= {f"object {path.name}"}
    assert run("fsck", *config)[0] == 0
    code, output = run("repair", *config)
    assert code == 0 and "nothing to restore" in output


def test_rows_need_a_policy(honest: Path, folder: Path, tmp_path: Path) -> None:
    rewrite(places_in(folder).ledger, "DELETE FROM run_events")
    code, output = run("repair", *options(folder), "--from", places_in(honest).ledger)
    assert code == 1 and "--policy FILE" in output
    from storage.checkpoint import load_keys
    from storage.private import open_private_store

    keys = load_keys(open_private_store(places_in(folder).private))
    assert keys is not None
    (tmp_path / "policy").write_text(keys.policy_text())
    code, _ = run("repair", *options(folder), "--policy", str(tmp_path / "policy"), "--from", places_in(honest).ledger)
    assert code == 0 and run("fsck", *options(folder), "--policy", str(tmp_path / "policy"))[0] == 0


def test_usage_and_outages(folder: Path, tmp_path: Path) -> None:
    assert run("fsck", "--ledger", places_in(folder).ledger)[0] == 2
    assert run("fsck", *options(folder), "--policy", str(tmp_path / "none"))[0] == 2
    (tmp_path / "policy").write_text("trust everybody\n")
    assert run("fsck", *options(folder), "--policy", str(tmp_path / "policy"))[0] == 2
    code, output = run("fsck", "--ledger", places_in(folder).ledger, "--objects", f"file:{tmp_path}/none")
    assert code == 3 and "no object store" in output and not (tmp_path / "none").exists()
    assert run("links", "x", *options(folder))[0] == 2


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    with s3_server("moto", monkeypatch) as query:
        yield Places(f"sqlite:///{tmp_path}/ledger.db", f"s3://{new_bucket(query)}/audit", f"file:{tmp_path}/private")


def test_links_to_a_run_in_a_bucket(bucket: Places) -> None:
    run_id = append_run(bucket, steps=1)
    where = ["--ledger", bucket.ledger, "--objects", bucket.objects]
    code, output = run("links", run_id[:6], *where, "--hours", "2", "--json")
    found = json.loads(output)
    assert code == 0 and sorted(found) == list(open_object_store(bucket.objects).digests())
    assert all(digest in link and "Expires=7200" in link and "testing-secret" not in link for digest, link in found.items())
    assert run("links", run_id, *where, "--hours", "1000")[0] == 2
    assert run("fsck", *where)[0] == 0


@pytest.mark.parametrize("arguments", [
    ["fsck", "--ledger", "nonsense", "--objects", "file:x"], ["fsck", "--ledger", "postgresql://me:geheim@h/d", "--objects", "file:x"],
    ["links", "r", "--objects", "s3://B"], ["repair", "--from", "var/objects"],
    ["repair", "--from", "postgres://me:geheim@h/d"], ["verify", "r", "--objects", "postgresql+psycopg://me:geheim@h/d"],
])
def test_a_place_of_no_known_kind_is_a_usage_error(folder: Path, arguments: list[str]) -> None:
    given = options(folder) if "repair" in arguments else [] if "fsck" in arguments else ["--ledger", places_in(folder).ledger]
    code, output = run(*arguments, *given)
    assert code == 2 and "error:" in output and "geheim" not in output, output
    assert "the copy " in output or "repair" not in arguments
