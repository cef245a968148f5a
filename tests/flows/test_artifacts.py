"""The grid of proofs and the loss curve that Prefect's pages show."""

import base64
from pathlib import Path
from xml.etree import ElementTree

from flows.artifacts import column, image_url, losses, proof_grid
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
    record = run.stores.ledger.record(run.run_id)
    grid = proof_grid(run, record).splitlines()
    assert grid[0] == "range proofs: –, –, –, –"
    assert grid[2] == "| window | embed | layer 0 | head |"
    assert grid[4] == f"| 0 | – | – | {heads[0].size:,} |" and grid[5].endswith(f"{heads[1].size:,} |")
    assert {column(task) for task in tasks} == {"range", "embed", "layer 0", "head"}
    curve = losses(run, record)
    assert len(curve) == 2 and all(1.5 < value < 4 for value in curve)  # about ln 16 for a random model


def test_no_curve_before_every_step_is_published(tmp_path: Path) -> None:
    run = toy_run(tmp_path)
    train_window(run, 0)
    prove_statement(run, next(t for t in task_list(run.manifest) if t.kind == "head"))
    assert losses(run, run.stores.ledger.record(run.run_id)) == []


def test_the_image_is_a_drawing_of_the_curve() -> None:
    kind, _, data = image_url([3.0, 2.0, 2.5]).partition(",")
    assert kind == "data:image/svg+xml;base64"
    drawing = ElementTree.fromstring(base64.b64decode(data))
    line = drawing.find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    heights = [float(pair.split(",")[1]) for pair in line.attrib["points"].split()]
    assert heights[0] < heights[2] < heights[1] and len(heights) == 3
    image_url([1.0])  # a run of one step has a curve, too
