"""Structured mutations of every field of a toy proof: each is rejected, and for the reason that its first difference leads to.

`make attacks` runs 1,000 of each field (FIELD_MUTATIONS=n for another number), one line for all.
"""

import os

import pytest

from tests.campaigns.mutations import FORGED, TRANSIT, Target


@pytest.fixture(scope="module")
def target() -> Target:
    return Target()


def test_the_fields_are_all_there_is(target: Target) -> None:
    """Messages lie end to end from the first byte to the last."""
    at = 0
    for _, offset, size in target.log:
        assert offset == at
        at += size
    assert at == len(target.proof) and target.expected(target.proof) == target.tiny.reason(target.proof) == "accepted"
    assert len(target.places) == 22 and set(target.fields) > set(target.places)


def test_a_verifier_that_goes_on_says_what_a_whole_one_says(target: Target) -> None:
    """Before and after the place where it goes on, proofs that end early or late included."""
    seen = set[str]()
    for field, operation in zip(list(target.places) * 2, TRANSIT * 4):
        proof = target.mutate(field, operation)
        reason = target.judge(proof)
        seen.add(reason)
        assert reason == target.tiny.reason(proof), (field, operation)
    assert target.judge(target.proof + b"0") == "trailing" and target.judge(b"") == target.judge(target.proof[:-1]) == "truncated"
    assert seen >= {"opening-relation", "merkle-root", "non-canonical"}


@pytest.mark.parametrize("operation", TRANSIT)
def test_in_transit(target: Target, operation: str) -> None:
    """Each operation on a few fields; the campaign does all."""
    fields = target.fields[TRANSIT.index(operation) % 4 :: 4]
    for field in fields:
        found = target.transit(field, operation)
        if found:
            assert found.actual == found.expected, found


@pytest.mark.parametrize("operation", FORGED)
def test_forged(target: Target, operation: str) -> None:
    """A prover that changes a message before it is absorbed and goes on consistently."""
    tags = list(target.places)
    for tag in tags[FORGED.index(operation) :: len(FORGED)]:
        found = target.forge(tag, operation)
        if found:
            assert found.actual == found.expected, found


def test_a_forged_message_keeps_its_size(target: Target) -> None:
    """The last message too, where the proof that it is taken from may have ended."""
    offset, size = target.places["siblings/witness"][0]
    message = target.proof[offset : offset + size]
    assert len(target.change("splice", "siblings/witness", message, message[:64])) == size


@pytest.mark.parametrize("tag", ["opening/v1", "opening/v2"])
def test_what_only_columns_can_tell(target: Target, tag: str) -> None:
    found = target.kernel(tag)
    assert found.actual == found.expected == "column-check"


@pytest.mark.attacks
def test_campaign(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    count = int(os.environ.get("FIELD_MUTATIONS", "1000"))
    tried = 0
    wrong = []
    reasons: dict[str, int] = {}
    for field in target.fields:
        for found in target.run(field, count, count // 20):
            tried += 1
            reasons[found.actual] = reasons.get(found.actual, 0) + 1
            if found.actual != found.expected:
                wrong.append(found)
    survivors = reasons.get("accepted", 0)
    with capsys.disabled():
        print(f"\nstructured mutations, {len(target.fields)} fields: tried {tried}, rejected {tried - survivors}, survivors {survivors} "
              f"({', '.join(f'{name} {n}' for name, n in sorted(reasons.items()))}; other reason than expected {len(wrong)})")
    assert not wrong, wrong[:10]
