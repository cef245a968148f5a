"""`verilora calibrate`: the table says how much room there is, agrees with the plan, may be repeated; overflows point to it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli import app
from cli.calibrate import bits_left
from cli.run import _overflow
from flows.config import load_config
from flows.session import request_of
from prover.executor.evaluate import RangeOverflow
from storage.private import open_private_store
from tasks.plan import draft
from tasks.train import overflow_file
from tests.cli.commands import example_run


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    rest = "training: {learning_rate: 0.05, max_steps: 4}\nquantisation: {weights: int16, scales: row, headroom: 1}\n"
    return example_run(tmp_path, rest)


def test_headroom_and_loss(run_yaml: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate", str(run_yaml), "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    exponents = draft(request_of(load_config(run_yaml)), "key").manifest.exponents
    assert len(shown["tensors"]) > 30
    for row in shown["tensors"]:
        assert row["exponent"] == exponents[row["tensor"]]
        assert row["bits_left"] is None or row["bits_left"] >= 1  # nothing was calibrated to overflow
    found = shown["quantisation"]
    assert (found["weights"], found["scales"]) == ("int16", "row")
    assert found["relative"] == pytest.approx(found["loss_quantised"] / found["loss_stored"] - 1, abs=2e-6)
    assert abs(found["relative"]) < 1e-3
    assert len(shown["calibration_losses"]) == 12
    text = CliRunner().invoke(app, ["calibrate", str(run_yaml)])
    assert "base weights as int16 with one scale per row" in text.stdout and "quantisation.headroom" in text.stdout
    assert sorted(p.name for p in run_yaml.parent.iterdir()) == ["run.yaml"]  # nothing is written


def test_bits_left() -> None:
    assert bits_left(1.0, 14, 16) == 1.0 and bits_left(0.25, 14, 16) == 3.0 and bits_left(0.0, 14, 16) is None


def test_an_overflow_says_what_to_do(tmp_path: Path) -> None:
    error = RangeOverflow("layer/1/q", 3, 40000, -32768, 32767)
    private = open_private_store(f"file:{tmp_path / 'private'}")
    private.put(overflow_file("r"), str(error).encode())
    session = SimpleNamespace(stores=SimpleNamespace(private=private), context=SimpleNamespace(run_id="r"))
    text = _overflow(session)  # type: ignore[arg-type]
    parts = ("layer/1/q reached 40000 in step 3", "[-32768, 32767]", "verilora calibrate run.yaml", "quantisation.headroom", "is lost")
    assert all(part in text for part in parts)
