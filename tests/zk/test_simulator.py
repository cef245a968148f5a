"""Proofs of real tasks without a witness: accepted when challenges are programmed, rejected under the hash.

The same simulator proves what is true and what is not (a loss of zero): what it makes carries no knowledge. No function
of prover/simulator.py takes a secret, so these tests need none: shapes, names and published values are all they have.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import pytest

from protocol.channel import Transcript, VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest
from protocol.params import Params
from protocol.relation.graph import IntArray
from protocol.relation.model import commitment_tensors
from protocol.schedule.lookups import TREE_BITS
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from protocol.statement import Name, Task, statement_content, task_list, window_of
from prover import simulator
from prover.simulator import ChosenChallenges, ProgrammedTranscript, SimulatedCommitment, Simulation, simulate_commitment, simulate_task
from tests.toy import toy_manifest
from tests.zk.harness import TOY, Tape, ToyStatement, randomness_from
from tests.zk.kinds import KINDS, case

PARAMS = Params("toy", GOLDILOCKS, 64, 512, 20)
BUDGET = 2


@dataclass(frozen=True, eq=False)
class Simulated:
    """A task's public side and a simulated proof of it."""

    shape: TaskShape
    content: bytes
    inputs: list[Committed]
    published: dict[str, IntArray]
    simulation: Simulation

    def verify(self, proof: bytes, transcript: Transcript, content: bytes | None = None) -> None:
        channel = VerifyingChannel(PARAMS.field, proof, transcript)
        run_task(
            channel, self.shape, content or self.content, self.inputs, PARAMS, self.published, None,
        )
        channel.finish()

    def accepted(self) -> None:
        """Under the programme it passes, under the hash it does not."""
        self.verify(self.simulation.proof, ProgrammedTranscript(self.simulation.answers))
        with pytest.raises(VerificationError):
            self.verify(self.simulation.proof, Transcript())


def challenges(seed: int) -> ChosenChallenges:
    return ChosenChallenges(PARAMS.field, seed.to_bytes(32, "big"))


def simulate(
    manifest: RunManifest, task: Task, seed: int, shared: dict[Name, SimulatedCommitment] | None = None, tree_bits: int = TREE_BITS
) -> Simulated:
    """`shared` holds commitments that other tasks open too; the others are made for this task alone."""
    graph, chosen, known = task.graph(manifest), challenges(seed), dict(shared or {})
    for number, (_, name) in enumerate(task.commitments):
        if name not in known:
            positions = chosen.positions(PARAMS.n, PARAMS.queries)
            known[name] = simulate_commitment(layout_of(manifest, name), positions, bytes([number, seed]) * 16)
    inputs = [(role, known[name]) for role, name in task.commitments]
    published = {item.name: np.zeros(item.tensor.shape, dtype=np.int64) for item in graph.published}
    ids = {str(name): known[name].id for _, name in task.commitments}
    content = statement_content(manifest, task, graph.digest(), ids, published)
    shape = TaskShape(graph, PARAMS.field, tree_bits)
    simulation = simulate_task(
        shape, content, inputs, PARAMS, published, chosen, bytes([255, seed]) * 16
    )
    committed = [Committed(role, item.layout, item.root) for role, item in inputs]
    return Simulated(shape, content, committed, published, simulation)


def layout_of(manifest: RunManifest, name: Name) -> CommitmentLayout:
    return CommitmentLayout.pack(commitment_tensors(manifest, name.base, window_of(manifest, name)), PARAMS.code(BUDGET))


@pytest.fixture(scope="module")
def manifest() -> RunManifest:
    return toy_manifest(steps=1, window_steps=1)


@pytest.fixture(scope="module")
def tasks(manifest: RunManifest) -> dict[str, Task]:
    return {task.kind: task for task in reversed(task_list(manifest))}


@pytest.fixture(scope="module")
def embed(manifest: RunManifest, tasks: dict[str, Task]) -> Simulated:
    return simulate(manifest, tasks["embed"], 1)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_task_is_simulated(name: str) -> None:
    """Ranges of every kind of commitment, layers of every optimizer and architecture, clip, rotate: shape and statement are enough."""
    found = case(name)
    simulate(found.stage.toy.manifest, found.task, 3).accepted()


def test_a_task_of_several_trees_is_simulated(manifest: RunManifest, tasks: dict[str, Task]) -> None:
    """A layer whose lookups need two trees of 2^18 leaves, with tables in common."""
    found = simulate(manifest, tasks["layer"], 7, tree_bits=18)
    first, second = found.shape.plans
    assert set(first.tables) & set(second.tables)
    found.accepted()


def test_tasks_that_open_one_commitment_are_simulated_together(manifest: RunManifest, tasks: dict[str, Task]) -> None:
    """embed and head read one dataset: one simulated tree answers both, at most B positions in all."""
    dataset = Name("dataset")
    assert all(("dataset", dataset) in tasks[kind].commitments for kind in ("embed", "head"))
    positions = np.unique(np.concatenate([challenges(seed).positions(PARAMS.n, PARAMS.queries) for seed in (4, 5)]))
    shared = {dataset: simulate_commitment(layout_of(manifest, dataset), positions, bytes(32))}
    for kind, seed in (("embed", 4), ("head", 5)):
        simulate(manifest, tasks[kind], seed, shared).accepted()
    with pytest.raises(ValueError, match="not chosen"):
        simulate(manifest, tasks["embed"], 6, shared)


def test_the_programme_fits_one_proof_only(embed: Simulated) -> None:
    """Programmed answers hang on everything absorbed before: another statement, root or message meets the hash again."""
    proof, answers = embed.simulation.proof, embed.simulation.answers
    embed.verify(proof, ProgrammedTranscript(answers))
    with pytest.raises(VerificationError):
        embed.verify(proof, ProgrammedTranscript(answers), embed.content + b" ")
    for at in np.linspace(0, len(proof) - 1, 12).astype(int).tolist():
        changed = bytearray(proof)
        changed[at] ^= 1
        with pytest.raises(VerificationError):
            embed.verify(bytes(changed), ProgrammedTranscript(answers))


def test_the_programmed_answers_are_fresh_and_uniform(embed: Simulated) -> None:
    """No challenge is the hash's own, none is drawn twice, and their bits are balanced."""
    words = [word for answer in embed.simulation.answers.values() for word in answer if word >= PARAMS.n]
    assert len(words) > 100 and len(set(words)) == len(words)
    ones = sum(word.bit_count() for word in words) / (64 * len(words))
    assert abs(ones - 0.5) < 0.05
    channel = VerifyingChannel(PARAMS.field, embed.simulation.proof)
    channel.bind("statement", embed.content)
    honest = channel.transcript.draw("probe", 4, PARAMS.field.p)
    assert not set(honest) & set(words)


def test_two_simulations_share_nothing(manifest: RunManifest, tasks: dict[str, Task], embed: Simulated) -> None:
    again = simulate(manifest, tasks["embed"], 2)
    words = [{p[i : i + 8] for i in range(0, len(p), 8)} for p in (embed.simulation.proof, again.simulation.proof)]
    assert not words[0] & words[1]


def test_no_function_takes_a_secret() -> None:
    """Neither values of tensors nor an honest commitment's insides can be handed in."""
    allowed = {
        "shape", "statement", "inputs", "layout", "params", "published", "queries", "chosen", "seed", "positions", "columns", "n",
        "commitment", "self", "answers", "tag", "number", "count", "below", "words",
    }
    for item in (simulate_task, simulate_commitment, ChosenChallenges.positions, ProgrammedTranscript.draw):
        assert set(inspect.signature(item).parameters) <= allowed
    imported = {name for name, value in vars(simulator).items() if getattr(value, "__module__", "").startswith("prover.")}
    own = {name for name in imported if vars(simulator)[name].__module__ == "prover.simulator"}
    assert imported - own == {"SecretStream"}


def test_an_input_opened_more_often_than_its_budget_cannot_be_simulated() -> None:
    layout = CommitmentLayout.pack([("x", (8,))], PARAMS.code(1))
    positions = np.arange(PARAMS.queries + 1, dtype=np.int64)
    with pytest.raises(ValueError, match="blinding"):
        simulate_commitment(layout, positions, bytes(32))


def test_a_public_input_is_committed_honestly() -> None:
    """An open base model has no blinding: everybody, the simulator too, computes its commitment."""
    statement = ToyStatement(TOY)
    chosen = ChosenChallenges(TOY.field, b"public".ljust(32))
    with randomness_from(Tape(np.random.default_rng(5))):
        base = statement.base(statement.secrets[0])
    made = simulate_task(
        statement.shape, b"toy", [("base", base)], TOY, statement.published, chosen, bytes(32)
    )
    statement.verify(made.proof, base.root, ProgrammedTranscript(made.answers))
