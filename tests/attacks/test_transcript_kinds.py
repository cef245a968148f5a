"""Fiat–Shamir is complete for every task kind: each message and each statement byte changes the next challenge.

AdamW, clipping, a rotation and steps in parts, so that all seven kinds exist. Tests take some messages of each kind; `make attacks`
takes all.
"""

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from protocol.channel import Transcript, VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.schedule.opening import Committed
from protocol.schedule.task import run_task
from prover.argument.channel import ProvingChannel
from tests.support.evil import Lie, prove_with
from tests.support.stage import PARAMS, Case, Stage
from tests.toy import EVEN, toy

P = GOLDILOCKS.p
PLACES = {"range": ("range", -1, -1, 1), "rotate": ("rotate", 1, -1, 1), "embed": ("embed", 1, -1, 0), "clip": ("clip", 1, -1, 0),
          "layer": ("layer", 1, 0, 0), "head": ("head", 1, -1, 0), "update": ("update", 1, 0, 0), "layer of a part": ("layer", 1, 0, 2),
          "head of the last part": ("head", 1, -1, 2)}
PARTED = ("update", "layer of a part", "head of the last part")
LATE = ("columns/", "salts/", "siblings/")


class Stop(Exception):
    """The draw that was waited for has been made."""


class Spy(Transcript):
    """Records all events; can stop at the first draw after absorb number `until`, leave one out, or swap two neighbours."""

    def __init__(self, until: int | None = None, dropped: int | None = None, swapped: int | None = None) -> None:
        super().__init__()
        self.until, self.dropped, self.swapped = until, dropped, swapped
        self.events: list[tuple[str, str, object]] = []
        self.absorbed = 0
        self.kept: list[tuple[str, bytes]] = []

    def absorb(self, tag: str, data: bytes) -> None:
        number, self.absorbed = self.absorbed, self.absorbed + 1
        self.events.append(("absorb", tag, data))
        if number == self.swapped:
            self.kept.append((tag, data))
        elif number != self.dropped:
            super().absorb(tag, data)
            while self.kept:
                super().absorb(*self.kept.pop())

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        out = super().draw(tag, words, below)
        self.events.append(("draw" if words else "nothing drawn", tag, out))  # points of tensors with one cell are empty
        if words and self.until is not None and self.absorbed > self.until:
            raise Stop
        return out


@dataclass(eq=False)
class Proved:
    """An honest proof of one task, and the messages it consists of."""

    case: Case

    def __post_init__(self) -> None:
        self.published = self.case.published()
        self.statement = self.case.statement(self.published)
        self.committed = [Committed(role, d.layout, d.root) for role, d in self.case.committed().items()]
        channel = self.prove()
        self.proof, self.log = bytes(channel.proof), list(channel.log)
        self.spy, self.reason = self.run()
        at, self.after = -1, dict[int, int]()  # absorb → index of the next draw among the events
        for i, event in enumerate(self.spy.events):
            if event[0] == "absorb":
                at += 1
            elif event[0] == "draw":
                self.after.update({n: i for n in range(at, -1, -1) if n not in self.after})

    def prove(self):  # type: ignore[no-untyped-def]
        return prove_with(self.case.shape, self.statement, list(self.case.committed().items()), self.case.values, self.published, Lie(), {})

    def run(self, proof: bytes | None = None, statement: bytes | None = None, spy: Spy | None = None) -> tuple[Spy, str]:
        """The verifier's events and its verdict ("" if it was stopped)."""
        spy = spy or Spy()
        channel = VerifyingChannel(GOLDILOCKS, self.proof if proof is None else proof, spy)
        try:
            run_task(channel, self.case.shape, statement or self.statement, self.committed, PARAMS, self.published, None)
            channel.finish()
        except VerificationError as error:
            return spy, error.reason
        except Stop:
            return spy, ""
        return spy, "accepted"

    def sample(self, count: int) -> list[int]:
        """Numbers of messages: the first of each tag, thinned out to `count`."""
        first: dict[str, int] = {}
        for number, (tag, _, _) in enumerate(self.log):
            first.setdefault(tag, number)
        numbers = sorted(first.values())
        return numbers[:: max(len(numbers) // count, 1)]


@cache
def stage(parts: int) -> Stage:
    return Stage(toy(
        sizes=EVEN, target_modules=("down_proj",), r=1, layers=1, steps=2, window_steps=1, batch_size=parts, parts=parts, sequence_length=2,
        examples=2, kind="adamw", learning_rate="0.01", max_grad_norm="0.1", rotation_windows=1,
    ))


@pytest.fixture(scope="module", params=list(PLACES))
def proved(request: pytest.FixtureRequest) -> Proved:
    return Proved(stage(2 if request.param in PARTED else 1).case(*PLACES[request.param]))


def flipped(data: bytes, offset: int, size: int, words: bool, rng: np.random.Generator) -> bytes:
    """One random bit changed; of field elements so that they stay canonical."""
    while True:
        out, at = bytearray(data), offset + int(rng.integers(size))
        out[at] ^= 1 << int(rng.integers(8))
        start = at - (at - offset) % 8
        if not words or int.from_bytes(out[start : start + 8], "big") < P:
            return bytes(out)


def same_message(data: bytes, offset: int, ell: int) -> bytes:
    """A row polynomial plus X^ell − 1: the relation check cannot see the difference, so positions are drawn."""
    out = bytearray(data)
    for at, change in ((offset, -1), (offset + 16 * ell, 1)):
        word = (int.from_bytes(out[at : at + 8], "big") + change) % P
        out[at : at + 8] = word.to_bytes(8, "big")
    return bytes(out)


def check_message(proved: Proved, number: int, rng: np.random.Generator, to_the_end: bool) -> None:
    """A changed bit of message `number`: same events up to it, another challenge next; a rejection if seen through."""
    tag, offset, size = proved.log[number]
    words = not tag.startswith(("witness/root", "salts/", "siblings/"))
    proof = flipped(proved.proof, offset, size, words, rng)
    if tag in ("opening/v1", "opening/v2"):
        assert proved.run(proof)[1] == "opening-relation"
        ell = PARAMS.ell if tag == "opening/v1" else size // 16 - PARAMS.queries
        proof = same_message(proved.proof, offset, ell)
    if number + 1 not in proved.after:  # nothing is drawn any more: the Merkle root has to tell
        assert tag.startswith(LATE) and proved.run(proof)[1] == "merkle-root", tag
        return
    spy, _ = proved.run(proof, spy=Spy(until=number + 1))
    draw = proved.after[number + 1]
    assert len(spy.events) == draw + 1 and spy.events[draw][:2] == proved.spy.events[draw][:2], tag
    assert spy.events[draw][2] != proved.spy.events[draw][2], tag
    differing = [i for i in range(draw) if spy.events[i] != proved.spy.events[i]]
    assert [proved.spy.events[i][:2] for i in differing] == [("absorb", tag)]
    if to_the_end:
        assert proved.run(proof)[1] == ("merkle-root" if tag in ("opening/v1", "opening/v2") else "opening-relation"), tag


def check_one_sided(proved: Proved, number: int, swap: bool) -> bool:
    """Absorb `number` left out, or exchanged with the next, by the verifier alone. False if nothing is drawn after it."""
    follows = proved.spy.events[[i for i, e in enumerate(proved.spy.events) if e[0] == "absorb"][number] + 1 :]
    if swap and (not follows or follows[0][0] != "absorb"):
        return False
    _, reason = proved.run(spy=Spy(swapped=number) if swap else Spy(dropped=number))
    if number not in proved.after:
        assert reason == "accepted" and proved.log[number - 1][0].startswith(LATE)
        return False
    assert reason in ("opening-relation", "merkle-root", "truncated"), (number, reason)
    return True


def test_what_is_absorbed_is_what_is_sent(proved: Proved) -> None:
    assert proved.reason == "accepted"
    absorbed = [(tag, data) for kind, tag, data in proved.spy.events if kind == "absorb"]
    assert absorbed == [("statement", proved.statement)] + [(tag, proved.proof[o : o + n]) for tag, o, n in proved.log]


def test_every_message_is_bound(proved: Proved) -> None:
    rng, few = np.random.default_rng(4), len(proved.log) < 50
    for number in range(len(proved.log)) if few else proved.sample(4):
        check_message(proved, number, rng, to_the_end=few and number % 4 == 0)


def test_every_field_of_the_statement_is_bound(proved: Proved) -> None:
    """A bit of each byte; every key of the statement has at least one."""
    first, fields = proved.run(spy=Spy(until=0))[0].events[-1], json.loads(proved.statement)
    assert first[0] == "draw" and set(fields) >= {"manifest", "kind", "window", "layer", "part", "relation", "commitments", "published"}
    for at in range(len(proved.statement)):
        statement = bytearray(proved.statement)
        statement[at] ^= 1 << at % 7
        spy, _ = proved.run(statement=bytes(statement), spy=Spy(until=0))
        assert spy.events[-1][:2] == first[:2] and spy.events[-1] != first, at


def test_an_absorb_on_one_side_only(proved: Proved) -> None:
    few = len(proved.log) < 50
    numbers = range(0, len(proved.log) + 1, 3) if few else [0, len(proved.log) // 2]
    done = [check_one_sided(proved, n, swap) for n in numbers for swap in ((False, True) if few else (n == 0,))]
    assert any(done)


@pytest.mark.parametrize("proved", ["range"], indirect=True)
@pytest.mark.parametrize("number", [0, 1, 2, 9])
def test_an_absorb_that_only_the_prover_leaves_out(proved: Proved, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ProvingChannel.__init__

    def with_spy(self: ProvingChannel, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        self.transcript = Spy(dropped=number)

    monkeypatch.setattr(ProvingChannel, "__init__", with_spy)
    assert proved.run(bytes(proved.prove().proof))[1] in ("opening-relation", "merkle-root", "truncated")


@pytest.mark.attacks
def test_campaign(proved: Proved, capsys: pytest.CaptureFixture[str]) -> None:
    """Every message to the end of the verification, every absorb left out and exchanged."""
    rng, tried = np.random.default_rng(5), 0
    for number in range(len(proved.log)):
        check_message(proved, number, rng, to_the_end=True)
        tried += 1
    for number in range(len(proved.log) + 1):
        tried += sum(check_one_sided(proved, number, swap) for swap in (False, True))
    with capsys.disabled():
        print(f"\ntranscript of {proved.case.task}: tried {tried}, rejected {tried}, survivors 0")
