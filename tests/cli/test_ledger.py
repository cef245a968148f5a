"""`verilora ledger query`, `ledger show` and `serve`."""

import hashlib
import json
from pathlib import Path

from typer.testing import CliRunner

from api.schemas import RunItem
from cli import app
from storage.ledger import open_ledger
from storage.models import RunRow
from tests.cli.build_run import RUN_ID, Built


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ledger", *arguments])
    return result.exit_code, result.output


def test_runs_are_queried(built: Built) -> None:
    code, output = run("query", "--ledger", built.ledger_url, "--json")
    page = json.loads(output)
    (row,) = page["items"]
    assert code == 0 and page["next"] is None and row["run"] == RUN_ID and row["proofs"] == row["statements"] == 10
    assert row == json.loads(RunItem(**row).model_dump_json()) and row["state"] == "finished" and row["verifiers"] == []
    assert RUN_ID[:16] in run("query", "--ledger", built.ledger_url)[1]
    for matching in (["--state", "finished"], ["--model", "toy"], ["--dataset", row["dataset"]], ["--since", row["created"][:10]],
                     ["--until", row["created"][:10]]):
        assert RUN_ID[:16] in run("query", "--ledger", built.ledger_url, *matching)[1], matching
    for other in (["--state", "proving"], ["--model", "x"], ["--dataset", "x"], ["--since", "2200-01-01"], ["--until", "2001-01-01"],
                  ["--verifier", "x"]):
        code, output = run("query", "--ledger", built.ledger_url, *other)
        assert code == 0 and "No run matches" in output, other
    for bad in (["--state", "x"], ["--since", "yesterday"], ["--after", "x"], ["--limit", "0"]):
        assert run("query", "--ledger", built.ledger_url, *bad)[0] == 2, bad


def test_a_query_goes_on_behind_its_last_run(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    book = open_ledger(url)
    for name in ("a", "b", "c"):
        book.append(RunRow(name, hashlib.sha256(b"{}").hexdigest(), "{}"))
    book.close()
    first = json.loads(run("query", "--ledger", url, "--json", "--limit", "2")[1])
    last = json.loads(run("query", "--ledger", url, "--json", "--limit", "2", "--after", first["next"])[1])
    assert [item["run"] for item in first["items"] + last["items"]] == ["c", "b", "a"] and last["next"] is None
    said = run("query", "--ledger", url, "--limit", "2")[1]
    assert first["next"] in said and "0 so far" in said and " of " not in said  # what is still to be trained has no statements yet


def test_serving_needs_a_ledger_and_objects(tmp_path: Path) -> None:
    def serve(*arguments: str) -> int:
        return CliRunner().invoke(app, ["serve", *arguments]).exit_code

    assert serve("--ledger", "sqlite:///none.db") == 2
    assert serve("--ledger", f"sqlite:///{tmp_path}/none.db", "--objects", f"file:{tmp_path}") == 3
    assert not list(tmp_path.iterdir())


def test_a_run_is_shown_with_openings_within_budget(built: Built) -> None:
    code, output = run("show", RUN_ID[:8], "--ledger", built.ledger_url, "--json")
    shown = json.loads(output)
    assert code == 0 and shown["run"] == RUN_ID and len(shown["statements"]) == 10
    assert all(0 < row["openings"] <= row["budget"] for row in shown["commitments"])
    assert all(row["bytes"] > 0 for row in shown["statements"])
    assert shown["manifest"] == json.loads(built.manifest.to_json())
    assert shown["dataset"] == {"id": built.manifest.commitments["dataset"], "committed_by": "the provider", "other_runs": []}
    assert [point["step"] for point in shown["loss_claimed"]] == [0, 1] and all(0 < point["loss"] < 20 for point in shown["loss_claimed"])
    code, output = run("show", RUN_ID[:8], "--ledger", built.ledger_url)
    assert code == 0 and "layer" in output and "finished" in output


def test_unknown_run_and_missing_ledger(built: Built) -> None:
    assert run("show", "nothing", "--ledger", built.ledger_url)[0] == 2
    assert run("query", "--ledger", "sqlite:///none/none.db")[0] == 3
    assert run("query", "--ledger", "mysql://x/y")[0] == 2
