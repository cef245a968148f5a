"""The verdict on one run's evidence: what the ledger's rows say, that they are in the log, and what follows from the proofs.

    checkpoint signed as the policy demands → the log continues what was seen → every row is under the checkpoint, of this run, one
    under each key → manifest, roots, statements, proofs → verifier/run.py → every column is what follows from them

That a row is in the log does not say that no other one is. So nothing may depend on rows that are not shown: the run id is the
beginning of its manifest's digest, and the manifest says which statements there are.

`verify_bundle` is the one function that turns a bundle, from a file or from a live ledger, into a verdict. Nothing is believed;
objects are read, and hashed, one at a time. Called by verifier/__main__.py and tasks/verify.py.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from protocol.encoding import canonical_json, parse_canonical
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.soundness import Soundness
from protocol.statement import PUBLIC_BASE, Name, commitment_layout, task_list
from verifier.bundle import Bundle
from verifier.log import leaf_hash, parse_leaf, require, verify_inclusion
from verifier.note import Checkpoint, Policy, check_growth, parse_checkpoint, split_note
from verifier.run import NO_ORDER, Job, RunRecord, RunVerdict, TaskVerdict, one_by_one, verify_run
from verifier.sample import Sample
from verifier.task import Evidence, fail_closed, printable, typed

_DIGEST = re.compile("[0-9a-f]{64}")
# the columns that a verdict looks at; a budget is "" where openings are unlimited
_COLUMNS: dict[str, dict[str, type]] = {
    "runs": {"run_id": str, "manifest_digest": str, "manifest": str},
    "commitments": {"run_id": str, "name": str, "window": int, "layer": int, "commitment_id": str, "root": str, "geometry": str,
                    "budget": object},
    "statements": {"run_id": str, "statement_id": str, "kind": str, "window": int, "layer": int, "part": int, "content": str},
    "proofs": {"statement_id": str, "object_digest": str, "size": int, "prover": str, "seconds": str, "soundness": str},
    "run_events": {"run_id": str, "kind": str, "window": int, "detail": str},
    "openings": {"statement_id": str},
    "verdicts": {"run_id": str},
}
_KEYS = {"runs": ("run_id",), "commitments": ("name", "window"), "statements": ("statement_id",), "proofs": ("statement_id",),
         "run_events": ("kind", "window")}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """A run's rows that are in the log, by key; `log` is the checkpoint that they are under."""

    log: Checkpoint
    run: Row
    commitments: Mapping[str, Row]
    statements: Mapping[str, Row]
    proofs: Mapping[str, Row]
    events: tuple[Row, ...]

    @property
    def manifest(self) -> bytes:
        return str(self.run["manifest"]).encode()

    def roots(self) -> dict[str, bytes]:
        for name, row in self.commitments.items():
            require(_DIGEST.fullmatch(row["root"]), "commitment-row", printable(name), "a SHA-256 digest as root", printable(row["root"]))
        return {name: bytes.fromhex(row["root"]) for name, row in self.commitments.items()}


@dataclass(frozen=True)
class Verdict:
    """On a whole run. `found` is None if there was nothing to judge, `rows` if not even those; `trust` says who signed the log."""

    run_id: str
    checkpoint: bytes
    reason: str
    trust: str
    rows: Rows | None = None
    found: RunVerdict | None = None

    @property
    def state(self) -> str:
        return "rejected" if self.reason or not self.found else self.found.state

    @property
    def accepted(self) -> bool:
        return self.state == "accepted"

    @property
    def order(self) -> str:
        return self.found.order if self.found else NO_ORDER


def read_rows(bundle: Bundle, log: Checkpoint) -> Rows:
    """The run's rows, each under the checkpoint's root, of this run, and no two under one key."""
    found: dict[str, dict[str, Row]] = {table: {} for table in _KEYS}
    last, kept = -1, 0
    for item in bundle.rows:
        where = f"row {item.position}"
        require(last < item.position < log.size, "row-position", where, f"above {last}, below the log's size {log.size}", "another")
        verify_inclusion(leaf_hash(item.leaf), item.position, log.size, item.path, log.root)
        last, (table, values) = item.position, parse_leaf(item.leaf)
        require(table in _COLUMNS, "row-table", where, str(sorted(_COLUMNS)), printable(table))
        row = typed(values, _COLUMNS[table], where)
        own = row["run_id"] == bundle.run_id if "run_id" in _COLUMNS[table] else row["statement_id"] in found["statements"]
        require(own, "foreign-row", where, f"a row of run {printable(bundle.run_id)}", f"a row of another run in {table}")
        if table in _KEYS:
            key = str(Name(row["name"], row["window"])) if table == "commitments" else "/".join(str(row[name]) for name in _KEYS[table])
            kept += len(item.leaf) + 1024
            require(kept <= bundle.limit, "size", where, f"rows of at most {bundle.limit} bytes (--memory allows more)", "more")
            require(key not in found[table], "duplicate-row", where, "one row under each key", printable(f"{table} {key}"))
            found[table][key] = row
    require(found["runs"], "missing-row", "runs", f"run {printable(bundle.run_id)}", "none")
    run = found["runs"][bundle.run_id]
    digest = hashlib.sha256(run["manifest"].encode()).hexdigest()
    require(digest == run["manifest_digest"], "manifest-digest", "runs", digest, printable(run["manifest_digest"]))
    events = tuple(found["run_events"].values())
    return Rows(log, run, found["commitments"], found["statements"], found["proofs"], events)


class _Stored(Mapping[str, Evidence]):
    """Evidence by statement id; the proof is read, and hashed, when it is asked for."""

    def __init__(self, rows: Rows, read: Callable[[str], bytes]) -> None:
        self._rows, self._read = rows, read

    def __getitem__(self, identity: str) -> Evidence:
        row = self._rows.proofs[identity]
        digest = row["object_digest"]
        require(_DIGEST.fullmatch(digest), "proof-row", "object_digest", "a SHA-256 digest", printable(digest))
        proof = self._read(digest)
        actual = hashlib.sha256(proof).hexdigest()
        require(actual == digest, "damaged-object", digest, "bytes of this SHA-256", actual)
        require(len(proof) == row["size"], "proof-row", "size", str(len(proof)), printable(row["size"]))
        return Evidence(self._rows.statements[identity]["content"].encode(), proof)

    def __contains__(self, identity: object) -> bool:
        return identity in self._rows.proofs  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows.proofs)

    def __len__(self) -> int:
        return len(self._rows.proofs)


def check_rows(manifest: RunManifest, rows: Rows) -> None:
    """The run id is the manifest's, every statement has a proof, and every column of a commitment's row is what follows from manifest,
    name and root."""
    require(rows.run["run_id"] == manifest.run_id, "run-id", "runs", manifest.run_id, printable(rows.run["run_id"]))
    foreign = sorted(set(rows.statements) - set(rows.proofs))  # the proofs are those of the manifest's statements
    require(not foreign, "foreign-statement", "statements", "statements of this run", printable(foreign))
    for name in {name for task in task_list(manifest) for _, name in task.commitments}:
        row = rows.commitments[str(name)]
        layout, root = commitment_layout(manifest, name), bytes.fromhex(row["root"])
        public = name.kind in PUBLIC_BASE and manifest.base_visibility == "public"
        _columns("commitment-row", str(name), row, {
            "name": name.base, "window": name.window, "layer": name.layer, "commitment_id": layout.identity(root),
            "geometry": canonical_json(layout.geometry()).decode(), "budget": "" if public else manifest.budgets[name.kind],
        })


def check_task_rows(rows: Rows, item: TaskVerdict, soundness: Soundness) -> None:
    """The rows of an accepted statement say what it is; soundness may be understated (calculators get better), never overstated."""
    names = ("kind", "window", "layer", "part")
    _columns("statement-row", item.statement_id, rows.statements[item.statement_id], {name: getattr(item.task, name) for name in names})
    computed: dict[str, Any] = soundness.to_json()
    claimed = parse_canonical(rows.proofs[item.statement_id]["soundness"].encode(), "soundness")
    require(claimed.keys() == computed.keys(), "proof-row", "soundness", str(sorted(computed)), printable(sorted(claimed)))
    pairs = [(name, claimed[name], computed[name]) for name in ("bits", "total_bits")]
    pairs += [(name, said, computed["centibits"].get(name, 0)) for name, said in claimed["centibits"].items()]
    for name, said, bits in pairs:
        require(type(said) is int and said <= bits, "proof-row", f"soundness {printable(name)}", f"at most {bits}", printable(said))


def _columns(reason: str, where: str, row: Row, expected: Mapping[str, object]) -> None:
    for column, value in expected.items():
        require(row[column] == value, reason, f"{where}, {column}", printable(value), printable(row[column]))


def read_checkpoint(note: bytes, policy: Policy | None) -> Checkpoint:
    """What a note says, with the signatures that the policy demands; without a policy nobody's."""
    return split_note(note)[0] if policy is None else parse_checkpoint(note, policy)


def verify_bundle(
    bundle: Bundle, policy: Policy | None = None, order: Mapping[str, Any] | None = None, seen: Checkpoint | None = None,
    sample: Sample | None = None, spread: Callable[[Iterable[Job]], Iterable[TaskVerdict]] = one_by_one,
) -> Verdict:
    """The verdict on one run; raises only for conditions of this machine. `spread` as in verifier/run.py."""
    trust, rows, found = "the log's signature was not checked: no policy was given", None, None
    try:
        with fail_closed("log"):
            require(bundle.checkpoint, "missing-checkpoint", "log", "a signed checkpoint", "none")
            log = read_checkpoint(bundle.checkpoint, policy)
            if policy is not None:
                trust = "the log's checkpoint is signed as the policy demands"
            if seen is not None:
                grown = 0 < seen.size < log.size
                wanted = f"a consistency proof from {seen.size}, the size seen before (export with --since {seen.size})"
                require(not grown or bundle.since == seen.size, "consistency", "log", wanted, f"one from {bundle.since}")
                check_growth(seen, log, bundle.consistency if grown else ())
            trust += f"; it continues the one of {seen.size} entries seen before" if seen else "; it was not compared with an earlier one"
            rows = read_rows(bundle, log)
        record = RunRecord(rows.manifest, rows.roots(), _Stored(rows, bundle.read))
        found = verify_run(record, order, lambda jobs: (_with_rows(rows, item) for item in spread(jobs)), sample)
        if found.tasks:
            with fail_closed("rows"):
                check_rows(found.manifest, rows)
    except VerificationError as error:
        return Verdict(bundle.run_id, bundle.checkpoint, str(error), trust, rows, found)
    return Verdict(bundle.run_id, bundle.checkpoint, found.reason, trust, rows, found)


def _with_rows(rows: Rows, item: TaskVerdict) -> TaskVerdict:
    if item.soundness is None:
        return item
    try:
        with fail_closed("rows"):
            check_task_rows(rows, item, item.soundness)
    except VerificationError as error:
        return replace(item, accepted=False, reason=str(error), soundness=None, published={})
    return item
