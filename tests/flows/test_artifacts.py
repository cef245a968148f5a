"""Grid, sizes, progress and loss curve that Prefect's pages show, and that a server in trouble does not matter."""

import base64
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4
from xml.etree import ElementTree

import pytest

from flows import artifacts
from flows.artifacts import Board, by_kind, column, image_url, losses, proof_grid
from flows.session import Progress, Summary
from protocol.statement import task_list
from tasks.prove import prove_statement
from tasks.train import train_window
from tests.tasks.toy_run import toy_run


def test_grid_and_curve_follow_the_ledger(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    for window in range(2):
        train_window(run, window)
    tasks = task_list(run.manifest)
    heads = [prove_statement(run, task) for task in tasks if task.kind == "head"]
    sizes = run.stores.ledger.proof_sizes(run.run_id)
    assert sizes == {head.statement_id: head.size for head in heads}
    grid = proof_grid(run, sizes).splitlines()
    assert grid[0] == "range proofs: –, –, –, –"
    assert grid[2] == "| window | embed | layer 0 | head |"
    assert grid[4] == f"| 0 | – | – | {heads[0].size:,} |" and grid[5].endswith(f"{heads[1].size:,} |")
    assert {column(task) for task in tasks} == {"range", "embed", "layer 0", "head"}
    table = {row["kind"]: row for row in by_kind(run, sizes)}
    total = heads[0].size + heads[1].size
    largest = max(head.size for head in heads)
    assert table["head"] == {"kind": "head", "statements": 2, "proofs": 2, "mean bytes": total // 2, "largest": largest, "bytes": total}
    assert table["embed"] == {"kind": "embed", "statements": 2, "proofs": 0, "mean bytes": 0, "largest": 0, "bytes": 0}
    curve = losses(run, run.stores.ledger.statements(run.run_id, "head"))
    assert len(curve) == 2 and all(1.5 < value < 4 for value in curve)  # about ln 16 for a random model


def test_parts_of_a_step_share_a_cell_and_have_one_curve(tmp_path: Path) -> None:
    run = toy_run(tmp_path, profile="goldilocks-2^13", parts=2)
    for window in range(2):
        train_window(run, window)
    heads = [prove_statement(run, task) for task in task_list(run.manifest) if task.kind == "head"]
    grid = proof_grid(run, run.stores.ledger.proof_sizes(run.run_id)).splitlines()
    assert grid[2] == "| window | embed | layer 0 | update 0 | head |"
    assert grid[4] == f"| 0 | –, – | –, – | – | {heads[0].size:,}, {heads[1].size:,} |"
    curve = losses(run, run.stores.ledger.statements(run.run_id, "head"))
    assert len(curve) == 2 and all(1.5 < value < 4 for value in curve)


def test_no_curve_before_every_step_is_published(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    train_window(run, 0)
    prove_statement(run, next(t for t in task_list(run.manifest) if t.kind == "head"))
    assert losses(run, run.stores.ledger.statements(run.run_id, "head")) == []


def test_the_image_is_a_drawing_of_the_curve() -> None:
    kind, _, data = image_url([3.0, 2.0, 2.5]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    drawing = ElementTree.fromstring(base64.b64decode(data))
    line = drawing.find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert heights[0] < heights[2] < heights[1] and len(heights) == 3
    image_url([1.0])  # a run of one step has a curve, too


# a run that goes on

def long_run(windows: int) -> Any:
    """What a grid needs of a context: one embed and one layer statement a window, and the range proofs."""
    tasks = [("range", -1, -1)] + [(kind, window, 0) for window in range(windows) for kind in ("embed", "layer")]
    statements = {f"s{n}": SimpleNamespace(kind=kind, window=window, layer=layer) for n, (kind, window, layer) in enumerate(tasks)}
    return SimpleNamespace(run_id="ab12", statements=statements, manifest=SimpleNamespace(windows=lambda: [None] * windows))


def test_a_long_grid_stays_short() -> None:
    run = long_run(1000)
    sizes = {f"s{n}": 10 for n in range(1, 801)}  # windows 0 … 399
    lines = proof_grid(run, sizes).splitlines()
    assert len(lines) == 4 + 1 + artifacts.ROWS + 1
    assert lines[4] == "| 0 – 399 | 4,000 | 4,000 |" and lines[5] == "| 400 | – | – |" and lines[-1] == "| 460 – 999 | 0 | 0 |"
    complete = proof_grid(run, dict.fromkeys(run.statements, 10)).splitlines()
    assert complete[4] == "| 0 – 939 | 9,400 | 9,400 |" and complete[-1] == "| 999 | 10 | 10 |"
    assert len(proof_grid(long_run(5), {}).splitlines()) == 4 + 5


@dataclass
class Pages:
    """What was written, in the place of a Prefect server."""

    written: list[tuple[str, str, Any]] = field(default_factory=list)
    trouble: bool = False

    def write(self, kind: str, key: str, value: Any) -> UUID:
        if self.trouble:
            raise ConnectionError("no server")
        self.written.append((kind, key, value))
        return uuid4()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    found = Pages()
    for kind in ("markdown", "progress", "table", "image"):
        monkeypatch.setattr(artifacts, f"create_{kind}_artifact", lambda value, key, description, kind=kind: found.write(kind, key, value))
    monkeypatch.setattr(artifacts, "update_progress_artifact", lambda bar, value: found.write("update", str(bar), value))
    return found


SUMMARY = Summary("r", 10, 2, 2, 1000, 101, 1.0, 1.0)


def session_of(run: Any) -> Any:
    return SimpleNamespace(context=run, on_progress=seen.append)


seen: list[Progress] = []


def test_pages_follow_the_run_and_not_too_often(tmp_path: Path, pages: Pages) -> None:
    run = toy_run(tmp_path)
    session = session_of(run)
    board = Board(session)
    seen.clear()
    for step in range(3):
        session.on_progress(Progress("train", step, 3, ""))
    assert len(seen) == 3 and [kind for kind, _, _ in pages.written] == ["markdown", "progress"]  # one version
    for window in range(2):
        train_window(run, window)
    for task in run.statements.values():
        prove_statement(run, task)
    board._shown = float("-inf")
    session.on_progress(Progress("prove", 1, 3, ""))
    board.finish(SUMMARY)
    assert session.on_progress == seen.append
    kinds = [kind for kind, _, _ in pages.written]
    assert kinds == ["markdown", "progress", "markdown", "update", "markdown", "update", "table", "image"]
    first, last = pages.written[0], pages.written[4]
    assert first[1] == last[1] == f"run-{run.run_id}" and "0 of 10 statements" in first[2] and "10 of 10 statements" in last[2]
    assert "| head | 2 | 2 |" in last[2] and pages.written[5][2] == 100.0 and pages.written[6][2][0]["kind"] == "range"


def test_a_server_in_trouble_fails_no_run(tmp_path: Path, pages: Pages) -> None:
    pages.trouble = True
    run = toy_run(tmp_path)
    session = session_of(run)
    board = Board(session)
    session.on_progress(Progress("train", 0, 3, ""))
    board.finish(SUMMARY)
    assert pages.written == []
    run.stores.ledger.proof_sizes = lambda run_id: 1 / 0  # type: ignore[assignment,method-assign]
    board = Board(session)
    session.on_progress(Progress("train", 0, 3, ""))
    board.finish(SUMMARY)
