"""Named lies across tasks, windows, layers and runs: what one task wrote and another reads, which data, which labels, which part of a step.

As in test_lies.py. Where every equation of the task holds for the foreign values (`broken` is ""), they are not what the statement's
commitments hold, and the opening says so.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from protocol.relation.graph import AxisMap, Gather, Graph, IntArray, Linear, Operation, Product, Tensor
from protocol.statement import Name, task_list
from tests.attacks.test_constrained import ADAMW
from tests.attacks.test_lies import TREE, coefficients, rejected
from tests.attacks.test_lies_optimizer import vector
from tests.support.evil import Lie, Outcome, attack
from tests.support.stage import Case, Stage
from tests.toy import EVEN, toy

LONG = pytest.mark.attacks
LAYER, HEAD, EMBED = ("layer", 1, 1), ("head", 1), ("embed", 1)
SIZES = {"sizes": EVEN, "layers": 2, "steps": 3, "window_steps": 1, "batch_size": 1, "gradient_accumulation": 2, "sequence_length": 3,
         "target_modules": ("q_proj",)}


@cache
def run(seed: int = 7) -> Stage:
    """Three steps of two sequences over five examples: two steps an epoch, copies of what is private from the second window on."""
    found = toy(examples=5, seed=seed, **SIZES)  # type: ignore[arg-type]
    return Stage(replace(found, manifest=replace(found.manifest, rotation_windows=1)))


@cache
def adamw() -> Stage:
    return Stage(toy(examples=5, **SIZES, **ADAMW))  # type: ignore[arg-type]


def foreign(case: Case, role: str, arrays: dict[str, IntArray]) -> Outcome:
    """The prover computes with other values of a role than those committed; every equation of the task may hold."""
    assert any(not np.array_equal(arrays[name], a) for (r, name), a in case.inputs.items() if r == role)
    outcome = attack(case, Lie(inputs={key: arrays[key[1]] for key in case.inputs if key[0] == role}))
    assert outcome.violated and outcome.reason == "opening-relation", outcome.error
    return outcome


def change_op(graph: Graph, name: str, change: Callable[[Operation], Operation]) -> None:
    index = next(t.index for t in graph.tensors if t.name == name)
    graph.ops[index] = change(graph.ops[index])


# another run, window, layer --------------------------------------------------------------------------------------------


@LONG
def test_state_of_another_run() -> None:
    assert foreign(run().case(*LAYER), "state_in", run(8).arrays["state/1@1"]).broken == ""


@LONG
def test_state_of_another_layer() -> None:
    assert foreign(run().case(*LAYER), "state_in", run().arrays["state/0@1"]).broken == ""


@LONG
def test_state_of_the_window_before() -> None:
    assert foreign(run().case("layer", 2, 1), "state_in", run().arrays["state/1@1"]).broken == ""


@LONG
def test_momentum_of_the_other_sign() -> None:
    case = run().case(*LAYER)
    arrays = {name: -a if name.endswith("momentum") else a for name, a in run().arrays["state/1@1"].items()}
    assert foreign(case, "state_in", arrays).broken == ""


@LONG
def test_clip_factor_of_another_window() -> None:
    assert foreign(adamw().case("layer", 2, 0), "clip", adamw().arrays["clip@1"]).broken == ""


@LONG
def test_norms_of_another_window() -> None:
    assert foreign(adamw().case("clip", 2), "norm1", adamw().arrays["norm/1@1"]).broken == ""


@LONG
def test_second_moments_of_another_layer() -> None:
    mine, other = adamw().arrays["state/0@1"], adamw().arrays["state/1@1"]
    arrays = {name: other[name] if name.endswith(".v") else a for name, a in mine.items()}
    assert foreign(adamw().case("layer", 1, 0), "state_in", arrays).broken == ""


@LONG
def test_gradient_of_another_window() -> None:
    assert foreign(run().case(*LAYER), "dx_in", run().arrays["dx/2@0"]).broken == ""


def test_rotated_copy_of_another_run() -> None:
    """The new commitment holds the other run's weights: copying them is no equation that holds."""
    task = next(t for t in task_list(run().toy.manifest) if str(t) == "rotate(base/1@1)")
    case = run().case(task.kind, task.window, task.layer, task.part)
    other = run(8).arrays["base/1"]
    lie = Lie(cells={"W_q": lambda _: other["W_q"]})
    rejected(case, lie, "zero: W_q.equal", {"zero W_q.equal"})


@LONG
def test_weights_of_another_run_after_a_rotation() -> None:
    case = run().case(*LAYER)
    assert dict(case.task.commitments)["base"] == Name("base/1", 1)
    foreign(case, "base", run(8).arrays["base/1"])


@LONG
def test_embedding_of_another_run() -> None:
    assert foreign(run().case(*EMBED), "embedding", run(8).arrays["embedding"]).broken == ""


@LONG
def test_delivered_adapter_is_the_one_before_the_last_step() -> None:
    case = run().case("layer", 2, 0)
    before = run().arrays["state/0@2"]["q_proj.lora_B"]
    lie = Lie(cells={"q_proj.lora_B": lambda _: (before + (1 << 9)) >> 10})
    rejected(case, lie, "q_proj.lora_B.rest", TREE)


# which data ------------------------------------------------------------------------------------------------------------


@LONG
def test_tokens_of_another_dataset() -> None:
    assert foreign(run().case(*EMBED), "dataset", run(8).arrays["dataset"]).broken == ""


def test_labels_shifted_by_one() -> None:
    """Each position predicts itself."""
    def shift(graph: Graph) -> None:
        change_op(graph, "ids", lambda op: replace(op, cols=op.cols - 1) if isinstance(op, AxisMap) else op)  # type: ignore[arg-type]

    rejected(run().case(*HEAD), Lie(graph=shift), "zero: ids.equal", {"zero ids.equal"})


@LONG
def test_order_of_another_seed_in_the_labels() -> None:
    manifest = run().toy.manifest
    order = manifest.batch(1)
    other = next(m for m in (replace(manifest, seed=s) for s in range(99)) if set(m.batch(1)).isdisjoint(order))
    rejected(run().case(*HEAD), Lie(manifest=other), "", {"zero ids.equal"})


def gather_of(case: Case, index: IntArray) -> Lie:
    def change(graph: Graph) -> None:
        for name in ("batch", "mask"):
            if any(t.name == name for t in graph.tensors):
                change_op(graph, name, lambda op: replace(op, index=index) if isinstance(op, Gather) else op)  # type: ignore[arg-type]

    return Lie(graph=change)


@LONG
def test_epoch_not_shuffled_again() -> None:
    """The third step opens the second epoch: it may not run over the first one's batch."""
    manifest = run().toy.manifest
    assert not np.array_equal(manifest.batch(2), manifest.batch(0))
    rejected(run().case("embed", 2), gather_of(run().case("embed", 2), manifest.batch(0)[None]), "zero: ids.equal", {"zero ids.equal"})


@LONG
def test_one_sequence_of_a_batch_twice() -> None:
    twice = np.repeat(run().toy.manifest.batch(1)[:1], 2)[None]
    rejected(run().case(*EMBED), gather_of(run().case(*EMBED), twice), "zero: ids.equal", {"zero ids.equal"})


def test_prompt_learnt_in_place_of_the_answer() -> None:
    """A mask with as many ones elsewhere: every equation holds, it is not the committed mask."""
    case = run().case(*HEAD)
    mask = case.inputs["dataset", "mask"]
    other = mask[:, ::-1].copy()
    assert not np.array_equal(other, mask) and np.array_equal(other.sum(1), mask.sum(1))
    assert foreign(case, "dataset", {"mask": other, "tokens": case.inputs["dataset", "tokens"]}).broken == ""


@LONG
def test_mask_ignored() -> None:
    case = run().case(*HEAD)
    arrays = {"mask": np.ones_like(case.inputs["dataset", "mask"]), "tokens": case.inputs["dataset", "tokens"]}
    assert "loss_tokens" in foreign(case, "dataset", arrays).broken


@LONG
def test_mask_ignored_in_the_gradient_alone() -> None:
    """The loss counts the answer, the gradient everything."""
    def unmasked(graph: Graph) -> None:
        ones = graph.public("ones", "sbt", np.ones(next(t.shape for t in graph.tensors if t.name == "mask"), dtype=np.int64))
        change_op(graph, "masked_error_W", lambda op: replace(op, b=ones) if isinstance(op, Product) else op)  # type: ignore[arg-type]

    rejected(run().case(*HEAD), Lie(graph=unmasked), "norm.dx.rest", TREE)


# which part of a step --------------------------------------------------------------------------------------------------


def first_sequence_only(graph: Graph, name: str) -> None:
    """A gradient's product over one sequence of the batch."""
    def change(op: Operation) -> Operation:
        if not isinstance(op, Product):
            raise TypeError(name)
        kept: Tensor = graph.axis_map(f"{name}.first", op.a, "b", op.a.shape[1], [0], [0])
        return replace(op, a=kept)

    change_op(graph, name, change)


@pytest.mark.parametrize(("product", "broken"), [
    ("q_proj.dux", "q_proj.lora_A.grad.rest"), pytest.param("q_proj.dyu", "q_proj.lora_B.grad.rest", marks=LONG),
])
def test_gradient_of_one_micro_batch_dropped(product: str, broken: str) -> None:
    rejected(run().case(*LAYER), Lie(graph=lambda g: first_sequence_only(g, product)), broken, TREE)


@LONG
def test_mean_over_half_the_tokens() -> None:
    rejected(run().case(*LAYER), Lie(graph=lambda g: vector(g, "q_proj.lora_B.grad_n", lambda v: 2 * v)), "q_proj.lora_B.mean.rest", TREE)


@LONG
def test_gradient_that_ignores_the_skip_connection() -> None:
    def drop(graph: Graph) -> None:
        change_op(graph, "dh.exact", lambda op: replace(op, terms=op.terms[:1]) if isinstance(op, Linear) else op)  # type: ignore[arg-type]

    rejected(run().case(*LAYER), Lie(graph=drop), "dh.rest", TREE)


@LONG
def test_epsilon_left_out_of_the_norm() -> None:
    def drop(graph: Graph) -> None:
        change_op(graph, "attn_norm.sum", lambda op: replace(op, const=0) if isinstance(op, Linear) else op)  # type: ignore[arg-type]

    case = run().case(*LAYER)
    assert next(op.const for t, op in zip(case.graph.tensors, case.graph.ops) if t.name == "attn_norm.sum" and isinstance(op, Linear)) > 0
    outcome = attack(case, Lie(graph=drop))
    assert outcome.reason == "opening-relation" and "attn_norm.V" in outcome.broken


@LONG
def test_weight_decay_of_the_other_sign() -> None:
    rejected(adamw().case("layer", 1, 0), Lie(graph=lambda g: vector(g, "q_proj.lora_A.decay_w", lambda v: -v)),
             "q_proj.lora_A.decay.rest", TREE)


@LONG
def test_weight_decay_added_to_the_gradient() -> None:
    """As in Adam, not AdamW: the decay goes through the moments and is not taken off the weight."""
    case = adamw().case("layer", 1, 0)
    lie = Lie(cells={"q_proj.lora_A.decay": np.zeros_like})
    rejected(case, lie, "q_proj.lora_A.decay.rest", TREE)


@LONG
def test_update_added_to_the_weight() -> None:
    rejected(adamw().case("layer", 1, 0), Lie(graph=lambda g: coefficients(g, "q_proj.lora_B.gain_m", lambda c: -c)),
             "q_proj.lora_B.delta", TREE)
