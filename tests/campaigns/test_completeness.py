"""Honest statements are accepted, whatever their sizes: random graphs of every operation, and toy runs at edge sizes.

A CI run has 60 graphs and 3 runs, always the same; `make attacks` has 10,000 graphs and 100 runs, others each time (CASES=n for
another number; a failure prints the arguments that lead to it).
"""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protocol.schedule.opening import Committed
from protocol.statement import task_list
from prover.argument.prove import prove_task
from prover.executor.calibrate import CalibrationError
from prover.executor.evaluate import RangeOverflow, check
from tests.support.random_graph import SIZES, STEPS, honest, prove_and_verify, random_graph
from tests.support.stage import PARAMS, Stage, backend, seed, verify
from tests.toy import toy

QUICK, CASES = 60, int(os.environ.get("CASES", "10000"))
edge = st.sampled_from(SIZES)
models = st.fixed_dictionaries({
    "vocab": st.sampled_from([2, 3, 5, 16, 17, 37]), "hidden": st.sampled_from([2, 3, 7, 8, 11]), "kv_heads": st.sampled_from([1, 2, 3]),
    "queries": st.sampled_from([1, 2, 3]), "head_dim": st.sampled_from([2, 4, 6]), "ffn": st.sampled_from([1, 2, 5, 8, 13]),
})
options = st.sampled_from([
    {}, {"momentum": "0"}, {"kind": "adamw", "weight_decay": "0.01"}, {"kind": "adamw", "max_grad_norm": "0.5"}, {"max_grad_norm": "1"},
    {"schedule": "linear", "warmup_steps": 1}, {"kind": "adamw", "schedule": "cosine"},
    {"rotation_windows": 1}, {"gradient_accumulation": 2}, {"publish_loss": False, "use_rslora": True},
    {"gradient_accumulation": 2, "parts": 2}, {"gradient_accumulation": 2, "parts": 2, "kind": "adamw", "max_grad_norm": "0.5"},
])
module_sets = st.sampled_from([("q_proj",), ("k_proj", "o_proj"), ("v_proj", "down_proj"), ("gate_proj", "up_proj")])


def examples(count: int, body: Callable[..., None], *strategies: st.SearchStrategy[object]) -> None:
    """`body` with so many random arguments; the quick ones are always the same, and a run of a model is not made smaller."""
    quick, phases = count <= QUICK, (Phase.generate, Phase.shrink) if len(strategies) == 4 else (Phase.generate,)
    chosen = settings(max_examples=count, deadline=None, phases=phases, suppress_health_check=list(HealthCheck), derandomize=quick,
                      database=None, print_blob=True)
    chosen(given(*strategies)(body))()


def random_graphs(tried: Counter[str], count: int) -> None:
    def body(steps: list[str], rows: int, columns: int, number: int) -> None:
        tried["graphs"] += 1
        tried.update(steps)
        prove_and_verify(honest(random_graph(steps, rows, columns, number), number))
        tried["accepted"] += 1

    examples(count, body, st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=5), edge, edge, st.integers(0, 1 << 32))


def toy_runs(tried: Counter[str], count: int) -> None:
    """Every task of a run satisfies its relation; one of each kind is proved."""

    def body(sizes: dict[str, int], option: dict[str, Any], modules: tuple[str, ...], steps: int, batch: int, length: int, r: int,
             number: int) -> None:
        sizes = {n: size for n, size in sizes.items() if n != "queries"} | {"heads": sizes["kv_heads"] * sizes["queries"]}
        try:
            stage = Stage(toy(
                layers=1, steps=steps, window_steps=min(steps, 2), sizes=sizes, batch_size=batch, sequence_length=length,
                examples=2 * batch + 1, r=r, target_modules=modules, seed=number, extra_headroom=2, **option))
        except (CalibrationError, RangeOverflow):  # gradients that vanish: there is no such run
            tried["refused"] += 1
            return
        tried["runs"] += 1
        judge_tasks(tried, stage, number)

    examples(count, body, models, options, module_sets, st.integers(1, 3), st.integers(1, 2), st.sampled_from([2, 3, 4, 5, 8]),
             st.sampled_from([1, 2, 3, 5]), st.integers(0, 1000))
    assert tried["runs"] > tried["refused"]  # of the three quick runs one is refused


def judge_tasks(tried: Counter[str], stage: Stage, number: int) -> None:
    proved = set[str]()
    for task in task_list(stage.toy.manifest):
        case = stage.case(task.kind, task.window, task.layer, task.part)
        tried["tasks"] += 1
        check(case.graph, dict(enumerate(case.values)))
        if task.kind not in proved and (task.kind != "range" or task.part == number % 3):
            proved.add(task.kind)
            tried["proved"] += 1
            published, data = case.published(), case.committed()
            statement = case.statement(published)
            opened = list(data.items())
            proof = prove_task(backend(), case.shape, statement, opened, case.values, published, PARAMS, seed("x"), lambda: None)
            verify(case.shape, statement, [Committed(k, d.layout, d.root) for k, d in data.items()], published, proof)
        tried["accepted"] += 1


def test_random_graphs() -> None:
    random_graphs(Counter(), QUICK)


def test_toy_runs() -> None:
    toy_runs(Counter(), 3)


@pytest.mark.parametrize("step", STEPS)
def test_every_operation_at_size_one(step: str) -> None:
    prove_and_verify(honest(random_graph([step, step], 1, 1, 7), 7))


@pytest.mark.attacks
def test_campaign(capsys: pytest.CaptureFixture[str]) -> None:
    tried = Counter[str]()
    try:
        random_graphs(tried, CASES)
        toy_runs(tried, max(3, CASES // 100))
    finally:
        every = tried["graphs"] + tried["tasks"]
        with capsys.disabled():
            print(f"\nhonest statements ({tried['graphs']} graphs; {tried['tasks']} tasks of {tried['runs']} runs, "
                  f"{tried['proved']} proved, {tried['refused']} runs refused at first): tried {every}, accepted {tried['accepted']}, "
                  f"survivors {every - tried['accepted']}")
    assert min(tried[step] for step in STEPS) >= CASES // 100 and every == tried["accepted"]
