"""The verdict spread over processes is the verifier's own, and fails closed."""

import random
from dataclasses import replace

import pytest

import tasks.verify
from storage.ledger import open_ledger
from storage.object_store import open_object_store
from tasks.record import Collected, collect
from tasks.verify import judge
from tests.cli.build_run import RUN_ID, Built
from verifier.run import check_one, verify_run


@pytest.fixture
def collected(built: Built) -> Collected:
    return collect(open_ledger(built.ledger_url, read_only=True), open_object_store(built.objects_url), RUN_ID)


def test_processes_change_nothing(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.verify, "check_one", check_one)
    seen: list[str] = []
    ours, theirs = judge(collected, workers=2, progress=lambda item, total: seen.append(item.statement_id)), verify_run(collected.record)
    assert ours.accepted and theirs.accepted
    assert [t.task for t in ours.tasks] == [t.task for t in theirs.tasks]
    assert [t.soundness for t in ours.tasks] == [t.soundness for t in theirs.tasks]
    assert sorted(seen) == sorted(t.statement_id for t in theirs.tasks)


def test_a_proof_byte_changes_one_verdict(collected: Collected) -> None:
    identity, evidence = next(iter(collected.record.evidence.items()))
    proof = bytearray(evidence.proof)
    proof[40] ^= 1
    changed = dict(collected.record.evidence) | {identity: replace(evidence, proof=bytes(proof))}
    record = replace(collected.record, evidence=changed)
    verdict = judge(replace(collected, record=record), workers=1)
    assert not verdict.accepted and verdict.bits == 0
    assert [t.statement_id for t in verdict.tasks if not t.accepted] == [identity]


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[]", b"null", b"\xff", b'{"version":1}', b"[" * 5000])
def test_hostile_manifests_are_rejected(collected: Collected, manifest: bytes) -> None:
    verdict = judge(replace(collected, record=replace(collected.record, manifest=manifest)), workers=1)
    assert not verdict.accepted and verdict.manifest is None and verdict.reason


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


def test_flipped_manifest_bytes_are_rejected(collected: Collected) -> None:
    manifest, chance = collected.record.manifest, random.Random(1)
    for position in chance.sample(range(len(manifest)), 60):
        changed = flipped(manifest, position, 1 << chance.randrange(8))
        verdict = judge(replace(collected, record=replace(collected.record, manifest=changed)), workers=1)
        assert not verdict.accepted and verdict.reason, position


def test_a_flipped_root_is_rejected_whatever_it_commits_to(collected: Collected) -> None:
    roots = collected.record.roots
    assert len(roots) >= 10
    for number, (name, root) in enumerate(roots.items()):
        record = replace(collected.record, roots=dict(roots) | {name: flipped(root, number % 32, 1)})
        assert not judge(replace(collected, record=record), workers=1).accepted, name


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"published":{}}', b"\xff", b"[" * 5000], ids=range(7))
def test_hostile_statements_are_rejected(collected: Collected, content: bytes) -> None:
    evidence = dict(collected.record.evidence)
    identity = list(evidence)[-1]
    evidence[identity] = replace(evidence[identity], content=content)
    verdict = judge(replace(collected, record=replace(collected.record, evidence=evidence)), workers=1)
    assert [t.statement_id for t in verdict.tasks if not t.accepted] == [identity]


def test_a_fault_of_the_record_rejects_although_every_proof_is_good(collected: Collected) -> None:
    identity = next(iter(collected.record.evidence))
    for key in ("", identity):
        verdict = judge(replace(collected, faults={key: "some-fault: told by the test"}), workers=1)
        assert not verdict.accepted and "some-fault" in verdict.reason
        assert sum(not t.accepted for t in verdict.tasks) == (1 if key else 0)


@pytest.mark.parametrize("kind", [ValueError, KeyError, RecursionError])
def test_an_unexpected_exception_rejects(collected: Collected, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise kind("from a hostile record")

    monkeypatch.setattr(tasks.verify, "check_one", fail)
    verdict = judge(collected, workers=1)
    assert not verdict.accepted and verdict.bits == 0 and not any(t.accepted for t in verdict.tasks)
    assert "malformed" in verdict.reason


def test_lack_of_memory_is_no_verdict(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tasks.verify, "check_one", fail)
    with pytest.raises(MemoryError):
        judge(collected, workers=1)
