"""The verdict spread over processes is the verifier's own, and fails closed."""

import os
import random
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

import tasks.verify
import verifier.run
from cli.output import UNAVAILABLE, exit_code
from protocol.errors import VerificationError
from storage.errors import StoreUnavailable
from storage.ledger import open_ledger
from storage.log import LogPublisher
from storage.object_store import open_object_store
from tasks.record import collect
from tasks.verify import NoVerdict, judge
from tests.cli.build_run import RUN_ID, Built
from verifier.bundle import Bundle
from verifier.evidence import read_checkpoint, read_rows, verify_bundle
from verifier.run import Job, RunRecord, RunVerdict, TaskVerdict, check_one, verify_run
from verifier.task import Evidence


def evidence_of(built: Built) -> Bundle:
    log = LogPublisher(open_ledger(built.ledger_url, read_only=True), open_object_store(built.objects_url, read_only=True))
    return collect(log, RUN_ID)


@pytest.fixture
def bundle(built: Built) -> Bundle:
    return evidence_of(built)


@pytest.fixture(scope="module")
def record(built: Built) -> RunRecord:
    bundle = evidence_of(built)
    rows = read_rows(bundle, read_checkpoint(bundle.checkpoint, None))
    evidence = {
        identity: Evidence(rows.statements[identity]["content"].encode(), bundle.read(row["object_digest"]))
        for identity, row in rows.proofs.items()
    }
    return RunRecord(rows.manifest, rows.roots(), evidence)


def judged(record: RunRecord) -> RunVerdict:
    """With verdicts remembered (conftest.py)."""
    return verify_run(record, spread=lambda jobs: (tasks.verify.check_one(*job) for job in jobs))


def test_processes_change_nothing(bundle: Bundle, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.verify, "check_one", check_one)
    seen: list[tuple[str, int]] = []
    ours = judge(bundle, workers=2, progress=lambda item, total: seen.append((item.statement_id, total)))
    theirs = verify_bundle(evidence_of(built))
    assert ours.accepted and theirs.accepted and ours.found and theirs.found
    assert [t.task for t in ours.found.tasks] == [t.task for t in theirs.found.tasks]
    assert [t.soundness for t in ours.found.tasks] == [t.soundness for t in theirs.found.tasks]
    assert sorted(seen) == sorted((t.statement_id, 10) for t in theirs.found.tasks)


def test_only_a_few_jobs_are_in_memory(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.verify, "check_one", check_one)
    taken, done, most = 0, 0, 0

    def read(digest: str) -> bytes:
        nonlocal taken, most
        taken += 1
        most = max(most, taken - done)
        return bundle.read(digest)

    def count(_: TaskVerdict, total: int) -> None:
        nonlocal done
        done += 1

    assert judge(replace(bundle, read=read), workers=2, progress=count).accepted
    assert done == taken == 10 and most <= 6


def test_a_proof_byte_changes_one_verdict(record: RunRecord) -> None:
    identity, evidence = next(iter(record.evidence.items()))
    proof = bytearray(evidence.proof)
    proof[40] ^= 1
    verdict = judged(replace(record, evidence=dict(record.evidence) | {identity: replace(evidence, proof=bytes(proof))}))
    assert not verdict.accepted and verdict.bits == 0
    assert [t.statement_id for t in verdict.tasks if not t.accepted] == [identity]


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[]", b"null", b"\xff", b'{"version":1}', b"[" * 5000])
def test_hostile_manifests_are_rejected(record: RunRecord, manifest: bytes) -> None:
    with pytest.raises(VerificationError):
        judged(replace(record, manifest=manifest))


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_flipped_manifest_bytes_are_rejected(record: RunRecord) -> None:
    manifest, chance = record.manifest, random.Random(1)
    for position in chance.sample(range(len(manifest)), 60):
        changed = flipped(manifest, position, 1 << chance.randrange(8))
        try:
            verdict = judged(replace(record, manifest=changed))
        except VerificationError:
            continue
        assert not verdict.accepted and verdict.reason, position


def test_a_flipped_root_is_rejected_whatever_it_commits_to(record: RunRecord) -> None:
    assert len(record.roots) >= 10
    for number, (name, root) in enumerate(record.roots.items()):
        assert not judged(replace(record, roots=dict(record.roots) | {name: flipped(root, number % 32, 1)})).accepted, name


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"published":{}}', b"\xff", b"[" * 5000], ids=range(7))
def test_hostile_statements_are_rejected(record: RunRecord, content: bytes) -> None:
    identity = list(record.evidence)[-1]
    verdict = judged(replace(record, evidence=dict(record.evidence) | {identity: replace(record.evidence[identity], content=content)}))
    assert [t.statement_id for t in verdict.tasks if not t.accepted] == [identity]


@pytest.mark.parametrize("kind", [ValueError, KeyError, RecursionError, OSError])
def test_an_unexpected_exception_rejects(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise kind("from hostile evidence")

    monkeypatch.setattr(tasks.verify, "check_one", check_one)
    monkeypatch.setattr(verifier.run, "verify_task", fail)
    verdict = judge(bundle, workers=1)
    assert not verdict.accepted and verdict.found and verdict.found.bits == 0 and not any(t.accepted for t in verdict.found.tasks)
    assert "malformed" in verdict.reason


@pytest.mark.parametrize("name", ["compare_order", "resolve_ids", "check_chain"])
def test_an_unexpected_exception_before_the_tasks_rejects(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(verifier.run, name, fail)
    verdict = judge(bundle, {"seed": "7"}, workers=1)
    assert not verdict.accepted and "malformed" in verdict.reason and "ZeroDivisionError" in verdict.reason


@pytest.mark.parametrize(("kind", "said"), [(MemoryError, "(MemoryError)"), (BrokenProcessPool, "the system has ended a process")])
def test_lack_of_memory_or_a_killed_worker_is_no_verdict(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], said: str
) -> None:
    def fail(*_: object) -> None:
        raise kind

    monkeypatch.setattr(tasks.verify, "check_one", fail)
    with pytest.raises(NoVerdict) as caught:
        judge(bundle, workers=1)
    assert said in str(caught.value) and "there is no verdict" in str(caught.value) and "--workers 1" in str(caught.value)
    assert exit_code(caught.value) == UNAVAILABLE


def test_a_process_that_the_system_kills_is_no_verdict(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really one of the pool's, killed while it works."""
    monkeypatch.setattr(tasks.verify, "check_one", killed)
    with pytest.raises(NoVerdict, match="the system has ended a process"):
        judge(bundle, workers=2)


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_store_that_does_not_answer_is_no_verdict(bundle: Bundle) -> None:
    def read(_: str) -> bytes:
        raise StoreUnavailable("no answer")

    with pytest.raises(StoreUnavailable):
        judge(replace(bundle, read=read), workers=1)


def test_a_task_without_a_verdict_is_rejected(record: RunRecord) -> None:
    def forgetful(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
        for number, job in enumerate(jobs):
            if number:
                yield tasks.verify.check_one(*job)

    verdict = verify_run(record, spread=forgetful)
    assert not verdict.accepted and "not checked" in verdict.reason
