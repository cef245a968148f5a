"""A whole run: which roots and statements it must have, and that every task gets its own verdict or none."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.statement import statement_id, task_list
from tests.support.unproved import World, believed
from tests.toy import EVEN, toy
from verifier.run import RunRecord, check_chain, resolve_ids, verify_run
from verifier.sample import Sample
from verifier.task import Evidence

NOTHING = Evidence(b"{}", b"")


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def record(world: World) -> RunRecord:
    evidence = {statement_id(world.manifest, task): NOTHING for task in task_list(world.manifest)}
    return RunRecord(world.manifest.to_json(), world.roots, evidence)


def refused(reason: str, check: Callable[[], object]) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.reason == reason
    return caught.value


def test_a_manifest_with_more_windows_and_layers_than_roots_is_refused_before_its_tasks_are_listed() -> None:
    """Three windows of two layers write six states: with fewer roots no task is looked at, however many the manifest implies."""
    manifest = toy(sizes=EVEN, layers=2, steps=3, window_steps=1, target_modules=("q_proj",)).manifest
    for count, where in ((0, "run"), (5, "run"), (6, "base/0")):
        roots = {f"z/{n}": bytes(32) for n in range(count)}
        assert refused("missing-commitment", lambda r=roots: resolve_ids(manifest, r)).where == where


def test_a_manifest_with_more_parts_than_roots_is_refused_before_its_tasks_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of each layer writes an x. Otherwise 256 roots would have 3·2^20 tasks listed."""
    manifest = replace(toy(sizes=EVEN, layers=2, steps=3, window_steps=1, target_modules=("q_proj",)).manifest, parts=2)
    for count, where in ((0, "run"), (6, "run"), (11, "run"), (12, "adapter/0@0")):
        roots = {f"z/{n}": bytes(32) for n in range(count)}
        assert refused("missing-commitment", lambda r=roots: resolve_ids(manifest, r)).where == where
    monkeypatch.setattr("verifier.run.task_list", lambda _: pytest.fail("the tasks were listed"))
    assert refused("missing-commitment", lambda: resolve_ids(manifest, dict.fromkeys(map(str, range(11)), bytes(32)))).where == "run"


def test_every_commitment_and_no_other(world: World) -> None:
    assert resolve_ids(world.manifest, world.roots) == world.ids
    for name in world.roots:
        others = {text: root for text, root in world.roots.items() if text != name}
        assert refused("missing-commitment", lambda r=others: resolve_ids(world.manifest, r)).where == name
    assert refused("foreign-commitment", lambda: resolve_ids(world.manifest, world.roots | {"x/9@0": bytes(32)})).where == "x/9@0"


def test_commitments_known_at_the_start_are_the_manifest_s(world: World) -> None:
    for name in world.roots:
        changed = world.roots | {name: b"\1" * 32}
        if name in world.manifest.commitments:
            assert refused("commitment-id", lambda r=changed: resolve_ids(world.manifest, r)).where == name
        else:
            assert resolve_ids(world.manifest, changed)[name] != world.ids[name]


def test_every_statement_and_no_other(world: World, record: RunRecord) -> None:
    assert list(check_chain(world.manifest, record.evidence).values()) == task_list(world.manifest)
    for identity, task in check_chain(world.manifest, record.evidence).items():
        others = {other: item for other, item in record.evidence.items() if other != identity}
        assert refused("missing-proof", lambda e=others: check_chain(world.manifest, e)).where == str(task)
    assert refused("foreign-statement", lambda: check_chain(world.manifest, dict(record.evidence) | {"s": NOTHING})).where == "s"


def test_a_run_that_is_no_chain_has_no_verdict_on_any_task(record: RunRecord) -> None:
    found = verify_run(replace(record, roots={}), {"seed": 7}, believed, Sample("00" * 16, 2))
    assert not found.accepted and found.state == "rejected" and found.reason.startswith("missing-commitment")
    assert found.tasks == () and found.count == 0 and found.bits == 0.0
    assert "1 values agree" in found.order  # what was compared before stays true


def test_the_tasks_of_a_sample_are_those_that_the_beacon_draws(world: World, record: RunRecord) -> None:
    tasks = task_list(world.manifest)
    for beacon in ("00" * 16, "01" * 16, "02" * 16):
        sample = Sample(beacon, 3)
        found = verify_run(record, spread=believed, sample=sample)
        assert [item.task for item in found.tasks] == [tasks[n] for n in sample.draw(world.manifest.digest(), len(tasks))]
        assert found.state == "sample passed" and not found.accepted and found.count == len(tasks)


class Unreadable(Mapping[str, Evidence]):
    """Evidence of which one piece cannot be read."""

    def __init__(self, evidence: Mapping[str, Evidence], broken: str) -> None:
        self.evidence, self.broken = evidence, broken

    def __getitem__(self, identity: str) -> Evidence:
        if identity == self.broken:
            raise VerificationError("damaged-object", "somewhere")
        return self.evidence[identity]

    def __contains__(self, identity: object) -> bool:
        return identity in self.evidence

    def __iter__(self) -> Iterator[str]:
        return iter(self.evidence)

    def __len__(self) -> int:
        return len(self.evidence)


def test_evidence_that_cannot_be_read_rejects_its_task_alone(world: World, record: RunRecord) -> None:
    manifest: RunManifest = world.manifest
    for broken, task in zip(record.evidence, task_list(manifest), strict=True):
        found = verify_run(replace(record, evidence=Unreadable(record.evidence, broken)), spread=believed)
        assert found.state == "rejected" and found.reason == f"{task}: damaged-object at somewhere" and found.bits == 0.0
        [bad] = [item for item in found.tasks if not item.accepted]
        assert (bad.task, bad.statement_id, bad.reason) == (task, broken, "damaged-object at somewhere")
        assert bad.soundness is None and bad.published == {} and len(found.tasks) == len(task_list(manifest))
