"""Signed verdicts: an in-toto statement in a DSSE envelope, as the two specifications write them; anything else is refused."""

import base64
import hashlib
import json
import random
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.encoding import canonical_json
from protocol.errors import VerificationError
from tests.support.bundles import KEYS, Source
from verifier.evidence import Verdict
from verifier.receipt import (
    load_key,
    pre_authentication,
    public_text,
    receipt_about,
    receipt_id,
    sign_receipt,
    source_digest,
    verify_receipt,
)
from verifier.report import report

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def envelope(key: Ed25519PrivateKey = KEY) -> bytes:
    verdict = Verdict("run-1", KEYS.sign(Source((), {}).checkpoint()), "some-reason at log", "not checked")
    task = {"task": "embed(0)", "statement": "0" * 64, "proof": "1" * 64, "accepted": True, "reason": "", "bits": 109, "proof_bytes": 1}
    return sign_receipt(report(verdict) | {"tasks": [task]}, "auditor", key)


def resigned(key: Ed25519PrivateKey = KEY, **changes: object) -> bytes:
    """The envelope of somebody who signs whatever they like."""
    value = json.loads(envelope(key))
    payload = canonical_json(json.loads(base64.b64decode(value["payload"])) | changes)
    signature = {"keyid": public_text(key), "sig": base64.b64encode(key.sign(pre_authentication(payload))).decode()}
    return canonical_json(value | {"payload": base64.b64encode(payload).decode(), "signatures": [signature]})


def predicate(**changes: object) -> dict[str, object]:
    return dict(verify_receipt(envelope())["predicate"]) | changes


def test_the_signed_bytes_are_dsse_s() -> None:
    """The example of the DSSE protocol has payload "hello world" of type "http://example.com/HelloWorld"; here the type is fixed."""
    assert pre_authentication(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"


def test_a_receipt_says_who_judged_what_and_how() -> None:
    statement = verify_receipt(envelope())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    [subject] = statement["subject"]
    assert subject["name"] == "checkpoint" and len(subject["digest"]["sha256"]) == 64
    said = statement["predicate"]
    assert said["run"] == "run-1" and said["state"] == "rejected" and said["accepted"] is False and "some-reason" in said["reason"]
    assert said["verifier"] == {"key": public_text(KEY), "name": "auditor", "source": source_digest(), "version": "0.1.0"}
    assert said["tasks"] == [{"task": "embed(0)", "statement": "0" * 64, "proof": "1" * 64, "accepted": True, "reason": "", "bits": 109}]


def test_the_signature_is_ed25519_over_those_bytes() -> None:
    value = json.loads(envelope())
    [signature] = value["signatures"]
    KEY.public_key().verify(base64.b64decode(signature["sig"]), pre_authentication(base64.b64decode(value["payload"])))
    with pytest.raises(InvalidSignature):
        OTHER.public_key().verify(base64.b64decode(signature["sig"]), pre_authentication(base64.b64decode(value["payload"])))


def test_every_flipped_byte_is_refused() -> None:
    data, chance = envelope(), random.Random(1)
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1 << chance.randrange(8)
        with pytest.raises(VerificationError):
            verify_receipt(bytes(changed))


def test_another_key_cannot_sign_for_this_one() -> None:
    ours, theirs = json.loads(envelope()), json.loads(envelope(OTHER))
    with pytest.raises(VerificationError, match="receipt-key"):
        verify_receipt(canonical_json(ours | {"signatures": theirs["signatures"]}))
    [signature] = theirs["signatures"]
    with pytest.raises(VerificationError, match="receipt-signature"):
        verify_receipt(canonical_json(ours | {"signatures": [signature | {"keyid": public_text(KEY)}]}))


@pytest.mark.parametrize(("changes", "reason"), [
    ({"_type": "https://in-toto.io/Statement/v0.1"}, "receipt-type"),
    ({"predicateType": "https://slsa.dev/provenance/v1"}, "receipt-type"),
    ({"predicate": {}}, "malformed"),
    ({"predicate": []}, "malformed"),
    ({"predicate": predicate(run=1)}, "malformed"),
    ({"predicate": predicate(accepted=1)}, "malformed"),
    ({"predicate": predicate(tasks=[{}])}, "malformed"),
    ({"predicate": predicate(tasks={})}, "malformed"),
    ({"predicate": predicate(verifier={})}, "malformed"),
])
def test_statements_of_another_kind(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(VerificationError, match=reason):
        verify_receipt(resigned(**changes))


def subject(**digests: str) -> list[dict[str, object]]:
    return [{"digest": {"sha256": digest}, "name": name} for name, digest in sorted(digests.items())]


GOOD = {"task": "embed(0)", "statement": "0" * 64, "proof": "1" * 64, "accepted": True, "reason": "", "bits": 109}
BOTH = subject(checkpoint="0" * 64, manifest="1" * 64)
ACCEPTED = predicate(accepted=True, state="accepted", reason="")


def test_a_verdict_follows_from_its_tasks_on_one_manifest() -> None:
    for state in ("accepted", "sample passed"):
        said = ACCEPTED | {"state": state, "accepted": state == "accepted"}
        assert verify_receipt(resigned(predicate=said, subject=BOTH))["predicate"] == said
        for predicate_, subject_ in (
            (said, subject(checkpoint="0" * 64)),  # of no manifest
            (said, [*BOTH, *subject(manifest="2" * 64)]),  # of two
            (said | {"tasks": []}, BOTH), (said | {"tasks": [GOOD, GOOD | {"accepted": False}]}, BOTH),
            (said | {"accepted": not said["accepted"]}, BOTH),
        ):
            with pytest.raises(VerificationError, match="receipt-verdict"):
                verify_receipt(resigned(predicate=predicate_, subject=subject_))
    for said in (predicate(tasks=[]), predicate(tasks=[GOOD | {"accepted": False}])):  # a rejection may be of anything
        assert verify_receipt(resigned(predicate=said, subject=[]))["predicate"]["state"] == "rejected"
    with pytest.raises(VerificationError, match="receipt-verdict"):
        verify_receipt(resigned(predicate=predicate(accepted=True)))


def test_every_task_of_a_receipt_is_complete() -> None:
    for column in GOOD:
        for task in ({name: value for name, value in GOOD.items() if name != column}, GOOD | {column: {}}, GOOD | {column: []}):
            with pytest.raises(VerificationError, match="malformed"):
                verify_receipt(resigned(predicate=predicate(tasks=[GOOD, task])))


def test_a_receipt_is_about_one_run_and_manifest() -> None:
    digest = hashlib.sha256(b"manifest").hexdigest()
    signed = resigned(predicate=ACCEPTED, subject=subject(checkpoint="0" * 64, manifest=digest))
    assert receipt_about(signed, "run-1", b"manifest") == ACCEPTED
    with pytest.raises(VerificationError, match="receipt-run"):
        receipt_about(signed, "run-2", b"manifest")
    with pytest.raises(VerificationError, match="receipt-subject"):
        receipt_about(signed, "run-1", b"another")
    assert receipt_about(envelope(), "run-1", b"manifest")["state"] == "rejected"  # of evidence without a manifest
    with pytest.raises(VerificationError, match="malformed"):
        receipt_about(resigned(subject=[{"digest": {}, "name": "manifest"}]), "run-1", b"manifest")


def test_a_receipt_has_one_encoding() -> None:
    """Else one auditor's verdict could be submitted as many."""
    value = json.loads(envelope())
    [signature] = value["signatures"]
    loose = signature["sig"][:-3] + chr(ord(signature["sig"][-3]) + 1) + "=="  # other spare bits of the same 64 bytes
    assert base64.b64decode(loose) == base64.b64decode(signature["sig"])
    for twin in (value | {"comment": ""}, value | {"signatures": [signature | {"comment": ""}]},
                 value | {"signatures": [signature | {"sig": loose}]}):
        with pytest.raises(VerificationError, match="non-canonical at receipt"):
            verify_receipt(canonical_json(twin))
    with pytest.raises(VerificationError, match="non-canonical"):
        verify_receipt(envelope() + b"\n")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 5000, b'{"payload":"","payloadType":"","signatures":[]}'])
def test_what_is_no_envelope(data: bytes) -> None:
    with pytest.raises(VerificationError):
        verify_receipt(data)


def test_envelopes_with_no_or_two_signatures_or_another_payload_type() -> None:
    value = json.loads(envelope())
    for change in ({"signatures": []}, {"signatures": value["signatures"] * 2}, {"payloadType": "text/plain"}, {"payload": "%%"}):
        with pytest.raises(VerificationError):
            verify_receipt(canonical_json(value | change))


def test_the_key_is_made_once_and_is_the_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "verifier.key"
    key = load_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert public_text(load_key(path)) == public_text(key) != public_text(load_key(tmp_path / "other.key"))
    path.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "verifier.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="verifier.key"):
        load_key(path)


def test_the_source_digest_is_of_what_an_auditor_reads() -> None:
    assert source_digest() == source_digest() and len(source_digest()) == 64


def test_base64_with_anything_else_in_it_is_malformed() -> None:
    value = json.loads(envelope())
    [signature] = value["signatures"]
    for changed in (value | {"payload": value["payload"][:4] + "*" + value["payload"][4:]},
                    value | {"signatures": [signature | {"sig": "*" + signature["sig"]}]}):
        with pytest.raises(VerificationError) as caught:
            verify_receipt(canonical_json(changed))
        assert caught.value.reason == "malformed"


def test_the_source_digest_covers_names_and_bytes() -> None:
    root = Path(__file__).parents[2]
    texts = [(p.relative_to(root).as_posix(), p.read_bytes()) for d in ("protocol", "verifier") for p in sorted((root / d).rglob("*.py"))]
    assert source_digest() == hashlib.sha256(b"".join(f"{name} {len(data)}\n".encode() + data for name, data in texts)).hexdigest()


def test_a_receipt_s_id_is_the_beginning_of_its_digest() -> None:
    assert receipt_id(b"x") == hashlib.sha256(b"x").hexdigest()[:32]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o610, 0o602, 0o677])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a" / "b" / "sign.key"  # folders are made
    before = load_key(path).private_bytes_raw()
    path.chmod(mode)
    with pytest.raises(ValueError, match="chmod 600"):
        load_key(path)
    path.chmod(0o700)
    assert load_key(path).private_bytes_raw() == before
