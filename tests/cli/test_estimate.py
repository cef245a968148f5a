"""`verilora estimate`: counts, memory by what takes it, seconds here; other machines by --memory; refusals that say what fits."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from cli.run import _bytes
from flows.config import load_config
from flows.session import Session, request_of
from tasks.estimate import PlanError
from tasks.plan import Room, plan_key
from tests.cli.commands import example_run


@pytest.fixture
def run_yaml(tmp_path: Path) -> Path:
    return example_run(tmp_path, "training: {learning_rate: 0.05, max_steps: 4, batch_size: 2}\n")


def test_what_a_run_costs_here_and_in_less_memory(run_yaml: Path) -> None:
    shown = CliRunner().invoke(app, ["estimate", str(run_yaml), "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert found["backend"] in ("cpu", "cuda") and found["estimated_seconds"] > 0 and found["tasks"] == 9
    for kind in found["kinds"]:
        assert kind["padded_values"] >= kind["committed_values"] > 0 and set(kind["estimated_seconds_by_part"]) == {
            "inputs", "evaluate", "prove", "verify"}
        assert sum(kind["estimated_memory"].values()) == kind["estimated_memory_bytes"] <= found["estimated_memory_bytes"]
    table = CliRunner().invoke(app, ["estimate", str(run_yaml)]).output.splitlines()  # of the eighty characters of a plain terminal
    (line,) = (line for line in table if line.split()[:1] == ["all"])
    assert line.split()[1] == "9" and line.rstrip().endswith(" s") and "…" not in "".join(table[:8])
    refused = CliRunner().invoke(app, ["estimate", str(run_yaml), "--memory", "120MB"])
    assert refused.exit_code == 2 and "a task of the kind" in refused.output and "there are 120.0 MB" in refused.output
    assert sorted(p.name for p in run_yaml.parent.iterdir()) == ["run.yaml"]


@pytest.mark.parametrize("command", ["estimate", "calibrate"])
def test_whoever_waits_is_told_what_for(run_yaml: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    quick = CliRunner().invoke(app, [command, str(run_yaml), "--json"])
    monkeypatch.setattr("cli.output.PATIENCE", 0.001)
    told = CliRunner().invoke(app, [command, str(run_yaml), "--json"])
    assert json.loads(told.stdout)["tensors" if command == "calibrate" else "tasks"]
    assert "calibrating exponents: step " in told.stderr and "counting the work of every task" in told.stderr
    assert told.stderr.count("step 2 of 12") <= 1 and set(quick.stderr.splitlines()) <= set(told.stderr.splitlines())


def test_what_run_yaml_says_of_the_provers(run_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is planned for, wherever it is planned; a command's own word goes before it; the run stays the same run."""
    monkeypatch.setattr("prover.backend.cuda_module", lambda: None)
    text = run_yaml.read_text()
    key = plan_key(request_of(load_config(run_yaml)))
    run_yaml.write_text(text + "orchestration: {prover_memory: 120MB}\n")
    assert plan_key(request_of(load_config(run_yaml))) == key
    refused = CliRunner().invoke(app, ["estimate", str(run_yaml)])
    assert refused.exit_code == 2 and "there are 120.0 MB by orchestration.prover_memory; " in refused.output
    with pytest.raises(PlanError, match=r"there are 120.0 MB by orchestration.prover_memory; "):
        Session(run_yaml).draft()
    run_yaml.write_text(text + "orchestration: {prover_memory: 3GB, prover_device: cuda}\n")
    assert plan_key(request_of(load_config(run_yaml))) == key
    planned = CliRunner().invoke(app, ["estimate", str(run_yaml), "--json"])
    found = json.loads(planned.stdout)
    assert (found["planned_device"], found["planned_memory_bytes"], found["backend"]) == ("cuda", 3 * 10**9, None)
    drafted = Session(run_yaml).draft()
    assert drafted.room == Room("cuda", 3 * 10**9, 0, said="by orchestration.prover_memory")
    assert drafted.estimate.memory == found["estimated_memory_bytes"]
    asked = CliRunner().invoke(app, ["estimate", str(run_yaml), "--memory", "1MB"])
    assert asked.exit_code == 2 and "there are 1.0 MB by --memory; " in asked.output


def test_a_device_that_is_not_here(run_yaml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prover.backend.cuda_module", lambda: None)
    missing = CliRunner().invoke(app, ["estimate", str(run_yaml), "--device", "cuda"])
    assert missing.exit_code == 2 and "--device cuda: not on this machine" in missing.output
    planned = CliRunner().invoke(app, ["estimate", str(run_yaml), "--device", "cuda", "--memory", "24GB"])
    assert planned.exit_code == 0 and "that device is not here" in planned.output
    unknown = CliRunner().invoke(app, ["estimate", str(run_yaml), "--device", "tpu"])
    assert unknown.exit_code == 2 and "valid is auto, cpu, cuda, reference" in unknown.output


@pytest.mark.parametrize(("text", "size"), [
    ("80GB", 80 * 10**9), ("24GiB", 24 << 30), ("1.5 tb", 1_500_000_000_000), ("512", 512), ("3k", 3000), ("2MiB", 2 << 20),
])
def test_sizes(text: str, size: int) -> None:
    assert _bytes(text) == size


def test_what_is_no_size(run_yaml: Path) -> None:
    for text in ("much", "-3GB", "GB", "4 PB"):
        refused = CliRunner().invoke(app, ["estimate", str(run_yaml), f"--memory={text}"])
        assert refused.exit_code == 2 and "valid is a number of bytes" in refused.output, refused.output
