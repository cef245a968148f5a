"""All rounds that a sumcheck has left in one call, against their NumPy definition, word for word, messages and challenges included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from protocol.channel import Transcript
from protocol.field import GOLDILOCKS as F
from prover.backend.cpu import CpuBackend
from prover.backend.talk import Summand, Talk
from prover.backend.tiled import Tiled
from tests.prover.test_kernels import REFERENCE, P, copied, cpu, elements, rng, scalar  # noqa: F401 (cpu and rng are fixtures)


def talked(rng: np.random.Generator, rounds: int) -> tuple[Talk, Talk]:  # noqa: F811
    """The same talk twice, behind a message of its channel and a round whose pads are not to be used again."""
    out, pads, begun = [], elements(rng, rounds + 1, 4), rng.bytes(70)
    for _ in range(2):
        transcript = Transcript()
        transcript.absorb("before", begun)
        out.append(Talk(F, transcript, "tree/round", pads))
        out[-1].say(F.ext(1), F.ext(0, P - 1))
    return out[0], out[1]


def same_talk(mine: Talk, theirs: Talk) -> None:
    assert (mine.messages, mine.challenges, mine.transcript.state) == (theirs.messages, theirs.challenges, theirs.transcript.state)
    assert mine.rounds == 0 and len(mine.messages) == 32 * len(mine.challenges)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("rounds", [1, 2, 3, 9, 10, 12])
def test_rounds_of_fractions_in_one_call(cpu: CpuBackend, rng: np.random.Generator, rounds: int, known: bool) -> None:  # noqa: F811
    """From a level's beginning, and behind a first round; a level of more variables than a tile has, and of fewer."""
    tables, lam = [Tiled(elements(rng, 2, 1 << rounds)) for _ in range(4)], scalar(rng)
    point = elements(rng, 2, rounds - 1)
    first = REFERENCE.fraction_round(tables, F.eq_table(point), F.lift(np.ones(1, dtype=np.uint64)), lam)[1] if known else None
    mine, theirs = talked(rng, rounds)
    found = cpu.fraction_rounds(copied(tables), first, point, lam, mine)
    assert found == REFERENCE.fraction_rounds(tables, first, point, lam, theirs)
    same_talk(mine, theirs)


@pytest.mark.parametrize("waiting", [[0], [0, 0, 0], [0, 3, 0, 1, 5, 5], [5]])
def test_rounds_of_products_in_one_call(cpu: CpuBackend, rng: np.random.Generator, waiting: list[int]) -> None:  # noqa: F811
    """Products that run, that begin later, and that begin when all is over."""
    rounds, first = 5, (scalar(rng), scalar(rng))
    summands = [
        Summand(elements(rng, 2, 1 << (rounds - k)), elements(rng, 2, 1 << (rounds - k)), scalar(rng), k, scalar(rng)) for k in waiting
    ]
    passed, outside = scalar(rng), scalar(rng)
    copies = [replace(x, a=x.a.copy(), b=x.b.copy()) for x in summands]
    mine, theirs = talked(rng, rounds)
    found = cpu.batch_rounds(copies, first, passed, outside, mine)
    assert found == REFERENCE.batch_rounds(summands, first, passed, outside, theirs)
    same_talk(mine, theirs)


def test_rounds_in_one_call_check_their_tables(cpu: CpuBackend, rng: np.random.Generator) -> None:  # noqa: F811
    table = Tiled(elements(rng, 2, 4))
    for rounds, variables in ((3, 2), (2, 2)):
        with pytest.raises(ValueError, match="shape"):
            cpu.fraction_rounds([table] * 4, None, elements(rng, 2, variables), scalar(rng), talked(rng, rounds)[0])
    with pytest.raises(ValueError, match="pads of shape"):
        cpu.fraction_rounds([Tiled(elements(rng, 2, 1))] * 4, None, elements(rng, 2, 0), scalar(rng), talked(rng, 0)[0])
    with pytest.raises(ValueError, match="shape"):
        cpu.batch_rounds([Summand(table.cells, table.cells, F.one, 0, F.one)], (F.one, F.one), F.one, F.one, talked(rng, 1)[0])
