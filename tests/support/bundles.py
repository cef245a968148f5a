"""Bundles as a log's owner could write them: any rows, any objects, in a log of its own, signed; damaged files; and their judge.

The tree is the recursion of RFC 6962 as it stands there, so that verifier/log.py is not checked against its like.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from storage.checkpoint import LogKeys, SigningKey
from storage.ledger import open_ledger
from storage.object_store import open_object_store
from tests.cli.build_run import RUN_ID, Built
from verifier.bundle import read_bundle
from verifier.evidence import Verdict, verify_bundle
from verifier.note import Checkpoint, Policy
from verifier.report import report
from verifier.run import Job, TaskVerdict, check_one

KEYS = LogKeys(SigningKey("example.org/log", bytes(range(32))))
OTHER_KEYS = LogKeys(SigningKey("example.org/log", bytes(32)))
Leaf = dict  # {"table": name, "row": {column: value}}


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(n: int) -> int:
    return 1 << (n - 1).bit_length() - 1


def root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    k = split(len(hashes))
    return node(root(hashes[:k]), root(hashes[k:]))


def path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    return [*path(m, hashes[:k]), root(hashes[k:])] if m < k else [*path(m - k, hashes[k:]), root(hashes[:k])]


def consistency(m: int, hashes: Sequence[bytes], whole: bool = True) -> list[bytes]:
    if m == len(hashes):
        return [] if whole else [root(hashes)]
    k = split(len(hashes))
    if m <= k:
        return [*consistency(m, hashes[:k], whole), root(hashes[k:])]
    return [*consistency(m - k, hashes[k:], False), root(hashes[:k])]


def encode(leaf: Leaf) -> bytes:
    return canonical_json(leaf)


def hash_of(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


@dataclass(frozen=True)
class Source:
    """What a bundle is made of; each field can be a lie."""

    leaves: tuple[Leaf, ...]  # the whole log
    objects: Mapping[str, bytes]
    run_id: str = RUN_ID
    keys: LogKeys = KEYS
    since: int = 0
    shown: tuple[int, ...] | None = None  # positions in the bundle, all if None
    size: int | None = None  # of the tree that is signed
    extra: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def hashes(self) -> list[bytes]:
        return [hash_of(encode(leaf)) for leaf in self.leaves][: self.size]

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.keys.current.name, len(self.hashes), root(self.hashes))

    def members(self) -> dict[str, bytes]:
        hashes = self.hashes
        shown = range(len(self.leaves)) if self.shown is None else self.shown
        chain = [h.hex() for h in consistency(self.since, hashes)] if self.since else []
        rows = [
            {"leaf": encode(self.leaves[n]).decode(), "path": [h.hex() for h in path(n, hashes)] if n < len(hashes) else [], "position": n}
            for n in shown
        ]
        return {
            "bundle.json": canonical_json({"consistency": chain, "run": self.run_id, "since": self.since, "version": 1}),
            "checkpoint": self.keys.sign(self.checkpoint()),
            "rows.jsonl": b"".join(canonical_json(row) + b"\n" for row in rows),
            **{f"objects/{digest}": data for digest, data in self.objects.items()},
            **self.extra,
        }

    def bytes(self) -> bytes:
        return zipped(self.members())

    def change(self, table: str, match: Mapping[str, object], **columns: object) -> "Source":
        """The log of an owner who rewrote one row and signed everything anew."""
        hit = [n for n, leaf in enumerate(self.leaves) if leaf["table"] == table and match.items() <= leaf["row"].items()]
        assert hit, (table, match)
        leaves = list(self.leaves)
        leaves[hit[0]] = {"table": table, "row": leaves[hit[0]]["row"] | columns}
        return replace(self, leaves=tuple(leaves))

    def with_leaf(self, leaf: Leaf) -> "Source":
        return replace(self, leaves=(*self.leaves, leaf))

    def without(self, table: str, match: Mapping[str, object]) -> "Source":
        kept = [leaf for leaf in self.leaves if not (leaf["table"] == table and match.items() <= leaf["row"].items())]
        assert len(kept) < len(self.leaves)
        return replace(self, leaves=tuple(kept))


def policy(keys: LogKeys = KEYS) -> Policy:
    return keys.policy


def source_of(built: Built) -> Source:
    """The honest run, in a log of its own with rows of others around it."""
    ledger, store = open_ledger(built.ledger_url, read_only=True), open_object_store(built.objects_url, read_only=True)
    leaves = tuple(json.loads(leaf) for _, leaf in ledger.log_positions(RUN_ID))
    digests = [leaf["row"]["object_digest"] for leaf in leaves if leaf["table"] == "proofs"]
    return Source(leaves, {digest: store.get(digest) for digest in digests})


def zipped(members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP file; a list may name a member twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return file.getvalue()


VERDICTS: dict[tuple[object, ...], TaskVerdict] = {}


def remembered(jobs: Iterable[Job]) -> Iterator[TaskVerdict]:
    """Verdicts on a task are remembered by everything that determines them, so that a hundred damaged bundles take seconds."""
    for job in jobs:
        key = (job.manifest.digest(), str(job.task), tuple(sorted(job.roots.items())), tuple(sorted(job.ids.items())), job.evidence)
        if key not in VERDICTS:
            VERDICTS[key] = check_one(*job)
        yield VERDICTS[key]


class Judge:
    """Verdicts on bytes, as a file holds them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.bundle"

    def __call__(self, what: "bytes | Source", **options: object) -> Verdict:
        self.path.write_bytes(what if isinstance(what, bytes) else what.bytes())
        options = {"policy": policy(), "spread": remembered} | options
        return verify_bundle(read_bundle(str(self.path)), **options)  # type: ignore[arg-type]

    def reason(self, what: "bytes | Source", **options: object) -> str:
        """Why it is rejected: nothing else than a rejection may come of it."""
        try:
            verdict = self(what, **options)
        except VerificationError as error:
            return str(error)
        report(verdict)
        assert not verdict.accepted and verdict.state == "rejected" and verdict.reason
        return verdict.reason


def statement(source: Source, kind: str, window: int = 0) -> str:
    rows = (leaf["row"] for leaf in source.leaves if leaf["table"] == "statements")
    return next(row["statement_id"] for row in rows if (row["kind"], row["window"]) == (kind, window))
