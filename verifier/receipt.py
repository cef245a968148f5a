"""A signed verdict: a DSSE envelope of an in-toto Statement v1 about one run.

    payload     canonical JSON: subject = SHA-256 of the manifest and of the checkpoint, predicate = the verdict
    envelope    {"payload": base64, "payloadType": …, "signatures": [{"keyid": public key, "sig": base64}]}
    signed      PAE = "DSSEv1" SP len(type) SP type SP len(payload) SP payload, by Ed25519 (DSSE protocol, in-toto attestation)

The public key is part of the predicate, so a receipt says who claims what; whether that key is an auditor's is for the reader
to know. A receipt has one encoding, so that nobody can make several of one, and is about one run and manifest (`receipt_about`).
Who verified is also told by the SHA-256 of the verifier's own source. Called by verifier/__main__.py and tasks/verify.py.
"""

import base64
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

import protocol
from protocol.encoding import canonical_json, parse_canonical
from protocol.errors import VerificationError
from verifier import __version__
from verifier.log import require
from verifier.task import fail_closed, printable, typed

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:verilora:verdict:v1"
_PREDICATE: dict[str, type] = {
    "run": str, "accepted": bool, "state": str, "reason": str, "order": str, "sample": str, "log": dict, "manifest": str, "bits": int,
    "total_bits": int, "delivered": dict,
}
_TASK: dict[str, type] = {"task": str, "statement": str, "proof": str, "accepted": bool, "reason": str, "bits": int}
_VERIFIER: dict[str, type] = {"key": str, "name": str, "source": str, "version": str}


def source_digest() -> str:
    """SHA-256 over the verifier's own modules, names and bytes: what ran, as far as it can say that of itself."""
    digest = hashlib.sha256()
    for root in (Path(protocol.__file__).parent, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            data = path.read_bytes()
            digest.update(f"{path.relative_to(root.parent).as_posix()} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def load_key(path: Path) -> Ed25519PrivateKey:
    """The signing key in a file of mode 600, generated on first use; ValueError if others can read it or it is another key."""
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        plain = serialization.NoEncryption()
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"{path} can be read by other users (mode {mode:o}): run chmod 600 {path}")
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise ValueError(f"{path} holds no plain Ed25519 key: give another --sign-key; it is generated if the file is absent")
    return found


def public_text(key: Ed25519PrivateKey) -> str:
    """The public key, 32 bytes in hexadecimal: what receipts carry and trust lists name."""
    return key.public_key().public_bytes_raw().hex()


def pre_authentication(payload: bytes) -> bytes:
    """PAE, the bytes that are signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def sign_receipt(report: Mapping[str, Any], verifier: str, key: Ed25519PrivateKey) -> bytes:
    """The envelope, canonical JSON, of a report (verifier/report.py); `verifier` is what whoever verified calls itself."""
    who = {"key": public_text(key), "name": verifier, "source": source_digest(), "version": __version__}
    tasks = [{column: task[column] for column in _TASK} for task in report["tasks"]]
    payload = canonical_json({
        "_type": STATEMENT_TYPE, "predicateType": PREDICATE_TYPE,
        "subject": [{"digest": {"sha256": digest}, "name": name} for name, digest in sorted(report["digests"].items())],
        "predicate": {column: report[column] for column in _PREDICATE} | {"tasks": tasks, "verifier": who},
    })
    return _envelope(payload, who["key"], key.sign(pre_authentication(payload)))


def _envelope(payload: bytes, key: str, signed: bytes) -> bytes:
    signature = {"keyid": key, "sig": base64.b64encode(signed).decode()}
    return canonical_json({"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [signature]})


def verify_receipt(envelope: bytes) -> dict[str, Any]:
    """The in-toto statement of an envelope whose signature is its own key's, with a verdict that does not contradict itself;
    VerificationError otherwise."""
    with fail_closed("receipt"):
        value = parse_canonical(envelope, "receipt")
        payload, (signature,) = base64.b64decode(value["payload"], validate=True), value["signatures"]
        statement: dict[str, Any] = parse_canonical(payload, "receipt")
        types = (value["payloadType"], statement["_type"], statement["predicateType"])
        if types != (PAYLOAD_TYPE, STATEMENT_TYPE, PREDICATE_TYPE):
            raise VerificationError("receipt-type", "receipt", PREDICATE_TYPE, printable(types))
        predicate = typed(statement["predicate"], _PREDICATE | {"tasks": list, "verifier": dict}, "receipt")
        for task in predicate["tasks"]:
            typed(task, _TASK, "receipt")
        key = typed(predicate["verifier"], _VERIFIER, "receipt")["key"]
        if signature["keyid"] != key:
            raise VerificationError("receipt-key", "receipt", printable(key), printable(signature["keyid"]))
        try:
            signed = base64.b64decode(signature["sig"], validate=True)
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signed, pre_authentication(payload))
        except InvalidSignature:
            raise VerificationError("receipt-signature", "receipt", f"a signature of {printable(key)}", "another") from None
        require(envelope == _envelope(payload, key, signed), "non-canonical", "receipt", "one encoding", "another of the same")
        state, tasks, names = predicate["state"], predicate["tasks"], [item["name"] for item in statement["subject"]]
        passed = tasks and all(task["accepted"] for task in tasks) and "manifest" in names
        sound = len(set(names)) == len(names) and predicate["accepted"] == (state == "accepted") and (passed or state == "rejected")
        require(sound, "receipt-verdict", "receipt", "a verdict that follows from its tasks, on one manifest", printable(state))
        return statement


def receipt_id(envelope: bytes) -> str:
    """What a ledger calls the verification that ended in this receipt."""
    return hashlib.sha256(envelope).hexdigest()[:32]


def receipt_about(envelope: bytes, run_id: str, manifest: bytes) -> dict[str, Any]:
    """The predicate of a receipt on this run and manifest (a rejection may be of evidence without a manifest); VerificationError
    if it is none."""
    statement = verify_receipt(envelope)
    predicate: dict[str, Any] = statement["predicate"]
    require(predicate["run"] == run_id, "receipt-run", "receipt", printable(run_id), printable(predicate["run"]))
    with fail_closed("receipt"):
        subjects, actual = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}, hashlib.sha256(manifest).hexdigest()
    said = subjects.get("manifest", actual)
    require(said == actual, "receipt-subject", f"run {printable(run_id)}", f"manifest {actual}", printable(said))
    return predicate
