"""Manifests chosen to have a run accepted that did not train as they say, or to keep a verifier busy for ever: refused."""

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np
import pytest

from protocol.errors import VerificationError
from protocol.manifest import base_commitments
from protocol.params import profile
from protocol.relation.clip import FACTOR_BITS
from protocol.relation.graph import WITNESS, Committed, Linear, RelationError
from protocol.relation.model import build, commitment_tensors
from protocol.statement import BUDGETS, commitment_layout, statement_content, statement_id, task_list, window_of
from prover.executor.trainer import Trainer
from tests.attacks.test_constrained import ADAMW, WRITTEN, bounds
from tests.support.stage import Stage
from tests.toy import EVEN, Toy, toy
from verifier.run import RunRecord, check_one, verify_run
from verifier.task import Evidence, verify_task


@pytest.fixture(scope="module")
def made() -> Toy:
    return toy(sizes=EVEN, layers=1, steps=2, window_steps=1, batch_size=1, sequence_length=3, examples=3, target_modules=("q_proj",),
               **ADAMW)  # type: ignore[arg-type]


def with_norm(made: Toy, exponent: int) -> Toy:
    return replace(made, manifest=replace(made.manifest, exponents=made.manifest.exponents | {"norm": exponent}))


def test_a_norm_too_coarse_to_clip_anything(made: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """With f_N = −10 every row's squared norm rounds to 0 and no gradient is clipped; the first step's should be."""
    window, coarse = made.manifest.windows()[0], with_norm(made, -10)
    honest = Trainer(made.manifest, made.base, made.tokens, made.mask).run_window(window, None)
    assert honest.clip is not None and honest.clip[0] < 1 << FACTOR_BITS
    with pytest.raises(RelationError, match="exponent norm is -10.*max_grad_norm is 0.1"):
        build(coarse.manifest, "clip", window)
    monkeypatch.setattr("protocol.relation.clip.squared_rows", lambda m: 0)  # without the rule the lie is a run that holds
    case = Stage(coarse).case("clip", 0)
    assert case.values[case.tensor("factor")].tolist() == [1 << FACTOR_BITS]


@pytest.mark.parametrize("change", [
    lambda m: replace(m, model=replace(m.model, rope_theta="0.0000000000000000000000000001")),  # angles of 10^14: a series without end
    lambda m: replace(m, examples=1 << 22, batch_size=1 << 12, gradient_accumulation=1 << 10, steps=4096, window_steps=4096,
                      loss_tokens=(1,) * 4096),  # 4,096 permutations of 4 million
    lambda m: replace(m, steps=1 << 18, loss_tokens=(1,) * (1 << 18), model=replace(m.model, layers=8)),  # 4 million tasks
    lambda m: replace(m, steps=1 << 9, loss_tokens=(1,) * (1 << 9), batch_size=1 << 12, parts=1 << 12, examples=1 << 12),  # 6 million
    lambda m: replace(m, parts=2),  # of one sequence
], ids=["angles", "permutations", "tasks", "parts", "half a sequence"])
def test_a_manifest_that_would_keep_a_verifier_busy(made: Toy, change: Callable) -> None:  # type: ignore[type-arg]
    with pytest.raises(VerificationError):
        change(made.manifest)


@pytest.mark.parametrize(("kind", "sizes", "reason"), [
    ("head", {"vocab": 65535}, "the schedule began"), ("layer", {"ffn": 65535}, "relation at .* lookup trees"),
    ("embed", {"vocab": 1 << 20}, "the schedule began"),
])
def test_a_narrow_model_whose_witness_is_vast(
    made: Toy, kind: str, sizes: dict[str, int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few cells are named, and the witness has some hundred times as many: with a proof that has bytes for the former alone no lookup is
    cut into trees and no vector has the length of an axis (zeros took a verifier seconds to minutes, and gigabytes)."""

    def never(*_: object) -> None:
        raise RuntimeError("the schedule began")

    monkeypatch.setattr("verifier.task.run_task", never)
    model = replace(made.manifest.model, hidden=1, heads=1, kv_heads=1, head_dim=2, **sizes)
    m = replace(made.manifest, profile="goldilocks-2^20", budgets=dict.fromkeys(BUDGETS, 2), sequence_length=255, batch_size=255,
                examples=510, steps=1, loss_tokens=(1,), model=model)
    task = next(t for t in task_list(m) if t.kind == kind)
    graph, params = task.graph(m), profile(m.profile)
    named = sum(prod(shape) for _, name in task.commitments for _, shape in commitment_tensors(m, name.base, window_of(m, name)))
    cells = sum(prod(t.shape) for t, op in zip(graph.tensors, graph.ops) if isinstance(op, Committed) and op.commitment == WITNESS)
    roots = {str(name): bytes(32) for _, name in task.commitments}
    ids = {str(name): commitment_layout(m, name).identity(bytes(32)) for _, name in task.commitments}
    published = {item.name: np.zeros(item.tensor.shape, dtype=np.int64) for item in graph.published}
    content = statement_content(m, task, graph.digest(), ids, published)
    least = 8 * params.queries * cells // params.ell
    assert cells > 90 * named
    for size, wanted in ((least - 1, "truncated"), (least, reason)):
        with pytest.raises((VerificationError, RuntimeError), match=wanted) as caught:
            verify_task(m, task, roots, ids, Evidence(content, bytes(size)))
        assert "witness" in str(caught.value) or size == least


def test_more_trees_than_a_verifier_can_hold_weights_for_are_a_relation_that_is_refused(made: Toy) -> None:
    """A run of zeros about a vocabulary of 2^20 − 1 and 3,825 tokens, judged as a whole: a task whose proof is long enough for its witness
    has a relation that this protocol does not prove, which is more than a malformed record says."""
    model = replace(made.manifest.model, hidden=1, heads=1, kv_heads=1, head_dim=2, vocab=(1 << 20) - 1)
    m = replace(made.manifest, profile="goldilocks-2^20", budgets=dict.fromkeys(BUDGETS, 2), sequence_length=255, batch_size=15,
                examples=30, steps=1, loss_tokens=(1,), model=model)
    names = {str(name): name for task in task_list(m) for _, name in task.commitments}
    roots = dict.fromkeys(names, bytes(32))
    ids = {text: commitment_layout(m, name).identity(bytes(32)) for text, name in names.items()}
    m = replace(m, commitments={text: ids[text] for text in base_commitments(m.model)})
    evidence = {}
    for task in task_list(m):
        graph = task.graph(m)
        published = {item.name: np.zeros(item.tensor.shape, dtype=np.int64) for item in graph.published}
        evidence[statement_id(m, task)] = Evidence(statement_content(m, task, graph.digest(), ids, published), bytes(1 << 25))
    record = RunRecord(m.to_json(), roots, evidence)
    verdict = verify_run(record, spread=lambda jobs: [check_one(*job) for job in jobs if job.task.kind == "head"])
    (head,) = [found for found in verdict.tasks if found.task.kind == "head"]
    assert not verdict.accepted and head.reason.startswith(f"relation at {head.task}: ") and "lookup trees with axes" in head.reason


def test_an_update_of_many_parts_is_no_larger_than_what_it_opens(made: Toy) -> None:
    """4,096 gradients are summed: the graph grows with the commitments that the statement names, whose cells the proof is as long as."""
    m = replace(made.manifest, profile="goldilocks-2^20", budgets=dict.fromkeys(BUDGETS, 2), batch_size=1 << 12, parts=1 << 12, steps=1,
                examples=1 << 12, loss_tokens=(1,))
    update, layer = (next(t for t in task_list(m) if t.kind == kind) for kind in ("update", "layer"))
    assert len(update.commitments) == (1 << 12) + 5 and len(layer.commitments) == 6
    graph = update.graph(m)
    assert len(graph.tensors) < 3 * (1 << 12) and sum(len(op.terms) for op in graph.ops if isinstance(op, Linear)) < 3 * (1 << 12)
    assert max(t.cells for t in graph.tensors) <= max(prod(shape) for _, shape in commitment_tensors(m, "adapter/0", m.windows()[0]))


@pytest.mark.parametrize("exponents", [
    {"layer/0/q_proj.du": 90}, {"layer/0/attn_norm.out": -90}, {"layer/0/q_proj.u": 40}, {"layer/0/dq": -40},
    {"layer/0/q_proj.lora_A.grad": 90}, {"layer/0/q_proj.lora_B.grad": -90}, {"base/0/gamma_attn": 50}, {"base/0/gamma_attn": -50},
], ids=str)
def test_what_parts_hand_on_means_the_same_to_both_sides(made: Toy, exponents: dict[str, int]) -> None:
    """With every exponent that a manifest can have an update reads a gradient with the bounds and the fractional bits that a layer wrote it
    with, or one of the two relations is refused."""
    m = replace(made.manifest, batch_size=2, parts=2, steps=1, loss_tokens=(1,), exponents=made.manifest.exponents | exponents)
    graphs, refused = {}, 0
    for kind in ("layer", "update"):
        try:
            graphs[kind] = build(m, kind, m.windows()[0], 0, part=0)
        except RelationError:
            refused += 1
    if not refused:
        written = bounds(graphs["layer"], "gradient")
        for role in ("gradient1", "gradient2"):
            read = bounds(graphs["update"], role)
            assert read and all(lo <= written[name][0] and written[name][1] <= hi for name, (lo, hi) in read.items())
    if "layer" in graphs:
        exact = {name: next(t for t in graphs["layer"].tensors if t.name == f"q_proj.{name}") for name in ("dux", "dyu")}
        written = bounds(graphs["layer"], "gradient")
        assert exact["dux"].magnitude <= written["q_proj.lora_A"][1] and exact["dyu"].magnitude <= written["q_proj.lora_B"][1]


def test_every_commitment_has_a_task_that_writes_it(made: Toy) -> None:
    """Whatever the numbers of windows, layers, copies and parts: no task reads what none wrote, and none opens one commitment in two
    roles."""
    for steps, window_steps, rotation, parts in ((1, 1, 0, 1), (1, 1, 1, 1), (3, 2, 0, 1), (5, 1, 2, 1), (4, 4, 1, 1), (7, 3, 1, 1),
                                                 (1, 1, 0, 2), (3, 2, 1, 2), (5, 1, 2, 3)):
        m = replace(made.manifest, steps=steps, window_steps=window_steps, rotation_windows=rotation, loss_tokens=(1,) * steps,
                    batch_size=parts, parts=parts, optimizer=replace(made.manifest.optimizer, warmup_steps=1))
        written = set[str]()
        for task in task_list(m):
            names = [str(name) for _, name in task.commitments]
            assert len(set(names)) == len(names), task
            new = {str(n) for k, (role, n) in enumerate(task.commitments)
                   if role in WRITTEN or (task.kind, role) in (("clip", "clip"), ("update", "adapter")) or task.kind == "range" and k == 0}
            assert not new & written, task
            written |= new
        assert {str(n) for task in task_list(m) for _, n in task.commitments} == written
