"""Named lies about a step whose sequences are proved in several tasks: what these hand to each other, as in test_lies.py.

Two layers, two windows of a step, two sequences in two parts; `pairs` has windows of two steps. A task computes with what its
statement's commitments hold: where every equation holds for other values (`broken` is ""), the opening says so.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from protocol.relation.clip import FACTOR_BITS
from protocol.relation.graph import Committed, Graph, IntArray, Linear, Operation
from tests.attacks.test_constrained import ADAMW
from tests.attacks.test_lies import TREE, constant, one, rejected
from tests.attacks.test_lies_more import change_op, foreign, gather_of
from tests.support.evil import Change, Lie, attack
from tests.support.stage import Case, Stage
from tests.toy import EVEN, toy

LONG = pytest.mark.attacks
SIZES = {"sizes": EVEN, "layers": 2, "batch_size": 1, "gradient_accumulation": 2, "parts": 2, "sequence_length": 3, "examples": 8, "r": 1,
         "target_modules": ("q_proj",), "seed": 11}
FIRST, SECOND, UPDATE = ("layer", 1, 1, 1), ("layer", 1, 1, 2), ("update", 1, 1)
A, B = "q_proj.lora_A", "q_proj.lora_B"


@cache
def run() -> Stage:
    made = Stage(toy(steps=2, window_steps=1, **SIZES))  # type: ignore[arg-type]
    assert all(made.arrays[f"gradient/1/{part}@1"][name].any() for part in (1, 2) for name in (A, B))
    return made


@cache
def pairs() -> Stage:
    """One layer, one window of two steps."""
    return Stage(toy(steps=2, window_steps=2, **SIZES | {"layers": 1}))  # type: ignore[arg-type]


@cache
def clipped() -> Stage:
    made = Stage(toy(steps=2, window_steps=1, **SIZES, **ADAMW | {"max_grad_norm": "0.01"}))  # type: ignore[arg-type]
    assert made.arrays["clip@1"]["factor"].max() < 1 << FACTOR_BITS
    return made


def stored(name: str) -> dict[str, IntArray]:
    return run().arrays[name]


def terms(graph: Graph, name: str, coefs: tuple[int, ...]) -> None:
    """Weigh the summands of a linear tensor otherwise."""
    def change(op: Operation) -> Operation:
        if not isinstance(op, Linear) or len(op.terms) != len(coefs):
            raise TypeError(name)
        return Linear(tuple(replace(t, coef=c) for t, c in zip(op.terms, coefs)), op.const)

    change_op(graph, name, change)


@pytest.mark.parametrize("key", [("embed", 1, -1, 2), FIRST, ("head", 1, -1, 1), ("head", 1, -1, 2), UPDATE, ("update", 0, 0)], ids=str)
def test_the_same_prover_without_a_lie_is_accepted(key: tuple) -> None:  # type: ignore[type-arg]
    outcome = attack(run().case(*key), Lie())
    assert (outcome.reason, outcome.broken, outcome.violated) == ("accepted", "", frozenset())


# the adapter of every step ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "change"), [(A, one(1)), pytest.param(B, constant(0), marks=LONG)])
def test_adapter_handed_on_is_not_the_state_s(name: str, change: Change) -> None:
    rejected(run().case(*UPDATE), Lie(cells={f"adapter/{name}": change}), f"zero: {name}.equal", {f"zero {name}.equal"})


def test_adapter_of_a_step_is_not_that_of_the_step_before() -> None:
    """The second step of a window with the first one's masters, everything else as it was."""
    def stay(a: IntArray) -> IntArray:
        a[1] = a[0]
        return a

    case = pairs().case("update", 0, 0)
    every: dict[str, Change] = {f"{op.commitment}/{op.tensor_name}": lambda a: a for op in case.graph.ops if isinstance(op, Committed)}
    rejected(case, Lie(cells=every | {f"adapter/{B}": stay}), f"zero: {B}.equal", {f"zero {B}.equal"})


@pytest.mark.parametrize("other", ["adapter/1@0", pytest.param("adapter/0@1", marks=LONG)])
def test_a_part_computes_with_another_adapter(other: str) -> None:
    """Of another window, of another layer."""
    assert foreign(run().case(*FIRST), "adapter", stored(other)).broken == ""


@LONG
def test_a_part_computes_with_the_adapter_of_another_step() -> None:
    arrays = {name: a[::-1] for name, a in pairs().arrays["adapter/0@0"].items()}
    assert foreign(pairs().case("layer", 0, 0, 1), "adapter", arrays).broken == ""


# gradients of the parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefs", [(1, 0), (1, 2), pytest.param((2, 0), marks=LONG)], ids=["dropped", "doubled", "one for both"])
def test_gradient_of_a_part_counted_otherwise(coefs: tuple[int, ...]) -> None:
    rejected(run().case(*UPDATE), Lie(graph=lambda g: terms(g, f"{B}.gradient", coefs)), f"{B}.grad.rest", TREE)


@pytest.mark.parametrize("other", ["gradient/1/1@1", "gradient/1/2@0", pytest.param("gradient/0/2@1", marks=LONG)])
def test_gradient_of_another_part_window_or_layer(other: str) -> None:
    assert foreign(run().case(*UPDATE), "gradient2", stored(other)).broken == ""


def test_gradient_of_another_step() -> None:
    arrays = {name: a if name.startswith("gamma") else a[::-1] for name, a in pairs().arrays["gradient/0/2@0"].items()}
    assert foreign(pairs().case("update", 0, 0), "gradient2", arrays).broken == ""


@LONG
def test_gradient_moved_from_one_part_to_another() -> None:
    """Their sum is the same, so the update holds of both; what a part's commitment may hold is that part's task to prove."""
    first, second = stored("gradient/1/1@1"), stored("gradient/1/2@1")
    moved = {("gradient1", B): first[B] + 1, ("gradient2", B): second[B] - 1}
    assert attack(run().case(*UPDATE), Lie(inputs=moved, recommit=True)).reason == "accepted"
    for key in (FIRST, SECOND):
        delta = 1 if key == FIRST else -1
        rejected(run().case(*key), Lie(cells={f"gradient/{B}": lambda a, d=delta: a + d}), f"zero: {B}.equal", {f"zero {B}.equal"})


@pytest.mark.parametrize(("name", "change"), [(B, one(1)), (A, constant(0))])
def test_a_part_hands_on_another_gradient(name: str, change: Change) -> None:
    rejected(run().case(*SECOND), Lie(cells={f"gradient/{name}": change}), f"zero: {name}.equal", {f"zero {name}.equal"})


def test_gamma_handed_on_is_not_the_base_s() -> None:
    lie = Lie(cells={"gradient/gamma_attn": one(-1)})
    rejected(run().case(*FIRST), lie, "zero: gamma_attn.equal", {"zero gamma_attn.equal"})


@pytest.mark.parametrize("layer", [1, pytest.param(0, marks=LONG)])
def test_update_with_another_gamma(layer: int) -> None:
    """One that no commitment holds, or that of another layer."""
    gamma = stored(f"gradient/{layer}/1@1")["gamma_attn"]
    arrays = stored("gradient/1/1@1") | {"gamma_attn": gamma - 1 if layer else gamma}
    assert foreign(run().case(*UPDATE), "gradient1", arrays).broken == ""


# activations and data of the parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "role", "other"), [
    (FIRST, "x_in", "x/1/2@1"), (FIRST, "dx_in", "dx/2/2@1"), pytest.param(SECOND, "x_in", "x/1/1@1", marks=LONG),
    pytest.param(("layer", 1, 0, 2), "dx_in", "dx/1/1@1", marks=LONG), pytest.param(("head", 1, -1, 1), "x_in", "x/2/2@1", marks=LONG),
], ids=str)
def test_activations_of_another_part(key: tuple, role: str, other: str) -> None:  # type: ignore[type-arg]
    assert foreign(run().case(*key), role, stored(other)).broken == ""


@pytest.mark.parametrize(("key", "name"), [
    (FIRST, "x"), (("embed", 1, -1, 2), "x"), pytest.param(FIRST, "dx", marks=LONG), pytest.param(("head", 1, -1, 1), "dx", marks=LONG),
], ids=str)
def test_activations_written_are_another_part_s(key: tuple, name: str) -> None:  # type: ignore[type-arg]
    """What the next task reads under this part's name is what this part's sequences are."""
    case = run().case(*key)
    commitment = str(dict(case.task.commitments)[f"{name}_out"])
    other = stored(f"{commitment.partition('@')[0][:-1]}{3 - case.task.part}@1")[name]
    assert not np.array_equal(other, stored(commitment)[name])
    outcome = attack(case, Lie(cells={f"{name}_out/{name}": lambda _: other}))
    assert outcome.broken and outcome.violated and outcome.reason == "opening-relation"


@pytest.mark.parametrize("key", [("embed", 1, -1, 2), ("head", 1, -1, 1), pytest.param(("head", 1, -1, 2), marks=LONG)], ids=str)
def test_rows_of_another_part(key: tuple) -> None:  # type: ignore[type-arg]
    """Inputs or labels of the sequences that the other part has; of the last part the mask's too, which then has another sum."""
    case, manifest = run().case(*key), run().toy.manifest
    rows = manifest.batches(manifest.windows()[1], 3 - case.task.part)
    assert not np.array_equal(rows, manifest.batches(manifest.windows()[1], case.task.part))
    outcome = attack(case, gather_of(case, rows))
    assert "zero ids.equal" in outcome.violated and outcome.reason == "opening-relation"


# losses and counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "tokens"])
def test_a_part_hands_on_another_sum(name: str) -> None:
    rejected(run().case("head", 1, -1, 1), Lie(cells={f"loss/{name}": one(-1)}), f"zero: {name}.equal", {f"zero {name}.equal"})


def other_sums(case: Case, name: str, values: IntArray) -> dict[str, IntArray]:
    return {n: values if n == name else case.inputs["loss1", n] for n in ("loss", "tokens")}


def test_loss_of_a_part_left_out() -> None:
    case = run().case("head", 1, -1, 2)
    outcome = foreign(case, "loss1", other_sums(case, "loss", np.zeros_like(case.inputs["loss1", "loss"])))
    assert outcome.broken == "" and (case.inputs["loss1", "loss"] > 0).all()


@LONG
def test_loss_of_another_step() -> None:
    case = pairs().case("head", 0, -1, 2)
    assert foreign(case, "loss1", other_sums(case, "loss", case.inputs["loss1", "loss"][::-1])).broken == ""


def test_tokens_of_a_part_hidden() -> None:
    """A commitment that says one fewer: the sum is not the manifest's."""
    case = run().case("head", 1, -1, 2)
    outcome = attack(case, Lie(inputs={("loss1", "tokens"): case.inputs["loss1", "tokens"] - 1}, recommit=True))
    assert "zero: loss_tokens" in outcome.broken and outcome.violated == {"zero loss_tokens"} and outcome.reason == "opening-relation"


def test_tokens_moved_from_one_part_to_another() -> None:
    """One more in the first part and one fewer in the last make the manifest's number: neither is what the data say."""
    case, manifest = run().case("head", 1, -1, 2), run().toy.manifest
    mask, ((row,),) = case.inputs["dataset", "mask"].copy(), manifest.batches(manifest.windows()[1], 2).tolist()
    mask[row, mask[row].argmax()] = 0
    more = Lie(inputs={("dataset", "mask"): mask, ("loss1", "tokens"): case.inputs["loss1", "tokens"] + 1})
    outcome = attack(case, more)
    assert outcome.broken == "" and "zero loss_tokens" not in outcome.violated and "factor mask" in outcome.violated
    assert outcome.reason == "opening-relation"
    rejected(run().case("head", 1, -1, 1), Lie(cells={"loss/tokens": one(1)}), "zero: tokens.equal", {"zero tokens.equal"})


def test_published_loss_of_one_part_alone() -> None:
    """The last part's own loss, in place of the step's."""
    case = run().case("head", 1, -1, 2)
    own = case.values[next(t.index for t in case.graph.tensors if t.name == "loss")]
    assert (own < case.published()["loss"]).all()
    outcome = rejected(case, Lie(published=lambda _: own), "", set())
    assert outcome.violated == {"published loss"}


# clipping --------------------------------------------------------------------------------------------------------------


@LONG
def test_clip_factor_of_another_window() -> None:
    assert foreign(clipped().case(*UPDATE), "clip", clipped().arrays["clip@0"]).broken == ""


@LONG
def test_norm_of_one_part_s_gradient() -> None:
    """Twice the first part's gradient is not the step's, and its norm is not what is handed on."""
    lie = Lie(graph=lambda g: terms(g, f"{B}.gradient", (2, 0)))
    rejected(clipped().case(*UPDATE), lie, f"{B}.grad.rest", TREE)
    rejected(clipped().case(*UPDATE), Lie(cells={"norm/n": one(-1)}), "zero: n.equal", {"zero n.equal"})
