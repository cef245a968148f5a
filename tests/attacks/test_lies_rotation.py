"""Lies about copies: a rotated commitment that holds something else, and a window that opens another copy than it should."""

from dataclasses import replace

import pytest

from protocol.errors import VerificationError
from protocol.statement import BUDGETS, Name, standing, task_list
from tests.attacks.test_lies import one, rejected
from tests.support.evil import Lie, attack
from tests.support.stage import Stage
from tests.toy import EVEN, toy
from verifier.run import resolve_ids

PARTS = {"base/0": 0, "dataset": 1, "embedding": 2, "head": 3}
TENSOR = {"base/0": "gamma_mlp", "dataset": "mask", "embedding": "E", "head": "W"}


@pytest.fixture(scope="module")
def rotated() -> Stage:
    found = toy(layers=1, steps=3, window_steps=1, sizes=EVEN, target_modules=("q_proj",))
    return Stage(replace(found, manifest=replace(found.manifest, rotation_windows=2)))


@pytest.mark.parametrize("base", PARTS)
def test_an_honest_copy_is_accepted_and_another_is_not(rotated: Stage, base: str) -> None:
    case = rotated.case("rotate", 2, -1, PARTS[base])
    assert str(case.task) == f"rotate({base}@2)"
    assert attack(case, Lie()).reason == "accepted"
    rejected(case, Lie(cells={TENSOR[base]: one(1)}), "zero", {f"zero {TENSOR[base]}.equal"})


def test_windows_open_the_copy_of_their_time(rotated: Stage) -> None:
    manifest = rotated.toy.manifest
    opened = {t.window: dict(t.commitments)["base"] for t in task_list(manifest) if t.kind == "layer"}
    assert opened == {0: Name("base/0"), 1: Name("base/0"), 2: Name("base/0", 2)}
    assert standing(replace(manifest, base_visibility="public"), "base/0", 2) == Name("base/0")
    assert standing(replace(manifest, base_visibility="public"), "dataset", 2) == Name("dataset", 2)


def test_a_copy_that_no_rotation_leads_to_is_foreign(rotated: Stage) -> None:
    manifest = replace(rotated.toy.manifest, profile="goldilocks-2^12", budgets=dict.fromkeys(BUDGETS, 9))
    names = {str(name) for task in task_list(manifest) for _, name in task.commitments}
    roots = dict.fromkeys(names, bytes(32))
    for text, reason in (("base/0@1", "foreign-commitment"), ("base/0@2", "missing-commitment")):
        changed = roots | {text: bytes(32)} if text not in roots else {n: r for n, r in roots.items() if n != text}
        with pytest.raises(VerificationError) as caught:
            resolve_ids(manifest, changed)
        assert caught.value.reason == reason
