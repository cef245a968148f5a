"""The storage section: which places are valid, what they are from another folder, and that no credential is repeated."""

from pathlib import Path

import pytest
import yaml

from flows.config import load_config
from flows.config_errors import ConfigError


def config(folder: Path, **storage: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"base_model": "m", "dataset": "d", "training": {"learning_rate": 0.1}, "storage": storage}))
    return path


def problem(folder: Path, **storage: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(config(folder, **storage))
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_paths_are_taken_from_the_folder(tmp_path: Path) -> None:
    found = load_config(config(tmp_path, ledger="sqlite:///a.db", objects="file://" + "/srv/objects", private="file:../private"))
    assert found.ledger_url == f"sqlite:///{tmp_path}/a.db" and found.objects_url == "file:/srv/objects"
    assert found.private_url == f"file:{tmp_path}/../private"


def test_database_and_buckets_stay_and_the_key_file_is_taken_from_the_folder(tmp_path: Path) -> None:
    ledger, objects = "postgresql+psycopg://writer:pass%40word@host:5433/ledger", "s3://objects/run?endpoint=http://127.0.0.1:1&lock=COMPLIANCE:30d"
    found = load_config(config(tmp_path, ledger=ledger, objects=objects, private="s3://secrets/x?key=keys/p.key&endpoint=http://h:1"))
    assert found.ledger_url == ledger and found.objects_url == objects
    assert found.private_url == f"s3://secrets/x?key={tmp_path}/keys/p.key&endpoint=http://h:1"


@pytest.mark.parametrize(("storage", "parts"), [
    ({"ledger": "postgresql://h/d"}, ["storage.ledger", "another driver", "postgresql+psycopg://"]),
    ({"ledger": "postgresql+psycopg://h"}, ["storage.ledger", "no database"]),
    ({"ledger": "s3://bucket"}, ["storage.ledger", "sqlite:///PATH"]),
    ({"objects": "s3://bucket/../x"}, ["storage.objects", "bucket and prefix"]),
    ({"objects": "s3://bucket?lock=forever"}, ["storage.objects", "COMPLIANCE:30d"]),
    ({"objects": "postgresql+psycopg://h/d"}, ["storage.objects", "file:PATH"]),
    ({"private": "s3://bucket"}, ["storage.private", "key=PATH"]),
    ({"objects": "s3://one/a", "private": "s3://one/b?key=k"}, ["storage.private", "same bucket"]),
    ({"objects": "file:a", "private": "file:a/b"}, ["storage.private", "separate folders"]),
])
def test_what_is_wrong_is_named(tmp_path: Path, storage: dict[str, str], parts: list[str]) -> None:
    found = problem(tmp_path, **storage)
    assert all(part in found for part in parts), found


@pytest.mark.parametrize("storage", [
    {"ledger": "postgresql://me:hunter2@h/d"}, {"ledger": "postgresql+psycopg://me:hunt@hunter2@h"}, {"objects": "s3://AKIA:hunter2@bucket"},
    {"objects": "s3://bucket?endpoint=http://me:hunter2@h"}, {"private": "s3://bucket?key=k&secret=hunter2"},
])
def test_credentials_are_never_repeated(tmp_path: Path, storage: dict[str, str]) -> None:
    assert "hunter2" not in problem(tmp_path, **storage)
