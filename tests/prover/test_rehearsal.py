"""The statement that a process proves before its first task: accepted where arithmetic is right, rejected where it is not."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from protocol.errors import VerificationError
from protocol.params import profile
from prover.argument.prove import prove_task
from prover.backend import select
from prover.rehearsal import rehearse

PARAMS = profile("goldilocks-2^10")


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_machine_that_is_right(name: str) -> None:
    rehearse(select(name), PARAMS)


WRONG: dict[str, Callable[[Any], Any]] = {  # what becomes of a method's results
    "coefficients": lambda words: np.bitwise_xor(words, np.uint64(1), out=words),
    "encode": lambda words: np.bitwise_xor(words, np.uint64(1), out=words),
    "hash_rows": lambda digests: np.bitwise_xor(digests, np.uint8(1), out=digests),
    "kdot": lambda sum_: sum_ + 1,
    "fraction_rounds": lambda ends: [ends[0] + 1, *ends[1:]],
    "batch_rounds": lambda ends: [(ends[0][0], ends[0][1] + 1), *ends[1:]],
}


@pytest.mark.parametrize("method", sorted(WRONG))
def test_one_that_is_wrong(method: str) -> None:
    backend = select("cpu")
    right = getattr(backend, method)
    with (
        patch.object(backend, method, lambda *given, **named: WRONG[method](right(*given, **named))), pytest.raises(VerificationError)
    ):
        rehearse(backend, PARAMS)


def test_a_proof_with_something_behind_it() -> None:
    with (
        patch("prover.rehearsal.prove_task", lambda *given: prove_task(*given) + b"x"), pytest.raises(VerificationError)
    ):
        rehearse(select("cpu"), PARAMS)
