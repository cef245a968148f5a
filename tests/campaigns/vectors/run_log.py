"""The vectors' operations on logs, notes, receipts, bundles and whole proofs (see run.py)."""

import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from protocol.field import GOLDILOCKS
from protocol.layout import CommitmentLayout
from protocol.schedule.opening import Committed
from protocol.schedule.task import TaskShape
from tests.campaigns.vectors.run import OPS, Input, op
from tests.support.bundles import zipped
from tests.support.stage import PARAMS, verify
from tests.support.tiny import tiny_graph
from verifier.bundle import read_bundle
from verifier.evidence import read_checkpoint, read_rows
from verifier.log import parse_leaf, verify_consistency, verify_inclusion
from verifier.note import Checkpoint, check_growth, parse_checkpoint, parse_policy
from verifier.receipt import receipt_about, verify_receipt


def unhex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(x) for x in values]


@op("log.inclusion")
def _inclusion(x: Input) -> str:
    verify_inclusion(bytes.fromhex(x["leaf"]), x["position"], x["size"], unhex(x["path"]), bytes.fromhex(x["root"]))
    return "accepted"


@op("log.consistency")
def _consistency(x: Input) -> str:
    verify_consistency(x["size1"], bytes.fromhex(x["root1"]), x["size2"], bytes.fromhex(x["root2"]), unhex(x["path"]))
    return "accepted"


@op("log.leaf")
def _leaf(x: Input) -> Any:
    return list(parse_leaf(bytes.fromhex(x["data"])))


@op("note.policy")
def _policy(x: Input) -> Any:
    policy = parse_policy(bytes.fromhex(x["policy"]))
    return {"logs": [key.name for key, _ in policy.logs], "cosigners": sorted(policy.cosigners), "quorum": policy.quorum}


@op("note.checkpoint")
def _checkpoint(x: Input) -> Any:
    found = parse_checkpoint(bytes.fromhex(x["note"]), parse_policy(x["policy"].encode()))
    return {"origin": found.origin, "size": found.size, "root": found.root.hex()}


def _head(x: Input) -> Checkpoint:
    return Checkpoint(x["origin"], x["size"], bytes.fromhex(x["root"]))


@op("note.growth")
def _growth(x: Input) -> str:
    check_growth(_head(x["seen"]), _head(x["new"]), unhex(x["path"]))
    return "accepted"


OPS["receipt.verify"] = lambda x: verify_receipt(x["envelope"].encode())["predicate"]["state"]
OPS["receipt.about"] = lambda x: receipt_about(x["envelope"].encode(), x["run"], x["manifest"].encode())["state"]


@op("bundle.rows")
def _bundle(x: Input) -> Any:
    """The rows of a bundle whose checkpoint's signature nobody asks for."""
    members = [(name, data.encode()) for name, data in x["members"]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle"
        path.write_bytes(bytes.fromhex(x["raw"]) if "raw" in x else zipped(members, x.get("method", 0)))
        bundle = read_bundle(str(path))
        rows = read_rows(bundle, read_checkpoint(bundle.checkpoint, None))
        return {"run": rows.run["run_id"], "commitments": sorted(rows.commitments), "statements": sorted(rows.statements)}


@op("proof.verify")
def _proof(x: Input) -> str:
    """A toy proof of the relation tests/support/tiny.py, with its toy parameters."""
    data = bytearray(base64.b64decode(x["proof"]))
    for offset, removed, inserted in x.get("edits", []):
        data[offset : offset + removed] = bytes.fromhex(inserted)
    committed = [
        Committed(role, CommitmentLayout.pack([(n, tuple(s)) for n, s in tensors], PARAMS.code(2)), bytes.fromhex(root))
        for role, tensors, root in x["commitments"]
    ]
    published = {name: np.array(values, dtype=np.int64) for name, values in x["published"].items()}
    verify(TaskShape(tiny_graph(*x["sizes"]), GOLDILOCKS), x["statement"].encode(), committed, published, bytes(data))
    return "accepted"
