"""Signed checkpoints: known answers of other implementations, one form for each value, and a reason for each rejection."""

import base64
import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import VerificationError
from storage.checkpoint import LogKeys, SigningKey
from tests.support.merkle import NaiveTree
from verifier.log import EMPTY_ROOT
from verifier.note import (
    COSIGNER_KEY,
    LOG_KEY,
    MAX_NOTE,
    NO_LIMIT,
    Checkpoint,
    Policy,
    VerifierKey,
    check_growth,
    parse_checkpoint,
    parse_key,
    parse_number,
    parse_policy,
    signed_by,
    split_note,
)

TREE = NaiveTree([bytes([n]) for n in range(20)])
KEY = SigningKey("example.com/log", bytes(range(32)))
OTHER = SigningKey("example.com/log", bytes(range(1, 33)))
COSIGNERS = {name: SigningKey(f"{name}.example", name.encode() * 16, COSIGNER_KEY) for name in ("w1", "w2", "w3")}
CHECKPOINT = Checkpoint("example.com/log", 5, TREE.root(0, 5))
POLICY = LogKeys(KEY).policy
TIME = 1_700_000_000

# a checkpoint of the Go checksum database (transparency-dev/formats), and its key (cmd/go)
SUMDB_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
SUMDB = """go.sum database tree
6476701
mb8QLQIs0Z0yP5Cstq6guj87oXWeC9gEM8oVikmm9Wk=

— sum.golang.org Az3grsLX85Gz+s1SiTbgkuqxgItqFq7gsMUEyVnrsa9LM7Us9S+1xbFIGu95949rj4nPRYfvimWEPWL+o3GeoWwOoAw=
"""
# a checkpoint of a public staging log with an RFC 6962 tree head, its Ed25519 signature and four cosignatures
ARCHE_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
ARCHE_COSIGNERS = {
    "remora": "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "stagemole": "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
    "garden": "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "smartit": "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
}
ARCHE = """arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""  # noqa: E501


def refused(reason: str, check: Callable[[], object]) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        check()
    assert caught.value.reason == reason
    return caught.value


def note(checkpoint: Checkpoint = CHECKPOINT, *keys: SigningKey) -> bytes:
    lines = [key.line(checkpoint, TIME) for key in keys or (KEY,)]
    return checkpoint.body() + ("\n" + "".join(lines)).encode()


def policy(quorum: str, *lines: str, log: object = KEY.public) -> Policy:
    cosigners = [f"witness {name} {key.public}" for name, key in COSIGNERS.items()]
    return parse_policy("\n".join([f"log {log}", *cosigners, *lines, f"quorum {quorum}", ""]).encode())


def test_a_checkpoint_of_the_go_checksum_database() -> None:
    key = parse_key(SUMDB_KEY, LOG_KEY)
    assert str(key) == SUMDB_KEY
    # its origin is not its key's name, which this policy demands; the signature is checked all the same
    refused("checkpoint-origin", lambda: parse_checkpoint(SUMDB.encode(), Policy(((key, NO_LIMIT),), {}, {}, "none")))
    checkpoint, lines = split_note(SUMDB.encode())
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", 6476701)
    assert checkpoint.body() == SUMDB.partition("\n\n")[0].encode() + b"\n"
    assert signed_by(key, checkpoint, lines)
    refused("checkpoint-signature", lambda: signed_by(key, Checkpoint(checkpoint.origin, 6476702, checkpoint.root), lines))


def test_a_cosigned_checkpoint_of_another_log() -> None:
    witnesses = [f"witness {name} {key}" for name, key in ARCHE_COSIGNERS.items()]
    text = "\n".join([f"log {ARCHE_KEY}", *witnesses, f"group four all {' '.join(ARCHE_COSIGNERS)}", "quorum four\n"])
    assert parse_checkpoint(ARCHE.encode(), parse_policy(text.encode())).size == 1432088532
    for old, new, reason in (("1432088532", "1432088533", "checkpoint-signature"), ("IobWX9sX", "IobWX9sY", "cosignature")):
        refused(reason, lambda o=old, n=new: parse_checkpoint(ARCHE.replace(o, n).encode(), parse_policy(text.encode())))


def test_a_signature_of_the_go_implementation() -> None:
    """golang.org/x/mod, sumdb/note: key, text and signature."""
    seed = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    key = SigningKey("PeterNeumann", seed)
    assert str(key.public) == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    signature = base64.b64encode(key.public.id + Ed25519PrivateKey.from_private_bytes(seed).sign(text)).decode()
    assert signature == "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="


def test_a_signed_checkpoint_is_read() -> None:
    assert parse_checkpoint(note(), POLICY) == CHECKPOINT
    assert parse_checkpoint(note(CHECKPOINT, COSIGNERS["w1"], KEY, OTHER), POLICY) == CHECKPOINT  # unknown lines are ignored
    empty = Checkpoint("example.com/log", 0, EMPTY_ROOT)
    assert parse_checkpoint(note(empty), POLICY) == empty


@pytest.mark.parametrize("change", [
    lambda t: "\n" + t, lambda t: t + "\n", lambda t: t + " ", lambda t: t + "x", lambda t: t[:-1], lambda t: t.replace("\n\n", "\n\n\n"),
    lambda t: t.replace("\n\n", "\n"), lambda t: t.replace("\n5\n", "\n\n5\n"), lambda t: t.replace("\n\n", "\nextension\n\n"),
    lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n5\n", "\n5\t\n"), lambda t: t.replace("example.com/log\n", "\n", 1),
    lambda t: t.replace("— ", "- "), lambda t: t.replace("— ", "—  "), lambda t: t.replace("— ", ""),
    lambda t: t.replace("— example", "— exa mple"), lambda t: t.replace("— example", "— exa\u00a0mple"),
    lambda t: t.replace("— example", "— exa+mple"), lambda t: t.replace("— example.com/log", "—"),
    lambda t: t.replace("example", "ex\x00mple"), lambda t: t.replace("example", "ex\x7fmple"), lambda t: t.partition("\n\n")[0] + "\n\n",
    lambda t: t.replace("\n\n", "\n\n\u2028"), lambda t: "", lambda t: "\n\n", lambda t: "a\n\n", lambda t: t + t, lambda t: t + "— x\n",
])
def test_a_note_has_one_form(change: Callable[[str], str]) -> None:
    refused("checkpoint-format", lambda: parse_checkpoint(change(note().decode()).encode(), POLICY))


def test_a_note_is_short_utf8() -> None:
    refused("checkpoint-format", lambda: parse_checkpoint(note()[:-1] + b"\xff\n", POLICY))
    refused("checkpoint-format", lambda: parse_checkpoint(b"\xef\xbf\xbd".join(note().split(b"\xe2\x80\x94")), POLICY))
    filler = "— x " + base64.b64encode(bytes(600)).decode() + "\n"
    assert parse_checkpoint(note() + filler.encode() * 100, POLICY) == CHECKPOINT
    refused("checkpoint-format", lambda: parse_checkpoint(note() + filler.encode() * (MAX_NOTE // len(filler) + 1), POLICY))


@pytest.mark.parametrize("size", ["05", "+5", "-5", " 5", "5 ", "5.0", "", "0x5", "٥", "9223372036854775808", "1" + "0" * 5000])
def test_a_size_has_one_text(size: str) -> None:
    changed = note().decode().replace("\n5\n", f"\n{size}\n").encode()
    refused("number", lambda: parse_checkpoint(changed, POLICY))


@pytest.mark.parametrize("change", [
    lambda b: b.rstrip("="), lambda b: b + "=", lambda b: b[:-2] + chr(ord(b[-2]) + 1) + "=", lambda b: b[:-1] + "==",
    lambda b: b[:4] + "\u00a0" + b[4:],
    lambda b: b.replace("/", "_").replace("+", "-") + "-", lambda b: b[:8] + " " + b[8:], lambda b: "", lambda b: "=", lambda b: b + "AAAA",
])
def test_base64_has_one_text(change: Callable[[str], str]) -> None:
    root = base64.b64encode(CHECKPOINT.root).decode()
    with pytest.raises(VerificationError) as caught:
        parse_checkpoint(note().decode().replace(root, change(root)).encode(), POLICY)
    assert caught.value.reason in ("base64", "checkpoint-format")
    signature = KEY.line(CHECKPOINT).split(" ")[2].strip()
    with pytest.raises(VerificationError) as caught:
        parse_checkpoint(note().decode().replace(signature, change(signature)).encode(), POLICY)
    assert caught.value.reason in ("base64", "checkpoint-format", "checkpoint-signature")


def test_a_root_is_a_hash_and_empty_with_the_tree() -> None:
    for size, root in ((5, bytes(31)), (5, bytes(33)), (5, EMPTY_ROOT), (0, CHECKPOINT.root)):
        refused("checkpoint-format", lambda s=size, r=root: parse_checkpoint(note(Checkpoint("example.com/log", s, r)), POLICY))


def test_every_byte_counts() -> None:
    good = note(CHECKPOINT, KEY, COSIGNERS["w1"])
    demanding = policy("w1")
    assert parse_checkpoint(good, demanding) == CHECKPOINT
    for n in range(len(good)):
        for bit in (1, 4, 128):
            bad = good[:n] + bytes([good[n] ^ bit]) + good[n + 1:]
            with pytest.raises(VerificationError):
                parse_checkpoint(bad, demanding)


def test_reasons() -> None:
    elsewhere = Checkpoint("example.com/other", 5, CHECKPOINT.root)
    refused("checkpoint-origin", lambda: parse_checkpoint(note(elsewhere), POLICY))
    refused("checkpoint-signature", lambda: parse_checkpoint(note(CHECKPOINT, OTHER), POLICY))
    refused("checkpoint-signature", lambda: parse_checkpoint(note(CHECKPOINT, KEY, KEY), POLICY))  # twice is not once
    swapped = CHECKPOINT.body() + b"\n" + KEY.line(elsewhere).encode()
    refused("checkpoint-signature", lambda: parse_checkpoint(swapped, POLICY))
    refused("quorum", lambda: parse_checkpoint(note(), policy("w1")))
    forged = Checkpoint("example.com/log", 6, CHECKPOINT.root)
    line = COSIGNERS["w1"].line(forged, TIME)
    refused("cosignature", lambda: parse_checkpoint(note() + line.encode(), policy("w2")))


def test_a_retired_key_is_stale_above_its_size() -> None:
    old = Policy(((KEY.public, 4), (OTHER.public, NO_LIMIT)), {}, {}, "none")
    refused("stale-key", lambda: parse_checkpoint(note(), old))
    assert parse_checkpoint(note(CHECKPOINT, KEY, OTHER), old) == CHECKPOINT
    four = Checkpoint("example.com/log", 4, TREE.root(0, 4))
    assert parse_checkpoint(note(four), old) == four
    assert policy("none", log=f"{KEY.public} until:4").logs == ((KEY.public, 4),)


def test_a_cosigner_signs_its_time() -> None:
    key = COSIGNERS["w1"]
    value = base64.b64decode(key.line(CHECKPOINT, TIME).split(" ")[2])
    later = value[:4] + (TIME + 1).to_bytes(8, "big") + value[12:]
    line = f"— {key.name} {base64.b64encode(later).decode()}\n"
    refused("cosignature", lambda: parse_checkpoint(note() + line.encode(), policy("w1")))
    signed = Ed25519PrivateKey.from_private_bytes(key.seed).sign(f"cosignature/v1\ntime {TIME}\n".encode() + CHECKPOINT.body())
    assert value == key.public.id + TIME.to_bytes(8, "big") + signed
    short = f"— {key.name} {base64.b64encode(value[:8]).decode()}\n"
    refused("cosignature", lambda: parse_checkpoint(note() + short.encode(), policy("w1")))


@pytest.mark.parametrize(("quorum", "groups", "signers", "accepted"), [
    ("none", [], [], True),
    ("w1", [], ["w1"], True),
    ("w1", [], ["w2", "w3"], False),
    ("g", ["group g any w1 w2"], ["w2"], True),
    ("g", ["group g all w1 w2"], ["w2"], False),
    ("g", ["group g all w1 w2"], ["w1", "w2"], True),
    ("g", ["group g 2 w1 w2 w3"], ["w1", "w3"], True),
    ("g", ["group g 2 w1 w2 w3"], ["w3"], False),
    ("h", ["group g any w1 w2", "group h all g w3"], ["w2", "w3"], True),
    ("h", ["group g any w1 w2", "group h all g w3"], ["w1", "w2"], False),
])
def test_quorum(quorum: str, groups: list[str], signers: list[str], accepted: bool) -> None:
    signed = note(CHECKPOINT, KEY, *(COSIGNERS[name] for name in signers))
    if accepted:
        assert parse_checkpoint(signed, policy(quorum, *groups)) == CHECKPOINT
    else:
        refused("quorum", lambda: parse_checkpoint(signed, policy(quorum, *groups)))


@pytest.mark.parametrize("lines", [
    [], ["quorum w9"], ["quorum none", "quorum none"], ["quorum none", "quorum w1"], ["group g 0 w1", "quorum g"],
    ["group g 2 w1", "quorum g"], ["group g any", "quorum g"], ["group g any none", "quorum g"], ["group g any w1 w1", "quorum g"],
    ["group g any w1", "group h any w1", "quorum h"], ["group g any h", "group h any w1", "quorum g"], ["group w1 any w2", "quorum w1"],
    ["group none any w2", "quorum none"], ["group g any g", "quorum g"], ["nonsense", "quorum none"], ["log", "quorum none"],
    ["quorum", "quorum none"],
    ["quorum none none"], ["group g any w1", "group g any w2", "quorum g"],
    [f"witness w1 {SigningKey('z', bytes(32), COSIGNER_KEY).public}", "quorum none"],  # a name twice
    [f"witness w4 {VerifierKey('again', COSIGNER_KEY, COSIGNERS['w1'].public.public)}", "quorum none"],  # a key under another name
    [f"log {KEY.public}", "quorum none"], [f"log {VerifierKey('again', LOG_KEY, KEY.public.public)}", "quorum none"],
    [f"log {OTHER.public} until:3 x", "quorum none"], [f"log {OTHER.public} untl:3", "quorum none"],
    [f"log {OTHER.public} until:{NO_LIMIT}", "quorum none"],  # says what no rotation says
    [f"witness w4 {SigningKey('z', bytes(32), COSIGNER_KEY).public} https://a.example x", "quorum none"], ["quorum none\u00a0"],
])
def test_a_policy_means_one_thing(lines: list[str]) -> None:
    head = [f"log {KEY.public}", *(f"witness {name} {key.public}" for name, key in COSIGNERS.items())]
    refused("policy", lambda: parse_policy("\n".join([*head, *lines, ""]).encode()))


@pytest.mark.parametrize(("line", "reason"), [
    (f"log {KEY.public} until:x", "number"), (f"log {KEY.public} until:05", "number"), ("group g x w1", "number"),
    ("group g 01 w1", "number"),
    ("log nonsense", "key-format"), (f"log {COSIGNERS['w1'].public}", "key-format"), (f"witness w1 {KEY.public}", "key-format"),
    (f"log {str(KEY.public).replace('+', '+0', 1)}", "key-format"), (f"log x{KEY.public}", "key-format"),
    (f"log {str(KEY.public)[:-4]}", "key-format"), ("quorum none\r", "policy-format"), ("# \x00", "policy-format"),
])
def test_policy_lines_have_one_form(line: str, reason: str) -> None:
    witness = f"witness w1 {COSIGNERS['w2'].public}\n" if line.startswith("group") else ""
    refused(reason, lambda: parse_policy(f"{witness}{line}\nquorum none\n".encode()))


def test_a_policy_is_read_with_blanks_and_comments() -> None:
    text = f"# a log\n\n \t\n  log\t {KEY.public}   https://example.com/log \n\t# more\n"
    text += f"witness  w1 {COSIGNERS['w1'].public} url\n quorum  w1"
    found = parse_policy(text.encode())
    assert found == Policy(((KEY.public, NO_LIMIT),), {"w1": COSIGNERS["w1"].public}, {}, "w1")


def test_key_ids() -> None:
    public = KEY.public
    assert public.id == hashlib.sha256(b"example.com/log\n\x01" + public.public).digest()[:4]
    assert COSIGNERS["w1"].public.id == hashlib.sha256(b"w1.example\n\x04" + COSIGNERS["w1"].public.public).digest()[:4]
    for text in ARCHE_COSIGNERS.values():
        assert str(parse_key(text, COSIGNER_KEY)) == text


def test_growth() -> None:
    def at(size: int) -> Checkpoint:
        return Checkpoint("example.com/log", size, TREE.root(0, size))

    check_growth(at(0), at(9), [])
    check_growth(at(5), at(9), TREE.proof(5, 9))
    check_growth(at(9), at(9), [])
    refused("rollback", lambda: check_growth(at(9), at(5), TREE.proof(5, 9)))
    refused("fork", lambda: check_growth(at(9), Checkpoint("example.com/log", 9, bytes(32)), []))
    refused("checkpoint-origin", lambda: check_growth(at(5), Checkpoint("example.com/two", 9, TREE.root(0, 9)), TREE.proof(5, 9)))
    refused("consistency", lambda: check_growth(at(5), Checkpoint("example.com/log", 9, bytes(32)), TREE.proof(5, 9)))
    refused("consistency", lambda: check_growth(at(5), at(9), []))


def test_the_line_of_a_policy_is_named() -> None:
    assert refused("policy", lambda: parse_policy(b"nonsense\nquorum none\n")).where == "line 1 of the policy"
    assert refused("policy", lambda: parse_policy(b"# a\nquorum none\n\nnonsense\n")).where == "line 4 of the policy"


def test_the_longest_note_is_read_and_one_byte_more_is_not() -> None:
    line = b"\xe2\x80\x94 x " + base64.b64encode(bytes(600)) + b"\n"
    full = note() + line * ((MAX_NOTE - len(note())) // len(line))
    name = MAX_NOTE - len(full) - (len(line) - 1)  # of a last line that fills the rest
    lines = full if name > 0 else full[: -len(line)]
    name += 0 if name > 0 else len(line)
    exact = lines + line.replace(b" x ", b" " + b"x" * name + b" ")
    assert len(exact) == MAX_NOTE == 128 << 10 and parse_checkpoint(exact, POLICY) == CHECKPOINT
    refused("checkpoint-format", lambda: parse_checkpoint(exact.replace(b" x", b" xx", 1), POLICY))


def test_whose_base64_is_wrong_is_named() -> None:
    bad = note() + "— somebody AA==AA==\n".encode()
    assert refused("base64", lambda: split_note(bad)).where == "somebody"


def test_a_key_that_was_retired_before_the_first_entry() -> None:
    """until:0 believes the key about the empty log, and about no other."""
    old, empty = Policy(((KEY.public, 0),), {}, {}, "none"), Checkpoint("example.com/log", 0, EMPTY_ROOT)
    assert parse_checkpoint(note(empty), old) == empty
    refused("stale-key", lambda: parse_checkpoint(note(), old))


def test_the_largest_number() -> None:
    assert parse_number(str(NO_LIMIT), "x") == NO_LIMIT == 2**63 - 1 and parse_number("0", "x") == 0
    refused("number", lambda: parse_number(str(NO_LIMIT + 1), "x"))
