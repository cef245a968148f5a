"""`verilora dataset commit`: what its owner gets, what a provider makes of it, and errors that say what to do."""

import json
import shutil
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import app
from flows.config import load_config
from flows.session import request_of
from prover.files.dataset_opening import read_opening
from tasks.plan import draft

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EXAMPLES / "tiny-llama" / name, folder)
    return folder


def commit(tokenizer: Path, out: Path, *more: str, file: Path = EXAMPLES / "haiku.jsonl") -> Result:
    given = {"--profile": "goldilocks-2^12", "--sequence-length": "64", "--openings": "9", "--owner": "Haiku Society"}
    given |= dict(zip(more[::2], more[1::2], strict=True))
    options = [part for pair in given.items() for part in pair]
    return CliRunner().invoke(app, ["dataset", "commit", str(file), "--tokenizer", str(tokenizer), "--out", str(out), "--json", *options])


def test_the_owners_dataset_becomes_the_runs(tokenizer: Path, tmp_path: Path) -> None:
    result = commit(tokenizer, tmp_path / "owner")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["owner"], shown["examples"], shown["openings"], shown["sequence_length"]) == ("Haiku Society", 96, 9, 64)
    secret = Path(shown["opening"])
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and read_opening(secret).id == shown["id"]
    assert json.loads(Path(shown["public"]).read_text())["id"] == shown["id"]
    (tmp_path / "run.yaml").write_text(
        f"base_model: {EXAMPLES / 'tiny-llama'}\ndataset_opening: owner/dataset-opening.npz\nlora: {{target_modules: [q_proj]}}\n"
        "training: {learning_rate: 0.05, max_steps: 4, sequence_length: 64}\n"
    )
    found = draft(request_of(load_config(tmp_path / "run.yaml")), "key")
    assert found.opening is not None and found.opening.id == shown["id"]
    assert (found.manifest.dataset_owner, found.manifest.profile) == ("Haiku Society", "goldilocks-2^12")


def test_nothing_is_replaced_and_errors_are_bad_input(tokenizer: Path, tmp_path: Path) -> None:
    assert commit(tokenizer, tmp_path / "owner").exit_code == 0
    before = (tmp_path / "owner" / "dataset-opening.npz").read_bytes()
    again = commit(tokenizer, tmp_path / "owner")
    assert again.exit_code == 2 and "exists already" in again.stderr.replace("\n", " ")
    assert (tmp_path / "owner" / "dataset-opening.npz").read_bytes() == before
    for more, part in ((("--profile", "big"), "is no profile"), (("--openings", "99"), "valid is 1 to 12"), (("--owner", " "), "--owner")):
        result = commit(tokenizer, tmp_path / "other", *more)
        assert result.exit_code == 2 and part in result.stderr, result.stderr
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": \n')
    result = commit(tokenizer, tmp_path / "other", file=bad)
    assert result.exit_code == 2 and "bad.jsonl, line 2: not valid JSON" in result.stderr
    assert not (tmp_path / "other").exists()
