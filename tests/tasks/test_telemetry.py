"""Log lines without secrets, and metrics that outlive the processes which counted."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from prover.executor.evaluate import RangeOverflow
from storage.errors import LedgerUnavailable
from tasks import telemetry
from tasks.context import TrainingOverflow
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.tasks.toy_run import toy_run

ROOT = Path(__file__).parents[2]
PASSWORD = "zq7-canary/pass@word"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_unit_of_work_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run(tmp_path)
    monkeypatch.setenv("VERILORA_LOG", "json")
    train_window(run, 0)
    train_window(run, 0)
    task = next(task for task in run.statements.values() if str(task) == "embed(0)")
    done = prove_statement(run, task)
    prove_statement(run, task)
    found = lines(capsys)
    assert [(line["event"], line["outcome"]) for line in found] == [
        ("trained", "fresh"), ("trained", "standing"), ("proved", "fresh"), ("proved", "standing")]
    assert found[0] | {"run": run.run_id, "window": 0, "steps": 1, "level": "info"} == found[0] and found[0]["seconds"] > 0  # type: ignore[operator]
    place = {"run": run.run_id, "kind": "embed", "window": 0, "layer": task.layer, "part": task.part, "bytes": done.size}
    assert found[2] | place == found[2]
    assert {line["prover"] for line in found} == {f"{socket.gethostname()}/{os.getpid()}"}


def test_nothing_is_said_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VERILORA_LOG", raising=False)
    train_window(toy_run(tmp_path), 0)
    assert capsys.readouterr().err == ""


def test_a_failure_names_its_kind_and_no_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run(tmp_path)
    monkeypatch.setenv("VERILORA_LOG", "json")

    def overflows(*_: object) -> None:
        raise RangeOverflow("act/0.q", 0, 123456789, -9, 9)

    monkeypatch.setattr(run.trainer, "run_window", overflows)
    with pytest.raises(TrainingOverflow):
        train_window(run, 0)
    monkeypatch.setattr(run, "rows", lambda task: {}[f"secret {PASSWORD}"])
    with pytest.raises(KeyError):
        prove_statement(run, next(iter(run.statements.values())))
    trained, proved = lines(capsys)
    assert (trained["outcome"], trained["error"], trained["level"]) == ("failed", "TrainingOverflow", "warning")
    assert "act/0.q" in str(trained["message"]) and "123456789" not in json.dumps(trained)
    assert proved["error"] == "KeyError" and "message" not in proved and PASSWORD not in json.dumps(proved)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("text", [
    f"postgresql+psycopg://verilora:{PASSWORD}@db.example.org/ledger cannot be reached", f"host=db password={PASSWORD} dbname=x",
    f"see s3://bucket?secret={PASSWORD}&region=x and http://user:{PASSWORD}@proxy:3128",
])
def test_credentials_are_cut_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str, text: str) -> None:
    monkeypatch.setenv("VERILORA_LOG", form)
    telemetry.retried("prove-statement", LedgerUnavailable(text))
    said = capsys.readouterr().err
    assert "LedgerUnavailable" in said and "canary" not in said and "pass@" not in said and "@word" not in said
    assert "…" in (json.loads(said)["message"] if form == "json" else said)


def test_a_closed_standard_error_fails_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERILORA_LOG", "text")
    with (tmp_path / "gone").open("w") as gone:
        pass
    run = toy_run(tmp_path)
    monkeypatch.setattr(sys, "stderr", gone)
    assert train_window(run, 0)


def test_verifying_does_without(tmp_path: Path) -> None:
    for modules, absent in (
        ("cli, cli.audit, tasks.verify", {"tasks.telemetry", "structlog", "prometheus_client"}),
        ("tasks.telemetry", {"structlog", "prometheus_client", "numpy", "sqlalchemy"}),
    ):
        code = f"import sys, {modules}; print(sorted({absent} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("asked", ["", "off"])
def test_workers_log_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    from typer.testing import CliRunner

    from cli import app

    given: list[dict[str, str]] = []
    monkeypatch.setattr(sys.modules["cli.deploy"], "_keep_running", lambda command, environment: given.append(environment) or 0)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.delenv("VERILORA_LOG", raising=False)
    if asked:
        monkeypatch.setenv("VERILORA_LOG", asked)
    assert CliRunner().invoke(app, ["worker", "verifiers"]).exit_code == 0
    assert given[0]["VERILORA_LOG"] == (asked or "json") and telemetry.FOLDER not in given[0]


# metrics

CHILD = """\
import sys
from types import SimpleNamespace as S
from tasks import telemetry
context, task = S(run_id="run-1"), S(kind="layer", window=0, layer=0, part=-1)
prove = telemetry.proving(lambda context, task: S(fresh=True, size=1000))
fail = telemetry.proving(lambda context, task: 1 // 0)
train = telemetry.training(lambda context, window: True)
with telemetry.shift():
    prove(context, task), prove(context, task)
    train(S(run_id="run-1", manifest=S(windows=lambda: [S(count=3)])), 0)
    try:
        fail(context, task)
    except ZeroDivisionError:
        pass
    telemetry.taken_over(context, task)
    telemetry.retried("prove-statement", ConnectionError())
    telemetry.left("run-1", 7)
    print("ready", flush=True)
    sys.stdin.read()
"""


def start(environment: dict[str, str]) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, env=os.environ | environment, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def scrape(port: int) -> dict[str, float]:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


def test_children_count_and_the_dead_leave_no_state() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = telemetry.serve_metrics(port)
    folder = Path(environment[telemetry.FOLDER])
    first = start(environment)
    seen = scrape(port)
    assert [seen[f'verilora_proofs_total{{kind="layer",outcome="{end}"}}'] for end in ("fresh", "failed")] == [2, 1]
    assert seen['verilora_proof_bytes_total{kind="layer"}'] == 2000 and seen['verilora_proof_seconds_count{kind="layer"}'] == 2
    assert (seen["verilora_trained_steps_total"], seen["verilora_takeovers_total"], seen["verilora_shifts_running"]) == (3, 1, 1)
    assert seen['verilora_retries_total{task="prove-statement"}'] == 1 and seen['verilora_statements_left{run="run-1"}'] == 7
    second = start(environment)
    assert scrape(port)["verilora_shifts_running"] == 2
    for process in (first, second):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    seen = scrape(port)
    assert seen['verilora_proofs_total{kind="layer",outcome="fresh"}'] == 4 and 'verilora_statements_left{run="run-1"}' not in seen
    assert "verilora_shifts_running" not in seen
    files = len(list(folder.iterdir()))
    third = start(environment)
    assert scrape(port)['verilora_proofs_total{kind="layer",outcome="fresh"}'] == 6  # in the first one's files
    third.communicate()
    assert third.returncode == 0 and len([path for path in folder.iterdir() if "gauge" not in path.name]) <= files
    with pytest.raises(OSError, match="another --metrics-port"):
        telemetry.serve_metrics(port)
