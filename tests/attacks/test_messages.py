"""Every byte of a proof counts: flipped, missing, added or forged ones are rejected, and by a VerificationError only."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protocol.channel import Transcript, VerifyingChannel
from protocol.code import Code
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.schedule.opening import Committed, tail_code
from protocol.schedule.task import run_task
from tests.support.evil import Lie
from tests.support.stage import PARAMS, verify
from tests.support.tiny import Tiny

P = GOLDILOCKS.p


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def proof(tiny: Tiny) -> bytes:
    return bytes(tiny.prove().proof)


def flipped(data: bytes, at: int, bit: int) -> bytes:
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


class Recording(Transcript):
    """Remembers what was absorbed, and the state at each event."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted = False
        self.events: list[tuple[str, str, bytes]] = []  # (absorb or draw, tag, data or state)

    def absorb(self, tag: str, data: bytes) -> None:
        super().absorb(tag, data)
        self.events.append(("absorb", tag, data))

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        out = super().draw(tag, words, below)
        self.events.append(("draw", tag, repr(out).encode()))
        return out


def record(tiny: Tiny, proof: bytes, statement: bytes | None = None) -> Recording:
    transcript = Recording()
    channel = VerifyingChannel(GOLDILOCKS, proof, transcript)
    try:
        run_task(channel, tiny.shape, statement or tiny.statement, tiny.committed, PARAMS, tiny.published, None)
        transcript.accepted = True
    except VerificationError:
        transcript.accepted = False
    return transcript


def test_honest_proof_is_accepted(tiny: Tiny, proof: bytes) -> None:
    assert tiny.reason(proof) == "accepted"


@pytest.mark.attacks
def test_every_byte_of_a_proof(tiny: Tiny, proof: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    judge = tiny.resumed(proof)
    alive = [at for at in range(len(proof)) if judge(flipped(proof, at, at % 8)) == "accepted"]
    with capsys.disabled():
        print(f"\nevery byte of a toy proof: tried {len(proof)}, rejected {len(proof) - len(alive)}, survivors {len(alive)}")
    assert not alive


def test_absorbed_is_what_was_sent(tiny: Tiny, proof: bytes) -> None:
    absorbed = [(tag, data) for kind, tag, data in record(tiny, proof).events if kind == "absorb"]
    sent = [(tag, proof[offset : offset + size]) for tag, offset, size in tiny.prove().log]
    assert absorbed[0] == ("statement", tiny.statement)
    assert absorbed[1:] == sent


def test_an_unbound_message_cannot_exist(tiny: Tiny, proof: bytes) -> None:
    """One random bit of any message changes the next challenge, nothing before it, and the verdict."""
    rng, honest = np.random.default_rng(1), record(tiny, proof)
    assert honest.accepted
    for tag, offset, size in tiny.prove().log:
        changed = record(tiny, flipped(proof, offset + int(rng.integers(size)), int(rng.integers(8))))
        assert not changed.accepted, tag
        pairs = zip(honest.events, changed.events, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if first is None:  # stopped at the message itself: a word that is not canonical
            continue
        assert changed.events[first][:2] == ("absorb", tag)
        draws = [i for i, event in enumerate(honest.events) if i > first and event[0] == "draw"]
        if draws and len(changed.events) > draws[0]:
            assert changed.events[draws[0]] != honest.events[draws[0]], tag


def test_every_bit_of_the_statement_changes_the_first_challenge(tiny: Tiny, proof: bytes) -> None:
    honest = next(e for e in record(tiny, proof[:32]).events if e[0] == "draw")
    for at in range(len(tiny.statement)):
        changed = record(tiny, proof[:32], flipped(tiny.statement, at, at % 7))
        assert next(e for e in changed.events if e[0] == "draw") != honest


def test_proof_of_another_statement(tiny: Tiny, proof: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(tiny.shape, tiny.statement + b" ", tiny.committed, tiny.published, proof)
    assert caught.value.reason == "opening-relation"


def test_truncated_and_trailing(tiny: Tiny, proof: bytes) -> None:
    for _, offset, size in tiny.prove().log[::3]:
        assert tiny.reason(proof[:offset]) == tiny.reason(proof[: offset + size - 1]) == "truncated"
    assert tiny.reason(proof + b"\0") == tiny.reason(proof + proof) == "trailing"


@pytest.mark.parametrize("data", [b"", b"\0" * 50_000, b"\xff" * 50_000, bytes(range(256)) * 4000], ids=["empty", "zero", "ones", "big"])
def test_hostile_bytes(tiny: Tiny, data: bytes) -> None:
    assert tiny.reason(data) in {"truncated", "non-canonical", "opening-relation", "zero-challenge"}


def test_random_bytes(tiny: Tiny, proof: bytes) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        data = rng.integers(0, 256, len(proof), dtype=np.uint8)
        data[::8] &= 0x7F  # canonical words, so that the schedule goes on to the end
        assert tiny.reason(data.tobytes()) != "accepted"


def add_word(index: int, amount: int) -> Callable[[bytes], bytes]:
    """Add to one field element of a message."""

    def change(data: bytes) -> bytes:
        words = [int.from_bytes(data[i : i + 8], "big") for i in range(0, len(data), 8)]
        words[index] = (words[index] + amount) % P
        return b"".join(w.to_bytes(8, "big") for w in words)

    return change


@pytest.mark.parametrize(
    ("tag", "reason"),
    [("columns/witness", "merkle-root"), ("columns/base", "merkle-root"), ("opening/sigma", "opening-relation"),
     ("opening/v1", "opening-relation"), ("opening/ends", "opening-relation"), ("opening/round", "opening-relation"),
     ("triples/values", "opening-relation"), ("tree/root", "opening-relation"), ("tree/ends", "opening-relation"),
     ("tree/round", "opening-relation"), ("claim", "opening-relation"), ("products/round", "opening-relation"),
     ("products/ends", "opening-relation")],
)
def test_forged_message(tiny: Tiny, tag: str, reason: str) -> None:
    """The prover changes a message before it is absorbed and goes on consistently."""
    channel = tiny.prove(Lie(messages={tag: add_word(0, 1)}))
    assert tiny.reason(bytes(channel.proof)) == reason


@pytest.mark.parametrize("tag", ["salts/x", "siblings/x", "salts/witness", "siblings/witness", "siblings/base"])
def test_wrong_salt_or_merkle_sibling(tiny: Tiny, tag: str) -> None:
    channel = tiny.prove(Lie(messages={tag: lambda data: flipped(data, len(data) // 2, 3)}))
    assert tiny.reason(bytes(channel.proof)) == "merkle-root"


@pytest.mark.parametrize(("tag", "short"), [("opening/v1", False), ("opening/v2", True)])
def test_masked_row_that_fits_the_relation_but_not_the_columns(tiny: Tiny, tag: str, short: bool) -> None:
    """v + c·(X^ℓ − 1) has the same message, so the linear relation holds; the opened columns do not."""
    witness = tiny.shape.witness_layout(PARAMS)
    layouts = [c.layout for c in tiny.committed] + [witness]
    tails = 2 * max(x.variables for x in layouts) + len(layouts)
    code: Code = tail_code(GOLDILOCKS, witness.code, tails) if short else witness.code

    def change(data: bytes) -> bytes:
        return add_word(2 * code.ell, 5)(add_word(0, P - 5)(data))

    channel = tiny.prove(Lie(messages={tag: change}))
    assert tiny.reason(bytes(channel.proof)) == "column-check"


def test_wrong_witness_root(tiny: Tiny) -> None:
    channel = tiny.prove(Lie(messages={"witness/root": lambda data: flipped(data, 0, 0)}))
    assert tiny.reason(bytes(channel.proof)) == "merkle-root"


@pytest.mark.parametrize("tag", ["tree/root", "triples/values", "opening/sigma", "opening/v1", "columns/x"])
def test_non_canonical_element(tiny: Tiny, tag: str) -> None:
    """x + p for the element x = 0: the same residue, other bytes."""
    channel = tiny.prove()
    offset = next(at for name, at, _ in channel.log if name == tag)
    proof = bytes(channel.proof)
    assert tiny.reason(proof[:offset] + P.to_bytes(8, "big") + proof[offset + 8 :]) == "non-canonical"


def test_root_under_another_layout(tiny: Tiny, proof: bytes) -> None:
    role, data = next((r, d) for r, d in tiny.committed_data if r == "x")
    names = [(s.name, s.tensor.shape) for s in data.layout.slots]
    other = CommitmentLayout.pack([(n, (*shape, 1)) for n, shape in names], data.layout.code)
    offsets = [replace(s, offset=s.offset + (1 << s.tensor.variables)) for s in data.layout.slots]
    moved = CommitmentLayout(tuple(offsets), data.layout.code)
    weaker = CommitmentLayout(data.layout.slots, PARAMS.code(1))
    ids = {layout.identity(data.root) for layout in (data.layout, other, moved, weaker)}
    assert len(ids) == 4
    swapped = [Committed(r, moved if r == role else c.layout, c.root) for (r, _), c in zip(tiny.committed_data, tiny.committed)]
    with pytest.raises(VerificationError) as caught:
        verify(tiny.shape, tiny.statement, swapped, tiny.published, proof)
    assert caught.value.reason in {"opening-relation", "merkle-root"}


def test_commitments_swapped(tiny: Tiny, proof: bytes) -> None:
    base, x = tiny.committed
    swapped = [replace(base, root=x.root), replace(x, root=base.root)]
    with pytest.raises(VerificationError) as caught:
        verify(tiny.shape, tiny.statement, swapped, tiny.published, proof)
    assert caught.value.reason == "merkle-root"
