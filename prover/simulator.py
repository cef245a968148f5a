"""Proofs without a witness: the simulator that shows what a proof does not reveal (protocol.md 3 and 7).

Zero knowledge in the programmable random oracle model: challenges are chosen first, then messages that fit them.

    masked values, A(τ), B(τ), v1, v2       uniform
    opened cells of rows and of P'          uniform (t ≤ B positions of a blinded row are uniform and independent)
    opened cells of R1 and R2               v1(x) − ρ·Σ_c γ_c·q_cᵀ·column_c and v2(x) − ρ·P'(x): the column checks
    σ                                       ⟨v1, z⟩ − ⟨v2, L⟩ − ρ·L_0: the opening relation
    Merkle trees                            around the opened columns; every other leaf is 32 random bytes (a real one
                                            is SHA-256 under a secret salt of 32 bytes)

So a proof has as many free elements as the honest prover's view has dimensions, and tests/zk compares the two. No
argument of any function here holds a secret of the statement. The verifier accepts the result when its transcript is
programmed with `Simulation.answers`, and rejects it under the real hash. Called by tests only; a public tool, because
whoever doubts that proofs hide the data may run it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protocol import merkle
from protocol.channel import Cell, Channel, CountingChannel, Form, Transcript, Values
from protocol.field import I64, U64, Ext, Field
from protocol.layout import CommitmentLayout
from protocol.merkle import U8
from protocol.params import Params
from protocol.relation.graph import WITNESS, IntArray
from protocol.schedule.gkr import TreeProver, as_point
from protocol.schedule.lookups import Fingerprint
from protocol.schedule.opening import CombinedWeights, Committed, OpeningProver, Query, tail_code, tail_count
from protocol.schedule.products import BatchProver, Instance
from protocol.schedule.task import TaskShape, run_task
from prover.randomness import SecretStream

Answers = dict[bytes, list[int]]  # transcript state → words drawn there


@dataclass(frozen=True)
class ChosenChallenges:
    """Uniform challenges fixed before anything is sent: draw number k under a tag is a function of (seed, tag, k)."""

    field: Field
    seed: bytes

    def words(self, tag: str, number: int, count: int, below: int) -> list[int]:
        limit, spare = (1 << 64) - (1 << 64) % below, 8
        while True:
            octets = SecretStream(self.field, self.seed).octets(f"challenge/{number}/{tag}", 8 * (count + spare))
            words = [w for w in np.frombuffer(octets, dtype=">u8").tolist() if w < limit][:count]
            if len(words) == count:
                return [w % below for w in words]
            spare = 2 * spare + count

    def positions(self, n: int, queries: int) -> I64:
        """The positions that every column check of these challenges will ask for."""
        return self.ahead().positions("opening/positions", n, queries)

    def ahead(self) -> Channel:
        """A channel that draws these challenges before the proof does."""
        return CountingChannel(self.field, ProgrammedTranscript({}, self))


class ProgrammedTranscript(Transcript):
    """The transcript with a programmed oracle: at the states in `answers` it draws what is written there.

    With `chosen`, any other draw is answered by the chosen challenges and written down; without, by the hash.
    """

    def __init__(self, answers: Answers, chosen: ChosenChallenges | None = None) -> None:
        super().__init__()
        self.answers, self.chosen = answers, chosen
        self.drawn: dict[str, int] = {}

    def draw(self, tag: str, words: int, below: int) -> list[int]:
        honest = super().draw(tag, words, below)
        if self.chosen is not None and self.state not in self.answers:
            number = self.drawn.get(tag, 0)
            self.drawn[tag] = number + 1
            self.answers[self.state] = self.chosen.words(tag, number, words, below)
        return self.answers.get(self.state, honest)


class Openable(Protocol):
    """What the simulator needs of an input: simulated, or an honest commitment to public tensors."""

    @property
    def layout(self) -> CommitmentLayout: ...

    @property
    def root(self) -> bytes: ...

    def query(self, positions: I64) -> Query: ...


@dataclass(frozen=True, eq=False)
class SimulatedCommitment:
    """A tree that holds only its opened columns: F (rows, k) at k ≤ B ascending positions."""

    layout: CommitmentLayout
    positions: I64
    columns: U64
    salts: U8
    levels: list[U8]

    @property
    def root(self) -> bytes:
        return self.levels[-1].tobytes()

    @property
    def id(self) -> str:
        return self.layout.identity(self.root)

    def query(self, positions: I64) -> Query:
        at = np.searchsorted(self.positions, positions)
        if not np.array_equal(self.positions[np.minimum(at, len(self.positions) - 1)], positions):
            raise ValueError("these positions were not chosen when the commitment was simulated")
        nodes = merkle.prove(self.levels, positions.tolist())
        return Query(np.ascontiguousarray(self.columns[:, at]), self.salts[at].tobytes(), b"".join(nodes))


def simulate_commitment(
    layout: CommitmentLayout, positions: I64, seed: bytes, columns: U64 | None = None
) -> SimulatedCommitment:
    """A commitment to nothing that opens at `positions` (those of all its openings, ascending), to uniform columns
    unless they are given. ValueError beyond the budget: more than B columns of a row are not independent of it."""
    code, stream = layout.code, SecretStream(layout.code.field, seed)
    if len(positions) > code.blinding:
        raise ValueError(f"{len(positions)} columns are to be opened, the blinding hides {code.blinding}")
    if columns is None:
        columns = stream.elements("columns", len(layout.rows), len(positions))
    salts = stream.salts("salts", len(positions))
    leaves = stream.salts("leaves", code.n).copy()
    for i, (position, salt) in enumerate(zip(positions.tolist(), salts, strict=True)):
        digest = merkle.leaf_digest(salt.tobytes(), code.field.to_bytes(columns[:, i]))
        leaves[position] = np.frombuffer(digest, dtype=np.uint8)
    return SimulatedCommitment(layout, positions, columns, salts, merkle.levels_from_leaves(leaves))


@dataclass(frozen=True)
class Simulation:
    """A proof, and the programme under which it verifies."""

    proof: bytes
    answers: Answers


def simulate_task(
    shape: TaskShape, statement: bytes, inputs: Sequence[tuple[str, Openable]], params: Params,
    published: Mapping[str, IntArray], chosen: ChosenChallenges, seed: bytes,
) -> Simulation:
    """A proof of `statement` made from public data alone; compare prover.argument.prove.prove_task."""
    channel = _NoiseChannel(chosen, SecretStream(params.field, seed))
    prover = _TaskSimulator(inputs, shape.witness_layout(params), params.queries, chosen, seed)
    commitments = [Committed(role, item.layout, item.root) for role, item in inputs]
    run_task(channel, shape, statement, commitments, params, published, prover)
    return Simulation(bytes(channel.proof), channel.programmed.answers)


class _NoiseChannel(Channel):
    """Sends uniform elements in place of every masked secret."""

    def __init__(self, chosen: ChosenChallenges, stream: SecretStream) -> None:
        self.programmed = ProgrammedTranscript({}, chosen)
        super().__init__(chosen.field, self.programmed)
        self.stream, self.proof = stream, bytearray()

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        data = produce()
        self.proof += data
        return data

    def _hide(self, values: Values, cells: Sequence[Cell]) -> bytes:
        pool, first = cells[0]
        return self.field.kto_bytes(self.stream.elements(f"masked/{pool}/{first}", 2, len(cells)))


class _Silent:
    """Stands where a sub-prover would; what it returns is never looked at."""

    def __init__(self, field: Field) -> None:
        self.nothing = field.zero

    def round(self) -> tuple[Ext, Ext]:
        return self.nothing, self.nothing

    def bind(self, r: Ext) -> None:
        """Nothing is computed."""


class _SilentTree(_Silent):
    def root(self) -> Ext:
        return self.nothing

    def descend(self, level: int, point: list[Ext], lam: Ext) -> None:
        """Nothing is computed."""

    def ends(self) -> tuple[Ext, Ext, Ext, Ext]:
        return self.nothing, self.nothing, self.nothing, self.nothing


class _SilentBatch(_Silent):
    def begin(self, instances: list[Instance], coefs: list[Ext]) -> None:
        self.count = len(instances)

    def ends(self) -> list[tuple[Ext, Ext]]:
        return [(self.nothing, self.nothing)] * self.count


class _OpeningSimulator(_Silent):
    """Chooses v1, v2 and the free columns, then solves for σ and for the cells of R1 and R2."""

    def __init__(
        self, inputs: Sequence[tuple[str, Openable]], layout: CommitmentLayout, queries: int, chosen: ChosenChallenges,
        seed: bytes,
    ) -> None:
        field, stream = layout.code.field, SecretStream(layout.code.field, seed)
        layouts = [item.layout for _, item in inputs] + [layout]
        super().__init__(field)
        self.layout, variables = layout, max(x.variables for x in layouts)
        ahead = chosen.ahead()
        self.point = [ahead.challenge("opening/round") for _ in range(variables)]
        gammas = ahead.challenges("opening/gamma", len(layouts) + 1)[:-1]
        self.rho = ahead.challenge("opening/rho")
        positions = ahead.positions("opening/positions", layout.code.n, queries)
        self.short = tail_code(field, layout.code, tail_count(layouts))
        self.v1 = stream.elements("v1", 2, layout.code.ell + max(x.code.blinding for x in layouts))
        self.v2 = stream.elements("v2", 2, self.short.length)
        # every commitment has the same ℓ and n, so all open at the same positions
        rows = stream.elements("columns/rows", len(layout.rows), queries)
        tails = stream.elements("columns/tails", 2, queries)
        opened = [item.query(positions).columns for _, item in inputs] + [rows]
        combined = field.zeros(2, queries)
        for item, columns, gamma in zip(layouts, opened, gammas, strict=True):
            q = item.row_weights(field, as_point(self.point[variables - item.variables :]))
            combined = field.add(combined, field.kscale(field.ksum(field.kmulf(q[:, None, :], columns.T)), gamma))
        r1 = field.sub(layout.code.evaluate(self.v1, positions), field.kscale(combined, self.rho))
        r2 = field.sub(self.short.evaluate(self.v2, positions), field.kscale(tails, self.rho))
        self.witness = simulate_commitment(layout, positions, seed, np.concatenate([rows, r1, tails, r2]))
        self.trees: list[Openable] = [*(item for _, item in inputs), self.witness]

    def begin(self, weights: CombinedWeights) -> None:
        """Nothing is computed."""

    def ends(self) -> list[Ext]:
        return [self.nothing] * len(self.trees)

    def sigma(self, gammas: list[Ext], tail_form: Form) -> U64:
        field, code = self.layout.code.field, self.layout.code
        z = field.eq_table(as_point(self.point[len(self.point) - self.layout.column_bits :]))
        total = Ext.from_array(field, field.kdot(code.message_of(self.v1), z)) - self.rho * tail_form.const
        tail = self.short.message_of(self.v2)
        for (_, index), value in tail_form.terms.items():
            total = total - value * Ext.from_array(field, tail[:, index])
        return as_point([total])

    def masked_rows(self, rho: Ext) -> tuple[U64, U64]:
        return self.v1, self.v2

    def before_positions(self) -> None:
        """No budget is spent: nothing is opened."""

    def open(self, commitment: int, positions: I64) -> Query:
        return self.trees[commitment].query(positions)


class _TaskSimulator:
    """Implements TaskProver."""

    def __init__(
        self, inputs: Sequence[tuple[str, Openable]], layout: CommitmentLayout, queries: int, chosen: ChosenChallenges,
        seed: bytes,
    ) -> None:
        if any(role == WITNESS for role, _ in inputs):
            raise ValueError("the witness commitment is simulated here, not given")
        self.field, self.stream = layout.code.field, SecretStream(layout.code.field, seed)
        self.tree: TreeProver = _SilentTree(self.field)
        self.batch: BatchProver = _SilentBatch(self.field)
        simulated = _OpeningSimulator(inputs, layout, queries, chosen, seed)
        self.opening: OpeningProver = simulated
        self.root = simulated.witness.root

    def witness_root(self) -> bytes:
        return self.root

    def start_tree(self, number: int, fingerprint: Fingerprint) -> None:
        """Nothing is computed."""

    def claim(self, instance: Instance) -> Ext:
        return self.field.zero

    def triples(self, weights: list[Ext]) -> U64:
        return self.stream.elements("triples", 2, 2)
