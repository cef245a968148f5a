"""Inputs determine outputs where a step is proved in parts: copies, sums and an update, searched as in test_uniqueness.py."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from protocol.relation import head, parts, rounding, update
from protocol.relation.graph import Graph
from tests.attacks.test_uniqueness import Inputs, every, fake, one, unique, unnecessary
from tests.support.search import Search


@pytest.mark.parametrize("bound", [9, 20])
def test_a_copy_without_range_checks(bound: int) -> None:
    """Of the whole field one value equals the tensor, with bounds as tight as they can be and with wide ones."""
    search = Search.build(lambda g: rounding.exact_copy(g, one(g, "z", -9, 9), "y", bound, "gradient"))
    inputs = every(z=range(-9, 10))
    assert unique(search, inputs(), lambda given: {"y": [given["z"]]}) == 19
    assert unnecessary(search, inputs) == set()


def sums(part: int) -> Callable[[Graph], None]:
    def make(g: Graph) -> None:
        c = replace(fake(g, part_numbers=(1, 2), loss_tokens=(9, 3), publish_loss=False), part=part)
        head._add_up(c, one(g, "mask", 0, 1, "sbt", (1, 1, 2)), one(g, "own", 0, 5, "s"))

    return make


def masks(**others: range) -> Callable[[], Iterator[Inputs]]:
    return lambda: ({"mask": np.array(m)} | given for m in product((0, 1), repeat=2) for given in every(**others)())


def test_sums_of_a_part() -> None:
    search, inputs = Search.build(sums(1)), masks(own=range(6))
    assert unique(search, inputs(), lambda x: {"loss": [x["own"]], "tokens": [x["mask"].sum()]}) == 24
    assert unnecessary(search, inputs) == set()


def test_tokens_of_the_other_part_are_what_the_manifest_leaves() -> None:
    """Whatever the last part's prover would like to read: with its own mask one number alone makes the step's sum."""
    search, inputs = Search.build(sums(2), unknown=frozenset({"tokens"})), masks(own=range(2), loss=range(2))
    assert unique(search, inputs(), lambda x: {"loss1/tokens": [3 - x["mask"].sum()]}) == 16


UPDATE: list[tuple[object, str, object]] = [
    (parts, "axis_sizes", lambda m: dict.fromkeys("dgqjr", 1)), (update, "MASTER_BITS", 2), (update, "NORMALISER_BITS", 1),
]
UPDATE_EXPONENTS = {
    "base/0/gamma_attn": 1, "attn_norm.out": 1, "dq": 1, "q_proj.u": 1, "q_proj.du": 1,
    "q_proj.lora_A.grad": 1, "q_proj.lora_B.grad": 1, "q_proj.lora_A.mean": 2, "q_proj.lora_B.mean": 2,
}
UPDATE_WIDTHS = {"gamma": 2, "master": 4, "delta": 3, "du": 2, "gradient": 2, "activation": 2, "lora_gradient": 4, "momentum": 4}


@pytest.mark.parametrize("steps", [1, 2])
def test_update_of_a_step_in_parts(steps: int) -> None:
    """Matrices of one cell, two parts, plain SGD: adapters and the next state follow from the state and the gradients."""
    optimizer = SimpleNamespace(
        kind="sgd", clips=False, weight_decay="0", momentum_integer=0, rates=lambda first, count, total: ([3, 2][:count], 2))

    def make(g: Graph) -> None:
        c = fake(g, steps, exponents=UPDATE_EXPONENTS, widths=UPDATE_WIDTHS, optimizer=optimizer, steps=9, loss_tokens=(1,) * 3,
                 lora=SimpleNamespace(target_modules=("q_proj",)), part_numbers=(1, 2), part_sequences=1, sequence_length=1)
        parts.build_update(c, 0, initial=False, final=False)

    search = Search.build(make, UPDATE, limb=6)

    def inputs(count: int = 80) -> Iterator[Inputs]:
        rng = np.random.default_rng(6)
        for _ in range(count):
            found: Inputs = {"gamma_attn": rng.integers(-2, 2)}
            found |= {f"state_in/q_proj.{x}": rng.integers(-8, 8) for x in ("lora_A", "lora_B")}
            used = {x: rng.integers(0, 2) for x in ("lora_A", "lora_B")}  # or nothing happens to this matrix
            yield found | {f"gradient{n}/q_proj.{x}": rng.integers(-4, 5, steps) * used[x] for n in (1, 2) for x in used}

    def expected(given: Inputs) -> dict[str, object] | None:
        out: dict[str, object] = {}
        for x in ("lora_A", "lora_B"):
            name, master, seen = f"q_proj.{x}", int(given[f"state_in/q_proj.{x}"]), list[int]()
            for n, rate in enumerate([3, 2][:steps]):
                seen.append(master)
                gradient = (int(given[f"gradient1/{name}"][n] + given[f"gradient2/{name}"][n]) + 1) >> 1
                factor, shift = (int(given["gamma_attn"]), 2) if x == "lora_A" else (2, 2)
                mean = (4 * gradient * factor + (1 << shift - 1)) >> shift
                delta = (rate * mean + 2) >> 2
                if not (-8 <= gradient < 8 and -8 <= mean < 8 and -4 <= delta < 4):
                    return None
                master -= delta
            if not -8 <= master < 8:
                return None
            out[name] = [*seen, master]  # the adapter of each step, the state after them
        return out

    assert unique(search, inputs(), expected) > 10
    if steps == 1:  # at these widths a change's range leaves no larger mean
        assert unnecessary(search, inputs) == {f"q_proj.{x}.mean.offset" for x in ("lora_A", "lora_B")}
