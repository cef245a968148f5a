"""Every place in protocol/ and verifier/ where a verification can fail is reached, with its reason.

The places are read from the source (tests/campaigns/sites.py). Most are reached by the known-answer vectors, the others here.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from protocol.channel import CountingChannel, Form
from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.field import GOLDILOCKS, small_field
from protocol.params import profile
from protocol.schedule.constraints import ConstraintSystem
from protocol.schedule.gkr import prove_fraction_tree
from protocol.schedule.sumcheck import sumcheck
from protocol.schedule.triples import check_triples
from protocol.soundness import Soundness, require_bits
from protocol.statement import max_blinding, statement_id, task_list
from prover.executor.evaluate import RelationBroken
from tests.campaigns.sites import Site, site_of, sites
from tests.campaigns.vectors import run_log
from tests.campaigns.vectors.run import OPS
from tests.support.unproved import Returned, World
from tests.vectors.test_vectors import SUITES
from verifier import bundle as bundle_module
from verifier.bundle import LoggedRow
from verifier.evidence import check_rows, read_rows
from verifier.log import leaf_hash
from verifier.note import Checkpoint
from verifier.run import check_chain, resolve_ids
from verifier.task import MAX_PROOF_BYTES, MAX_STATEMENT_BYTES, Evidence, published_values, require_witness_size


class Drawn(CountingChannel):
    """Challenges as told: the last one is repeated."""

    checking = True

    def __init__(self, *numbers: int, field: Any = GOLDILOCKS) -> None:
        super().__init__(field)
        self.numbers = list(numbers)

    def challenge(self, tag: str) -> Any:
        return self.field.ext(self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0])


def runs_row(world: World) -> None:
    leaf = canonical_json({"table": "runs", "row": {"run_id": "r", "manifest_digest": "", "manifest": ""}})
    read_rows(world.bundle(rows=[LoggedRow(0, leaf, ())], limit=100), Checkpoint("o", 1, leaf_hash(leaf)))


def guarded(_: World) -> None:
    class File(bundle_module._Guarded):
        cap = 4

    with File(run_log.__file__) as file:
        file.read()


def nothing(_: object) -> Any:
    return GOLDILOCKS.zeros(2, 2)


TRIGGERS: dict[Site, Callable[[World], object]] = {
    ("protocol.schedule.gkr", "prove_fraction_tree", "zero-challenge"): lambda w: prove_fraction_tree(
        Drawn(0), ConstraintSystem(), 1, None
    ),
    ("protocol.schedule.sumcheck", "sumcheck", "zero-weight"): lambda w: sumcheck(
        Drawn(1), "r", Form(GOLDILOCKS.zero), 1, None, [GOLDILOCKS.one]
    ),
    ("protocol.schedule.triples", "check_triples", "zero-challenge"): lambda w: check_triples(Drawn(0), ConstraintSystem(), nothing),
    ("protocol.schedule.triples", "check_triples", "parameters"): lambda w: many_triples(),
    ("protocol.soundness", "require_bits", "soundness"): lambda w: require_bits(Soundness({"queries": 99.9}, 99.9), 0, "here"),
    ("protocol.statement", "max_blinding", "manifest"): lambda w: max_blinding(
        replace(w.manifest, budgets={"x": 1}), profile("goldilocks-2^10")
    ),
    ("verifier.bundle", "read", "size"): guarded,
    ("verifier.evidence", "__getitem__", "damaged-object"): lambda w: w.stored(object_digest="00" * 32),
    ("verifier.evidence", "__getitem__", "proof-row"): lambda w: w.stored(size=6),
    ("verifier.evidence", "check_rows", "run-id"): lambda w: check_rows(w.manifest, replace(w.rows(), run={"run_id": "r"})),
    ("verifier.evidence", "check_rows", "foreign-statement"): lambda w: check_rows(w.manifest, replace(w.rows(), statements={"s": {}})),
    ("verifier.evidence", "check_rows", "commitment-row"): lambda w: check_rows(
        w.manifest, replace(w.rows(), commitments={text: row | {"geometry": "{}"} for text, row in w.rows().commitments.items()})
    ),
    ("verifier.evidence", "check_task_rows", "proof-row"): lambda w: w.judged(
        {"bits": 101, "total_bits": 100, "centibits": {"queries": 10101}}
    ),
    ("verifier.evidence", "check_task_rows", "statement-row"): lambda w: w.judged({}, window=1),
    ("verifier.evidence", "read_rows", "size"): runs_row,
    ("verifier.evidence", "roots", "commitment-row"): lambda w: replace(w.rows(), commitments={"x": {"root": "00"}}).roots(),
    ("verifier.evidence", "verify_bundle", "missing-checkpoint"): lambda w: w.reject(w.bundle(checkpoint=b"")),
    ("verifier.evidence", "verify_bundle", "consistency"): lambda w: w.reject(
        w.bundle(checkpoint=Checkpoint("o", 9, bytes(32)).body() + b"\n\xe2\x80\x94 o AAAAAAAA\n"), seen=Checkpoint("o", 2, bytes(32))
    ),
    ("verifier.run", "check_chain", "foreign-statement"): lambda w: check_chain(w.manifest, {"x": Evidence(b"", b"")}),
    ("verifier.run", "check_chain", "missing-proof"): lambda w: check_chain(w.manifest, {}),
    ("verifier.run", "resolve_ids", "commitment-id"): lambda w: resolve_ids(w.manifest, w.roots | {"head": b"\1" * 32}),
    ("verifier.run", "resolve_ids", "foreign-commitment"): lambda w: resolve_ids(w.manifest, w.roots | {"y": bytes(32)}),
    ("verifier.run", "resolve_ids", "missing-commitment"): lambda w: resolve_ids(w.manifest, {}),
    ("verifier.task", "published_values", "malformed"): lambda w: published_values(w.task("head").graph(w.manifest), b"[]"),
    ("verifier.task", "published_values", "published-names"): lambda w: published_values(
        w.task("head").graph(w.manifest), b'{"published":{}}'
    ),
    ("verifier.task", "published_values", "published-range"): lambda w: published_values(
        w.task("head").graph(w.manifest), b'{"published":{"loss":[4611686018427387904]}}'
    ),
    ("verifier.task", "published_values", "published-shape"): lambda w: published_values(
        w.task("head").graph(w.manifest), b'{"published":{"loss":[1,2]}}'
    ),
    ("verifier.task", "published_values", "size"): lambda w: published_values(
        w.task("head").graph(w.manifest), b" " * (MAX_STATEMENT_BYTES + 1)
    ),
    ("verifier.task", "require_size", "truncated"): lambda w: w.verify("embed", b"", size=0),
    ("verifier.task", "require_witness_size", "truncated"): lambda w: require_witness_size(
        w.task("head").graph(w.manifest), profile("goldilocks-2^10"), "head", 0
    ),
    ("verifier.task", "verify_task", "commitment-id"): lambda w: w.verify(
        "embed", w.content("embed"), roots=w.roots | {"x/0@0": b"\1" * 32}
    ),
    ("verifier.task", "verify_task", "relation"): lambda w: w.verify("embed", b"", manifest=replace(w.manifest, exponents={})),
    ("verifier.task", "verify_task", "size"): lambda w: w.verify("embed", w.content("embed"), size=MAX_PROOF_BYTES + 1),
    ("verifier.task", "verify_task", "statement"): lambda w: w.verify("embed", b'{"published":{}}'),
}


def many_triples() -> None:
    """In a field of 17 elements nine nodes leave no room."""
    channel = Drawn(0, field=small_field(17))
    forms = channel.secrets("s", 9, tuple)
    for form in forms:
        channel.multiply(form, form)
    check_triples(channel, ConstraintSystem(), nothing)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("site", TRIGGERS, ids="/".join)
def test_reached(world: World, site: Site) -> None:
    try:
        TRIGGERS[site](world)
    except VerificationError as error:
        assert site_of(error.__traceback__, error.reason) == site
    except Returned as reason:
        assert str(reason) == site[2]
    else:
        pytest.fail("nothing was rejected")


def test_every_site_is_reached() -> None:
    """By a vector or by a trigger above; and nothing is raised where the source does not show it."""
    seen: set[Site] = set()
    for suite in SUITES.values():
        for vector in suite.values():
            if "reason" in vector:
                given = vector["input"]
                try:
                    OPS[vector["op"]](suite[given["of"]]["input"] | given if "of" in given else given)
                except VerificationError as error:
                    seen.add(site_of(error.__traceback__, error.reason))
                except (ValueError, TypeError, ArithmeticError, RelationBroken):  # what is no VerificationError is none of this test's
                    continue
    listed, seen = sites(), {site for site in seen if site[0]}  # the vectors' own comparison of Merkle roots has no module
    assert len(listed) > 80 and seen <= listed
    assert listed - seen == set(TRIGGERS)


def test_the_world_is_honest_but_for_its_proofs(world: World) -> None:
    """So that a trigger meets its own check and none before it."""
    assert resolve_ids(world.manifest, world.roots) == world.ids
    evidence = {statement_id(world.manifest, t): Evidence(b"", b"") for t in task_list(world.manifest)}
    assert len(check_chain(world.manifest, evidence)) == len(evidence)
    check_rows(world.manifest, world.rows())
    world.judged({"bits": 101, "total_bits": 100, "centibits": {"queries": 10100}})
    assert world.stored().proof == b"proof"
    content = world.content("head", loss=[5])
    assert published_values(world.task("head").graph(world.manifest), content)["loss"].tolist() == json.loads(content)["published"]["loss"]
    with pytest.raises(VerificationError) as caught:
        world.verify("head", content)
    assert caught.value.reason in ("opening-relation", "trailing")
