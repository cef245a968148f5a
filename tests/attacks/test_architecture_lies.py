"""Biases, q/k norm, scaled RoPE, tied heads, scales by row, adapters of every rank and scale: proved, and every lie about them rejected."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from protocol.relation.graph import Graph, IntArray, Linear
from protocol.schedule.opening import Committed
from tests.attacks.test_constrained import free_cells
from tests.attacks.test_lies import TREE, one, rejected
from tests.support.architectures import FEATURES, feature_toy
from tests.support.evil import Lie, attack, prove_with
from tests.support.stage import Case, Stage, verify
from tests.toy import EVEN, toy

LONG = pytest.mark.attacks
SIZES = {"steps": 1, "window_steps": 1, "batch_size": 1, "sequence_length": 4, "examples": 2}


@cache
def stage(name: str) -> Stage:
    modules = ("q_proj", "k_proj") if name == "qwen3" else ("q_proj",)
    return Stage(feature_toy(name, EVEN, target_modules=modules, **SIZES))


def layer(name: str) -> Case:
    return stage(name).case("layer", 0, 0)


def start(name: str, commitment: str) -> Case:
    """The range task of a start commitment."""
    return next(stage(name).case("range", -1, -1, part) for part in range(4)
                if str(stage(name).task("range", -1, -1, part)) == f"range({commitment})")


def changed(case: Case, role: str, tensor: str, change: Callable[[IntArray], IntArray]) -> Lie:
    """The prover computes with other weights than those that are committed."""
    return Lie(inputs={(role, tensor): change(case.inputs[role, tensor].copy())})


def prove_honestly(case: Case) -> None:
    """VerificationError unless the proof is accepted."""
    inputs, published = [(role, case.committed()[role]) for role, _ in case.task.commitments], case.published()
    statement = case.statement(published)
    channel = prove_with(case.shape, statement, inputs, case.values, published, Lie(), {})
    verify(case.shape, statement, [Committed(role, d.layout, d.root) for role, d in inputs], published, bytes(channel.proof))


@pytest.mark.parametrize("name", FEATURES)
def test_honest_proofs_are_accepted(name: str) -> None:
    for case in (layer(name), stage(name).case("head", 0), start(name, "base/0"), start(name, "head")):
        prove_honestly(case)


@pytest.mark.parametrize("name", FEATURES)
def test_every_committed_tensor_is_determined(name: str) -> None:
    for case in (layer(name), stage(name).case("head", 0), start(name, "head")):
        assert free_cells(case, 2) == {}


@pytest.mark.parametrize(
    ("r", "lora_alpha", "use_rslora", "modules"),
    [(1, 1, False, ("v_proj", "o_proj")), (64, 96, False, ("q_proj",)), pytest.param(12, 16, False, ("k_proj", "up_proj"), marks=LONG),
     (2, 3, True, ("gate_proj",))],
)
def test_every_rank_and_scale_is_proved(r: int, lora_alpha: int, use_rslora: bool, modules: tuple[str, ...]) -> None:
    run = toy(sizes=EVEN, r=r, lora_alpha=lora_alpha, use_rslora=use_rslora, target_modules=modules, **SIZES)  # type: ignore[arg-type]
    prove_honestly(Stage(run).case("layer", 0, 0))


def test_another_scale_of_the_adapter() -> None:
    run = toy(sizes=EVEN, r=2, lora_alpha=3, target_modules=("q_proj",), **SIZES)  # type: ignore[arg-type]
    other = replace(run.manifest, lora=replace(run.manifest.lora, lora_alpha=5))
    rejected(Stage(run).case("layer", 0, 0), Lie(manifest=other), "q_proj.u.rest", TREE)


# biases --------------------------------------------------------------------------------------------------------------


def without(graph: Graph, name: str, tensor: str) -> None:
    """Drop `tensor` from a sum."""
    index = next(t.index for t in graph.tensors if t.name == name)
    op = graph.ops[index]
    kept = tuple(t for t in op.terms if t.tensor.name != tensor) if isinstance(op, Linear) else ()
    if not isinstance(op, Linear) or len(kept) != len(op.terms) - 1:
        raise ValueError(name)
    graph.ops[index] = Linear(kept, op.const)


@pytest.mark.parametrize(
    ("sum_name", "bias", "broken"),
    [("q.sum", "b_q", "q.rest"), pytest.param("mlp_increment.exact", "b_down", "mlp_increment.rest", marks=LONG)],
)
def test_bias_dropped(sum_name: str, bias: str, broken: str) -> None:
    lie = Lie(graph=lambda g: without(g, sum_name, f"base/{bias}"))
    rejected(layer("llama3"), lie, broken, TREE)


@LONG
def test_another_bias() -> None:
    outcome = attack(layer("qwen2"), changed(layer("qwen2"), "base", "b_k", one(1)))
    assert outcome.broken == "" and outcome.violated and outcome.reason == "opening-relation"


def test_bias_out_of_its_range() -> None:
    case = start("qwen2", "base/0")
    lie = replace(changed(case, "base", "b_v", lambda a: a + (1 << 16)), recommit=True)
    assert rejected(case, lie, "b_v", TREE).violated == TREE


# q/k norm ------------------------------------------------------------------------------------------------------------


def test_query_norm_skipped() -> None:
    """x̂ is the projection itself, at the exponent of x̂."""
    case, exponents = layer("qwen3"), stage("qwen3").toy.manifest.exponents
    y = case.values[case.tensor("q_proj.y")]
    shift = exponents["layer/0/q_proj.y"] - exponents["layer/0/q_norm.out"]
    same = np.floor(np.ldexp(y.astype(float), -shift) + 0.5).astype(np.int64).clip(-(1 << 15), (1 << 15) - 1)
    rejected(case, Lie(cells={"q_norm.out": lambda _: same}), "q_norm.out.rest", TREE)


@LONG
def test_norm_of_a_key_of_another_size() -> None:
    rejected(layer("qwen3"), Lie(cells={"k_norm.r": one(1)}), "k_norm.below", TREE)


@pytest.mark.parametrize("gamma", ["gamma_q", pytest.param("gamma_k", marks=LONG)])
def test_gamma_of_q_or_k_replaced(gamma: str) -> None:
    outcome = attack(layer("qwen3"), changed(layer("qwen3"), "base", gamma, np.ones_like))
    assert outcome.violated and outcome.reason == "opening-relation"


@LONG
def test_gradient_past_the_norm() -> None:
    case = layer("qwen3")
    rejected(case, Lie(cells={"dq": lambda _: case.values[case.tensor("q_norm.dx")]}), "dq.rest", TREE)


# RoPE ----------------------------------------------------------------------------------------------------------------


def test_frequency_not_scaled() -> None:
    manifest = stage("llama3").toy.manifest
    other = replace(manifest, model=replace(manifest.model, rope_scaling=""))
    rejected(layer("llama3"), Lie(manifest=other), "q.rest", TREE)


# scales by row -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["W_q", *(pytest.param(w, marks=LONG) for w in ("W_o", "W_down"))])
def test_another_scale_of_a_row(weight: str) -> None:
    outcome = attack(layer("rows"), changed(layer("rows"), "base", f"{weight}.scale", one(1)))
    assert outcome.violated and outcome.reason == "opening-relation"


def test_another_scale_of_a_head_row() -> None:
    case = stage("rows").case("head", 0)
    outcome = attack(case, changed(case, "head", "W.scale", one(1)))
    assert outcome.violated and outcome.reason == "opening-relation"


@LONG
def test_scales_of_another_projection() -> None:
    """The backward pass with gate's scales where the forward pass has up's."""

    def swap(graph: Graph) -> None:
        index = {t.name: t.index for t in graph.tensors}
        op = graph.ops[index["up_proj.dy_rows"]]
        graph.ops[index["up_proj.dy_rows"]] = replace(op, b=graph.tensors[index["base/W_gate.scale"]])  # type: ignore[type-var]

    rejected(layer("rows"), Lie(graph=swap), "mlp_norm.dx.rest", TREE)


def test_scale_out_of_its_range() -> None:
    case = start("rows", "base/0")
    assert rejected(case, replace(changed(case, "base", "W_k.scale", one(256)), recommit=True), "W_k.scale", TREE).violated == TREE


# tied heads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "tensor"), [("head", "W"), ("head", "gamma_final"), ("embedding", "E")])
def test_a_head_that_is_not_the_embedding(role: str, tensor: str) -> None:
    case = start("qwen2", "head")
    step = {"W": 1, "gamma_final": 64, "E": 1 << 10}[tensor]
    outcome = rejected(case, replace(changed(case, role, tensor, one(-step)), recommit=True), "head/W.rest", TREE)
    assert outcome.violated == TREE


def test_untied_heads_are_free() -> None:
    """The same lie where the model is not tied is no lie: the head is whatever is committed."""
    case = start("qwen3", "head")
    assert attack(case, replace(changed(case, "head", "W", one(-1)), recommit=True)).reason == "accepted"
