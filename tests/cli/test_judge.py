"""The verdict spread over processes is the verifier's own, and fails closed."""

from dataclasses import replace

import pytest

from storage.ledger import open_ledger
from storage.object_store import open_object_store
from tasks.record import Collected, collect
from tasks.verify import judge
from tests.cli.build_run import RUN_ID, Built
from verifier.run import verify_run


@pytest.fixture
def collected(built: Built) -> Collected:
    return collect(open_ledger(built.ledger_url, read_only=True), open_object_store(built.objects_url), RUN_ID)


def test_processes_change_nothing(collected: Collected) -> None:
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
