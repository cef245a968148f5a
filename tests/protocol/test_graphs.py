"""The relation stays what it is: digests of the graphs of every task kind, for runs that between them have every feature.

tests/vectors do this for values; here it is for equations. A digest that changes is another relation, and proofs made with the old one
no longer verify: after a change that is meant, `python -m tests.protocol.test_graphs` writes graphs.json anew. The digest "hints" is
about the honest prover alone: how it computes what is committed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.field import GOLDILOCKS
from protocol.manifest import RunManifest, base_commitments
from protocol.schedule.task import TaskShape
from protocol.statement import opening_counts, task_list

FILE = Path(__file__).with_name("graphs.json")
RUNS: dict[str, dict[str, object]] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def digests(manifest: RunManifest) -> dict[str, str]:
    """Of the first and the last task of each kind and layer, and of the hints of all of them."""
    chosen: dict[tuple[object, ...], list[str]] = {}
    found, hints = {}, hashlib.sha256()
    tasks = task_list(manifest)
    for task in tasks:
        chosen.setdefault((task.kind, task.subject), []).append(str(task))
    for task in tasks:
        names = chosen[task.kind, task.subject]
        if str(task) in (names[0], names[-1]):
            graph = task.graph(manifest)
            found[str(task)] = graph.digest()
            for h in graph.hints:
                hints.update(repr((h.kind, [t.index for t in h.inputs], [t.index for t in h.outputs], h.params)).encode())
    return found | {"hints": hints.hexdigest()}


@pytest.mark.parametrize("name", RUNS)
def test_graphs(name: str) -> None:
    run = RUNS[name]
    assert digests(RunManifest.from_json(str(run["manifest"]).encode())) == run["digests"]


COUNTED = ("secret loss", "clipped sgd")


def counts(manifest: RunManifest) -> dict[str, list[object]]:
    """What the reduction of every kind of task uses: pads, products (how many, sum of their pads), constraints, batches, rounds, bytes."""
    found = {}
    for task in {task.kind: task for task in task_list(manifest)}.values():
        c = TaskShape(task.graph(manifest), GOLDILOCKS).counts
        found[str(task)] = [c.pads, len(c.products), sum(map(sum, c.products)), c.constraints, c.batches, c.rounds, c.message_bytes]
    return found


@pytest.mark.parametrize("name", [name for name in COUNTED if name in RUNS])
def test_counts(name: str) -> None:
    assert counts(RunManifest.from_json(str(RUNS[name]["manifest"]).encode())) == RUNS[name]["counts"]


def made() -> Iterator[tuple[str, RunManifest]]:
    from tests.prover.test_executor import CASES
    from tests.support.architectures import FEATURES, feature_toy
    from tests.toy import EVEN, toy, toy_optimizer

    for name, arguments in CASES.items():
        yield name, toy(**arguments).manifest  # type: ignore[arg-type]
    for name in FEATURES:
        yield name, feature_toy(name, EVEN, steps=2, window_steps=1).manifest
    yield "rotation", toy(steps=4, window_steps=1, rotation_windows=2).manifest
    for module in ("q_proj", "o_proj", "gate_proj", "down_proj"):  # what need not be computed for the others is not
        yield f"only {module}", toy(steps=1, window_steps=1, sizes=EVEN, target_modules=(module,)).manifest
    plain = toy(steps=1, window_steps=1, sizes=EVEN, target_modules=("q_proj",), kind="adamw", learning_rate="0.001").manifest
    for rate in ("0.0001", "0.000002", "0.0000000001"):  # gains with more fractional bits
        yield f"adamw at {rate}", replace(plain, optimizer=toy_optimizer(kind="adamw", learning_rate=rate))
    every = toy(steps=1, window_steps=1, sizes=EVEN, batch_size=1).manifest
    yield "bands of queries", replace(every, sequence_length=600, loss_tokens=(600,))


def main() -> None:
    runs: dict[str, dict[str, object]] = {}
    for name, toy_manifest in made():
        ids = dict.fromkeys(base_commitments(toy_manifest.model), "0" * 64)
        manifest = replace(toy_manifest, profile="goldilocks-2^12", commitments=ids)
        manifest = replace(manifest, budgets=opening_counts(manifest))
        runs[name] = {"manifest": manifest.to_json().decode(), "digests": digests(manifest)}
        if name in COUNTED:
            runs[name]["counts"] = counts(manifest)
    FILE.write_text(json.dumps(runs, sort_keys=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
