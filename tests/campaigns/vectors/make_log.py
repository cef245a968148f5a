"""Vectors of the ledger's log, signed notes, policies, receipts and bundles.

Trees are the recursion of RFC 6962 (tests/support/merkle.py), keys and signatures come from `cryptography`.
"""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.campaigns.vectors.suite import Suite
from tests.support.merkle import NaiveTree

Change = Callable[[dict[str, Any]], dict[str, Any]]


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def hexes(values: list[bytes]) -> list[str]:
    return [x.hex() for x in values]


def log() -> Suite:
    s = Suite("log")
    tree = NaiveTree([b"entry %d" % i for i in range(11)])
    for m, n in [(0, 1), (0, 2), (1, 2), (2, 3), (4, 7), (7, 8), (10, 11), (3, 11)]:
        honest = {"leaf": tree.hashes[m].hex(), "position": m, "size": n, "path": hexes(tree.path(m, 0, n)), "root": tree.root(0, n).hex()}
        s.ok("log.inclusion", "accepted", **honest)
        s.bad("log.inclusion", "inclusion", **honest | {"leaf": "00" * 32})
        s.bad("log.inclusion", "inclusion", **honest | {"position": n})
        s.bad("log.inclusion", "inclusion", **honest | {"path": [*honest["path"], "00" * 32]})
        if n > 1:
            s.bad("log.inclusion", "inclusion", **honest | {"position": m ^ 1})
            s.bad("log.inclusion", "inclusion", **honest | {"path": honest["path"][1:]})
            s.bad("log.inclusion", "inclusion", **honest | {"path": [honest["path"][0][:-2], *honest["path"][1:]]})
    s.bad("log.inclusion", "inclusion", leaf=tree.hashes[0].hex(), position=-1, size=1, path=[], root=tree.root(0, 1).hex())
    for m, n in [(0, 5), (1, 2), (3, 7), (4, 8), (6, 11), (8, 11), (5, 5), (0, 0)]:
        path = hexes(tree.proof(m, n))
        chain = {"size1": m, "root1": tree.root(0, m).hex(), "size2": n, "root2": tree.root(0, n).hex(), "path": path}
        s.ok("log.consistency", "accepted", **chain)
        s.bad("log.consistency", "consistency", **chain | {"root1": "00" * 32})
        s.bad("log.consistency", "consistency", **chain | {"path": [*path, "00" * 32]})
        if 0 < m < n:
            s.bad("log.consistency", "consistency", **chain | {"root2": "00" * 32})
            s.bad("log.consistency", "consistency", **chain | {"path": path[:-1]})
            s.bad("log.consistency", "consistency", **chain | {"size1": n + 1})
    s.bad("log.consistency", "consistency", size1=-1, root1="", size2=1, root2="", path=[])
    for row in ({"a": 1, "b": "x"}, {}):
        s.ok("log.leaf", ["runs", row], data=compact({"table": "runs", "row": row}).hex())
    for value in (
        {"table": "runs"},
        {"row": {}},
        {"table": "runs", "row": {}, "x": 1},
        {"table": 1, "row": {}},
        {"table": "runs", "row": []},
        {"table": "runs", "row": {"a": True}},
        {"table": "runs", "row": {"a": [1]}},
        [],
        "x",
    ):
        s.bad("log.leaf", "leaf", data=compact(value).hex())
    s.bad("log.leaf", "malformed", data=b'{"table":"runs","row":{"a":1.5}}'.hex())
    s.bad("log.leaf", "non-canonical", data=b'{"table":"runs","row":{}}'.hex())
    return s


class Signer:
    """A log's key (algorithm 1) or a cosigner's (4), as C2SP writes them."""

    def __init__(self, name: str, kind: int, seed: int) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.name, self.kind = name, kind
        self.public = bytes([kind]) + self.key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(name.encode() + b"\n" + self.public).digest()[:4]

    @property
    def text(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.public).decode()}"

    def line(self, body: bytes, time: int = 1700000000) -> str:
        head = time.to_bytes(8, "big") if self.kind == 4 else b""
        message = f"cosignature/v1\ntime {time}\n".encode() + body if self.kind == 4 else body
        return f"— {self.name} {base64.b64encode(self.id + head + self.key.sign(message)).decode()}\n"


LOG, OLD, WITNESS, OTHER = Signer("example.org/log", 1, 1), Signer("example.org/log", 1, 2), Signer("w1", 4, 3), Signer("w2", 4, 4)
POLICY = f"log {LOG.text}\nlog {OLD.text} until:5\nwitness w1 {WITNESS.text}\nwitness w2 {OTHER.text}\ngroup any any w1 w2\nquorum any\n"
ROOT = hashlib.sha256(b"root").digest()


def body(size: int = 9, root: bytes = ROOT, origin: str = LOG.name) -> bytes:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def note() -> Suite:
    s = Suite("note")
    text = body()
    signed = text + b"\n" + LOG.line(text).encode() + WITNESS.line(text).encode()
    seen = {"origin": LOG.name, "size": 9, "root": ROOT.hex()}
    s.ok("note.checkpoint", seen, note=signed.hex(), policy=POLICY)
    s.ok(
        "note.checkpoint",
        seen,
        note=(signed + OTHER.line(text).encode()).hex(),
        policy=POLICY.replace("any any", "all all").replace(" any\n", " all\n"),
    )
    small, stranger = body(5), Signer("stranger", 1, 9)
    s.ok(
        "note.checkpoint",
        seen | {"size": 5},
        note=(small + b"\n" + OLD.line(small).encode() + WITNESS.line(small).encode()).hex(),
        policy=POLICY,
    )
    s.ok("note.checkpoint", seen, note=(signed + stranger.line(text).encode()).hex(), policy=POLICY)

    def bad(reason: str, data: bytes, policy: str = POLICY) -> None:
        s.bad("note.checkpoint", reason, note=data.hex(), policy=policy)

    lines = signed[len(text) + 1 :]
    bad("stale-key", text + b"\n" + OLD.line(text).encode() + WITNESS.line(text).encode())
    bad("checkpoint-signature", text + b"\n" + WITNESS.line(text).encode())
    bad("checkpoint-format", text + b"\n")
    bad("checkpoint-signature", body(10) + b"\n" + lines)
    bad("checkpoint-signature", body(9, bytes(32)) + b"\n" + lines)
    bad("checkpoint-signature", text + b"\n" + LOG.line(text).encode() * 2 + WITNESS.line(text).encode())
    bad("checkpoint-origin", body(origin="example.org/other") + b"\n" + lines)
    bad("quorum", text + b"\n" + LOG.line(text).encode())
    bad("quorum", signed, POLICY.replace("any any", "all all").replace(" any\n", " all\n"))
    bad("cosignature", text + b"\n" + LOG.line(text).encode() + WITNESS.line(small).encode())
    bad("cosignature", text + b"\n" + LOG.line(text).encode() + WITNESS.line(text).encode() * 2)
    bad("base64", text.replace(b"=", b"") + b"\n" + lines)
    bad("base64", text + b"\n" + LOG.line(text).encode().replace(b"=\n", b"\n"))
    bad("number", text.replace(b"\n9\n", b"\n09\n") + b"\n" + lines)
    bad("number", text.replace(b"\n9\n", b"\n9223372036854775808\n") + b"\n" + lines)
    bad("number", text.replace(b"\n9\n", b"\n-9\n") + b"\n" + lines)
    for data in (
        b"",
        text,
        signed[:-1],
        signed + b"\n",
        text + lines,
        b"x\n" + signed,
        b"\n" + signed[len(LOG.name) + 1 :],
        signed + b"- no dash\n",
        body(9, ROOT[:31] + b"") + b"\n" + lines,
        body(0) + b"\n" + lines,
        body(3, hashlib.sha256().digest()) + b"\n" + lines,
        signed.replace(b"\n9\n", b"\r\n9\n"),
        signed + b"\xff",
        signed + b"\x00\n",
    ):
        bad("checkpoint-format", data)
    s.ok("note.policy", {"logs": [LOG.name, LOG.name], "cosigners": ["w1", "w2"], "quorum": "any"}, policy=POLICY.encode().hex())
    s.ok("note.policy", {"logs": [], "cosigners": [], "quorum": "none"}, policy=b"# nobody\n\n  quorum   none  \n".hex())
    s.ok(
        "note.policy",
        {"logs": [LOG.name], "cosigners": [], "quorum": "none"},
        policy=f"log {LOG.text} https://x\nquorum none".encode().hex(),
    )
    w1, w2 = f"witness w1 {WITNESS.text}\n", f"witness w2 {OTHER.text}\n"
    for line in (
        "",
        w1,
        "quorum w1\n",
        w1 + "quorum w1\nquorum w1\n",
        w1 + f"witness w1 {OTHER.text}\nquorum w1\n",
        w1 + f"witness w3 {WITNESS.text}\nquorum w1\n",
        f"witness none {WITNESS.text}\nquorum none\n",
        w1 + "group g 2 w1\nquorum g\n",
        w1 + "group g 0 w1\nquorum g\n",
        "group g any\nquorum none\n",
        w1 + "group g any w1 w1\nquorum g\n",
        w1 + w2 + "group g any w1\ngroup h any w1 w2\nquorum h\n",
        w1 + "group w1 any w1\nquorum w1\n",
        "group g any x\nquorum g\n",
        f"log {LOG.text}\nlog {LOG.text}\nquorum none\n",
        f"log {LOG.text} until:5 x\nquorum none\n",
        "log\nquorum none\n",
        "policy\nquorum none\n",
        "quorum none x\n",
        "quorum\n",
    ):
        s.bad("note.policy", "policy", policy=line.encode().hex())
    for line in (
        "log x\n",
        f"log {LOG.text[:-4]}\n",
        f"log {WITNESS.text}\n",
        f"witness w1 {LOG.text}\n",
        f"log {LOG.name}+00000000+{LOG.text.split('+', 2)[2]}\n",
    ):
        s.bad("note.policy", "key-format", policy=(line + "quorum none\n").encode().hex())
    s.bad("note.policy", "number", policy=f"log {LOG.text} until:05\nquorum none\n".encode().hex())
    s.bad("note.policy", "number", policy=(w1 + "group g some w1\nquorum g\n").encode().hex())
    s.bad("note.policy", "policy-format", policy=b"quorum none\r\n".hex())
    s.bad("note.policy", "policy-format", policy=b"quorum none\xff\n".hex())
    tree = NaiveTree([b"%d" % i for i in range(7)])
    first, second = ({"origin": "o", "size": n, "root": tree.root(0, n).hex()} for n in (4, 7))
    path = hexes(tree.proof(4, 7))
    s.ok("note.growth", "accepted", seen=first, new=second, path=path)
    s.ok("note.growth", "accepted", seen=first, new=first, path=[])
    s.bad("note.growth", "checkpoint-origin", seen=first, new=second | {"origin": "p"}, path=path)
    s.bad("note.growth", "rollback", seen=second, new=first, path=path)
    s.bad("note.growth", "fork", seen=first, new=first | {"root": "00" * 32}, path=[])
    s.bad("note.growth", "consistency", seen=first, new=second, path=path[1:])
    s.bad("note.growth", "consistency", seen=first | {"root": "00" * 32}, new=second, path=path)
    return s


PAYLOAD = "application/vnd.in-toto+json"


def receipt() -> Suite:
    s = Suite("receipt")
    key = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
    public = key.public_key().public_bytes_raw().hex()
    task = {"task": "embed(0)", "statement": "00" * 32, "proof": "11" * 32, "accepted": True, "reason": "", "bits": 100}
    predicate = {
        "run": "r",
        "accepted": True,
        "state": "accepted",
        "reason": "",
        "order": "",
        "sample": "",
        "log": {},
        "manifest": "22" * 32,
        "bits": 100,
        "total_bits": 97, "delivered": {"delivered/0@1": "44" * 32},
        "tasks": [task],
        "verifier": {"key": public, "name": "auditor", "source": "33" * 32, "version": "1"},
    }
    subject = [{"digest": {"sha256": hashlib.sha256(b"{}").hexdigest()}, "name": "manifest"}]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "urn:verilora:verdict:v1",
        "subject": subject,
        "predicate": predicate,
    }

    def envelope(value: Any, kind: str = PAYLOAD, keyid: str = public, signer: Ed25519PrivateKey = key, **other: Any) -> str:
        payload = value if isinstance(value, bytes) else compact(value)
        pae = f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload
        signature = {"keyid": keyid, "sig": base64.b64encode(signer.sign(pae)).decode()}
        return compact({"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [signature]} | other).decode()

    s.ok("receipt.verify", "accepted", envelope=envelope(statement))
    s.ok("receipt.about", "accepted", envelope=envelope(statement), run="r", manifest="{}")
    s.bad("receipt.about", "receipt-run", envelope=envelope(statement), run="s", manifest="{}")
    s.bad("receipt.about", "receipt-subject", envelope=envelope(statement), run="r", manifest="{} ")
    refused = predicate | {"accepted": False, "state": "rejected", "tasks": []}
    s.ok("receipt.verify", "rejected", envelope=envelope(statement | {"predicate": refused, "subject": []}))
    for change in (
        {"subject": []},
        {"subject": subject + subject},
        {"predicate": predicate | {"tasks": []}},
        {"predicate": predicate | {"accepted": False}},
        {"predicate": refused | {"accepted": True}},
        {"predicate": predicate | {"tasks": [task, task | {"accepted": False}]}},
        {"predicate": predicate | {"state": "sample passed"}},
        {"predicate": predicate | {"state": "sample passed", "accepted": False, "tasks": []}},
    ):
        s.bad("receipt.verify", "receipt-verdict", envelope=envelope(statement | change))
    twice = base64.b64encode(key.sign(b"x")).decode()
    s.bad("receipt.verify", "receipt-signature", envelope=envelope(statement, signatures=[{"keyid": public, "sig": twice}]))
    s.bad("receipt.verify", "non-canonical", envelope=envelope(statement, extra=1))
    other = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
    s.bad("receipt.verify", "receipt-signature", envelope=envelope(statement, signer=other))
    s.bad(
        "receipt.verify",
        "receipt-signature",
        envelope=envelope(statement, payload=base64.b64encode(compact(statement | {"subject": [1]})).decode()),
    )
    s.bad("receipt.verify", "receipt-key", envelope=envelope(statement, keyid=other.public_key().public_bytes_raw().hex(), signer=other))
    for change in ({"_type": "x"}, {"predicateType": "urn:verilora:verdict:v2"}):
        s.bad("receipt.verify", "receipt-type", envelope=envelope(statement | change))
    s.bad("receipt.verify", "receipt-type", envelope=envelope(statement, kind="application/json"))
    for broken in (
        statement | {"predicate": []},
        statement | {"predicate": {k: v for k, v in predicate.items() if k != "bits"}},
        statement | {"predicate": predicate | {"accepted": 1}},
        statement | {"predicate": predicate | {"tasks": [{}]}},
        statement | {"predicate": predicate | {"tasks": [task | {"bits": "100"}]}},
        statement | {"predicate": predicate | {"verifier": {}}},
        statement | {"predicate": predicate | {"verifier": predicate["verifier"] | {"key": 1}}},
        [],
    ):
        s.bad("receipt.verify", "malformed", envelope=envelope(broken))
    for text in (
        "",
        "{}",
        "[]",
        envelope(statement)[:-1],
        envelope(statement, signatures=[]),
        envelope(statement, payload="!"),
        envelope(b"x"),
    ):
        s.bad("receipt.verify", "malformed", envelope=text)
    s.bad("receipt.verify", "non-canonical", envelope=envelope(statement) + " ")
    s.bad("receipt.verify", "non-canonical", envelope=envelope(compact(statement) + b" "))
    return s


def bundle() -> Suite:
    s = Suite("bundle")
    manifest = "{}"
    rows = [
        {"table": "runs", "row": {"run_id": "r", "manifest_digest": hashlib.sha256(manifest.encode()).hexdigest(), "manifest": manifest}},
        {"table": "runs", "row": {"run_id": "other", "manifest_digest": "", "manifest": ""}},
        {
            "table": "commitments",
            "row": {"run_id": "r", "name": "x/0", "window": 3, "layer": 0, "commitment_id": "", "root": "", "geometry": "", "budget": 2},
        },
        {
            "table": "statements",
            "row": {"run_id": "r", "statement_id": "s", "kind": "embed", "window": 0, "layer": -1, "part": 0, "content": "{}"},
        },
        {"table": "proofs", "row": {"statement_id": "s", "object_digest": "", "size": 1, "prover": "p", "seconds": "1", "soundness": "{}"}},
        {"table": "openings", "row": {"statement_id": "s"}},
        {"table": "verdicts", "row": {"run_id": "r"}},
    ]
    mine = [0, 2, 3, 4, 5, 6]

    def members(
        leaves: list[Any] = rows, shown: list[int] = mine, header: dict[str, Any] | None = None, lines: Change = dict, size: int = 0
    ) -> list[list[str]]:
        tree = NaiveTree([compact(x) for x in leaves])
        n = size or len(leaves)
        shown_rows = [
            lines({"leaf": compact(leaves[i]).decode(), "path": hexes(tree.path(i, 0, n)) if i < n else [], "position": i}) for i in shown
        ]
        head = {"consistency": [], "run": "r", "since": 0, "version": 1} | (header or {})
        tree_head = body(n, tree.root(0, n))
        files = {
            "bundle.json": compact(head),
            "checkpoint": tree_head + b"\n" + LOG.line(tree_head).encode(),
            "rows.jsonl": b"".join(compact(x) + b"\n" for x in shown_rows),
        }
        return [[name, data.decode()] for name, data in files.items()]

    def with_row(number: int, **change: Any) -> list[Any]:
        return [x | {"row": x["row"] | change} if i == number else x for i, x in enumerate(rows)]

    good = members()
    s.ok("bundle.rows", {"run": "r", "commitments": ["x/0@3"], "statements": ["s"]}, members=good)
    s.ok(
        "bundle.rows",
        {"run": "other", "commitments": [], "statements": []},
        members=members(with_row(1, manifest_digest=hashlib.sha256().hexdigest()), [1], {"run": "other"}),
    )
    cases: list[tuple[str, list[list[str]]]] = [
        ("missing-row", members(shown=[])),
        ("foreign-row", members(shown=[0, 1])),
        ("foreign-row", members(shown=[0, 4])),
        ("duplicate-row", members([*rows, with_row(2, layer=1)[2]], [0, 2, 7])),
        ("duplicate-row", members([*rows, rows[3]], [0, 3, 7])),
        ("row-position", members(shown=[2, 0])),
        ("row-position", members(shown=[0, 0])),
        ("row-position", members(shown=[0, 6], size=6)),
        ("row-table", members([{"table": "users", "row": {}}], [0])),
        ("manifest-digest", members(with_row(0, manifest="{} "))),
        ("inclusion", members(lines=lambda x: x | {"path": x["path"][1:]})),
        ("inclusion", members(lines=lambda x: x | {"path": ["00" * 32] * 3})),
        ("inclusion", members(lines=lambda x: x | {"leaf": compact(rows[1]).decode()})),
        ("malformed", members(with_row(2, window="3"))),
        ("malformed", members([{"table": "verdicts", "row": {}}], [0])),
        ("malformed", members(lines=lambda x: x | {"path": ["0" * 63]})),
        ("malformed", members(lines=lambda x: x | {"path": [1]})),
        ("malformed", members(lines=lambda x: x | {"path": ["00" * 32] * 129})),
        ("malformed", members(lines=lambda x: {"leaf": "", "path": []})),
        ("malformed", members(lines=lambda x: x | {"position": "0"})),
        ("malformed", members(header={"run": 1})),
        ("malformed", members(header={"consistency": ["x"]})),
        ("malformed", members(header={"version": True})),
        ("bundle-version", members(header={"version": 2})),
        ("leaf", members([{"table": "runs", "row": {"a": True}}], [0])),
        ("bundle-member", [*good, ["evil", ""]]),
        ("bundle-member", [*good, ["objects/x", ""]]),
        ("bundle-member", [*good, ["../checkpoint", ""]]),
        ("missing-member", good[1:]),
        ("missing-member", [good[0], good[2]]),
        ("malformed", good[:2]),
        ("checkpoint-format", [good[0], ["checkpoint", ""], good[2]]),
        ("non-canonical", [["bundle.json", good[0][1] + "\n"], *good[1:]]),
        ("non-canonical", [*good[:2], ["rows.jsonl", " " + good[2][1]]]),
        ("malformed", [*good[:2], ["rows.jsonl", "\n"]]),
    ]
    for reason, files in cases:
        s.bad("bundle.rows", reason, members=files)
    s.bad("bundle.rows", "bundle-member", members=good, method=8)
    for raw in ("", "504b0506", "00" * 30):
        s.bad("bundle.rows", "malformed", members=[], raw=raw)
    return s


def suites() -> list[Suite]:
    return [log(), note(), receipt(), bundle()]
