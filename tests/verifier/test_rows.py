"""Rows of a ledger as whoever owns it can write them: each is refused for its own reason, before or after any proof."""

import hashlib
import json
from dataclasses import replace

import pytest

from protocol.encoding import canonical_json
from protocol.manifest import RunManifest
from protocol.statement import PUBLIC_BASE, Name, commitment_layout, statement_id, task_list
from tests.support.bundles import Leaf, encode
from tests.support.unproved import SURE, World, believed, logged, refused
from verifier.bundle import Bundle
from verifier.evidence import Rows, Verdict, _with_rows, check_rows, read_checkpoint, read_rows, verify_bundle
from verifier.log import EMPTY_ROOT
from verifier.note import Checkpoint
from verifier.run import TaskVerdict

RUN: Leaf = {"table": "runs", "row": {"run_id": "r", "manifest_digest": hashlib.sha256(b"m").hexdigest(), "manifest": "m"}}
STATEMENT: Leaf = {"table": "statements", "row": {"run_id": "r", "statement_id": "s", "kind": "embed", "window": 0, "layer": -1, "part": 0,
                                                  "content": "{}"}}
OPENING: Leaf = {"table": "openings", "row": {"statement_id": "s"}}
VERDICT: Leaf = {"table": "verdicts", "row": {"run_id": "r"}}


def read(bundle: Bundle) -> Rows:
    return read_rows(bundle, read_checkpoint(bundle.checkpoint, None))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def verdict(world: World, leaves: list[Leaf], **options: object) -> Verdict:
    bundle = logged(leaves, world.manifest.run_id)
    return verify_bundle(bundle, **{"spread": believed} | options)  # type: ignore[arg-type]


def changed(leaves: list[Leaf], table: str, **columns: object) -> list[Leaf]:
    """The first row of a table, with other columns."""
    number = next(n for n, leaf in enumerate(leaves) if leaf["table"] == table)
    return [leaf if n != number else {"table": table, "row": leaf["row"] | columns} for n, leaf in enumerate(leaves)]


# which rows ----------------------------------------------------------------------------------------------------------------------


def test_rows_are_read_by_table_and_key() -> None:
    event = {"table": "run_events", "row": {"run_id": "r", "kind": "started", "window": 3, "detail": "{}"}}
    place = {"run_id": "r", "name": "x/0", "window": 2, "layer": 0}
    commitment = place | {"commitment_id": "", "root": "0" * 64, "geometry": "", "budget": ""}
    proof = {"statement_id": "s", "object_digest": "", "size": 5, "prover": "", "seconds": "", "soundness": ""}
    leaves = [RUN, {"table": "commitments", "row": commitment}, STATEMENT, {"table": "proofs", "row": proof}, event, OPENING, VERDICT]
    rows = read(logged(leaves, "r"))
    assert rows.run == RUN["row"] and rows.manifest == b"m" and rows.commitments == {"x/0@2": commitment}
    assert rows.statements == {"s": STATEMENT["row"]} and rows.proofs == {"s": proof} and rows.events == (event["row"],)
    assert rows.roots() == {"x/0@2": bytes(32)} and rows.log.size == len(leaves)


def test_positions_ascend_within_the_log_also_of_rows_without_a_key() -> None:
    """Else one opening, or one verdict, could be shown as two."""
    leaves = [RUN, STATEMENT, OPENING, VERDICT]
    for shown, again in (([0, 1, 2, 2], 2), ([0, 1, 2, 3, 3], 3), ([1, 0, 2, 3], 0), ([0, 0], 0)):
        assert refused("row-position", lambda s=shown: read(logged(leaves, "r", s))).where == f"row {again}"
    assert read(logged(leaves, "r", [0, 3])).run == RUN["row"]


@pytest.mark.parametrize("position", [-1, -2, 1, 2, 2**62])
def test_positions_outside_the_log(position: int) -> None:
    bundle = logged([RUN], "r")
    refused("row-position", lambda: read(replace(bundle, rows=[replace(row, position=position) for row in bundle.rows])))


def test_a_row_stands_where_it_says() -> None:
    bundle = logged([RUN, VERDICT, VERDICT], "r")
    first, *others = bundle.rows
    for row in (replace(first, leaf=encode(VERDICT)), replace(first, path=first.path[:1]), replace(first, path=())):
        refused("inclusion", lambda r=row: read(replace(bundle, rows=[r, *others])))


@pytest.mark.parametrize(("leaf", "reason"), [
    ({"table": "gifts", "row": {"run_id": "r"}}, "row-table"),
    ({"table": "checkpoints", "row": {"run_id": "r"}}, "row-table"),
    ({"table": "verdicts", "row": {}}, "malformed"),
    ({"table": "verdicts", "row": {"run_id": 1}}, "malformed"),
    ({"table": "verdicts", "row": {"run_id": "q"}}, "foreign-row"),
    ({"table": "openings", "row": {"statement_id": "t"}}, "foreign-row"),
    (RUN, "duplicate-row"),
    (STATEMENT, "duplicate-row"),
])
def test_a_row_has_a_known_table_its_columns_and_a_key_of_this_run(leaf: Leaf, reason: str) -> None:
    error = refused(reason, lambda: read(logged([RUN, STATEMENT, leaf], "r")))
    assert error.where == "row 2"


def test_an_event_may_happen_once_in_each_window() -> None:
    row = {"run_id": "r", "kind": "trained", "window": 0, "detail": "{}"}
    events = [{"table": "run_events", "row": row | change} for change in ({}, {"window": 1}, {"kind": "proved"})]
    assert read(logged([RUN, *events], "r")).events == tuple(event["row"] for event in events)
    refused("duplicate-row", lambda: read(logged([RUN, *events, events[0] | {"row": row | {"detail": "another"}}], "r")))


def test_there_is_a_run_and_it_is_of_its_manifest() -> None:
    assert refused("missing-row", lambda: read(logged([VERDICT], "r"))).where == "runs"
    refused("missing-row", lambda: read(logged([], "r")))
    for columns in ({"manifest": "n"}, {"manifest_digest": "0" * 64}, {"manifest_digest": RUN["row"]["manifest_digest"].upper()}):
        refused("manifest-digest", lambda c=columns: read(logged([RUN | {"row": RUN["row"] | c}], "r")))


def test_rows_that_are_kept_are_counted_with_a_kilobyte_each() -> None:
    """Rows that nothing is kept of cost nothing: a run may have any number of openings and verdicts."""
    bundle = logged([RUN, STATEMENT, *[OPENING, VERDICT] * 4], "r")
    size = len(encode(RUN)) + len(encode(STATEMENT)) + 2 * 1024
    assert read(replace(bundle, limit=size)).statements
    assert refused("size", lambda: read(replace(bundle, limit=size - 1))).where == "row 1"


@pytest.mark.parametrize("text", ["", "00", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n"])
def test_a_root_is_a_digest_in_lower_case(world: World, text: str) -> None:
    rows = world.rows()
    assert refused("commitment-row", lambda: replace(rows, commitments=dict(rows.commitments) | {"x": {"root": text}}).roots()).where == "x"


@pytest.mark.parametrize("text", ["", "00", "../x", "A" * 64, "0" * 65, "0" * 64 + "\n"])
def test_a_proof_lies_under_a_digest(world: World, text: str) -> None:
    """It becomes a file's name: nothing else may reach the store."""
    error = refused("proof-row", lambda: world.stored(object_digest=text))
    assert error.where == "object_digest"


def test_a_proof_is_what_its_row_says(world: World) -> None:
    assert world.stored().proof == b"proof"
    refused("damaged-object", lambda: world.stored(object_digest=hashlib.sha256(b"roof").hexdigest()))
    for size in (4, 6, 0, -5):
        assert refused("proof-row", lambda s=size: world.stored(size=s)).where == "size"


# columns -------------------------------------------------------------------------------------------------------------------------


def test_rows_that_follow_from_the_manifest_are_accepted(world: World) -> None:
    found = verdict(world, world.leaves())
    assert found.accepted and found.reason == "" and found.rows and len(found.rows.proofs) == len(task_list(world.manifest))


@pytest.mark.parametrize(("column", "value"), [
    ("name", "head"), ("window", 0), ("layer", 1), ("commitment_id", "0" * 64), ("geometry", "{}"), ("budget", 1), ("budget", ""),
    ("budget", "2"),
])
def test_every_column_of_a_commitment_is_what_follows(world: World, column: str, value: object) -> None:
    rows = world.rows()
    for text in ("base/0", "x/0@0", "dataset"):
        row = {text: rows.commitments[text] | {column: value}}
        if row[text] != rows.commitments[text]:
            refused("commitment-row", lambda r=row: check_rows(world.manifest, replace(rows, commitments=dict(rows.commitments) | r)))


def test_the_rows_are_of_the_manifest_s_run_and_every_statement_is_proved(world: World) -> None:
    """A run id is the beginning of its manifest's digest; a statement without a proof is none of this run's."""
    leaves = json.loads(json.dumps(world.leaves()).replace(world.manifest.run_id, "mine"))
    found = verify_bundle(logged(leaves, "mine"), spread=believed)
    assert found.state == "rejected" and found.reason.startswith("run-id at runs")
    extra = STATEMENT | {"row": STATEMENT["row"] | {"run_id": world.manifest.run_id}}
    assert verdict(world, [*world.leaves(), extra]).reason.startswith("foreign-statement at statements")


def test_openings_of_a_public_base_are_unlimited_and_of_nothing_else(world: World) -> None:
    """Of a public base model the row's budget is "", the layout has no blinding; of everything else nothing changes."""
    manifest = replace(world.manifest, base_visibility="public")
    names = {str(n): n for t in task_list(manifest) for _, n in t.commitments}
    rows = world.rows()
    right = {text: rows.commitments[text] | public_row(manifest, name) for text, name in names.items()}
    run = {"run_id": manifest.run_id, "manifest": manifest.to_json().decode()}
    check_rows(manifest, replace(rows, run=run, commitments=right))
    assert {name.kind for text, name in names.items() if right[text]["budget"] == ""} == set(PUBLIC_BASE)
    for text in names:
        other = right | {text: right[text] | {"budget": 2 if right[text]["budget"] == "" else ""}}
        refused("commitment-row", lambda o=other: check_rows(manifest, replace(rows, run=run, commitments=o)))


def public_row(manifest: RunManifest, name: Name) -> dict[str, object]:
    layout = commitment_layout(manifest, name)
    budget = "" if name.kind in ("base", "embedding", "head") else 2
    return {"commitment_id": layout.identity(bytes(32)), "geometry": canonical_json(layout.geometry()).decode(), "budget": budget}


def test_a_statement_s_row_says_which_task_it_is(world: World) -> None:
    for column, value in (("kind", "head"), ("window", 1), ("layer", 0), ("part", 1)):
        found = verdict(world, changed(world.leaves(), "statements", **{column: value}))
        assert found.state == "rejected" and ": statement-row at " in found.reason and f", {column}: " in found.reason


def test_soundness_may_be_understated_and_never_overstated(world: World) -> None:
    true = {"bits": 101, "total_bits": 100, "centibits": {"queries": 10100}}
    for claim in (true, {"bits": 100, "total_bits": 99, "centibits": {"queries": 1}}, true | {"centibits": {}}, true | {"bits": -1},
                  true | {"centibits": {"queries": 10100, "another": 0}}):
        world.judged(claim)
    for claim in (true | {"bits": 102}, true | {"total_bits": 101}, true | {"centibits": {"queries": 10101}}, true | {"bits": True},
                  true | {"total_bits": "1"}, true | {"centibits": {"queries": 10100, "another": 1}}, true | {"more": 1},
                  {"bits": 101, "total_bits": 100}, {}):
        assert refused("proof-row", lambda c=claim: world.judged(c)).where.startswith("soundness")


def test_an_accepted_task_whose_rows_lie_is_rejected(world: World) -> None:
    task = task_list(world.manifest)[0]
    accepted = TaskVerdict(task, statement_id(world.manifest, task), True, "", SURE, {"loss": [1]})  # type: ignore[dict-item]
    leaves = changed(world.leaves(), "proofs", soundness='{"bits":128,"centibits":{},"total_bits":100}')
    right, lying = (read(logged(rows, world.manifest.run_id)) for rows in (world.leaves(), leaves))
    assert _with_rows(right, accepted) == accepted
    found = _with_rows(lying, accepted)
    assert not found.accepted and found.reason.startswith("proof-row") and found.soundness is None and found.published == {}
    # its proof's reason stays, whatever the rows say
    rejected = replace(accepted, accepted=False, reason="opening", soundness=None, published={})
    assert _with_rows(lying, rejected) == rejected
    whole = verdict(world, leaves)
    assert whole.state == "rejected" and "soundness bits" in whole.reason


# what was seen before ------------------------------------------------------------------------------------------------------------


def test_a_consistency_proof_is_needed_from_what_was_seen(world: World) -> None:
    leaves, run = world.leaves(), world.manifest.run_id

    def seen(size: int) -> Checkpoint:
        return read_checkpoint(logged(leaves[:size], run).checkpoint, None)

    for size in (1, 2, 5, len(leaves) - 1):
        assert verify_bundle(logged(leaves, run, since=size), seen=seen(size), spread=believed).accepted
        reason = verify_bundle(logged(leaves, run, since=size + 1), seen=seen(size), spread=believed).reason
        assert reason.startswith("consistency at log") and f"--since {size}" in reason


def test_a_proof_that_is_not_needed_is_not_looked_at(world: World) -> None:
    """Who has seen nothing, or just this checkpoint, takes a bundle that was exported for somebody else."""
    leaves, run = world.leaves(), world.manifest.run_id
    bundle = logged(leaves, run, since=3)
    for seen in (Checkpoint("o", 0, EMPTY_ROOT), read_checkpoint(bundle.checkpoint, None)):
        found = verify_bundle(bundle, seen=seen, spread=believed)
        assert found.accepted and f"continues the one of {seen.size} entries" in found.trust


def test_a_bundle_without_a_checkpoint(world: World) -> None:
    bundle = replace(logged(world.leaves(), world.manifest.run_id), checkpoint=b"")
    found = verify_bundle(bundle, spread=believed)
    assert found.reason.startswith("missing-checkpoint") and found.rows is None and found.found is None


def test_an_unreadable_source_of_rows_is_a_rejection(world: World) -> None:
    def broken() -> object:
        raise ZeroDivisionError
        yield

    found = verify_bundle(replace(logged(world.leaves(), world.manifest.run_id), rows=broken()))  # type: ignore[arg-type]
    assert found.state == "rejected" and found.reason.startswith("malformed") and "ZeroDivisionError" in found.reason
