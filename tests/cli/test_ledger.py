"""`verilora ledger runs` and `ledger show`."""

import json

from typer.testing import CliRunner

from cli import app
from tests.cli.build_run import RUN_ID, Built


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", *arguments])
    return result.exit_code, result.output


def test_runs_are_listed(built: Built) -> None:
    code, output = run("runs", "--ledger", built.ledger_url, "--json")
    (row,) = json.loads(output)
    assert code == 0 and row["run"] == RUN_ID and row["proofs"] == row["statements"] == 10 and row["events"] == ["finished"]
    assert RUN_ID in run("runs", "--ledger", built.ledger_url)[1]


def test_a_run_is_shown_with_openings_within_budget(built: Built) -> None:
    code, output = run("show", "toy", "--ledger", built.ledger_url, "--json")
    shown = json.loads(output)
    assert code == 0 and shown["run"] == RUN_ID and len(shown["statements"]) == 10
    assert all(0 < row["openings"] <= row["budget"] for row in shown["commitments"])
    assert all(row["bytes"] > 0 for row in shown["statements"])
    assert shown["manifest"] == json.loads(built.manifest.to_json())
    code, output = run("show", "toy", "--ledger", built.ledger_url)
    assert code == 0 and "layer" in output and "finished" in output


def test_unknown_run_and_missing_ledger(built: Built) -> None:
    assert run("show", "nothing", "--ledger", built.ledger_url)[0] == 2
    assert run("runs", "--ledger", "sqlite:///none/none.db")[0] == 3
    assert run("runs", "--ledger", "mysql://x/y")[0] == 3
