"""A small complete run under a registered profile: manifest, roots and a proof of every task, as an auditor gets them."""

from dataclasses import dataclass, replace

from protocol.layout import CommitmentLayout
from protocol.manifest import RunManifest, base_commitments
from protocol.params import profile
from protocol.schedule.task import TaskShape
from protocol.statement import Name, Task, commitment_layout, opening_counts, statement_content, statement_id, task_list
from prover.argument.prove import prove_task
from prover.commitment.commit import CommitmentData, commit
from tests.support.stage import Stage, backend, seed
from tests.toy import EVEN, Toy, toy
from verifier.run import RunRecord
from verifier.task import Evidence

PROFILE = "goldilocks-2^11"


@dataclass(frozen=True, eq=False)
class Complete:
    """`tasks` in order; `record` is what a verifier is given."""

    manifest: RunManifest
    tasks: list[Task]
    record: RunRecord

    def evidence(self, task: Task) -> Evidence:
        return self.record.evidence[statement_id(self.manifest, task)]


def small_toy(seed_number: int = 7) -> Toy:
    """One layer, two windows of one step, LoRA on one projection; two heads of two."""
    sizes = EVEN | {"head_dim": 2}
    return toy(sizes=sizes, target_modules=("q_proj",), layers=1, steps=2, window_steps=1, batch_size=1, sequence_length=2,
               examples=2, seed=seed_number)


def split_toy() -> Toy:
    """As small_toy, one window of one step, whose two sequences are proved in two parts."""
    sizes = EVEN | {"head_dim": 2}
    return toy(sizes=sizes, target_modules=("q_proj",), layers=1, steps=1, window_steps=1, batch_size=1, gradient_accumulation=2, parts=2,
               sequence_length=2, examples=2)


def complete_run(source: Toy, label: str = "run") -> Complete:
    """Train, commit and prove everything."""
    draft = replace(source.manifest, profile=PROFILE, budgets=opening_counts(source.manifest))
    stage, made = Stage(source), dict[str, CommitmentData]()

    def data(manifest: RunManifest, name: Name) -> CommitmentData:
        if str(name) not in made:
            layout: CommitmentLayout = commitment_layout(manifest, name)
            made[str(name)] = commit(backend(), layout, stage.arrays[str(name)], seed(f"{label}/{name}"))
        return made[str(name)]

    manifest = replace(draft, commitments={n: data(draft, Name(n)).id for n in base_commitments(draft.model)})
    params, evidence, tasks = profile(PROFILE), {}, task_list(manifest)
    for task in tasks:
        inputs = [(role, data(manifest, name)) for role, name in task.commitments]
        case = stage.case(task.kind, task.window, task.layer, task.part)
        published, ids = case.published(), {str(name): made[str(name)].id for _, name in task.commitments}
        content = statement_content(manifest, task, case.graph.digest(), ids, published)
        shape = TaskShape(case.graph, params.field)
        proof = prove_task(backend(), shape, content, inputs, case.values, published, params,
                           seed(f"{label}/{task}"), lambda: None)
        evidence[statement_id(manifest, task)] = Evidence(content, proof)
    return Complete(manifest, tasks, RunRecord(manifest.to_json(), {n: c.root for n, c in made.items()}, evidence))
