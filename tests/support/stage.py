"""A toy run on stage: trained honestly, every commitment made, every task ready to be proved with toy parameters.

`Stage.case(kind, window, layer)` gives what a prover of that task holds. Proofs use 64 cells a row and 20 queries, so one
takes a second; everything else (relation, schedule, statement) is the real thing.
"""

import hashlib
import os
from dataclasses import dataclass
from dataclasses import field as dataclass_field

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.field import GOLDILOCKS, Field
from protocol.layout import CommitmentLayout
from protocol.params import Params
from protocol.relation.graph import Committed as CommittedOp
from protocol.relation.graph import Graph, Input, IntArray
from protocol.relation.model import commitment_tensors
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from protocol.statement import Name, Task, statement_content, task_list, window_of
from prover.backend import select
from prover.backend.base import Backend
from prover.commitment.commit import CommitmentData, commit
from prover.executor.trainer import Trainer
from prover.witness.task import task_values
from tests.support.device import device
from tests.toy import Toy

PARAMS = Params("toy", GOLDILOCKS, 64, 256, 20)
OPENINGS = 2
Arrays = dict[str, IntArray]
Inputs = dict[tuple[str, str], IntArray]


def backend() -> Backend:
    """This machine's fastest, or the one that VERILORA_TEST_BACKEND names: "cuda" is the CUDA backend on the tests' device."""
    name = os.environ.get("VERILORA_TEST_BACKEND", "auto")
    return device(hand_over=64, threads=32) if name == "cuda" else select(name)


def seed(label: str) -> bytes:
    """Test seeds are labels; real ones come from the operating system."""
    return hashlib.sha256(label.encode()).digest()


def verify(
    shape: TaskShape, statement: bytes, committed: list[Committed], published: dict[str, IntArray], proof: bytes,
    params: Params = PARAMS,
) -> None:
    """The inner schedule with toy parameters; VerificationError unless the proof holds."""
    channel = VerifyingChannel(shape.field, proof)
    run_task(channel, shape, statement, committed, params, published, None)
    channel.finish()


@dataclass(eq=False)
class Stage:
    """`arrays` by commitment name: {"base/0": {"W_q": …}, "x/0@1": {"x": …}, …}."""

    toy: Toy
    arrays: dict[str, Arrays] = dataclass_field(default_factory=dict)
    made: dict[str, CommitmentData] = dataclass_field(default_factory=dict)
    cases: dict[str, "Case"] = dataclass_field(default_factory=dict)

    def __post_init__(self) -> None:
        toy, manifest = self.toy, self.toy.manifest
        self.arrays |= {name: dict(tensors) for name, tensors in toy.base.items()}
        self.arrays["dataset"] = {"tokens": toy.tokens, "mask": toy.mask}
        trainer, state = Trainer(manifest, toy.base, toy.tokens, toy.mask), None
        for w, window in enumerate(manifest.windows()):
            trace = trainer.run_window(window, state)
            state = trace.state_out
            self.arrays |= {str(name): dict(a) for name, a in trace.commitments(w, manifest.part_numbers).items()}
        for name in {name for task in task_list(manifest) for _, name in task.commitments}:  # copies hold what the start holds
            if str(name) not in self.arrays:
                self.arrays[str(name)] = self.arrays[name.base]

    def layout(self, name: Name) -> CommitmentLayout:
        manifest = self.toy.manifest
        tensors = commitment_tensors(manifest, name.base, window_of(manifest, name))
        return CommitmentLayout.pack(tensors, PARAMS.code(OPENINGS))

    def commitment(self, name: Name) -> CommitmentData:
        if str(name) not in self.made:
            self.made[str(name)] = commit(backend(), self.layout(name), self.arrays[str(name)], seed(str(name)))
        return self.made[str(name)]

    def task(self, kind: str, window: int = -1, layer: int = -1, part: int = 0) -> Task:
        wanted = (kind, window, layer, part)
        return next(t for t in task_list(self.toy.manifest) if (t.kind, t.window, t.layer, t.part) == wanted)

    def case(self, kind: str, window: int = -1, layer: int = -1, part: int = 0) -> "Case":
        task = self.task(kind, window, layer, part)
        if str(task) not in self.cases:
            self.cases[str(task)] = Case(self, task, task.graph(self.toy.manifest))
        return self.cases[str(task)]


@dataclass(eq=False)
class Case:
    """One task of a stage, with honest values of every tensor."""

    stage: Stage
    task: Task
    graph: Graph
    shape: TaskShape = dataclass_field(init=False)
    inputs: Inputs = dataclass_field(init=False)
    values: list[IntArray] = dataclass_field(init=False)

    def __post_init__(self) -> None:
        self.shape = TaskShape(self.graph, GOLDILOCKS)
        roles = {role: self.stage.arrays[str(name)] for role, name in self.task.commitments}
        wanted = [(op.commitment, op.tensor_name) for op in self.graph.ops if isinstance(op, Input)]
        self.inputs = {key: roles[key[0]][key[1]] for key in wanted}
        self.values = self.execute(self.inputs)

    @property
    def field(self) -> Field:
        return GOLDILOCKS

    def execute(self, inputs: Inputs) -> list[IntArray]:
        manifest, task = self.stage.toy.manifest, self.task
        window = manifest.windows()[task.window] if task.window >= 0 else None
        return task_values(manifest, task.kind, window, task.subject, inputs, every=True, part=task.part)[1]

    def tensor(self, name: str) -> int:
        """Index of the committed tensor with this name, or with this role and name ("adapter/q_proj.lora_A"); the last one made, which
        shadows none in a role."""
        found = [t.index for t, op in zip(self.graph.tensors, self.graph.ops)
                 if isinstance(op, CommittedOp) and name in (t.name, f"{op.commitment}/{op.tensor_name}")]
        if not found:
            raise KeyError(name)
        return found[-1]

    def committed(self) -> dict[str, CommitmentData]:
        """Honest commitments by role."""
        return {role: self.stage.commitment(name) for role, name in self.task.commitments}

    def published(self, values: list[IntArray] | None = None) -> dict[str, IntArray]:
        return {p.name: (values or self.values)[p.tensor.index] for p in self.graph.published}

    def statement(self, published: dict[str, IntArray]) -> bytes:
        """The statement about the honest commitments."""
        ids = {str(name): self.stage.commitment(name).id for _, name in self.task.commitments}
        return statement_content(self.stage.toy.manifest, self.task, self.graph.digest(), ids, published)

    def role_tensors(self, values: list[IntArray]) -> Inputs:
        """What the task's output commitments hold for these values."""
        out: Inputs = {}
        for tensor, op in zip(self.graph.tensors, self.graph.ops):
            if isinstance(op, CommittedOp):
                out[op.commitment, op.tensor_name] = np.asarray(values[tensor.index])
        return out
