"""A share of the attack tests on the CUDA backend, on a card that is not there; `make attacks-cuda` runs them all."""

from collections.abc import Iterator

import pytest

from tests.attacks.conftest import SIZES
from tests.attacks.test_lies import (  # noqa: F401 - tests that run here again, on this file's stages
    test_digit_of_two_and_minus_one,
    test_digit_with_two_ones,
    test_garbage_in_padding_weighs_nothing,
    test_multiplicities_other_than_the_committed_ones,
    test_off_table_silu,
    test_remainder_made_up_by_multiplicities,
    test_the_same_prover_without_a_lie_is_accepted,
    test_wrong_multiplicity,
    test_wrong_product,
    test_wrong_published_loss,
    test_wrong_triple,
)
from tests.attacks.test_trees import test_every_cell_is_looked_up_in_its_own_tree, test_honest_values_are_accepted  # noqa: F401
from tests.support import card
from tests.support.device import REAL, launches
from tests.support.stage import Stage, backend
from tests.toy import EVEN, ODD, toy


@pytest.fixture(scope="module", autouse=True)
def on_the_device() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VERILORA_TEST_BACKEND", "cuda")
        assert backend().name == "cuda"
        card.forget()
        yield
    assert REAL or launches(card.counts())


@pytest.fixture(scope="module")
def stage(on_the_device: None) -> Stage:
    return Stage(toy(sizes=EVEN, target_modules=("q_proj",), **SIZES))


@pytest.fixture(scope="module")
def odd_stage(on_the_device: None) -> Stage:
    return Stage(toy(sizes=ODD, target_modules=("o_proj",), **SIZES))
