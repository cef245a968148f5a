"""Evidence by somebody who owns ledger, log key and object store, and wants a verdict that says more than was proved."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from tests.cli.build_run import RUN_ID, Built
from tests.support.bundles import KEYS, Judge, Source, statement
from verifier.__main__ import main
from verifier.note import parse_policy
from verifier.order import compare_order
from verifier.report import html, report
from verifier.task import printable

# rows -----------------------------------------------------------------------------------------------------------------


def claim(source: Source, **changes: object) -> Source:
    """The first proof's row with another soundness text."""
    [text] = [leaf["row"]["soundness"] for leaf in source.leaves if leaf["table"] == "proofs"][:1]
    return source.change("proofs", {}, soundness=canonical_json(json.loads(text) | changes).decode())


def test_one_run_id_belongs_to_one_manifest(judge: Judge, source: Source) -> None:
    """Two manifests logged under one run id could be shown to two auditors under one checkpoint: presence is proved, not absence."""
    leaves = tuple({"table": leaf["table"], "row": leaf["row"] | ({"run_id": "mine"} if "run_id" in leaf["row"] else {})}
                   for leaf in source.leaves)
    assert judge.reason(replace(source, leaves=leaves, run_id="mine")).startswith("run-id")
    shorter = tuple(json.loads(canonical_json(leaf).decode().replace(RUN_ID, RUN_ID[:16])) for leaf in source.leaves)
    assert judge.reason(replace(source, leaves=shorter, run_id=RUN_ID[:16])).startswith("run-id")


def test_a_row_belongs_to_a_run_by_its_table_s_own_column(judge: Judge, source: Source) -> None:
    """A proof's row with a run_id of its own, and no statement that it is of."""
    embed = statement(source, "embed")
    forged = source.change("proofs", {"statement_id": embed}, run_id=RUN_ID).without("statements", {"statement_id": embed})
    assert judge.reason(forged).startswith("foreign-row")
    opening = {"table": "openings", "row": {"run_id": RUN_ID, "statement_id": "another run's"}}
    assert judge.reason(source.with_leaf(opening)).startswith("foreign-row")


@pytest.mark.parametrize(("name", "window", "lie"), [("x/0", 0, ("x/0@0", -1)), ("base/0", -1, ("base/0", -7))])
def test_a_commitment_s_name_has_one_form(judge: Judge, source: Source, name: str, window: int, lie: tuple[str, int]) -> None:
    """Different columns that make the same text."""
    changed = source.change("commitments", {"name": name, "window": window}, name=lie[0], window=lie[1])
    assert judge.reason(changed).startswith("commitment-row")


def test_a_statement_that_nothing_proves_is_not_passed_over(judge: Judge, source: Source) -> None:
    row = {"run_id": RUN_ID, "statement_id": "0" * 64, "kind": "audit", "window": 0, "layer": -1, "part": 0, "content": "{}"}
    assert judge.reason(source.with_leaf({"table": "statements", "row": row})).startswith("foreign-statement")


def test_soundness_of_a_source_that_there_is_not(judge: Judge, source: Source) -> None:
    assert "soundness" in judge.reason(claim(source, centibits={"conjectured": 25600}))
    assert "soundness" in judge.reason(claim(source, quantum_bits=256))
    assert "soundness" in judge.reason(claim(source, bits=-1, total_bits=True))


# orders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [{"optimizer": {}}, {"seed": "7", "lora": {}}, {"model": {"rope_scaling": {}}}])
def test_an_empty_section_of_an_order_is_no_comparison(built: Built, order: dict) -> None:
    with pytest.raises(VerificationError):
        compare_order(built.manifest, order)


def test_a_verdict_says_what_was_compared(judge: Judge, honest: bytes) -> None:
    """Else whoever reads a receipt takes its order for theirs."""
    verdict = judge(honest, order={"seed": "7", "lora": {"r": "2"}})
    assert verdict.accepted and "2 values agree (seed, lora.r)" in verdict.order


def test_decimals_of_an_order_are_compared_as_they_are_written(honest: bytes, built: Built, tmp_path: Path) -> None:
    """0.02 and 0.020000000000000001 are one binary number, and two orders."""
    (tmp_path / "bundle").write_bytes(honest)
    rate = built.manifest.optimizer.learning_rate
    assert "." in rate and float(rate + "0" * 16 + "1") == float(rate)
    for text, reason in ((rate, ""), (rate + "0" * 16 + "1", "order at optimizer.learning_rate")):
        (tmp_path / "order").write_text('{"optimizer":{"learning_rate":' + text + '},"seed":8}')
        assert main([str(tmp_path / "bundle"), "--expect", str(tmp_path / "order"), "--report", str(tmp_path / "report")]) == 1
        found = json.loads((tmp_path / "report" / "report.json").read_text())["reason"]
        assert found.startswith(reason or "order at seed"), found


# what a verdict looks like --------------------------------------------------------------------------------------------


FORGED = "x\n\u2028\x1b[2J\x1b[HACCEPTED run y\u202e"


def test_texts_of_the_evidence_write_no_lines_of_their_own(
    judge: Judge, source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable(FORGED).isprintable() and printable(FORGED).isascii() and printable("a/b@1 {'c': 2}") == "a/b@1 {'c': 2}"
    (tmp_path / "bundle").write_bytes(replace(source, run_id=FORGED).bytes())
    assert main([str(tmp_path / "bundle")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("REJECTED run x\\n") and all(line.isprintable() and line.isascii() for line in lines)
    assert not any(line.startswith("ACCEPTED") for line in lines)


def test_a_run_id_cannot_turn_the_page_s_verdict_round(judge: Judge, source: Source) -> None:
    page = html(report(judge(replace(source, run_id="\u202e: accepted"))))
    assert "<h1>Run <bdi>\u202e: accepted</bdi>: <span class='rejected'>rejected</span></h1>" in page


# logs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["untill:5", "until=5", "Until:5", "5"])
def test_a_retired_key_whose_end_is_misspelt_is_not_believed_for_ever(end: str) -> None:
    with pytest.raises(VerificationError, match="policy"):
        parse_policy(f"log {KEYS.current.public} {end}\nquorum none\n".encode())


def test_a_verdict_says_whether_an_earlier_checkpoint_was_compared(judge: Judge, source: Source) -> None:
    """A lost or misspelt file of --seen is a first visit, which finds no rollback."""
    assert "not compared with an earlier one" in judge(source).trust
    assert f"continues the one of {len(source.leaves)} entries seen before" in judge(source, seen=source.checkpoint()).trust
    assert "; it" not in judge(source, seen=replace(source.checkpoint(), root=bytes(32))).trust


def test_the_manifest_s_run_id_is_its_digest_s_beginning(built: Built) -> None:
    assert len(built.manifest.run_id) == 32 and built.manifest.digest().startswith(built.manifest.run_id)
    assert RunManifest.from_json(built.manifest.to_json()).run_id == RUN_ID
