"""The soundness calculator against a second one in exact fractions, written from the formulas and not from the code."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.params import MIN_BITS, PROFILES, Params, profile
from protocol.relation.graph import Graph
from protocol.schedule.task import TaskShape
from protocol.soundness import Soundness, require_bits, task_soundness
from tests.support.tiny import tiny_graph

P = GOLDILOCKS.p
K = P * P


def bits(error: Fraction) -> float:
    """−log2 of an exact error, by integer logarithms (error may be far below the smallest float)."""
    scale = 1 << 400
    return 400 - math.log2(int(error * scale))


def errors(params: Params, graph: Graph, layouts: list[CommitmentLayout], blinding: int) -> dict[str, tuple[int, Fraction]]:
    """(how often, error) by source: the second calculator."""
    shape = TaskShape(graph, GOLDILOCKS)
    rate = Fraction(params.ell + blinding, params.n)
    cells = sum(math.prod(x.columns[0].shape) for x in graph.lookups)
    rows = {"range:1": 2, "range:4": 16, "range:8": 256}
    fractions = cells + sum(rows[name] for name in {x.table for x in graph.lookups})
    variables = max(x.variables for x in layouts)
    row_variables = variables - (params.ell - 1).bit_length()
    batches = 3  # squares; then chosen; then Z, the product with the bias, and the one-hot rows
    products = len(shape.counts.products) - 1
    asserted = [*graph.zeros, *graph.published]
    return {
        "queries": (1, ((1 + rate) / 2) ** params.queries),
        "folding": (1, Fraction(params.n * (row_variables + 1), K)),
        "lookups": (1, Fraction(fractions, K)),
        "sumcheck": (variables + shape.counts.rounds, Fraction(3, K)),
        "batching": (1 + batches, Fraction(shape.counts.constraints, K)),
        "combining": (2 * shape.plan.variables + 3, Fraction(1, K)),
        "products": (1, Fraction(2 * (products + 1), K)),
        "equality": (len(asserted), Fraction(max(sum((n - 1).bit_length() for n in x.tensor.shape) for x in asserted), K)),
    }


@pytest.mark.parametrize("name", sorted(PROFILES))
@pytest.mark.parametrize("openings", [1, 3])
def test_two_calculators_agree(name: str, openings: int) -> None:
    params, graph = profile(name), tiny_graph()
    blinding = params.queries * openings
    layouts = [CommitmentLayout.pack([("W", (3, 5))], params.code(openings)), TaskShape(graph, GOLDILOCKS).witness_layout(params)]
    found = task_soundness(params, TaskShape(graph, GOLDILOCKS), layouts, blinding)
    second = errors(params, graph, layouts, blinding)
    for source, value in found.sources.items():
        assert value <= bits(second[source][1]) + 1e-6, source  # never more than the exact bound
        assert value >= bits(second[source][1]) - 1.0, source  # and not absurdly less
    total = sum(count * error for count, error in second.values())
    assert abs(found.total_bits - bits(total)) < 1.0
    assert found.bits == min(found.sources.values()) >= MIN_BITS
    assert math.isclose(found.sources["queries"], bits(second["queries"][1]), abs_tol=1e-6)


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
