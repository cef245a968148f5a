"""Samples: drawn by the beacon, never called accepted, with the probability that they would have found something."""

from itertools import combinations

import pytest

from tests.support.bundles import Judge, Source, statement
from verifier.report import report
from verifier.sample import Sample

BEACON = "0123456789abcdef" * 2


def test_a_sample_is_never_called_accepted(judge: Judge, honest: bytes) -> None:
    verdict = judge(honest, sample=Sample(BEACON, 3))
    assert not verdict.accepted and verdict.state == "sample passed" and verdict.found and len(verdict.found.tasks) == 3
    text = report(verdict)["sample"]
    assert "3 of 10 tasks" in text and BEACON in text and "1: 0.3000" in text and "5: 0.9167" in text


def test_the_beacon_decides_which_tasks(judge: Judge, honest: bytes) -> None:
    drawn = {tuple(str(t.task) for t in judge(honest, sample=Sample(f"{n:032x}", 2)).found.tasks) for n in range(20)}  # type: ignore[union-attr]
    assert len(drawn) > 10


def test_a_bad_task_is_found_if_it_is_drawn_and_a_missing_one_always(judge: Judge, source: Source) -> None:
    embed = statement(source, "embed")
    bad = source.change("proofs", {"statement_id": embed}, object_digest="0" * 64)
    verdicts = [judge(bad, sample=Sample(f"{n:032x}", 5)) for n in range(12)]
    for verdict in verdicts:
        found = verdict.found
        assert found and (verdict.state == "rejected") == (embed in [t.statement_id for t in found.tasks])
    assert {verdict.state for verdict in verdicts} == {"rejected", "sample passed"}
    assert "missing-proof" in judge.reason(source.without("proofs", {"statement_id": embed}), sample=Sample(BEACON, 1))


def test_detection_is_the_hypergeometric_probability() -> None:
    sample = Sample(BEACON, 3)
    for bad in range(1, 8):
        draws = list(combinations(range(7), 3))
        assert sample.detection(7, bad) * len(draws) == sum(any(n < bad for n in draw) for draw in draws)
    assert Sample(BEACON, 50).detection(7, 1) == 1


@pytest.mark.parametrize(("beacon", "size"), [("", 1), ("00", 1), (BEACON.upper(), 1), (BEACON + "0", 1), ("g" * 32, 1), (BEACON, 0)])
def test_beacons_that_are_none(beacon: str, size: int) -> None:
    with pytest.raises(ValueError, match="beacon"):
        Sample(beacon, size)


def test_the_sentence_gives_the_odds_for_these_numbers_of_bad_tasks() -> None:
    text = Sample(BEACON, 4).text(100)
    counts = (1, 2, 5, 10, 20, 50, 100)
    assert text.endswith(", ".join(f"{m}: {float(Sample(BEACON, 4).detection(100, m)):.4f}" for m in counts))
    assert "4 of 100 tasks" in text and "100: 1.0000" in text and "100:" not in Sample(BEACON, 4).text(99)
    assert "20: 1.0000" in Sample(BEACON, 30).text(20) and "20 of 20" in Sample(BEACON, 30).text(20)
