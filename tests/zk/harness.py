"""What the zero knowledge tests stand on: a toy statement with two witnesses, randomness on tape, and the view.

The prover under test is the real one; only three things are put in its way. `Tape` replaces the expansion of seeds, so
the randomness is a vector over F that a test sets. `ProgrammedTranscript` fixes the challenges. A *control* spoils what
is drawn from the tape (no row blinding, constant pads, …): a sound test fails under every control.

The *view* is every field element that the verifier receives, split at the opening:

    first    masked values and (A(τ), B(τ)): a function of the pads alone, affine in them
    second   tail-masked values, σ, v1, v2, opened columns: for fixed pads affine in the rest of the randomness

(The committed products c_k = a_k·b_k are quadratic in the pads; they reach the second part only, where pads are fixed.)
Merkle roots, siblings and salts are left out: an unopened leaf is a hash under a salt nobody has seen.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cached_property
from unittest.mock import patch

import numpy as np

from protocol.channel import Transcript, VerifyingChannel
from protocol.field import U64, Field, small_field
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import WITNESS, Graph, IntArray
from protocol.schedule.constraints import ConstraintSystem
from protocol.schedule.lookups import TREE_BITS
from protocol.schedule.opening import Committed, prove_opening
from protocol.schedule.task import TaskShape, run_task
from prover.argument.channel import ProvingChannel
from prover.argument.prove import TaskProverImpl
from prover.backend.reference import ReferenceBackend
from prover.commitment.commit import CommitmentData, commit
from prover.randomness import SecretStream
from prover.simulator import ChosenChallenges, ProgrammedTranscript

Key = tuple[bytes, str]  # (seed, label)
Control = Callable[[str, U64], U64]
WITNESS_SEED, BASE_SEED = b"w" * 32, b"b" * 32
PADS = (WITNESS_SEED, "pads")

TOY = Params("zero knowledge", small_field(12289), 16, 64, 3)
TAILS_USED = 2 * 9 + 2  # nine rounds, two commitments


@dataclass(frozen=True, eq=False)
class SmallShape(TaskShape):
    """Pads and products counted exactly: whole granules of them only make a toy slow."""

    @property
    def pads(self) -> int:
        return self.counts.pads

    @property
    def products(self) -> int:
        return 2 * len(self.counts.products) - 1


def honest(label: str, drawn: U64) -> U64:
    """No control."""
    return drawn


def _zero(label: str) -> Control:
    return lambda found, drawn: np.zeros_like(drawn) if found == label else drawn


def _over_f(label: str) -> Control:
    return lambda found, drawn: np.stack([drawn[0], np.zeros_like(drawn[1])]) if found == label else drawn


def without_blinding_part(label: str, ell: int) -> Control:
    """A mask that is random on the message alone: its last coefficients are missing."""

    def control(found: str, drawn: U64) -> U64:
        if found != label:
            return drawn
        out = drawn.copy()
        out[:, ell:] = 0
        return out

    return control


def _without_tail_blinding(label: str, drawn: U64) -> U64:
    """Tail pads that mask no message would blind the tail row just as well as its own coefficients do: both go."""
    if label == "tail/rho":
        return np.zeros_like(drawn)
    if label == "tail/message":
        out = drawn.copy()
        out[:, TAILS_USED:] = 0
        return out
    return drawn


def _one_pad_twice(label: str, drawn: U64) -> U64:
    return np.concatenate([drawn[:, :1], drawn[:, :1], drawn[:, 2:]], axis=1) if label == "pads" else drawn


def _no_masking_pair(label: str, drawn: U64) -> U64:
    """The last two pads mask the triple sums A(τ), B(τ)."""
    return np.concatenate([drawn[:, :-2], np.zeros_like(drawn[:, -2:])], axis=1) if label == "pads" else drawn


CONTROLS: dict[str, Control] = {
    "no row blinding": _zero("rho"),
    "no blinding of the tail row": _without_tail_blinding,
    "constant pads": _zero("pads"),
    "one pad twice": _one_pad_twice,
    "triples without a masking pair": _no_masking_pair,
    "constant tail pads": _zero("tail/message"),
    "row mask over F": _over_f("mask/r1"),
    "tail mask over F": _over_f("mask/r2"),
    "row mask without its blinding part": without_blinding_part("mask/r1", TOY.ell),
}


@dataclass
class Tape:
    """Random arrays by (seed, label); what has not been set is drawn once and kept."""

    rng: np.random.Generator
    control: Control = honest
    arrays: dict[Key, U64] = dataclass_field(default_factory=dict)

    def elements(self, field: Field, key: Key, shape: tuple[int, ...]) -> U64:
        if key not in self.arrays:
            self.arrays[key] = self.rng.integers(0, field.p, shape, dtype=np.uint64)
        drawn = self.arrays[key]
        if drawn.shape != shape:
            raise RuntimeError(f"{key}: {drawn.shape} on the tape, {shape} wanted")
        return self.control(key[1], drawn).copy()

    def with_arrays(self, arrays: Mapping[Key, U64]) -> "Tape":
        return Tape(self.rng, self.control, {**self.arrays, **arrays})


@contextmanager
def randomness_from(tape: Tape) -> Iterator[None]:
    """Everything that the prover and the commitments draw comes from the tape (salts excepted)."""

    class Played(SecretStream):
        def elements(self, label: str, *shape: int) -> U64:
            return tape.elements(self.field, (self.seed, label), shape)

    with patch("prover.argument.prove.SecretStream", Played), patch("prover.commitment.commit.SecretStream", Played):
        yield


class RecordingChannel(ProvingChannel):
    """Keeps every message with its tag, and which cell masked which value."""

    def __init__(self, field: Field, pads: U64, tails: U64, transcript: Transcript | None = None) -> None:
        super().__init__(field, pads, tails, transcript)
        self.messages: list[tuple[str, bytes]] = []
        self.masked: list[tuple[str, int]] = []

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        data = super()._message(tag, size, produce)
        self.messages.append((tag, data))
        return data

    def _hide(self, values, cells):  # type: ignore[no-untyped-def]
        self.masked += cells
        return super()._hide(values, cells)


@dataclass(frozen=True)
class View:
    """The field elements received, as words."""

    first: U64
    second: U64


def view_of(field: Field, messages: list[tuple[str, bytes]]) -> View:
    first, second = [field.zeros(0)], [field.zeros(0)]
    for tag, data in messages:
        if tag == "witness/root" or tag.startswith(("salts/", "siblings/")):
            continue
        (second if tag.startswith(("opening/", "columns/")) else first).append(field.from_bytes(data))
    return View(np.concatenate(first), np.concatenate(second))


@dataclass(frozen=True, eq=False)
class Secret:
    """A witness: the input commitment's tensor, and every tensor of the graph."""

    base: IntArray
    values: list[IntArray]


@dataclass(frozen=True, eq=False)
class ToyStatement:
    """y = ⌊(x·Wᵀ + 2)/4⌋, a one-hot row, and a published Σ y²: every kind of message of a real task occurs."""

    params: Params
    tree_bits: int = TREE_BITS

    @cached_property
    def graph(self) -> Graph:
        g = Graph()
        w = g.input("base", "W", "od", (2, 3), -4, 3)
        x = g.commit("X", "nd", (3, 3), -4, 3)
        g.lookup("range:3", g.linear("X+4", "nd", (1, x), const=4))
        z = g.product("Z", "nd,od->no", x, w)
        y = g.commit("Y", "no", (3, 2), -16, 15)
        g.lookup("range:2", g.linear("R", "no", (1, z), (-4, y), const=2))
        g.lookup("range:5", g.linear("Y+16", "no", (1, y), const=16))
        high, low = g.commit("H1", "ni", (3, 2), 0, 1), g.commit("H2", "nj", (3, 2), 0, 1)
        hot = g.one_hot("hot", high, low, "v", 3)
        g.zero(g.linear("one digit", "n", (1, high, "ni"), const=-1))
        g.publish(g.linear("seen", "", (1, hot)), "seen")
        g.publish(g.linear("loss", "", (1, g.product("Y²", "no,no->no", y, y))), "loss")
        return g

    @cached_property
    def shape(self) -> TaskShape:
        return SmallShape(self.graph, self.params.field, self.tree_bits)

    @cached_property
    def witness_layout(self) -> CommitmentLayout:
        return self.shape.witness_layout(self.params)

    @cached_property
    def base_layout(self) -> CommitmentLayout:
        return CommitmentLayout.pack([("W", (2, 3))], self.params.code(2))

    def secret(self, w: IntArray, x: IntArray, digits: IntArray) -> Secret:
        z = x @ w.T
        y = (z + 2) >> 2
        high, low = np.eye(2, dtype=np.int64)[digits // 2], np.eye(2, dtype=np.int64)[digits % 2]
        hot = (high[:, :, None] * low[:, None, :]).reshape(3, 4)[:, :3]
        one = high.sum(axis=1) - 1
        by_name = {
            "base/W": w, "X": x, "X+4": x + 4, "Z": z, "Y": y, "R": z + 2 - 4 * y, "Y+16": y + 16, "H1": high, "H2": low,
            "hot": hot, "one digit": one, "seen": hot.sum(), "loss": (y * y).sum(), "Y²": y * y,
        }
        return Secret(w, [np.asarray(by_name[t.name], dtype=np.int64) for t in self.graph.tensors])

    @cached_property
    def secrets(self) -> tuple[Secret, Secret]:
        """Two witnesses of one public statement; weights, activations, digits and multiplicities differ."""
        w = np.array([[1, -2, 3], [0, 3, -1]])
        x = np.array([[2, 0, -1], [-3, 1, 1], [3, 3, -3]])
        a = self.secret(w, x, np.array([0, 2, 1]))
        return a, self.secret(-w, -x[[2, 0, 1]], np.array([2, 2, 0]))

    @property
    def published(self) -> dict[str, IntArray]:
        named = {t.name: v for t, v in zip(self.graph.tensors, self.secrets[0].values)}
        return {"loss": named["loss"], "seen": named["seen"]}

    def base(self, secret: Secret) -> CommitmentData:
        return commit(ReferenceBackend(self.params.field), self.base_layout, {"W": secret.base}, BASE_SEED)

    def prover(self, secret: Secret, tape: Tape) -> tuple[TaskProverImpl, list[Committed]]:
        """The real prover on taped randomness, and the commitments of the statement, witness last."""
        with randomness_from(tape):
            base = self.base(secret)
            prover = TaskProverImpl(
                ReferenceBackend(self.params.field), self.shape, [("base", base)], self.witness_layout, secret.values,
                WITNESS_SEED, lambda: None,
            )
        witness = Committed(WITNESS, self.witness_layout, prover.witness.root)
        return prover, [Committed("base", base.layout, base.root), witness]

    def record(self, secret: Secret, tape: Tape, chosen: ChosenChallenges) -> RecordingChannel:
        """A whole proof under fixed challenges."""
        prover, commitments = self.prover(secret, tape)
        channel = RecordingChannel(self.params.field, prover.pads, prover.tails, ProgrammedTranscript({}, chosen))
        run_task(
            channel, self.shape, b"toy", commitments[:-1], self.params, self.published, prover
        )
        return channel

    def verify(self, proof: bytes, base_root: bytes, transcript: Transcript) -> None:
        """VerificationError unless the proof is accepted."""
        channel = VerifyingChannel(self.params.field, proof, transcript)
        run_task(
            channel, self.shape, b"toy", [Committed("base", self.base_layout, base_root)], self.params,
            self.published, None,
        )
        channel.finish()


class Openings:
    """The second half of the proof for one witness and fixed pads: the claims are made once, then opened at will."""

    def __init__(self, statement: ToyStatement, secret: Secret, tape: Tape, chosen: ChosenChallenges) -> None:
        self.statement, self.secret = statement, secret
        made: list[tuple[dict[str, int], ConstraintSystem]] = []

        def stop_here(channel: RecordingChannel, commitments: list[Committed], system: ConstraintSystem, *rest: object) -> None:
            made.append((dict(channel.transcript.drawn), system))  # type: ignore[attr-defined]

        with patch("protocol.schedule.task.prove_opening", stop_here):
            channel = statement.record(secret, tape, chosen)
        ((self.drawn, self.system),) = made
        self.chosen, self.masked = chosen, channel.masked
        self.first = view_of(statement.params.field, channel.messages).first

    def second(self, tape: Tape) -> U64:
        """The rest of the view under the tape's randomness; its pads must be those of the first half."""
        shape, params = self.statement.shape, self.statement.params
        prover, commitments = self.statement.prover(self.secret, tape)
        transcript = ProgrammedTranscript({}, self.chosen)
        transcript.drawn = dict(self.drawn)
        channel = RecordingChannel(params.field, prover.pads, prover.tails, transcript)
        prove_opening(channel, commitments, self.system, shape.cells, params.queries, prover.opening)
        return view_of(params.field, channel.messages).second
