"""What a verifier can be handed, as functions of bytes: proofs, statements, manifests, bundles, notes, receipts, log proofs.

Each target rejects with VerificationError, or its result is the honest one; anything else is a finding. A target is made from one
honest bundle, so nothing of the prover is loaded. Used by the campaign (tests/campaigns/fuzz.py) and by its tests.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import verifier.task
from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from protocol.manifest import RunManifest
from protocol.statement import Name, Task, commitment_layout, statement_id, task_list
from verifier.bundle import read_bundle
from verifier.evidence import Verdict, read_checkpoint, read_rows, verify_bundle
from verifier.log import verify_consistency, verify_inclusion
from verifier.note import parse_checkpoint, parse_policy
from verifier.receipt import verify_receipt
from verifier.report import report
from verifier.run import RunRecord, TaskVerdict, check_one, resolve_ids, verify_run
from verifier.task import Evidence


class Finding(Exception):
    """Something that hostile bytes must not do."""


@dataclass(frozen=True)
class Target:
    """`run(data)` is "" for a rejection, "honest" if nothing that counts was changed; Finding for anything else. `slow`: one
    input takes about as long as a proof, so a campaign tries fewer."""

    name: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], str]
    slow: bool = False


class Honest:
    """The honest run of one folder: run.bundle, policy, receipt."""

    def __init__(self, folder: Path) -> None:
        self.file, self.note_policy = (folder / "run.bundle").read_bytes(), (folder / "policy").read_bytes()
        self.receipt = (folder / "receipt").read_bytes()
        bundle = read_bundle(str(folder / "run.bundle"))
        self.note = bundle.checkpoint
        lines = list(bundle.rows)
        self.lines = lines
        self.log = read_checkpoint(bundle.checkpoint, None)
        rows = read_rows(read_bundle(str(folder / "run.bundle")), self.log)
        evidence = {
            identity: Evidence(rows.statements[identity]["content"].encode(), bundle.read(row["object_digest"]))
            for identity, row in rows.proofs.items()
        }
        self.record = RunRecord(rows.manifest, rows.roots(), evidence)
        self.manifest = RunManifest.from_json(rows.manifest)
        self.ids = resolve_ids(self.manifest, self.record.roots)
        self.tasks = {str(task): task for task in task_list(self.manifest)}
        self.scratch = Path(tempfile.mkstemp(prefix="fuzz-", suffix=".bundle")[1])

    @cached_property
    def verdict(self) -> Verdict:
        return self.judge(self.file)

    def judge(self, data: bytes) -> Verdict:
        """Of a bundle's bytes; proofs that are the honest ones are believed, because the target `proof` is about them."""
        self.scratch.write_bytes(data)
        return verify_bundle(read_bundle(str(self.scratch)), parse_policy(self.note_policy), spread=self.remembered)

    def remembered(self, jobs: Any) -> Iterator[TaskVerdict]:
        for job in jobs:
            key = hashlib.sha256(repr((job.manifest.digest(), str(job.task), sorted(job.roots.items()), job.evidence.content)).encode()
                                 + job.evidence.proof).digest()
            if key not in self.known:
                self.known[key] = check_one(*job)
            yield self.known[key]

    @cached_property
    def known(self) -> dict[bytes, TaskVerdict]:
        return {}

    def evidence(self, task: Task) -> Evidence:
        return self.record.evidence[statement_id(self.manifest, task)]

    def check(self, task: Task, evidence: Evidence) -> str:
        found = check_one(self.manifest, task, self.record.roots, self.ids, evidence)
        return _outcome(found.accepted, found.reason, evidence == self.evidence(task))


def _outcome(accepted: bool, reason: str, same: bool) -> str:
    if accepted is bool(reason):
        raise Finding(f"accepted is {accepted}, reason {reason!r}")
    if accepted and not same:
        raise Finding("accepted, although it is not what was proved")
    if not reason.isascii() and not reason.isprintable():
        raise Finding(f"a reason that may not print: {reason!r}")
    return "honest" if accepted else ""


# one function for each thing that can be handed over -------------------------------------------------------------------


def proof(honest: Honest) -> Target:
    """The proof of one task; the first byte picks the task, the rest is the proof."""
    tasks = [honest.tasks[name] for name in ("range(dataset)", "embed(0)", "head(1)")]

    def run(data: bytes) -> str:
        task = tasks[data[0] % len(tasks)] if data else tasks[0]
        return honest.check(task, Evidence(honest.evidence(task).content, data[1:]))

    return Target("proof", tuple(bytes([n]) + honest.evidence(t).proof for n, t in enumerate(tasks)), run, slow=True)


def statement(honest: Honest) -> Target:
    """A recorded statement beside its honest proof."""
    task = honest.tasks["head(0)"]
    good = honest.evidence(task)
    seeds = (good.content, b'{"published":{"loss":[1]}}')
    return Target("statement", seeds, lambda d: honest.check(task, Evidence(d, good.proof)), slow=True)


def manifest(honest: Honest) -> Target:
    """Bytes in the place of the manifest, everything else as it was."""

    def run(data: bytes) -> str:
        found = verify_run(RunRecord(data, honest.record.roots, honest.record.evidence), spread=honest.remembered)
        return _outcome(found.accepted, found.reason, data == honest.record.manifest)

    return Target("manifest", (honest.record.manifest,), _rejecting(run))


INTERESTING = (0, 1, 2, 3, 5, 7, 8, 16, 63, 64, 96, 255, 256, 511, 512, 513, 1000, 1024, 4095, 4096, 65535,
               1 << 16, 1 << 20, 1 << 22, 1 << 31, 1 << 62, 1 << 63, -1, -96, -(1 << 63), True, False, "", "0", "1", "0.5",
               "9" * 30, "private", "public", "row", "adamw", "sgd",
               "linear", "cosine", "llama3:8:1:4:8192", "goldilocks-2^20", "goldilocks-2^10", [], {}, "\ud800", "x" * 300)


def edited(value: dict[str, Any], data: bytes) -> dict[str, Any]:
    """A JSON object with values exchanged as the bytes say: triples (place, what, how)."""
    out = json.loads(json.dumps(value))
    for k in range(0, min(len(data), 24) - 2, 3):
        places = list(_places(out))
        owner, key = places[(data[k] + 256 * (data[k + 2] >> 6)) % len(places)]
        owner[key] = INTERESTING[data[k + 1] % len(INTERESTING)] if data[k + 2] & 3 else _nudged(owner[key], data[k + 1])
    return out  # type: ignore[no-any-return]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _nudged(value: Any, by: int) -> Any:
    if type(value) is int:
        return value + by - 128 if by & 1 else value << by % 12
    return value[:-1] if isinstance(value, str | list) and value else value


def relation(honest: Honest) -> Target:
    """A manifest whose author is consistent: ids follow from it and every statement is what it says; proofs cannot be.

    The first byte picks the task, the rest edits the manifest (`edited`). This is where graphs of hostile sizes are built."""
    kinds = ("embed", "layer", "head", "range", "rotate", "clip", "update")
    base = json.loads(honest.record.manifest)
    given = honest.evidence(honest.tasks["layer(1, 0)"]).proof

    def run(data: bytes) -> str:
        if not data:
            return ""
        with contextlib.suppress(UnicodeEncodeError):
            value = edited(base, data[1:])
            draft = RunManifest.from_json(canonical_json(value))
            roots = {str(name): bytes(32) for task in task_list(draft)[:64] for _, name in task.commitments}
            value["commitments"] = {n: commitment_layout(draft, Name(n)).identity(bytes(32)) for n in draft.commitments}
            hostile = RunManifest.from_json(canonical_json(value))
            tasks = [t for t in task_list(hostile)[:64] if t.kind == kinds[data[0] % len(kinds)]] or task_list(hostile)[:1]
            task = tasks[-1]
            ids = dict.fromkeys(roots, "0" * 64) | {
                str(n): commitment_layout(hostile, n).identity(bytes(32)) for _, n in task.commitments}
            count = hostile.windows()[task.window].count
            published = {"loss": [1] * count} if task.kind == "head" and hostile.publish_loss else {}
            content = canonical_json({"published": published})
            with patch.object(verifier.task, "statement_content", lambda *_: content):
                found = check_one(hostile, task, roots, ids, Evidence(content, given))
            return _outcome(found.accepted, found.reason, False)
        return ""

    seeds = [bytes([n]) for n in range(len(kinds))]
    seeds += [bytes([1, n % 256, n % len(INTERESTING), 1 + (n >> 8 << 6)]) for n in range(0, 300, 7)]
    return Target("relation", tuple(seeds), _rejecting(run), slow=True)


def bundle(honest: Honest) -> Target:
    """The bytes of an exported file."""
    wanted = honest.verdict

    def run(data: bytes) -> str:
        found = honest.judge(data)
        report(found)
        return _outcome(found.accepted, found.reason, found.rows == wanted.rows)

    return Target("bundle", (honest.file, b"PK\x05\x06" + bytes(18)), _rejecting(run))


def rows(honest: Honest) -> Target:
    """The owner of the log rewrites rows and builds the tree anew: bytes pick a row and edit its JSON; the log is not signed."""
    leaves = [json.loads(line.leaf) for line in honest.lines]
    members = json.loads(_member(honest.file, "bundle.json"))

    def run(data: bytes) -> str:
        changed = list(leaves)
        if data:
            with contextlib.suppress(UnicodeEncodeError):
                changed[data[0] % len(leaves)] = edited(leaves[data[0] % len(leaves)], data[1:])
                made = _bundle(honest, members, [canonical_json(leaf) for leaf in changed])
                found = verify_bundle(made, spread=honest.remembered)
                report(found)
                if found.accepted and found.rows and found.rows.commitments != honest.verdict.rows.commitments:  # type: ignore[union-attr]
                    raise Finding("accepted with other commitments")
                return "honest" if found.accepted else ""
        return ""

    return Target("rows", tuple(bytes([n, n * 7 % 256, n % len(INTERESTING), 1]) for n in range(len(leaves))), _rejecting(run))


def note(honest: Honest) -> Target:
    """A policy (before the first 0xff) and a checkpoint."""
    policy, log = parse_policy(honest.note_policy), honest.log

    def run(data: bytes) -> str:
        first, _, second = data.partition(b"\xff")
        found = parse_checkpoint(second, parse_policy(first) if first else policy)
        if not first and found != log:
            raise Finding(f"signed by nobody: {found}")
        return "honest"

    return Target("note", (b"\xff" + honest.note, honest.note_policy + b"\xff" + honest.note), _rejecting(run))


def receipt(honest: Honest) -> Target:
    """A signed verdict."""

    def run(data: bytes) -> str:
        verify_receipt(data)
        if data != honest.receipt:
            raise Finding("a receipt that nobody signed")
        return "honest"

    return Target("receipt", (honest.receipt,), _rejecting(run))


def log(honest: Honest) -> Target:
    """Positions, sizes (4 bytes each) and a path of 32-byte hashes against the honest root."""
    line = honest.lines[len(honest.lines) // 2]
    leaf = hashlib.sha256(b"\x00" + line.leaf).digest()

    def run(data: bytes) -> str:
        first, second = int.from_bytes(data[:4], "big", signed=True), int.from_bytes(data[4:8], "big", signed=True)
        path = [data[k : k + 32] for k in range(8, len(data), 32)]
        try:
            verify_consistency(first, leaf, second, honest.log.root, path)
            raise Finding("a leaf's hash is an earlier root")
        except VerificationError:
            pass
        verify_inclusion(leaf, first, second, path, honest.log.root)
        if second == honest.log.size and (first, path) != (line.position, list(line.path)):  # another size is not what was signed
            raise Finding("a leaf in another place")
        return "honest"

    good = line.position.to_bytes(4, "big") + honest.log.size.to_bytes(4, "big") + b"".join(line.path)
    return Target("log", (good, good[:-32], good + bytes(32)), _rejecting(run))


TARGETS = (proof, statement, manifest, relation, bundle, rows, note, receipt, log)


def _rejecting(run: Callable[[bytes], str]) -> Callable[[bytes], str]:
    def guarded(data: bytes) -> str:
        try:
            return run(data)
        except VerificationError as error:
            str(error)
            return ""

    return guarded


# bundles of rewritten rows ----------------------------------------------------------------------------------------------


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return _node(_root(hashes[:k]), _root(hashes[k:]))


def _path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return [*_path(m, hashes[:k]), _root(hashes[k:])] if m < k else [*_path(m - k, hashes[k:]), _root(hashes[:k])]


def _member(file: bytes, name: str) -> bytes:
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return archive.read(name)


def _bundle(honest: Honest, header: Mapping[str, Any], leaves: Sequence[bytes]) -> Any:
    from verifier.bundle import Bundle, LoggedRow
    from verifier.note import Checkpoint

    hashes = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    note = Checkpoint("log", len(leaves), _root(hashes)).body() + b"\n"
    shown = [LoggedRow(n, leaf, tuple(_path(n, hashes))) for n, leaf in enumerate(leaves)]
    objects = {hashlib.sha256(e.proof).hexdigest(): e.proof for e in honest.record.evidence.values()}

    def read(digest: str) -> bytes:
        if digest not in objects:
            raise VerificationError("missing-member", "objects", "in the bundle", "none")
        return objects[digest]

    return Bundle(header["run"], note, 0, (), shown, read)
