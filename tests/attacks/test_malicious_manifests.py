"""Manifests chosen to have a run accepted that did not train as they say, or to keep a verifier busy for ever: refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.errors import VerificationError
from protocol.relation.clip import FACTOR_BITS
from protocol.relation.graph import RelationError
from protocol.relation.model import build
from protocol.statement import task_list
from prover.executor.trainer import Trainer
from tests.attacks.test_constrained import ADAMW
from tests.support.stage import Stage
from tests.toy import EVEN, Toy, toy


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
