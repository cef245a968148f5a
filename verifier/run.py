"""Verify a whole run: every task of the manifest has a proof, and names chain the tasks together.

The chain check is that the set of statements is exactly the set the manifest implies (none missing, none foreign, none
twice) and that one commitment name has one id wherever it occurs, those known at the start being the manifest's: so the
state that window w writes is what window w + 1 reads, and every activation that a layer writes is what the next reads.
`verify_run` is a pure function of the record; nothing is fetched.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.soundness import Soundness
from protocol.statement import Task, commitment_layout, statement_id, task_list
from verifier.order import compare_order
from verifier.task import Evidence, verify_task


@dataclass(frozen=True)
class RunRecord:
    """Everything public about a run: manifest bytes, roots by commitment name, evidence by statement id."""

    manifest: bytes
    roots: Mapping[str, bytes]
    evidence: Mapping[str, Evidence]


@dataclass(frozen=True)
class TaskVerdict:
    """One task: accepted with its soundness, or rejected with the reason."""

    task: Task
    statement_id: str
    accepted: bool
    reason: str
    soundness: Soundness | None
    published: Mapping[str, IntArray]


@dataclass(frozen=True)
class RunVerdict:
    """The run: accepted only if every task is. `order` says what it was compared with."""

    manifest: RunManifest
    accepted: bool
    reason: str
    order: str
    tasks: tuple[TaskVerdict, ...]

    @property
    def bits(self) -> float:
        """The least soundness of any task; 0 if one was rejected."""
        return min((t.soundness.bits if t.soundness else 0.0 for t in self.tasks), default=0.0)


def resolve_ids(manifest: RunManifest, roots: Mapping[str, bytes]) -> dict[str, str]:
    """The id of every commitment the run needs, recomputed from its root; VerificationError if one is missing, foreign
    or not the manifest's."""
    names = {str(name): name for task in task_list(manifest) for _, name in task.commitments}
    for text in sorted(set(names) | set(roots)):
        if text not in roots:
            raise VerificationError("missing-commitment", text, "a root", "none")
        if text not in names:
            raise VerificationError("foreign-commitment", text, "no such commitment in this run", roots[text].hex())
    ids = {text: commitment_layout(manifest, name).identity(roots[text]) for text, name in names.items()}
    for text, wanted in manifest.commitments.items():
        if ids[text] != wanted:
            raise VerificationError("commitment-id", text, wanted, ids[text])
    return ids


def check_chain(manifest: RunManifest, evidence: Mapping[str, Evidence]) -> dict[str, Task]:
    """Tasks by statement id; VerificationError if a statement is missing or foreign."""
    wanted = {statement_id(manifest, task): task for task in task_list(manifest)}
    for found in sorted(set(evidence) - set(wanted)):
        raise VerificationError("foreign-statement", found, "a statement of this run", "another")
    for missing, task in wanted.items():
        if missing not in evidence:
            raise VerificationError("missing-proof", str(task), f"a proof of statement {missing}", "none")
    return wanted


class Job(NamedTuple):
    """The arguments of `check_one`, which is a pure function of them: jobs may run anywhere, in any order."""

    manifest: RunManifest
    task: Task
    roots: Mapping[str, bytes]
    ids: Mapping[str, str]
    evidence: Evidence

    def rejected(self, reason: str) -> TaskVerdict:
        return TaskVerdict(self.task, statement_id(self.manifest, self.task), False, reason, None, {})


def check_one(
    manifest: RunManifest, task: Task, roots: Mapping[str, bytes], ids: Mapping[str, str], evidence: Evidence
) -> TaskVerdict:
    """The verdict on one task; a rejection is a verdict, not an error."""
    identity = statement_id(manifest, task)
    try:
        soundness, published = verify_task(manifest, task, roots, ids, evidence)
    except VerificationError as error:
        return TaskVerdict(task, identity, False, str(error), None, {})
    return TaskVerdict(task, identity, True, "", soundness, published)


def one_by_one(jobs: Sequence[Job]) -> Iterable[TaskVerdict]:
    """Check here, in order."""
    return (check_one(*job) for job in jobs)


def verify_run(
    record: RunRecord, order: Mapping[str, Any] | None = None,
    spread: Callable[[Sequence[Job]], Iterable[TaskVerdict]] = one_by_one,
) -> RunVerdict:
    """Verdict on a run; VerificationError only if there is no manifest to speak of. `spread` may check jobs elsewhere and
    in any order, but every job needs its verdict."""
    manifest = RunManifest.from_json(record.manifest)
    compared = "internally consistent; not compared with an order"
    try:
        if order is not None:
            compared = f"compared with the order: {compare_order(manifest, order)} values agree"
        ids = resolve_ids(manifest, record.roots)
        tasks = check_chain(manifest, record.evidence)
    except VerificationError as error:
        return RunVerdict(manifest, False, str(error), compared, ())
    jobs = [Job(manifest, task, record.roots, ids, record.evidence[identity]) for identity, task in tasks.items()]
    found = {verdict.statement_id: verdict for verdict in spread(jobs)}
    verdicts = tuple(found.get(identity) or job.rejected("not checked") for identity, job in zip(tasks, jobs, strict=True))
    rejected = next((v for v in verdicts if not v.accepted), None)
    reason = f"{rejected.task}: {rejected.reason}" if rejected else ""
    return RunVerdict(manifest, rejected is None, reason, compared, verdicts)
