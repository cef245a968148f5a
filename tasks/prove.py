"""Prove one statement and record the proof (order of writing: architecture.md, section 5).

    proof there? → load, recompute the witness, check it → statement row → [openings spent → noted privately → positions drawn] → proof
    → verify → object → proof row

Every attempt has a fresh seed and spends one opening of each commitment, also if it dies. A proof that does not verify is
never stored. Of two attempts at one statement the first row stands and the other is dropped. Called by flows/work.py.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Any

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.schedule.task import TaskShape
from protocol.statement import Task, statement_content, statement_id
from prover.argument.prove import drained, prove_task
from prover.executor.evaluate import RelationBroken, check
from prover.executor.torch_ops import ops_beside
from prover.randomness import fresh_seed
from prover.rehearsal import rehearse
from prover.witness.task import kept_values, outputs, task_values
from storage.derive import budget_of
from storage.errors import LedgerConflict, MissingObject
from storage.models import ProofRow, StatementRow
from tasks.context import Opened, RunContext, RunError
from tasks.gpu_fault import fault_told
from tasks.shortage import PROVING, shortage_told
from tasks.telemetry import proving
from verifier.task import Evidence, verify_task


@dataclass(frozen=True)
class Proved:
    """The proof that stands for a statement; `fresh` if this call made it."""

    task: str
    statement_id: str
    object_digest: str
    size: int
    seconds: float
    fresh: bool


def find_task(context: RunContext, identity: str) -> Task:
    """The task of a statement id."""
    if identity not in context.statements:
        raise RunError(f"run {context.run_id} has no statement {identity}")
    return context.statements[identity]


def rehearse_here(context: RunContext) -> None:
    """Before a process's first task; RunError if proofs that are made here do not verify, GpuFailed if none are made."""
    try:
        with fault_told("a small statement of this machine's own"):
            rehearse(context.backend, context.params)
    except VerificationError as error:
        raise RunError(
            f"the proof of a small statement made on this machine does not verify ({error}): its memory, a processor or its compiler is at "
            "fault, so it is given no task"
        ) from error


@proving
def prove_statement(context: RunContext, task: Task) -> Proved:
    """Have the statement of `task` proved; the recorded proof if there is one."""
    with shortage_told(task, PROVING, context.backend), fault_told(task):
        return _prove(context, task)


def _prove(context: RunContext, task: Task) -> Proved:
    identity, ledger = statement_id(context.manifest, task), context.stores.ledger
    standing = ledger.proof(identity)
    if standing is not None:
        return _proved(context, task, standing, fresh=False)
    started = time.monotonic()
    context.stores.log.agree()
    rows = context.rows(task)
    ids = {name: row.commitment_id for name, row in rows.items()}
    opened = [(role, context.opened(name)) for role, name in task.commitments]
    context.backend.release()
    shape, values = _witness(context, task, opened)
    published = {item.name: context.backend.to_host(values[item.tensor.index]) for item in shape.graph.published}
    content = statement_content(context.manifest, task, shape.graph.digest(), ids, published)
    ledger.append(StatementRow(identity, context.run_id, task.kind, task.window, task.layer, task.part, content.decode()))
    attempt = secrets.token_hex(8)

    def spend() -> None:
        for _, name in task.commitments:
            ledger.spend_opening(ids[str(name)], budget_of(context.manifest, name), identity, attempt)
        context.stores.log.remember()  # a ledger without these rows will be refused

    params = context.params
    proof = prove_task(
        context.backend, shape, content, [(role, item.data) for role, item in opened], drained(values), published,
        params, fresh_seed(), spend,
    )
    roots = {name: bytes.fromhex(row.root) for name, row in rows.items()}
    try:
        soundness, _ = verify_task(context.manifest, task, roots, ids, Evidence(content, proof))
    except VerificationError as error:
        raise RunError(f"the proof of {task} that was just made does not verify ({error}): this is a fault of the prover") from error
    seconds = time.monotonic() - started
    digest = context.stores.objects.put(proof)
    made = ProofRow(identity, digest, len(proof), f"verilora {context.backend.name}", seconds, canonical_json(soundness.to_json()).decode())
    try:
        ledger.append(made)
    except LedgerConflict:  # another attempt at this statement was first
        standing = ledger.proof(identity)
        if standing is None:
            raise
        return _proved(context, task, standing, fresh=False)
    return _proved(context, task, made, fresh=True)


def _proved(context: RunContext, task: Task, row: ProofRow, fresh: bool) -> Proved:
    if not context.stores.objects.has(row.object_digest):
        raise MissingObject(
            f"object {row.object_digest}, the proof of {task} in run {context.run_id}, is not in the object store: restore it from "
            "a copy. The ledger holds one proof per statement, so it cannot be made anew in this run"
        )
    context.stores.log.publish()
    return Proved(str(task), row.statement_id, row.object_digest, row.size, row.seconds, fresh)


def _witness(context: RunContext, task: Task, opened: list[tuple[str, Opened]]) -> tuple[TaskShape, list[Any]]:
    """What a proof reads of the task's tensors (None at others), recomputed, where the backend computes; they satisfy the relation
    and agree with what was committed."""
    ops = ops_beside(context.backend.name)
    inputs = {(role, name): array for role, item in opened for name, array in item.tensors.items()}
    window = context.manifest.windows()[task.window] if task.window >= 0 else None
    graph, values = task_values(context.manifest, task.kind, window, task.subject, inputs, ops, part=task.part)
    by_index = dict(enumerate(values))
    try:
        check(graph, by_index, ops if ops.keep else None)
    except RelationBroken as error:  # its text ends in a secret value
        raise RunError(f"{task}: the relation does not hold, {str(error).split(' = ')[0]}") from None
    for key, array in outputs(graph, by_index).items():
        if not (array == ops.result(ops.load(inputs[key]))).all():
            raise RunError(f"{task}: the committed {key[0]} {key[1]} is not what its task computes from its inputs")
    del by_index
    context.backend.release()
    return TaskShape(graph, context.params.field), kept_values(context.backend, graph, drained(values))
