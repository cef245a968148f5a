"""Counting without arithmetic: what a blank field makes of the schedule are the counts that the real one finds."""

import numpy as np
import pytest

from protocol.field import GOLDILOCKS, small_field
from protocol.manifest import RunManifest
from protocol.schedule.task import TaskShape
from protocol.statement import task_list
from prover.argument import counting
from prover.argument.counting import BlankField, count
from tests.protocol.test_graphs import RUNS
from tests.protocol.test_lookups import looked_up
from tests.support.tiny import tiny_graph


@pytest.mark.parametrize("name", RUNS)
def test_counts_of_every_task_of_every_run(name: str) -> None:
    """One task of each kind and subject: with lookups, products, one-hot rows, zeros, published values, public factors."""
    manifest, seen = RunManifest.from_json(str(RUNS[name]["manifest"]).encode()), set()
    for task in task_list(manifest):
        if (task.kind, task.subject) in seen or task.kind in seen and task.kind == "layer":
            continue
        seen |= {(task.kind, task.subject), task.kind}
        blank, real = (TaskShape(task.graph(manifest), GOLDILOCKS) for _ in range(2))
        count(blank)
        assert vars(blank)["counts"] == real.counts


def test_counts_of_many_trees_and_of_a_toy_field() -> None:
    graph = looked_up(("range:4", (8, 4)), ("range:4", (17,)), ("range:2", (3, 5)))
    for field, bits in ((GOLDILOCKS, 6), (GOLDILOCKS, 26), (small_field(12289), 6)):
        blank = TaskShape(graph, field, bits)
        count(blank)
        assert len(blank.plans) == (1 if bits == 26 else 2) and blank.counts == TaskShape(graph, field, bits).counts


def test_counts_that_are_known_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = TaskShape(tiny_graph(2, 2, 3), GOLDILOCKS)
    known = shape.counts
    monkeypatch.setattr(counting, "BlankField", None)
    count(shape)
    assert shape.counts is known


def test_blank_arrays_have_the_shapes_of_real_ones() -> None:
    rng, blank = np.random.default_rng(0), BlankField(GOLDILOCKS)

    def drawn(*shape: int) -> np.ndarray:
        return rng.integers(0, 1 << 62, shape).astype(np.uint64)

    a, b, f, point, r = drawn(2, 3, 1), drawn(2, 1, 4), drawn(3, 4), drawn(2, 5), GOLDILOCKS.ext(3, 4)
    for name, arguments in {
        "embed": (f.astype(np.int64),), "lift": (f,), "add": (a, b), "sub": (a, b), "mul": (a[0], f), "sum": (f,),
        "dot": (f, f), "kmul": (a, b), "kmulf": (a, f), "kscale": (a, r), "ksum": (a,), "kdot": (a, b), "eq_table": (point,),
        "zeros": (2, 3),
    }.items():
        found, real = getattr(blank, name)(*arguments), getattr(GOLDILOCKS, name)(*arguments)
        assert found.shape == real.shape and not found.any(), name
