"""Honest statements are accepted, whatever their sizes: random graphs of every operation, and toy runs at edge sizes.

`CASES=10000 pytest -s tests/campaigns/test_completeness.py` is the campaign (`pytest -m attacks
tests/campaigns/test_completeness.py`); a CI run has 60 graphs and 3 runs.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protocol.errors import VerificationError
from protocol.relation.graph import RelationError
from protocol.schedule.opening import Committed
from protocol.statement import task_list
from prover.argument.prove import prove_task
from prover.executor.calibrate import CalibrationError
from prover.executor.evaluate import RangeOverflow, check
from tests.support.random_graph import SIZES, STEPS, honest, prove_and_verify, random_graph
from tests.support.stage import PARAMS, Stage, backend, seed, verify
from tests.toy import toy

CASES = int(os.environ.get("CASES", "60"))
RUNS = max(3, CASES // 100)
QUICK = CASES == 60
tried: Counter[str] = Counter()
edge = st.sampled_from(SIZES)


@pytest.fixture(scope="module", autouse=True)
def line() -> Iterator[None]:
    yield
    every = tried["graphs"] + tried["tasks"]
    print(f"\ncompleteness: tried {every} ({tried['graphs']} graphs, {tried['tasks']} tasks of {tried['runs']} runs), accepted "
          f"{tried['accepted']}, survivors {every - tried['accepted']}; {tried['refused']} runs were refused before they began")


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5), edge, edge, st.integers(0, 1 << 32))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=QUICK, database=None)
def test_random_graphs(steps: list[str], rows: int, columns: int, number: int) -> None:
    tried["graphs"] += 1
    tried.update(steps)
    prove_and_verify(honest(random_graph(steps, rows, columns, number), number))
    tried["accepted"] += 1


@pytest.mark.parametrize("step", STEPS)
def test_every_operation_at_size_one(step: str) -> None:
    tried["graphs"] += 1
    tried[step] += 1
    prove_and_verify(honest(random_graph([step, step], 1, 1, 7), 7))
    tried["accepted"] += 1


models = st.fixed_dictionaries({
    "vocab": st.sampled_from([2, 3, 5, 16, 17, 37]), "hidden": st.sampled_from([2, 3, 7, 8, 11]), "kv_heads": st.sampled_from([1, 2, 3]),
    "queries": st.sampled_from([1, 2, 3]), "head_dim": st.sampled_from([2, 4, 6]), "ffn": st.sampled_from([1, 2, 5, 8, 13]),
})
optimizers = st.sampled_from([
    {}, {"momentum": "0"}, {"kind": "adamw", "weight_decay": "0.01"}, {"kind": "adamw", "max_grad_norm": "0.5"}, {"max_grad_norm": "1"},
    {"schedule": "linear", "warmup_steps": 1}, {"kind": "adamw", "schedule": "cosine"},
])


@given(
    models, optimizers, st.sampled_from([("q_proj",), ("k_proj", "o_proj"), ("v_proj", "down_proj"), ("gate_proj", "up_proj")]),
    st.integers(1, 3), st.integers(1, 2), st.sampled_from([2, 3, 4, 5, 8]), st.sampled_from([1, 2, 3, 5]), st.integers(0, 1000),
)
@settings(
    max_examples=RUNS, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), derandomize=QUICK, database=None)
def test_toy_runs(
    sizes: dict[str, int], optimizer: dict[str, str], modules: tuple[str, ...], steps: int, batch: int, length: int, r: int, number: int
) -> None:
    """Every task of a run satisfies its relation; one of each kind is proved."""
    sizes = dict(sizes)
    sizes["heads"] = sizes["kv_heads"] * sizes.pop("queries")
    try:
        stage = Stage(toy(
            layers=1, steps=steps, window_steps=min(steps, 2), sizes=sizes, batch_size=batch, sequence_length=length, examples=batch + 1,
            r=r, target_modules=modules, seed=number, extra_headroom=2, **optimizer))
    except (CalibrationError, RangeOverflow, RelationError, VerificationError):  # gradients that vanish: there is no such run
        tried["refused"] += 1
        return
    tried["runs"] += 1
    proved = set[str]()
    for task in task_list(stage.toy.manifest):
        case = stage.case(task.kind, task.window, task.layer, task.part)
        tried["tasks"] += 1
        check(case.graph, dict(enumerate(case.values)))
        if task.kind not in proved and (task.kind != "range" or task.part == number % 4):
            proved.add(task.kind)
            published, data = case.published(), case.committed()
            statement = case.statement(published)
            opened = list(data.items())
            proof = prove_task(backend(), case.shape, statement, opened, case.values, published, PARAMS, seed("x"), lambda: None)
            verify(case.shape, statement, [Committed(k, d.layout, d.root) for k, d in data.items()], published, proof)
        tried["accepted"] += 1


def test_most_runs_were_runs() -> None:
    assert tried["runs"] > tried["refused"]
