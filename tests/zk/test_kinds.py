"""Every kind of task hides its witness: rank of the first half, what an attempt draws, and what it shows.

The argument that two witnesses have one view (test_views.py) is measured there in full, on a toy statement over a toy field, and its
opening is the same code for every graph. What a task's graph decides is checked here on each of them, over the real field:

    first half = M1·pads + (something of the witness), M1 of full row rank    one pad for each message, used once, and a masking pair whose
                                                                             coefficients at τ do not vanish; the real prover follows M1
                                                                             on random directions (error 1/p)
    second half    every row that is opened has at least t blinding coefficients, masks are as long as what they mask
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import numpy as np
import pytest

from protocol.channel import Channel, Transcript, VerifyingChannel
from protocol.field import GOLDILOCKS, U64
from protocol.schedule.opening import Committed, tail_count
from protocol.schedule.task import run_task
from protocol.schedule.triples import lagrange
from prover.argument.channel import ProvingChannel
from prover.argument.prove import TaskProverImpl, prove_task
from prover.randomness import SecretStream, fresh_seed
from prover.simulator import ChosenChallenges, ProgrammedTranscript
from tests.support.stage import PARAMS, backend, verify
from tests.zk.harness import RecordingChannel
from tests.zk.kinds import KINDS, case
from tests.zk.test_fresh import LABELS, Drawn, overheard, pieces

P = GOLDILOCKS.p
CHOSEN = ChosenChallenges(GOLDILOCKS, b"challenges for every kind".ljust(32))
SEED = b"attempt".ljust(32)


class Stop(Exception):
    """The first half is complete."""


@dataclass
class FirstHalf:
    """Messages before the opening, as words, and which pad masked each of the masked ones."""

    words: list[int]
    masked: list[tuple[str, int]]
    pads: U64


def first_half(name: str, shift: U64 | None = None, spoiled: str = "") -> FirstHalf:
    """Prove with pads moved by `shift` under fixed challenges, up to the opening; `spoiled` is a control."""
    found = case(name)
    inputs = list(found.committed().items())

    class Moved(SecretStream):
        def elements(self, label: str, *shape: int) -> U64:
            out = super().elements(label, *shape)
            if label == "pads":
                out = np.zeros_like(out) if spoiled == "constant pads" else out
                out = GOLDILOCKS.add(out, shift) if shift is not None and spoiled != "constant pads" else out
            return out

    def stop(*_: object) -> None:
        raise Stop

    with patch("prover.argument.prove.SecretStream", Moved), patch("protocol.schedule.task.prove_opening", stop):
        prover = TaskProverImpl(
            backend(), found.shape, inputs, found.shape.witness_layout(PARAMS), found.values, SEED, lambda: None)
        channel = RecordingChannel(GOLDILOCKS, prover.pads, prover.tails, ProgrammedTranscript({}, CHOSEN))
        published = found.published()
        with suppress(Stop):
            run_task(channel, found.shape, b"kinds", [Committed(r, d.layout, d.root) for r, d in inputs], PARAMS, published, prover)
    sent = b"".join(data for tag, data in channel.messages if tag != "witness/root")
    return FirstHalf(np.frombuffer(sent, dtype=">u8").tolist(), channel.masked, prover.pads)


def predicted(name: str, half: FirstHalf, shift: U64) -> list[int]:
    """M1·shift: −δ at the pad of each message, Lagrange combinations of δ at τ for the two triple sums."""
    pairs = case(name).shape.counts.products
    out = []
    for pool, index in half.masked:
        assert pool == "pad"
        out += [(-int(shift[plane, index])) % P for plane in range(2)]
    weights = lagrange(GOLDILOCKS, len(pairs), CHOSEN.ahead().challenge("triples/tau"))
    assert weights[-1]  # the masking pair's coefficient: the triple sums are uniform
    for side in range(2):
        total = GOLDILOCKS.zero
        for weight, pair in zip(weights, pairs, strict=True):
            total = total + weight * GOLDILOCKS.ext(int(shift[0, pair[side]]), int(shift[1, pair[side]]))
        out += [total.c0, total.c1]
    return out


@pytest.mark.parametrize("name", KINDS)
def test_the_first_half_has_full_rank(name: str) -> None:
    """One unused pad for each message and a masking pair that masks no message: rows of M1 are independent; and it is M1."""
    start = first_half(name)
    masking = set(case(name).shape.counts.products[-1])
    cells = [index for _, index in start.masked]
    assert len(set(cells)) == len(cells) and len(masking) == 2 and not masking & set(cells)
    shift = np.random.default_rng(len(name)).integers(0, P, start.pads.shape, dtype=np.uint64)
    moved = first_half(name, shift)
    assert len(moved.words) == len(start.words) == 2 * len(start.masked) + 4
    assert [(b - a) % P for a, b in zip(start.words, moved.words, strict=True)] == predicted(name, start, shift)


@pytest.mark.parametrize("spoiled", ["constant pads", "one pad twice"])
def test_the_rank_test_notices(spoiled: str) -> None:
    name = "clip"
    if spoiled == "constant pads":
        start = first_half(name, spoiled=spoiled)
        shift = np.ones_like(start.pads)
        moved = first_half(name, shift, spoiled)
        assert [(b - a) % P for a, b in zip(start.words, moved.words, strict=True)] != predicted(name, start, shift)
        return
    hide = ProvingChannel._hide

    def twice(channel, values, cells):  # type: ignore[no-untyped-def]
        return hide(channel, values, [cells[0]] * len(cells))

    with patch.object(ProvingChannel, "_hide", twice):
        shift = np.arange(first_half(name).pads.size, dtype=np.uint64).reshape(2, -1)
        start, moved = first_half(name), first_half(name, shift)
    assert [(b - a) % P for a, b in zip(start.words, moved.words, strict=True)] != predicted(name, start, shift)


@pytest.mark.parametrize("name", KINDS)
def test_rounds_in_one_call_are_the_same_rounds(name: str) -> None:
    """What is shown here of a ProvingChannel holds of the one that proves: under one seed it sends the same bytes."""
    found = case(name)

    def attempt() -> bytes:
        return prove_task(
            backend(), found.shape, found.statement(found.published()), list(found.committed().items()), found.values, found.published(),
            PARAMS, SEED, lambda: None)

    quick = attempt()
    with patch("prover.argument.prove.FinishingChannel", ProvingChannel), patch("prover.argument.finish.FinishingChannel._finish", None):
        assert attempt() == quick


# what attempts draw and show ---------------------------------------------------------------------------------------------


class Attempt:
    """Input commitments under fresh seeds and one proof, made as the product makes them."""

    def __init__(self, name: str) -> None:
        found = case(name)
        self.drawn: Drawn = []
        self.commitments = found.committed()
        with overheard(self.drawn):
            self.proof = prove_task(
                backend(), found.shape, found.statement(found.published()), list(self.commitments.items()), found.values,
                found.published(), PARAMS, fresh_seed(), lambda: None)

    def words(self, *labels: str) -> set[bytes]:
        return {d[i : i + 8] for _, found, d in self.drawn if found in labels for i in range(0, len(d), 8)}


    def lone_mask(self, pairs: tuple[tuple[int, int], ...]) -> set[bytes]:
        """A task without products (rotate) sends A(τ), B(τ) that are the masking pair itself, which masks nothing else."""
        if len(pairs) > 1:
            return set()
        (pads,) = [np.frombuffer(d, dtype=">u8").reshape(2, -1) for _, label, d in self.drawn if label == "pads"]
        return {int(pads[plane, index]).to_bytes(8, "big") for plane in range(2) for index in pairs[0]}


@cache
def attempts(name: str) -> tuple[Attempt, Attempt]:
    return Attempt(name), Attempt(name)


@pytest.mark.parametrize("name", KINDS)
def test_attempts_share_nothing_and_show_no_secret(name: str) -> None:
    first, second = attempts(name)
    found = case(name)
    for attempt in (first, second):
        committed = [Committed(role, d.layout, d.root) for role, d in attempt.commitments.items()]
        verify(found.shape, found.statement(found.published()), committed, found.published(), attempt.proof)
        used = [(seed, label) for seed, label, _ in attempt.drawn]
        assert len(set(used)) == len(used) and {label for _, label in used} == LABELS and len({seed for seed, _ in used}) == 1
        secret = attempt.words(*(LABELS - {"salts"}))
        assert len(secret) * 8 == sum(len(d) for _, label, d in attempt.drawn if label != "salts")  # no word twice
        assert secret & pieces(attempt.proof) <= attempt.lone_mask(found.shape.counts.products)
        assert all(seed not in attempt.proof and seed.hex().encode() not in attempt.proof for seed, _ in used)
    assert not first.words(*LABELS) & second.words(*LABELS)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_opened_is_blinded(name: str) -> None:
    """t columns of each commitment; each row has at least t coefficients, and R1 is as long as the longest of them."""
    found, (attempt, _) = case(name), attempts(name)
    layouts = [d.layout for d in attempt.commitments.values()] + [found.shape.witness_layout(PARAMS)]
    assert all(layout.code.blinding >= PARAMS.queries for layout in layouts)
    (r1,) = [d for _, label, d in attempt.drawn if label == "mask/r1"]
    assert len(r1) == 16 * (PARAMS.ell + max(layout.code.blinding for layout in layouts))
    (tails,) = [d for _, label, d in attempt.drawn if label == "tail/message"]
    assert len(tails) >= 16 * tail_count(layouts)
    opened: list[int] = []
    draw = Channel.positions

    def positions(channel: Channel, tag: str, n: int, count: int) -> object:
        out = draw(channel, tag, n, count)
        opened.extend(out.tolist())
        return out

    with patch.object(Channel, "positions", positions):
        committed = [Committed(role, d.layout, d.root) for role, d in attempt.commitments.items()]
        channel = VerifyingChannel(GOLDILOCKS, attempt.proof, Transcript())
        run_task(channel, found.shape, found.statement(found.published()), committed, PARAMS, found.published(), None)
    assert len(set(opened)) == len(opened) == PARAMS.queries
