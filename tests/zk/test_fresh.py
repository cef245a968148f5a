"""Nothing is used twice and nothing secret is written down.

Two proofs of one statement, made as the product makes them (seeds from the operating system), share no pad, tail pad,
mask, blinding coefficient or salt; within a proof no pad masks two messages, and no secret word, unopened salt or seed
appears in what is public.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest

from protocol.channel import VerifyingChannel
from protocol.field import GOLDILOCKS, U64
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.params import Params
from protocol.schedule.opening import Committed
from protocol.schedule.task import run_task
from prover.argument.channel import ProvingChannel
from prover.argument.prove import prove_task
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import CommitmentData, commit
from prover.randomness import SecretStream, fresh_seed
from tests.zk.harness import ToyStatement

PARAMS = Params("toy", GOLDILOCKS, 64, 512, 20)
LABELS = {"pads", "mask/r1", "mask/r2", "tail/message", "tail/rho", "rho", "salts"}
Drawn = list[tuple[bytes, str, bytes]]  # (seed, label, what was expanded)


@contextmanager
def overheard(drawn: Drawn) -> Iterator[None]:
    """Write down everything that seeds expand to."""

    class Overheard(SecretStream):
        def elements(self, label: str, *shape: int) -> U64:
            out = super().elements(label, *shape)
            drawn.append((self.seed, label, self.field.to_bytes(out)))
            return out

        def salts(self, label: str, count: int) -> U8:
            out = super().salts(label, count)
            drawn.append((self.seed, label, out.tobytes()))
            return out

    with patch("prover.argument.prove.SecretStream", Overheard), patch("prover.commitment.commit.SecretStream", Overheard):
        yield


class Attempt:
    """One commitment to the input and one proof, as a task makes them."""

    def __init__(self, statement: ToyStatement, base: CommitmentData | None = None) -> None:
        self.drawn: Drawn = []
        self.masked: list[tuple[str, int]] = []
        secret, backend, hide = statement.secrets[0], ReferenceBackend(GOLDILOCKS), ProvingChannel._hide

        def noted(channel, values, cells):  # type: ignore[no-untyped-def]
            self.masked += cells
            return hide(channel, values, cells)

        every_message = patch("prover.argument.prove.FinishingChannel", ProvingChannel)  # the same proof: test_kinds.py
        with overheard(self.drawn), every_message, patch.object(ProvingChannel, "_hide", noted):
            self.base = base or commit(backend, statement.base_layout, {"W": secret.base}, fresh_seed())
            self.proof = prove_task(
                backend, statement.shape, b"statement", [("base", self.base)], secret.values, statement.published,
                PARAMS, fresh_seed(), lambda: None,
            )

    def words(self, label: str | None = None) -> list[bytes]:
        return [d[i : i + 8] for _, found, d in self.drawn if label in (None, found) for i in range(0, len(d), 8)]


@pytest.fixture(scope="module")
def statement() -> ToyStatement:
    return ToyStatement(PARAMS)


@pytest.fixture(scope="module")
def attempts(statement: ToyStatement) -> tuple[Attempt, Attempt]:
    first = Attempt(statement)
    return first, Attempt(statement, first.base)  # a retry: same input commitment, same statement


def pieces(data: bytes) -> set[bytes]:
    return {data[i : i + 8] for i in range(0, len(data), 8)}


def test_attempts_are_proofs(statement: ToyStatement, attempts: tuple[Attempt, Attempt]) -> None:
    for attempt in attempts:
        channel = VerifyingChannel(GOLDILOCKS, attempt.proof)
        base = Committed("base", statement.base_layout, attempt.base.root)
        run_task(
            channel, statement.shape, b"statement", [base], PARAMS, statement.published, None
        )
        channel.finish()


def test_a_retry_shares_no_randomness(attempts: tuple[Attempt, Attempt]) -> None:
    first, second = ({w for _, label, d in a.drawn for w in pieces(d)} for a in attempts)
    assert len(first) > 1000 and not first & second
    base = attempts[0].base  # opened by both, within its budget; everything else is new
    known = pieces(GOLDILOCKS.to_bytes(base.codeword)) | pieces(base.salts.tobytes()) | pieces(b"".join(x.tobytes() for x in base.levels))
    assert not (pieces(attempts[0].proof) & pieces(attempts[1].proof)) - known


def test_every_stream_is_expanded_once(attempts: tuple[Attempt, Attempt]) -> None:
    used = [(seed, label) for attempt in attempts for seed, label, _ in attempt.drawn]
    assert len(set(used)) == len(used)
    assert {label for _, label in used} == LABELS
    for attempt in attempts:
        words = attempt.words()
        assert len(set(words)) == len(words), "two streams, or two places of one, have a word in common"


def test_a_pad_masks_one_message(attempts: tuple[Attempt, Attempt], statement: ToyStatement) -> None:
    masked = attempts[0].masked
    assert len(set(masked)) == len(masked)
    hidden = {index for pool, index in masked if pool == "pad"}
    assert not hidden & set(statement.shape.counts.products[-1]), "the masking pair of the triples also masks a message"
    assert hidden | set(statement.shape.counts.products[-1]) == set(range(len(hidden) + 2))


def test_no_secret_word_is_public(attempts: tuple[Attempt, Attempt], statement: ToyStatement) -> None:
    for attempt in attempts:
        public = pieces(attempt.proof) | pieces(attempt.base.root)
        for label in LABELS - {"salts"}:
            assert not set(attempt.words(label)) & public, label
        salts = [d[i : i + 32] for _, label, d in attempt.drawn if label == "salts" for i in range(0, len(d), 32)]
        opened = [salt for salt in salts if salt in attempt.proof]
        trees = 2 if attempt is attempts[0] else 1
        assert len(salts) == trees * PARAMS.n and len(opened) == trees * PARAMS.queries


def test_no_seed_is_public(attempts: tuple[Attempt, Attempt]) -> None:
    seeds = {seed for attempt in attempts for seed, _, _ in attempt.drawn}
    assert len(seeds) == 3  # the input's, and one per attempt
    for attempt in attempts:
        for seed in seeds:
            assert seed not in attempt.proof and seed[:8] not in attempt.proof and seed.hex() not in repr(attempt.base.layout)


def test_the_search_finds_what_it_looks_for(attempts: tuple[Attempt, Attempt]) -> None:
    """Controls: a leaked pad, and an attempt that repeats a seed."""
    attempt = attempts[0]
    leaked = attempt.words("pads")[3]
    assert pieces(attempt.proof + leaked) & set(attempt.words("pads"))
    with patch("tests.zk.test_fresh.fresh_seed", lambda: bytes(32)):
        again = [Attempt(ToyStatement(PARAMS)) for _ in range(2)]
    assert set(again[0].words("pads")) == set(again[1].words("pads"))
    assert pieces(again[0].proof) & pieces(again[1].proof)


def test_seeds_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def token(size: int) -> bytes:
        asked.append(size)
        return bytes(range(size))

    assert len({fresh_seed() for _ in range(100)}) == 100
    monkeypatch.setattr("prover.randomness.secrets.token_bytes", token)
    assert fresh_seed() == bytes(range(32)) and asked == [32]


def test_labels_and_seeds_separate_streams() -> None:
    field = GOLDILOCKS
    streams = [
        SecretStream(field, seed).elements(label, 64) for seed in (bytes(32), bytes(31) + b"\1") for label in ("rho", "pads", "rho/1")
    ]
    words = np.concatenate(streams)
    assert len(np.unique(words)) == len(words)
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(field, b"short")


def test_layouts_have_the_blinding_that_openings_need(statement: ToyStatement) -> None:
    """One opening of t columns spends t of a row's coefficients: B = t·openings, for the witness B = t."""
    assert statement.witness_layout.code.blinding == PARAMS.queries
    assert CommitmentLayout.pack([("x", (4,))], PARAMS.code(3)).code.blinding == 3 * PARAMS.queries
