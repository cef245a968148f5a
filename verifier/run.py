"""Verify a whole run: every task of the manifest has a proof, and names chain the tasks together.

The chain check is that the set of statements is exactly the set the manifest implies (none missing, none foreign, none
twice) and that one commitment name has one id wherever it occurs, those known at the start being the manifest's: so the
state that window w writes is what window w + 1 reads, and every activation that a layer writes is what the next reads.
`verify_run` is a pure function of the record; nothing is fetched.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.relation.graph import IntArray
from protocol.soundness import Soundness
from protocol.statement import Task, commitment_layout, statement_id, task_list
from verifier.order import compare_order
from verifier.sample import Sample
from verifier.task import Evidence, fail_closed, verify_task

NO_ORDER = "not compared with an order"


@dataclass(frozen=True)
class RunRecord:
    """Everything public about a run: manifest bytes, roots by commitment name, evidence by statement id (which may be read
    from somewhere when it is asked for: VerificationError then rejects that task)."""

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
    """The run: accepted only if every task was looked at and is. `order` says what it was compared with; `sample` is None
    if every one of the run's `count` tasks was looked at."""

    manifest: RunManifest
    reason: str
    order: str
    tasks: tuple[TaskVerdict, ...]
    sample: Sample | None
    count: int

    @property
    def accepted(self) -> bool:
        return self.state == "accepted"

    @property
    def state(self) -> str:
        return "rejected" if self.reason or not self.tasks else "accepted" if self.sample is None else "sample passed"

    @property
    def bits(self) -> float:
        """The least soundness of any task; 0 if one was rejected."""
        return min((t.soundness.bits if t.soundness else 0.0 for t in self.tasks), default=0.0)


def resolve_ids(manifest: RunManifest, roots: Mapping[str, bytes]) -> dict[str, str]:
    """The id of every commitment the run needs, recomputed from its root; VerificationError if one is missing, foreign
    or not the manifest's."""
    least = len(manifest.windows()) * manifest.model.layers * manifest.parts  # every task of a layer writes an x of its own
    if len(roots) < least:  # before a task list is made that a small manifest can make huge
        raise VerificationError("missing-commitment", "run", f"at least {least} roots", str(len(roots)))
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


def rejected(manifest: RunManifest, task: Task, reason: str) -> TaskVerdict:
    return TaskVerdict(task, statement_id(manifest, task), False, reason, None, {})


def check_one(
    manifest: RunManifest, task: Task, roots: Mapping[str, bytes], ids: Mapping[str, str], evidence: Evidence
) -> TaskVerdict:
    """The verdict on one task; a rejection is a verdict, not an error."""
    try:
        with fail_closed(str(task)):
            soundness, published = verify_task(manifest, task, roots, ids, evidence)
    except VerificationError as error:
        return rejected(manifest, task, str(error))
    return TaskVerdict(task, statement_id(manifest, task), True, "", soundness, published)


def one_by_one(jobs: Iterable[Job]) -> Iterable[TaskVerdict]:
    """Check here, in order."""
    return (check_one(*job) for job in jobs)


def verify_run(
    record: RunRecord, order: Mapping[str, Any] | None = None,
    spread: Callable[[Iterable[Job]], Iterable[TaskVerdict]] = one_by_one, sample: Sample | None = None,
) -> RunVerdict:
    """Verdict on a run; VerificationError only if there is no manifest to speak of. `spread` may check jobs elsewhere and
    in any order, but every job needs its verdict; evidence is read when its job is taken. Of a sample, chain and commitments
    are checked as a whole and the drawn tasks' proofs."""
    with fail_closed("manifest"):
        manifest = RunManifest.from_json(record.manifest)
    compared = NO_ORDER if order is None else "not what was ordered"
    try:
        with fail_closed("record"):
            if order is not None:
                keys = compare_order(manifest, order)
                compared = f"compared with the order: {len(keys)} values agree ({', '.join(keys)})"
            ids = resolve_ids(manifest, record.roots)
            tasks = check_chain(manifest, record.evidence)
    except VerificationError as error:
        return RunVerdict(manifest, str(error), compared, (), sample, 0)
    chosen = [list(tasks)[n] for n in sample.draw(manifest.digest(), len(tasks))] if sample else list(tasks)
    found: dict[str, TaskVerdict] = {}

    def jobs() -> Iterator[Job]:
        for identity in chosen:
            names = [str(name) for _, name in tasks[identity].commitments]
            try:
                evidence = record.evidence[identity]
            except VerificationError as error:
                found[identity] = rejected(manifest, tasks[identity], str(error))
            else:
                yield Job(manifest, tasks[identity], {n: record.roots[n] for n in names}, {n: ids[n] for n in names}, evidence)

    checked = {verdict.statement_id: verdict for verdict in spread(jobs())} | found
    verdicts = tuple(checked.get(identity) or rejected(manifest, tasks[identity], "not checked") for identity in chosen)
    bad = next((v for v in verdicts if not v.accepted), None)
    return RunVerdict(manifest, f"{bad.task}: {bad.reason}" if bad else "", compared, verdicts, sample, len(tasks))
