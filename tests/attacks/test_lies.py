"""Named lies on real tasks: each violates the equation it is aimed at, and the verifier rejects the proof.

`broken` is the relation's assertion that the values break first, `violated` the schedule's constraints that the committed
cells do not satisfy; a lookup that fails makes the root of the tree of fractions wrong, hence "tree level". The verifier
learns only that the random combination of all constraints does not hold: reason "opening-relation".
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protocol.relation.graph import Committed, Graph, IntArray, Linear, Public
from tests.support.evil import Change, Lie, Outcome, attack
from tests.support.stage import Case, Stage

LAYER, FIRST, HEAD, EMBED = ("layer", 1, 1), ("layer", 0, 0), ("head", 1), ("embed", 1)
TREE = {"tree level"}


def one(delta: int) -> Change:
    """Add `delta` to the last cell (a position that attends to all others)."""

    def change(a: IntArray) -> IntArray:
        a.reshape(-1)[-1] += delta
        return a

    return change


def constant(value: int) -> Change:
    return lambda a: np.full_like(a, value)


def public(graph: Graph, name: str, change: Change) -> None:
    """Change a public tensor of the graph that the liar executes."""
    index = next(t.index for t in graph.tensors if t.name == name)
    op = graph.ops[index]
    if not isinstance(op, Public):
        raise TypeError(name)
    graph.ops[index] = Public(change(op.values.copy()))


def coefficients(graph: Graph, suffix: str, change: Callable[[int], int]) -> None:
    """Change the coefficients of the linear tensors whose names end so."""
    for tensor in graph.tensors:
        op = graph.ops[tensor.index]
        if tensor.name.endswith(suffix) and isinstance(op, Linear):
            terms = tuple(replace(t, coef=change(t.coef)) for t in op.terms)
            graph.ops[tensor.index] = Linear(terms, op.const)


def rejected(case: Case, lie: Lie, broken: str, violated: set[str]) -> Outcome:
    outcome = attack(case, lie)
    assert broken in outcome.broken, outcome.broken
    assert violated <= outcome.violated, outcome.violated
    assert outcome.reason == "opening-relation", outcome.error
    return outcome


@pytest.mark.parametrize("key", [EMBED, HEAD, FIRST, LAYER, ("range", -1, -1, 2)], ids=str)
def test_the_same_prover_without_a_lie_is_accepted(stage: Stage, key: tuple) -> None:  # type: ignore[type-arg]
    outcome = attack(stage.case(*key), Lie())
    assert (outcome.reason, outcome.broken, outcome.violated) == ("accepted", "", frozenset())


# rounding, ranges, tables ------------------------------------------------------------------------------------------


def test_wrong_product(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"O": one(3)}), "O.rest", TREE)


def test_wrong_remainder(stage: Stage) -> None:
    case = stage.case(*LAYER)
    name = next(t.name for t in case.graph.tensors if t.name.endswith(".rest.limb1"))
    rejected(case, Lie(cells={name: one(1)}), name.replace("limb1", "limb0"), TREE)


def test_remainder_above_its_width_but_below_16_bits(stage: Stage) -> None:
    case = stage.case(*HEAD)
    lookup = next(x for x in case.graph.lookups if x.columns[0].name.endswith(".rest") and int(x.table.split(":")[1]) < 15)
    bits, rest = int(lookup.table.split(":")[1]), lookup.columns[0].name
    outcome = rejected(case, Lie(cells={rest.removesuffix(".rest"): one(-1)}), f"lookup in {lookup.table}: {rest}", TREE)
    assert 2**bits <= int(outcome.broken.rsplit(" ", 1)[1]) < 2**16


def test_weight_out_of_its_declared_range(stage: Stage) -> None:
    case = stage.case("range", -1, -1, 0)
    weights = case.inputs["base", "W_q"].copy()
    weights.reshape(-1)[0] = 1 << 11
    outcome = rejected(case, Lie(inputs={("base", "W_q"): weights}, recommit=True), "W_q", TREE)
    assert outcome.violated == TREE


def test_off_table_silu(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"silu": one(1)}), "lookup in silu", TREE)


def test_off_table_silu_slope(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"silu.slope": one(-1)}), "lookup in silu", TREE)


@pytest.mark.parametrize(("delta", "side"), [(1, "attn.above"), (-1, "attn.below")])
def test_softmax_shift_off_by_one(stage: Stage, delta: int, side: str) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"attn.z": one(delta)}), side, TREE)


@pytest.mark.parametrize(("delta", "side"), [(1, "norm.below"), (-1, "norm.above")])
def test_wrong_rsqrt(stage: Stage, delta: int, side: str) -> None:
    rejected(stage.case(*HEAD), Lie(cells={"norm.r": one(delta)}), side, TREE)


# tokens, labels, order, loss -----------------------------------------------------------------------------------------


def another_token(a: IntArray) -> IntArray:
    return np.roll(a, 1, axis=-1)


def test_wrong_label(stage: Stage) -> None:
    rejected(stage.case(*HEAD), Lie(cells={"ids.low": another_token}), "zero: ids.equal", {"zero ids.equal"})


def test_wrong_input_token(stage: Stage) -> None:
    rejected(stage.case(*EMBED), Lie(cells={"ids.high": another_token}), "zero: ids.equal", {"zero ids.equal"})


def test_digit_with_two_ones(stage: Stage) -> None:
    def two(a: IntArray) -> IntArray:
        a[..., 0] = a[..., 1] = 1
        return a

    rejected(stage.case(*HEAD), Lie(cells={"ids.high": two}), "zero: ids.high.sum", {"zero ids.high.sum"})


def test_digit_of_two_and_minus_one(stage: Stage) -> None:
    def odd(a: IntArray) -> IntArray:
        a[0, 0, 0, :2] = (2, -1)
        a[0, 0, 0, 2:] = 0
        return a

    rejected(stage.case(*HEAD), Lie(cells={"ids.low": odd}), "", TREE)


def test_wrong_example_order(stage: Stage) -> None:
    manifest = stage.toy.manifest
    other = next(m for m in (replace(manifest, seed=s) for s in range(99)) if m.batch(1)[0] != manifest.batch(1)[0])
    rejected(stage.case(*EMBED), Lie(manifest=other), "zero: ids.equal", {"zero ids.equal"})


def test_wrong_published_loss(stage: Stage) -> None:
    outcome = rejected(stage.case(*HEAD), Lie(published=one(-1)), "", set())
    assert outcome.violated == {"published loss"}


def test_loss_tokens_hidden_by_another_mask(stage: Stage) -> None:
    case = stage.case(*HEAD)
    masks = {("dataset", "mask"): np.zeros_like(case.inputs["dataset", "mask"])}
    rejected(case, Lie(inputs=masks), "zero: loss_tokens", {"factor mask"})


def test_wrong_loss_token_count(stage: Stage) -> None:
    """A manifest that counts one token less states another relation, which the same values break."""
    manifest = stage.toy.manifest
    fewer = replace(manifest, loss_tokens=tuple(max(n - 1, 1) for n in manifest.loss_tokens))
    case = Case(stage, stage.task("head", 1), stage.task("head", 1).graph(fewer))
    assert case.graph.digest() != stage.case(*HEAD).graph.digest()
    outcome = rejected(case, Lie(), "loss_tokens", set())
    assert outcome.violated == {"zero loss_tokens"}


# training ------------------------------------------------------------------------------------------------------------


def test_skipped_step(stage: Stage) -> None:
    case = stage.case(*LAYER)
    names = [t.name for t, op in zip(case.graph.tensors, case.graph.ops) if isinstance(op, Committed) and t.name.endswith(".delta")]
    outcome = rejected(case, Lie(cells={name: constant(0) for name in names}), ".delta.rest", TREE)
    assert outcome.violated == TREE


def test_update_of_wrong_sign(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"q_proj.lora_B.delta": lambda a: -a}), "q_proj.lora_B.delta.rest", TREE)


def test_gradient_of_lora_a_zeroed(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"q_proj.lora_A.grad": constant(0)}), "q_proj.lora_A.grad.rest", TREE)


def test_residual_gradient_zeroed(stage: Stage) -> None:
    rejected(stage.case(*HEAD), Lie(cells={"dx": constant(0)}), "dx.rest", TREE)


def test_wrong_learning_rate(stage: Stage) -> None:
    manifest = stage.toy.manifest
    other = replace(manifest, optimizer=replace(manifest.optimizer, learning_rate="0.021"))
    assert other.optimizer.rates(0, 1, 2)[1] == manifest.optimizer.rates(0, 1, 2)[1]
    rejected(stage.case(*LAYER), Lie(manifest=other), ".delta.rest", TREE)


def test_momentum_dropped(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(graph=lambda g: coefficients(g, ".mu_b", lambda c: 0)), ".decayed.rest", TREE)


def test_wrong_initial_adapter(stage: Stage) -> None:
    def change(graph: Graph) -> None:
        public(graph, "initial/q_proj.lora_A", lambda a: a + (1 << 14))

    rejected(stage.case(*FIRST), Lie(graph=change), "q_proj.lora_A", TREE)


def test_stale_adapter(stage: Stage) -> None:
    """The second window starts from zeros instead of what the first one wrote."""
    case = stage.case(*LAYER)
    stale = {key: np.zeros_like(a) for key, a in case.inputs.items() if key[0] == "state_in"}
    outcome = attack(case, Lie(inputs=stale))
    assert outcome.broken == "" and outcome.violated and outcome.reason == "opening-relation"


def test_swapped_layers(stage: Stage) -> None:
    case = stage.case(*LAYER)
    weights = {("base", name): stage.arrays["base/0"][name] for role, name in case.inputs if role == "base"}
    outcome = attack(case, Lie(inputs=weights))
    assert outcome.violated and outcome.reason == "opening-relation"


def test_activations_of_a_foreign_window(stage: Stage) -> None:
    case = stage.case(*LAYER)
    outcome = attack(case, Lie(inputs={("x_in", "x"): stage.arrays["x/1@0"]["x"]}))
    assert outcome.violated and outcome.reason == "opening-relation"


def test_permuted_positions(stage: Stage) -> None:
    def permute(graph: Graph) -> None:
        public(graph, "q.cos_table", lambda a: a[::-1])
        public(graph, "q.sin_table", lambda a: a[::-1])

    rejected(stage.case(*LAYER), Lie(graph=permute), "q.rest", TREE)


def test_attention_to_the_future(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(graph=lambda g: public(g, "causal", np.ones_like)), "lookup in", TREE)


def test_layer_output_is_not_the_sum(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={"x": one(1)}), "zero: x.equal", {"zero x.equal"})


def test_delivered_adapter_is_not_the_final_state(stage: Stage) -> None:
    outcome = rejected(stage.case(*LAYER), Lie(cells={"q_proj.lora_A": one(1)}), "q_proj.lora_A.rest", TREE)
    assert outcome.violated == TREE


# lookups, products, padding ------------------------------------------------------------------------------------------


def test_wrong_multiplicity(stage: Stage) -> None:
    outcome = attack(stage.case(*EMBED), Lie(multiplicities={"range:16": one(1)}))
    assert (outcome.violated, outcome.reason) == (TREE, "opening-relation")


def test_multiplicities_other_than_the_committed_ones(stage: Stage) -> None:
    def more(tensors: dict[str, np.ndarray]) -> None:
        tensors["multiplicity/range:1"] = tensors["multiplicity/range:1"] + 1

    outcome = attack(stage.case(*EMBED), Lie(witness=more))
    assert (outcome.violated, outcome.reason) == ({"lookup numerators"}, "opening-relation")


def test_remainder_made_up_by_multiplicities(stage: Stage) -> None:
    """A value outside the table with as many table rows taken away does not cancel."""
    lie = Lie(cells={"norm.out": one(-1)}, multiplicities={"range:16": one(-1)})
    rejected(stage.case(*HEAD), lie, "norm.out.rest", TREE)


@pytest.mark.parametrize("last", [False, True])
def test_wrong_triple(stage: Stage, last: bool) -> None:
    case = stage.case(*EMBED)

    def wrong(products: np.ndarray) -> np.ndarray:
        products[0, 2 * len(case.shape.counts.products) - 2 if last else 0] ^= np.uint64(1)
        return products

    outcome = attack(case, Lie(products=wrong))
    assert "triples product" in outcome.violated and outcome.reason == "opening-relation"
    assert last is (outcome.violated == {"triples product"})


def test_garbage_in_padding_weighs_nothing(odd_stage: Stage) -> None:
    outcome = attack(odd_stage.case(*EMBED), Lie(padding=True))
    assert (outcome.reason, outcome.violated) == ("accepted", frozenset())


def test_garbage_beyond_the_ends_of_a_product_cannot_be_counted(odd_stage: Stage) -> None:
    outcome = attack(odd_stage.case(*EMBED), Lie(padding=True, count_padding=True))
    assert outcome.violated and outcome.reason == "opening-relation"
