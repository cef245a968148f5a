"""The chain of windows: nothing can be dropped, repeated, reordered, exchanged or taken from another run.

A complete small run under a registered profile is accepted; each test changes the record as whoever keeps it could.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from protocol.errors import VerificationError
from protocol.statement import Task, statement_id, task_list
from tests.support.record import Complete, complete_run, small_toy, split_toy
from verifier.run import RunRecord, RunVerdict, check_chain, check_one, resolve_ids, verify_run
from verifier.task import Evidence


@pytest.fixture(scope="module")
def run() -> Complete:
    return complete_run(small_toy())


@pytest.fixture(scope="module")
def foreign() -> Complete:
    """Another run of the same shape: another seed, so other weights, data and order."""
    return complete_run(small_toy(8), "foreign")


def find(run: Complete, name: str) -> Task:
    return next(t for t in run.tasks if str(t) == name)


def judge(run: Complete, task: Task, evidence: Evidence, roots: Mapping[str, bytes] | None = None) -> str:
    """The reason with which one task is rejected; "" if it is accepted."""
    roots = run.record.roots if roots is None else roots
    return check_one(run.manifest, task, roots, resolve_ids(run.manifest, roots), evidence).reason


def reason(run: Complete, **changes: object) -> str:
    """The whole run's reason."""
    try:
        verdict: RunVerdict = verify_run(replace(run.record, **changes))  # type: ignore[arg-type]
    except VerificationError as error:
        return str(error)
    assert verdict.accepted is not bool(verdict.reason)
    return verdict.reason


def test_complete_run_is_accepted(run: Complete) -> None:
    verdict = verify_run(run.record)
    assert verdict.accepted and verdict.bits >= 100 and len(verdict.tasks) == 10
    assert all(t.accepted for t in verdict.tasks)


def test_every_dropped_statement(run: Complete) -> None:
    for identity in run.record.evidence:
        rest = {k: v for k, v in run.record.evidence.items() if k != identity}
        assert reason(run, evidence=rest).startswith("missing-proof")


def test_foreign_statement(run: Complete, foreign: Complete) -> None:
    assert reason(run, evidence={**run.record.evidence, **foreign.record.evidence}).startswith("foreign-statement")
    assert reason(run, evidence=foreign.record.evidence).startswith("foreign-statement")


def test_missing_and_foreign_commitments(run: Complete) -> None:
    for name in run.record.roots:
        assert reason(run, roots={k: v for k, v in run.record.roots.items() if k != name}).startswith("missing-commitment")
    assert reason(run, roots={**run.record.roots, "x/0@2": b"\0" * 32}).startswith("foreign-commitment")


def test_known_commitments_are_the_manifest_s(run: Complete, foreign: Complete) -> None:
    for name in run.manifest.commitments:
        assert reason(run, roots={**run.record.roots, name: foreign.record.roots[name]}).startswith("commitment-id")


def test_exchanged_evidence(run: Complete) -> None:
    """Windows, layers and kinds reordered or repeated: the statement of one task is no statement of another."""
    for a, b in combinations(run.tasks, 2):
        assert judge(run, a, run.evidence(b)).startswith(("statement", "published-names"))
        if a.kind == b.kind:
            assert judge(run, b, Evidence(run.evidence(b).content, run.evidence(a).proof)) != ""


@pytest.mark.parametrize(("first", "second"), [("x/0@0", "x/0@1"), ("x/1@0", "x/1@1"), ("dx/1@0", "dx/1@1"), ("state/0@1", "state/0@2")])
def test_exchanged_commitments(run: Complete, first: str, second: str) -> None:
    roots = dict(run.record.roots)
    roots[first], roots[second] = roots[second], roots[first]
    touched = [t for t in run.tasks if {first, second} & {str(n) for _, n in t.commitments}]
    assert touched and all(judge(run, t, run.evidence(t), roots).startswith("statement") for t in touched)


def test_pieces_of_another_run(run: Complete, foreign: Complete) -> None:
    """A foreign task with all that belongs to it: its statement names another manifest."""
    for task in run.tasks:
        names = [str(n) for _, n in task.commitments if str(n) not in run.manifest.commitments]
        roots = {**run.record.roots, **{n: foreign.record.roots[n] for n in names}}
        assert judge(run, task, foreign.evidence(task), roots).startswith("statement")
    task = find(run, "embed(1)")
    assert judge(run, task, Evidence(run.evidence(task).content, foreign.evidence(task).proof)) != ""


def test_run_is_rejected_when_one_task_is(run: Complete) -> None:
    task = find(run, "layer(1, 0)")
    evidence = dict(run.record.evidence)
    evidence[statement_id(run.manifest, task)] = replace(run.evidence(task), proof=run.evidence(task).proof[:-1])
    assert reason(run, evidence=evidence).startswith("layer(1, 0): truncated")


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({"loss": [1]}, "opening-relation"), ({}, "published-names"), ({"loss": [1, 2]}, "published-shape"),
        ({"loss": [1.0]}, "published-range"), ({"loss": [True]}, "published-range"), ({"loss": [1 << 62]}, "published-range"),
        ({"loss": 3}, "published-shape"), ({"loss": [1], "more": [1]}, "published-names"), ([], "published-names"),
        (None, "published-names"),
    ],
    ids=str,
)
def test_published_loss(run: Complete, published: object, expected: str) -> None:
    task = find(run, "head(0)")
    content = json.loads(run.evidence(task).content) | {"published": published}
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert judge(run, task, replace(run.evidence(task), content=data)).startswith(expected)


HOSTILE = [
    b"", b"{}", b"null", b"\xff", b"[" * 100_000, b"[" * 800 + b"]" * 800, b" " * (1 << 21), b'{"published":NaN}',
    b'{"published":' + b"[" * 900 + b"]" * 900 + b"}", b'{"published":{"loss":[' + b"9" * 5000 + b"]}}",
    b'{"published":{"loss":["\\ud800"]}}', b'{"published":{"loss":[1]},"\\ud800":"\\udfff"}',
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_statements(run: Complete, content: bytes) -> None:
    task = find(run, "head(0)")
    found = judge(run, task, Evidence(content, run.evidence(task).proof))
    assert found != "" and found.isascii()


def test_nested_statements_of_every_depth(run: Complete) -> None:
    """Parsing and printing have different recursion limits; neither may escape."""
    task = find(run, "head(0)")
    proof = run.evidence(task).proof
    for depth in range(1, 1100, 13):
        for template in (b'{"published":%s}', b'{"published":{"loss":%s}}', b'{"published":{"loss":[1]},"kind":%s}'):
            assert judge(run, task, Evidence(template % (b"[" * depth + b"]" * depth), proof)) != ""


def test_bits_of_a_run_without_verdicts(run: Complete) -> None:
    verdict = verify_run(replace(run.record, evidence={}))
    assert not verdict.accepted and verdict.bits == 0


def root_reason(run: Complete, name: str, roots: Mapping[str, bytes]) -> str:
    """Why a changed root is rejected: by the manifest's id, or in the first task that names the commitment; "" if it is not."""
    touched = next(t for t in run.tasks if name in {str(n) for _, n in t.commitments})
    try:
        return judge(run, touched, run.evidence(touched), roots)
    except VerificationError as error:
        return str(error)


def test_an_unchanged_root_is_no_reason(run: Complete) -> None:
    assert all(root_reason(run, name, run.record.roots) == "" for name in run.record.roots)


@pytest.mark.attacks
def test_every_byte_of_manifest_roots_and_statements(run: Complete, capsys: pytest.CaptureFixture[str]) -> None:
    def flips(data: bytes) -> Iterator[bytes]:
        for at in range(len(data)):
            yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]

    found = {"manifest": [reason(run, manifest=changed) for changed in flips(run.record.manifest)]}
    for name, root in run.record.roots.items():
        found[name] = [root_reason(run, name, {**run.record.roots, name: changed}) for changed in flips(root)]
    for task in run.tasks:
        evidence = run.evidence(task)
        found[str(task)] = [judge(run, task, replace(evidence, content=changed)) for changed in flips(evidence.content)]
    tried, alive = sum(map(len, found.values())), {name: reasons.count("") for name, reasons in found.items() if "" in reasons}
    with capsys.disabled():
        print(f"\nevery byte of manifest, roots and statements: tried {tried}, rejected {tried - sum(alive.values())}, "
              f"survivors {sum(alive.values())}")
    assert not alive


def test_sampled_bytes(run: Complete) -> None:
    """Manifest, statement, commitment and proof bytes with one bit flipped: always a rejection."""
    rng = np.random.default_rng(11)

    def flip(data: bytes) -> bytes:
        out = bytearray(data)
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
        return bytes(out)

    for _ in range(60):
        assert reason(run, manifest=flip(run.record.manifest)) != ""
    names = sorted(run.record.roots)
    for _ in range(40):
        name = names[int(rng.integers(len(names)))]
        roots = {**run.record.roots, name: flip(run.record.roots[name])}
        assert root_reason(run, name, roots) != ""
    for _ in range(60):
        task = run.tasks[int(rng.integers(len(run.tasks)))]
        assert judge(run, task, replace(run.evidence(task), content=flip(run.evidence(task).content))) != ""
    for _ in range(40):
        task = run.tasks[int(rng.integers(5))]
        assert judge(run, task, replace(run.evidence(task), proof=flip(run.evidence(task).proof))) != ""


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "toy"}, {"profile": "goldilocks-2^9"}, {"profile": "goldilocks-2^10"}, {"budgets": {}},
        {"budgets": {"x": 1 << 40}}, {"budgets": {"base": 0}}, {"budgets": {"base": -5}}, {"steps": 1}, {"steps": 3},
        {"window_steps": 2}, {"loss_tokens": (1, 1)}, {"seed": 6}, {"publish_loss": False}, {"exponents": {}},
        {"exponents": {"layer/0/attn_norm.V": -90}}, {"exponents": {"layer/0/gate": 96}}, {"exponents": {"layer/0/gate": -96}},
        {"exponents": {"layer/0/attn.g": -3}}, {"widths": {"gradient": 32}}, {"base_visibility": "public"},
    ],
    ids=str,
)
def test_another_manifest(run: Complete, change: dict[str, object]) -> None:
    """Also with the record re-labelled for it, so that the tasks themselves are judged; no other exception ever."""
    m = run.manifest
    for key in ("budgets", "widths", "exponents"):
        if change.get(key):
            change = change | {key: getattr(m, key) | change[key]}  # type: ignore[operator]
    try:
        manifest = replace(m, **change)  # type: ignore[arg-type]
    except VerificationError:
        return
    assert reason(run, manifest=manifest.to_json()) != ""
    old = {str(t): run.evidence(t) for t in run.tasks}
    tasks = task_list(manifest)
    evidence = {statement_id(manifest, t): old.get(str(t), Evidence(b"{}", b"")) for t in tasks}
    names = {str(n) for t in tasks for _, n in t.commitments}
    roots = {n: run.record.roots.get(n, b"\0" * 32) for n in names}
    assert not verify_run(RunRecord(manifest.to_json(), roots, evidence)).accepted


@pytest.mark.parametrize(
    ("order", "key"),
    [({"optimizer": {"learning_rate": "0.03"}}, "optimizer.learning_rate"), ({"seed": 8}, "seed"), ({"steps": 4}, "steps"),
     ({"commitments": {"dataset": "0" * 64}}, "commitments.dataset"), ({"commitments": {"base/0": "0" * 64}}, "commitments.base/0"),
     ({"lora": {"r": 8}}, "lora.r"), ({"no_such": 1}, "no_such"), ({}, "order")],
)
def test_perfect_run_of_another_order(run: Complete, order: dict[str, object], key: str) -> None:
    verdict = verify_run(run.record, order)
    assert not verdict.accepted and verdict.reason.startswith(f"order at {key}")


def test_the_chain_check_names_every_task_once(run: Complete) -> None:
    tasks = check_chain(run.manifest, run.record.evidence)
    assert sorted(map(str, tasks.values())) == sorted(map(str, run.tasks))
    for kind in ("x/0@1", "state/0@1"):
        users = [(str(t), role) for t in run.tasks for role, n in t.commitments if str(n) == kind]
        assert len(users) == 2  # written by one task, read by one task


# a step in two parts ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split() -> Complete:
    return complete_run(split_toy(), "split")


def test_complete_run_in_parts_is_accepted(split: Complete) -> None:
    verdict = verify_run(split.record)
    assert verdict.accepted and verdict.bits >= 100 and [str(t.task) for t in verdict.tasks[4:]] == [
        "embed(0) part 1", "embed(0) part 2", "layer(0, 0) part 1", "layer(0, 0) part 2", "update(0, 0)", "head(0) part 1",
        "head(0) part 2",
    ]
    assert {str(t.task): sorted(t.published) for t in verdict.tasks if t.published} == {"head(0) part 2": ["loss"]}


def test_a_part_that_is_missing(split: Complete) -> None:
    for task in split.tasks:
        rest = {k: v for k, v in split.record.evidence.items() if k != statement_id(split.manifest, task)}
        assert reason(split, evidence=rest).startswith(f"missing-proof at {task}")
    for name in split.record.roots:
        assert reason(split, roots={k: v for k, v in split.record.roots.items() if k != name}).startswith(f"missing-commitment at {name}")


@pytest.mark.parametrize("name", [
    "x/0@0", "x/0/0@0", "x/0/3@0", "gradient/0@0", "gradient/0/3@0", "loss/2@0", "adapter/0@1", "adapter/0/1@0",
])
def test_a_part_that_no_step_has(split: Complete, name: str) -> None:
    assert reason(split, roots=dict(split.record.roots) | {name: bytes(32)}).startswith("foreign-commitment")


def test_a_statement_of_a_part_is_none_of_another(split: Complete) -> None:
    for a, b in combinations(split.tasks, 2):
        assert judge(split, a, split.evidence(b)).startswith(("statement", "published-names"))
        if a.kind == b.kind:
            assert judge(split, b, Evidence(split.evidence(b).content, split.evidence(a).proof)) != ""


def test_a_part_is_a_statement_of_its_own_number(split: Complete) -> None:
    """The number is in the statement and in its id: one that names the other part is another."""
    first, second = (find(split, f"layer(0, 0) part {part}") for part in (1, 2))
    assert first.graph(split.manifest).digest() == second.graph(split.manifest).digest()
    content = split.evidence(first).content.replace(b'"part":1', b'"part":2')
    assert content != split.evidence(first).content
    assert "part = 1" in judge(split, first, replace(split.evidence(first), content=content))
    ids = [statement_id(split.manifest, task) for task in (first, second, replace(first, part=2))]
    assert ids[0] != ids[1] == ids[2]


@pytest.mark.parametrize(("first", "second"), [("x/0/1@0", "x/0/2@0"), ("x/1/1@0", "x/1/2@0"), ("dx/1/1@0", "dx/1/2@0"),
                                               ("gradient/0/1@0", "gradient/0/2@0"), ("adapter/0@0", "state/0@1")])
def test_exchanged_commitments_of_parts(split: Complete, first: str, second: str) -> None:
    roots = dict(split.record.roots)
    roots[first], roots[second] = roots[second], roots[first]
    touched = [t for t in split.tasks if {first, second} & {str(n) for _, n in t.commitments}]
    assert len(touched) >= 3 and all(judge(split, t, split.evidence(t), roots).startswith("statement") for t in touched)


def test_a_run_in_parts_is_none_in_one_piece(split: Complete) -> None:
    """Nor the other way round: the number of parts is the manifest's."""
    whole = replace(split.manifest, parts=1)
    assert reason(split, manifest=whole.to_json()).startswith("foreign-commitment")
    assert {str(t) for t in task_list(whole)} & {str(t) for t in split.tasks} == {str(t) for t in split.tasks if t.kind == "range"}
