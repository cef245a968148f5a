"""A dishonest prover: it lies in one place and is consistent everywhere else, through the whole proving schedule.

A `Lie` may run another program (another manifest, a changed graph, other inputs than were committed), overwrite committed
values afterwards, publish something else, cheat with multiplicities, products, padding or table lookups, or change single
messages. Virtual tensors are computed again from what is committed, so that the only equation that fails is the one the
lie violates. `Outcome.violated` says which equations of the schedule those are: the harness knows all secrets and
evaluates each constraint; the verifier sees only their random combination.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any
from unittest.mock import patch

import numpy as np

from protocol.channel import VerifyingChannel
from protocol.errors import VerificationError
from protocol.field import U64, Ext
from protocol.manifest import RunManifest
from protocol.relation.graph import WITNESS, Graph, Hint, IntArray
from protocol.relation.graph import Committed as CommittedOp
from protocol.schedule import task as schedule
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape, run_task
from prover.argument import prove as prove_module
from prover.argument.channel import ProvingChannel
from prover.argument.prove import TaskProverImpl
from prover.argument.tree import count_multiplicities
from prover.backend.base import Backend
from prover.commitment import commit as commit_module
from prover.commitment.commit import CommitmentData, as_field, commit
from prover.executor.evaluate import RelationBroken, _Evaluation, check
from prover.executor.reference import ReferenceOps
from prover.witness.task import task_values
from tests.support.stage import PARAMS, Case, Inputs, backend, seed, verify

Change = Callable[[IntArray], IntArray]
Bytes = Callable[[bytes], bytes]


@dataclass(frozen=True, eq=False)
class Lie:
    """What the prover does wrong; without arguments, nothing."""

    manifest: RunManifest | None = None  # execute the task of this run instead
    graph: Callable[[Graph], None] | None = None  # execute this graph instead (changed in place)
    inputs: Mapping[tuple[str, str], IntArray] = dataclass_field(default_factory=dict)  # not what was committed
    recommit: bool = False  # commit to these inputs
    cells: Mapping[str, Change] = dataclass_field(default_factory=dict)  # committed tensors; what follows is computed from them
    published: Change | None = None
    multiplicities: Mapping[str, Change] = dataclass_field(default_factory=dict)  # "table" or "table@tree": in the tree and committed
    witness: Callable[[dict[str, np.ndarray]], None] | None = None  # what is committed, not what is used
    products: Callable[[U64], U64] | None = None
    padding: bool = False  # random cells wherever no tensor lies
    count_padding: bool = False  # random cells beyond the ends of product factors, counted in claims
    messages: Mapping[str, Bytes] = dataclass_field(default_factory=dict)  # first message with this tag


@dataclass(frozen=True)
class Outcome:
    """`broken`: the relation's own assertion that fails; `violated`: constraints of the schedule; `error`: the verdict."""

    proof: bytes
    broken: str
    violated: frozenset[str]
    error: VerificationError | None
    messages: tuple[tuple[str, int, int], ...]  # (tag, offset, size)

    @property
    def reason(self) -> str:
        return self.error.reason if self.error else "accepted"


class EvilChannel(ProvingChannel):
    """Changes the first message of a tag after it was made and before it is absorbed, and remembers where all lie."""

    def __init__(self, prover: TaskProverImpl, changes: Mapping[str, Bytes]) -> None:
        super().__init__(prover.backend.field, prover.pads, prover.tails)
        self.changes, self.log = dict(changes), list[tuple[str, int, int]]()

    def _message(self, tag: str, size: int, produce: Callable[[], bytes]) -> bytes:
        change = self.changes.pop(tag, None)
        self.log.append((tag, len(self.proof), size))
        return super()._message(tag, size, lambda: change(produce()) if change else produce())


class EvilProver(TaskProverImpl):
    """A prover whose committed products may be wrong."""

    change: Callable[[U64], U64] | None = None

    def _pad_products(self) -> U64:
        honest = super()._pad_products()
        return self.change(honest) if self.change else honest


class _Unbounded(_Evaluation):
    """Exact evaluation that does not stop at declared ranges."""

    def check_bounds(self, tensor: Any, value: Any, lo: int, hi: int) -> None:
        return None

    def compute_hint(self, hint: Hint) -> None:
        super().compute_hint(hint)
        for tensor in hint.outputs:  # a hint makes several tensors; those that are lied about stay
            if tensor.index in self.given:
                self.values[tensor.index] = self.ops.load(self.given[tensor.index])


def execute(case: Case, lie: Lie) -> list[IntArray]:
    """Values of every tensor: committed ones as the lie has them, virtual ones as the true graph has them."""
    inputs: Inputs = case.inputs | dict(lie.inputs)
    values = case.values
    if lie.manifest is not None:
        task, manifest = case.task, lie.manifest
        window = manifest.windows()[task.window]
        values = task_values(manifest, task.kind, window, task.subject, inputs, every=True, part=task.part)[1]
    elif lie.graph is not None:
        other = case.task.graph(case.stage.toy.manifest)
        lie.graph(other)
        found = _Unbounded(other, inputs, ReferenceOps(), {}, 0).run([t.index for t in other.tensors])
        values = [found[i] for i in range(len(other.tensors))]
    elif lie.inputs and case.task.kind in ("layer", "update") and case.stage.toy.manifest.window_steps > 1:  # one step after the other
        values = case.execute(inputs)
    elif lie.inputs:
        found = _Unbounded(case.graph, inputs, ReferenceOps(), {}, 0).run([t.index for t in case.graph.tensors])
        values = [found[i] for i in range(len(case.graph.tensors))]
    if lie.cells:  # downstream of the lie everything is computed as the relation says
        given = {case.tensor(name): change(values[case.tensor(name)].copy()) for name, change in lie.cells.items()}
    elif lie.manifest is not None or lie.graph is not None:
        given = {t.index: values[t.index] for t, op in zip(case.graph.tensors, case.graph.ops) if isinstance(op, CommittedOp)}
    else:
        return values
    found = _Unbounded(case.graph, inputs, ReferenceOps(), given, 0).run([t.index for t in case.graph.tensors])
    return [found[i] for i in range(len(case.graph.tensors))]


def _garbage_rows(b: Backend, layout: Any, tensors: Mapping[str, Any]) -> Any:
    rows = _build_rows(b, layout, tensors)
    blank = _build_rows(b, layout, {name: np.ones(t.shape, dtype=np.uint64) for name, t in tensors.items()})
    noise = np.random.default_rng(5).integers(0, 1 << 62, rows.shape).astype(np.uint64)
    return b.xp.where(blank == 0, b.to_device(noise), rows)


def _garbage_axes(pad: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def padded(b: Backend, table: Any) -> Any:
        found, blank = pad(b, table), pad(b, b.xp.ones_like(table))
        noise = np.random.default_rng(6).integers(0, 1 << 62, found.shape).astype(np.uint64)
        return b.xp.where(blank == 0, b.to_device(noise), found)

    return padded


_build_rows = commit_module.build_rows


@contextmanager
def _patched(lie: Lie, seen: dict[str, np.ndarray]) -> Iterator[None]:
    """The prover's functions with the lie's changes; `seen` receives the tensors of the witness commitment."""

    def counts(b: Backend, plan: Any, values: Any) -> dict[str, Any]:
        out = {table: b.to_host(rows) for table, rows in count_multiplicities(b, plan, values).items()}
        names = {plan.multiplicity(table).removeprefix("multiplicity/"): table for table in out}
        changed = out | {names[n]: change(out[names[n]].copy()) for n, change in lie.multiplicities.items() if n in names}
        return {table: b.to_device(rows) for table, rows in changed.items()}

    def commit_witness(b: Backend, layout: Any, made: dict[str, Any], key: bytes, extra: Any) -> CommitmentData:
        tensors = {name: b.to_host(t) for name, t in made.items()}
        if lie.witness:
            lie.witness(tensors)
        seen.update(tensors)
        return commit(b, layout, tensors, key, extra)

    with ExitStack() as stack:
        stack.enter_context(patch.object(prove_module, "count_multiplicities", counts))
        stack.enter_context(patch.object(prove_module, "commit", commit_witness))
        stack.enter_context(patch.object(EvilProver, "change", staticmethod(lie.products) if lie.products else None))
        if lie.padding:
            stack.enter_context(patch.object(commit_module, "build_rows", _garbage_rows))
        if lie.count_padding:
            kind = type(backend())
            stack.enter_context(patch.object(kind, "pad", _garbage_axes(kind.pad)))
        yield


def prove_with(
    shape: TaskShape, statement: bytes, inputs: list[tuple[str, CommitmentData]], values: list[IntArray],
    published: dict[str, IntArray], lie: Lie, seen: dict[str, np.ndarray], label: str = "attempt",
) -> EvilChannel:
    """Run the proving schedule; returns the channel with proof and message log."""
    layout = shape.witness_layout(PARAMS)
    with _patched(lie, seen):
        prover = EvilProver(backend(), shape, inputs, layout, values, seed(label), lambda: None)
        channel = EvilChannel(prover, lie.messages)
        commitments = [Committed(role, data.layout, data.root) for role, data in inputs]
        run_task(channel, shape, statement, commitments, PARAMS, published, prover)
    return channel


def violated_constraints(
    shape: TaskShape, statement: bytes, published: dict[str, IntArray], proof: bytes, cells: Mapping[tuple[str, str], np.ndarray]
) -> frozenset[str]:
    """Names of the constraints that the committed cells do not satisfy, under the proof's own challenges."""
    field = shape.field
    channel = VerifyingChannel(field, proof)
    channel.bind("statement", statement)
    channel.clear_bytes("witness/root", 32, lambda: b"")
    system = schedule._reduce(channel, shape, published, None)
    pools = {name: as_field(backend(), np.asarray(cells[WITNESS, name])).tolist() for name in ("pad", "product")}
    out = set()
    for constraint in system.constraints:
        total = constraint.form.const
        for (pool, index), coef in constraint.form.terms.items():
            total = total + coef * field.ext(*pools[pool][index])
        for term in constraint.terms:
            value = field.lift(as_field(backend(), np.asarray(cells[term.place])))
            for w in reversed(term.weights):
                value = field.kdot(value, w)
            total = total + term.coef * Ext.from_array(field, value)
        if total:
            out.add(constraint.where)
    return frozenset(out)


def attack(case: Case, lie: Lie) -> Outcome:
    """Prove the task dishonestly and let the verifier judge, with the statement that the verifier expects."""
    values = execute(case, lie)
    try:
        check(case.graph, dict(enumerate(values)))
        broken = ""
    except RelationBroken as error:
        broken = str(error)
    outputs = case.role_tensors(values)
    honest, inputs, cells = case.committed(), [], dict(outputs)
    for role, name in case.task.commitments:
        stored = case.stage.arrays[str(name)]
        tensors = {n: outputs.get((role, n), lie.inputs.get((role, n), a) if lie.recommit else a) for n, a in stored.items()}
        cells |= {(role, n): a for n, a in tensors.items()}
        same = all(np.array_equal(tensors[n], stored[n]) for n in stored)
        data = honest[role] if same and not lie.padding else None
        if data is None:
            with patch.object(commit_module, "build_rows", _garbage_rows if lie.padding else _build_rows):
                data = commit(backend(), case.stage.layout(name), tensors, seed(f"evil/{name}"))
        inputs.append((role, data))
    published = case.published(values)
    if lie.published:
        published = {name: lie.published(v.copy()) for name, v in published.items()}
    statement = case.statement(published)
    seen: dict[str, np.ndarray] = {}
    channel = prove_with(case.shape, statement, inputs, values, published, lie, seen)
    proof = bytes(channel.proof)
    cells |= {(WITNESS, name): tensor for name, tensor in seen.items()}
    violated = frozenset[str]()
    if not lie.messages:
        violated = violated_constraints(case.shape, statement, published, proof, cells)
    error = None
    try:
        verify(case.shape, statement, [Committed(role, d.layout, d.root) for role, d in inputs], published, proof)
    except VerificationError as found:
        error = found
    return Outcome(proof, broken, violated, error, tuple(channel.log))
