"""Honest runs, made once: windows of one step, LoRA on one projection of each layer."""

import pytest

from tests.support.stage import Case, Stage
from tests.toy import EVEN, ODD, toy

SIZES = {"layers": 2, "steps": 2, "window_steps": 1, "batch_size": 1, "sequence_length": 4, "examples": 3}


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage(toy(sizes=EVEN, target_modules=("q_proj",), **SIZES))


@pytest.fixture(scope="session")
def odd_stage() -> Stage:
    """Sizes that are not powers of two: rows and leaves have absent cells."""
    return Stage(toy(sizes=ODD, target_modules=("o_proj",), **SIZES))


@pytest.fixture(scope="session")
def odd_window() -> Case:
    """One layer of odd sizes in a window of three steps, all seven projections adapted."""
    return Stage(toy(sizes=ODD, layers=1, steps=3, window_steps=3, sequence_length=3)).case("layer", 0, 0)
