"""Named lies about AdamW, clipping, decay and schedule on real tasks, as in test_lies.py: aimed at one equation each, rejected.

Two layers, warm-up, a cosine, weight decay, accumulation and a clipping that bites; windows of one step, and of two.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protocol.relation.clip import FACTOR_BITS
from protocol.relation.graph import Graph, IntArray, Linear
from protocol.relation.rounding import declare, divide, signed_check
from protocol.statement import task_list
from prover.executor.evaluate import RelationBroken, check, evaluate
from prover.executor.reference import ReferenceOps
from tests.support.evil import Change, Lie, Outcome, attack, execute, prove_with
from tests.support.stage import Case, Stage
from tests.support.tiny import Tiny
from tests.toy import EVEN, toy

LAYER, FIRST, CLIP = ("layer", 2, 0), ("layer", 0, 0), ("clip", 2)
A, B = "down_proj.lora_A", "down_proj.lora_B"
TREE = {"tree level"}


def on_stage(steps: int, window_steps: int) -> Stage:
    made = Stage(toy(
        sizes=EVEN, target_modules=("down_proj",), r=1, layers=2, steps=steps, window_steps=window_steps, batch_size=1,
        gradient_accumulation=2, sequence_length=2, examples=4, kind="adamw", learning_rate="0.01", weight_decay="0.1",
        max_grad_norm="0.1", schedule="cosine", warmup_steps=1,
    ))
    assert all(made.arrays[f"clip@{w}"]["factor"].max() < 1 << FACTOR_BITS for w in (0, 1))
    return made


@pytest.fixture(scope="module")
def stage() -> Stage:
    return on_stage(3, 1)


@pytest.fixture(scope="module")
def pairs() -> Stage:
    """Two windows of two steps."""
    return on_stage(4, 2)


def one(delta: int) -> Change:
    def change(a: IntArray) -> IntArray:
        a.reshape(-1)[-1] += delta
        return a

    return change


def constant(value: int) -> Change:
    return lambda a: np.full_like(a, value)


def rejected(case: Case, lie: Lie, broken: str, violated: set[str]) -> Outcome:
    outcome = attack(case, lie)
    assert broken in outcome.broken, outcome.broken
    assert violated <= outcome.violated, outcome.violated
    assert outcome.reason == "opening-relation", outcome.error
    return outcome


def broken_by(case: Case, lie: Lie) -> str:
    """The first assertion of the relation that the lie breaks, without a proof."""
    try:
        check(case.graph, dict(enumerate(execute(case, lie))))
    except RelationBroken as error:
        return str(error)
    return ""


def other(stage: Stage, **fields: object) -> Lie:
    """Execute the task of a run with another optimizer."""
    manifest = stage.toy.manifest
    return Lie(manifest=replace(manifest, optimizer=replace(manifest.optimizer, **fields)))


def test_the_same_prover_without_a_lie_is_accepted(pairs: Stage) -> None:
    """Every kind of task; a layer of the first window and of one that goes on from it."""
    tasks = [t for t in task_list(pairs.toy.manifest) if t.window == 1 and t.layer < 1 or str(t) in ("layer(0, 1)", "range(base/0)")]
    for task in tasks:
        outcome = attack(pairs.case(task.kind, task.window, task.layer, task.part), Lie())
        assert (outcome.reason, outcome.broken, outcome.violated) == ("accepted", "", frozenset()), task
    assert {t.kind for t in tasks} == {t.kind for t in task_list(pairs.toy.manifest)}


# root and quotient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delta", "side"), [(1, "below"), (-1, "above")])
def test_wrong_root_of_the_norm(stage: Stage, delta: int, side: str) -> None:
    rejected(stage.case(*CLIP), Lie(cells={"root": one(delta)}), f"root.{side}", TREE)


@pytest.mark.parametrize(("delta", "side"), [(1, "below"), (-1, "above")])
def test_wrong_root_of_the_second_moment(stage: Stage, delta: int, side: str) -> None:
    lie = Lie(cells={f"{B}.root": one(delta)})
    assert f"{B}.root.{side}" in broken_by(stage.case(*LAYER), lie)
    if delta > 0:
        rejected(stage.case(*LAYER), lie, "", TREE)


@pytest.mark.parametrize(("delta", "side"), [(1, "remainder"), (-1, "room")])
def test_wrong_quotient(stage: Stage, delta: int, side: str) -> None:
    """The update is one too large or too small in one cell."""
    lie = Lie(cells={f"{B}.delta": one(delta)})
    assert f"{B}.delta.{side}" in broken_by(stage.case(*LAYER), lie)
    if delta > 0:
        rejected(stage.case(*LAYER), lie, "", TREE)


def quotients() -> Graph:
    """y = n/d to nearest for n, d in −3…3, 1…3: every second quotient by 2 is a tie."""
    g = Graph()
    n, d = g.input("x", "n", "n", (6,), -3, 3), g.input("x", "d", "n", (6,), 1, 3)
    y = declare(g, "y", "n", (6,), 4)
    divide(g, n, d, y)
    signed_check(g, y, 4, "y")
    return g


@pytest.mark.parametrize("delta", [0, 1, -1])
def test_wrong_quotient_at_a_tie(delta: int) -> None:
    tiny = next(t for t in (Tiny(quotients(), n) for n in range(99)) if ties(t).any())
    at, index = int(np.flatnonzero(ties(tiny))[0]), next(t.index for t in tiny.graph.tensors if t.name == "y")
    y = tiny.values[index].copy()
    y[at] += delta
    found = evaluate(tiny.graph, tiny.inputs, tiny.graph.tensors, ReferenceOps(), {index: y})
    values = [found[i] for i in range(len(found))]
    if delta:
        with pytest.raises(RelationBroken, match=r"y\.(remainder|room)"):
            check(tiny.graph, found)
    channel = prove_with(tiny.shape, tiny.statement, tiny.committed_data, values, {}, Lie(), {})
    assert tiny.reason(bytes(channel.proof)) == ("opening-relation" if delta else "accepted")


def ties(t: Tiny) -> IntArray:
    n, d = t.inputs["x", "n"], t.inputs["x", "d"]
    return np.asarray((d == 2) & (n % 2 == 1))


# AdamW ---------------------------------------------------------------------------------------------------------------


def test_second_moment_not_updated(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={f"{B}.second_change": constant(0)}), f"{B}.second_change.rest", TREE)


def test_first_moment_dropped(stage: Stage) -> None:
    assert f"{B}.first.rest" in broken_by(stage.case(*LAYER), Lie(cells={f"{B}.first": constant(0)}))


def test_another_second_moment_is_handed_on(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={f"{B}.v": one(-1)}), f"zero: {B}.v.equal", {f"zero {B}.v.equal"})


@pytest.mark.parametrize(("fields", "broken"), [
    ({"beta1": "0.89"}, ".first.rest"), ({"beta2": "0.9989"}, ".second_change.rest"), ({"epsilon": "0.1"}, ".delta."),
    ({"learning_rate": "0.0101"}, ".delta."), ({"weight_decay": "0.11"}, ".decay.rest"),
], ids=str)
def test_other_hyperparameters(stage: Stage, fields: dict[str, object], broken: str) -> None:
    lie = other(stage, **fields)
    assert lie.manifest is not None and stage.task(*LAYER).graph(lie.manifest).digest() != stage.case(*LAYER).graph.digest()
    assert broken in broken_by(stage.case(*LAYER), lie)
    if "beta2" in fields:
        rejected(stage.case(*LAYER), lie, broken, TREE)


def test_decay_skipped(stage: Stage) -> None:
    rejected(stage.case(*LAYER), Lie(cells={f"{A}.decay": constant(0)}), f"{A}.decay.rest", TREE)


@pytest.mark.parametrize("fields", [{"warmup_steps": 0}, {"schedule": "constant"}], ids=["no warm-up", "no cosine"])
def test_another_schedule(stage: Stage, fields: dict[str, object]) -> None:
    """What is proved is the statement's schedule, whatever schedule the prover trained with."""
    key = FIRST if "warmup_steps" in fields else LAYER
    lie = other(stage, **fields)
    assert lie.manifest is not None and lie.manifest.digest() != stage.toy.manifest.digest()
    assert ".de" in broken_by(stage.case(*key), lie)  # delta or decay
    if key == FIRST:
        rejected(stage.case(*key), lie, "", TREE)


def test_rate_of_another_step(stage: Stage) -> None:
    """Rate and bias corrections are those of step k."""
    before, mine = stage.toy.manifest.optimizer.gains(1, 2, 3, 40)
    assert before != mine

    def earlier(graph: Graph) -> None:
        vector(graph, f"{B}.gain_m", lambda v: v * before // mine)

    assert f"{B}.delta." in broken_by(stage.case(*LAYER), Lie(graph=earlier))


def vector(graph: Graph, name: str, change: Callable[[IntArray], IntArray]) -> None:
    """Change the per-step numbers of a linear tensor."""
    index = next(t.index for t in graph.tensors if t.name == name)
    op = graph.ops[index]
    if not isinstance(op, Linear):
        raise TypeError(name)
    terms = tuple(replace(t, vectors=tuple((a, change(v)) for a, v in t.vectors)) for t in op.terms)
    graph.ops[index] = Linear(terms, op.const)


# clipping ------------------------------------------------------------------------------------------------------------


def test_unclipped_gradient(stage: Stage) -> None:
    """The factor is taken as 1."""
    case, exponents = stage.case(*LAYER), stage.toy.manifest.exponents
    whole = case.values[case.tensor(f"{A}.mean")]
    shift = exponents[f"layer/0/{A}.clipped"] - exponents[f"layer/0/{A}.mean"]
    unclipped = whole << shift if shift >= 0 else whole >> -shift
    rejected(case, Lie(cells={f"{A}.clipped": lambda a: unclipped}), f"{A}.clipped.rest", TREE)


def test_larger_factor_in_a_layer(stage: Stage) -> None:
    """A factor that the clip task did not commit: the layer's own equations hold, the opening does not."""
    outcome = attack(stage.case(*LAYER), Lie(inputs={("clip", "factor"): np.full(1, 1 << FACTOR_BITS)}))
    assert outcome.broken == "" and outcome.violated and outcome.reason == "opening-relation"


def test_factor_of_another_step(pairs: Stage) -> None:
    """This window's factors in another order."""
    foreign = pairs.arrays["clip@1"]["factor"][::-1]
    assert not np.array_equal(foreign, pairs.arrays["clip@1"]["factor"])
    outcome = attack(pairs.case("layer", 1, 0), Lie(inputs={("clip", "factor"): foreign}))
    assert outcome.broken == "" and outcome.violated and outcome.reason == "opening-relation"


@pytest.mark.parametrize("delta", [1, -1, 2000])
def test_wrong_factor(stage: Stage, delta: int) -> None:
    lie = Lie(cells={"factor": one(delta)})
    assert "factor." in broken_by(stage.case(*CLIP), lie)
    if delta == 1:
        rejected(stage.case(*CLIP), lie, "factor.", TREE)


def test_limit_in_place_of_the_norm(stage: Stage) -> None:
    """max(D, M) taken as M although D is greater, or as something above both."""
    case = stage.case(*CLIP)
    limit = next(t for t in case.graph.tensors if t.name == "greater").lo
    assert (case.values[case.tensor("greater")] > limit).any()
    rejected(case, Lie(cells={"greater": constant(limit)}), "over", TREE)
    assert "zero: either" in broken_by(case, Lie(cells={"greater": lambda a: 2 * a}))


def test_norm_that_leaves_out_a_matrix(stage: Stage) -> None:
    def leave_out(graph: Graph) -> None:
        index = next(t.index for t in graph.tensors if t.name == "norm.sum")
        op = graph.ops[index]
        if not isinstance(op, Linear):
            raise TypeError
        terms = tuple(replace(t, coef=0) if t.tensor.name.startswith(B) else t for t in op.terms)
        graph.ops[index] = Linear(terms, op.const)

    rejected(stage.case(*LAYER), Lie(graph=leave_out), "zero: n.equal", {"zero n.equal"})


def test_row_norm_of_zero(stage: Stage) -> None:
    assert f"{B}.row_norm.rest" in broken_by(stage.case(*LAYER), Lie(cells={f"{B}.row_norm": constant(0)}))


def test_norm_of_a_layer_left_out(stage: Stage) -> None:
    case = stage.case(*CLIP)
    outcome = attack(case, Lie(inputs={("norm0", "n"): np.zeros_like(case.inputs["norm0", "n"])}))
    assert outcome.broken == "" and outcome.violated and outcome.reason == "opening-relation"


def test_limit_of_another_run(stage: Stage) -> None:
    rejected(stage.case(*CLIP), other(stage, max_grad_norm="10"), "", set())
