"""The soundness calculator against a second one in exact fractions, written from the formulas and not from the code."""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.params import MIN_BITS, PROFILES, profile
from protocol.relation.graph import Graph
from protocol.schedule.task import TaskShape
from protocol.soundness import Soundness, require_bits, task_soundness
from protocol.statement import BUDGETS, Task, commitment_layout, max_blinding, task_list
from tests.support.soundness import Bound, Schedule, bits, errors, missed, total
from tests.support.tiny import tiny_graph
from tests.toy import toy_manifest

KINDS = (
    ({}, ("range", "embed", "layer", "head")),
    ({"rotation_windows": 1}, ("rotate",)),
    ({"kind": "adamw", "weight_decay": "0.01", "max_grad_norm": "0.5", "schedule": "cosine", "warmup_steps": 1}, ("layer", "clip")),
    ({"publish_loss": False}, ("head",)),
)


@cache
def schedules() -> list[tuple[RunManifest, Task, TaskShape, Schedule]]:
    """Every kind of task of runs of odd sizes, first and last windows."""
    out = []
    for options, kinds in KINDS:
        manifest = toy_manifest(layers=1, steps=2, window_steps=1, target_modules=("down_proj",), **options)
        for task in task_list(manifest):
            if task.kind in kinds and (task.window < 1 or task.kind in ("layer", "rotate")):
                graph = task.graph(manifest)
                out.append((manifest, task, TaskShape(graph, GOLDILOCKS), Schedule(graph)))
    return out


def agree(found: Soundness, second: dict[str, Bound]) -> None:
    """Equal within a hundredth of a bit, and never more than the exact bound."""
    assert found.sources.keys() == second.keys()
    for source, value in found.sources.items():
        assert bits(second[source].error) - 0.01 <= value <= bits(second[source].error) + 1e-9, source
    assert total(second) - 0.01 <= found.total_bits <= total(second) + 1e-9
    assert found.bits == min(found.sources.values())


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_two_calculators_agree(name: str) -> None:
    """On every kind of task, with the smallest, a middle and the largest budget; what is enough for one is for both."""
    params = profile(name)
    most = params.max_openings
    for manifest, task, shape, schedule in schedules():
        for openings in {1, most // 2 + 1, most}:
            budgets = dict.fromkeys(BUDGETS, 1) | {"state": openings}
            run = replace(manifest, profile=name, budgets=budgets)
            inputs = [commitment_layout(run, c) for _, c in task.commitments]
            blinding = max_blinding(run, params)
            found = task_soundness(params, shape, [*inputs, shape.witness_layout(params)], blinding)
            shapes = [[s.tensor.shape for s in layout.slots] for layout in inputs]
            agree(found, errors(schedule, params, shapes, params.queries * openings))
            require_bits(found, 0, str(task))
            assert found.sources["queries"] <= missed(params, blinding)  # the bound bounds what it is about


def test_the_tiny_graph_agrees_too() -> None:
    params, graph = profile("goldilocks-2^12"), tiny_graph()
    shape = TaskShape(graph, GOLDILOCKS)
    layouts = [CommitmentLayout.pack([("W", (3, 5))], params.code(3)), shape.witness_layout(params)]
    agree(task_soundness(params, shape, layouts, 3 * params.queries), errors(Schedule(graph), params, [[(3, 5)]], 3 * params.queries))


def test_every_count_is_in_the_total() -> None:
    """With queries beyond need and commitments of several rows the other sources make the sum: both calculators have the same."""
    params = replace(profile("goldilocks-2^12"), queries=500)
    empty = Graph()
    empty.input("base", "W", "a", (70000,), -1, 1)
    for graph in (tiny_graph(), empty):
        shape = TaskShape(graph, GOLDILOCKS)
        layouts = [CommitmentLayout.pack([("W", (70000,))], params.code(1)), shape.witness_layout(params)]
        found = task_soundness(params, shape, layouts, params.queries)
        second = errors(Schedule(graph), params, [[(70000,)]], params.queries)
        agree(found, second)
        assert found.total_bits == pytest.approx(total(second), abs=1e-9, rel=0)


def test_several_lookup_trees_agree_too() -> None:
    """Each tree has an error of its own, the largest counts; levels, leaves and multiplicities of all are in the sums."""
    params, graph = profile("goldilocks-2^12"), tiny_graph(6, 24, 5)
    found, layouts = [], [CommitmentLayout.pack([("W", (6, 5))], params.code(1))]
    for tree_bits in (9, 26):
        shape = TaskShape(graph, GOLDILOCKS, tree_bits)
        found.append(task_soundness(params, shape, [*layouts, shape.witness_layout(params)], params.queries))
        agree(found[-1], errors(Schedule(graph, tree_bits), params, [[(6, 5)]], params.queries))
    assert found[0].sources["lookups"] > found[1].sources["lookups"]


@pytest.mark.parametrize("source", ["lookups", "batching", "sumcheck", "products", "folding", "combining", "equality"])
def test_the_comparison_notices_an_overstatement(source: str) -> None:
    """Control: a hundredth of a bit more in any source."""
    params, (manifest, task, shape, schedule) = profile("goldilocks-2^12"), schedules()[6]
    run = replace(manifest, profile=params.name, budgets=dict.fromkeys(BUDGETS, 1))
    inputs = [commitment_layout(run, c) for _, c in task.commitments]
    found = task_soundness(params, shape, [*inputs, shape.witness_layout(params)], params.queries)
    second = errors(schedule, params, [[s.tensor.shape for s in x.slots] for x in inputs], params.queries)
    agree(found, second)
    with pytest.raises(AssertionError):
        agree(replace(found, sources=found.sources | {source: found.sources[source] + 0.01}), second)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_largest_budget_of_a_profile(name: str) -> None:
    """By exact fractions: max_openings reaches 100 bits, one more does not, and its code exists."""
    params = profile(name)
    for openings, enough in ((params.max_openings, True), (params.max_openings + 1, False)):
        rate = Fraction(params.ell + openings * params.queries, params.n)
        assert (((1 + rate) / 2) ** params.queries <= Fraction(1, 1 << MIN_BITS)) is enough
    assert params.code(params.max_openings).length < params.n


def test_less_than_100_bits_is_refused() -> None:
    graph = tiny_graph()
    shape = TaskShape(graph, GOLDILOCKS)
    for params in (replace(profile("goldilocks-2^12"), queries=130), replace(profile("goldilocks-2^12"), n=1 << 13)):
        found = task_soundness(params, shape, [shape.witness_layout(params)], params.queries)
        with pytest.raises(VerificationError) as caught:
            require_bits(found, 0, "task")
        assert caught.value.reason == "soundness" and "queries" in caught.value.actual


def test_wanted_bits_never_lower_the_bar() -> None:
    weak, strong = Soundness({"queries": 99.9}, 99.0), Soundness({"queries": 110.0}, 109.0)
    for wanted in (-5, 0, 80, 100):
        require_bits(strong, wanted, "x")
        with pytest.raises(VerificationError):
            require_bits(weak, wanted, "x")
    with pytest.raises(VerificationError):
        require_bits(strong, 128, "x")
    require_bits(strong, 110, "x")
    require_bits(Soundness({"queries": float(MIN_BITS)}, 99.0), 0, "x")


@pytest.mark.parametrize("name", ["", "toy", "goldilocks-2^9", "goldilocks-2^10 ", "Goldilocks-2^10"])
def test_unregistered_profiles_are_refused(name: str) -> None:
    with pytest.raises(VerificationError) as caught:
        profile(name)
    assert caught.value.reason == "parameters"


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 128), min_size=1))
@settings(max_examples=30, deadline=None)
def test_reported_bits_are_rounded_down(sources: dict[str, float]) -> None:
    shown = Soundness(sources, 50.7).to_json()
    assert shown["bits"] <= min(sources.values()) and shown["total_bits"] == 50  # type: ignore[operator]
    assert all(v / 100 <= sources[k] for k, v in shown["centibits"].items())  # type: ignore[attr-defined]
