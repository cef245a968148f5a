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
from protocol.relation.graph import WITNESS, Committed, RelationError
from protocol.relation.model import build, commitment_tensors
from protocol.statement import BUDGETS, commitment_layout, statement_content, statement_id, task_list, window_of
from prover.executor.trainer import Trainer
from tests.attacks.test_constrained import ADAMW
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
], ids=["angles", "permutations", "tasks"])
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


def test_every_commitment_has_a_task_that_writes_it(made: Toy) -> None:
    """Whatever the numbers of windows, layers and copies: no task reads what none wrote, and none opens one commitment in two roles."""
    for steps, window_steps, rotation in ((1, 1, 0), (1, 1, 1), (3, 2, 0), (5, 1, 2), (4, 4, 1), (7, 3, 1)):
        m = replace(made.manifest, steps=steps, window_steps=window_steps, rotation_windows=rotation, loss_tokens=(1,) * steps,
                    optimizer=replace(made.manifest.optimizer, warmup_steps=1))
        written = set[str]()
        for task in task_list(m):
            names = [str(name) for _, name in task.commitments]
            assert len(set(names)) == len(names), task
            outputs = ("x_out", "dx_out", "state_out", "delivered", "norm", "new")
            new = {str(n) for k, (role, n) in enumerate(task.commitments)
                   if role in outputs or (task.kind, role) == ("clip", "clip") or task.kind == "range" and k == 0}
            assert not new & written, task
            written |= new
        assert {str(n) for task in task_list(m) for _, n in task.commitments} == written
