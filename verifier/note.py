"""Signed checkpoints, cosignatures and the policy that says whom to believe (C2SP signed-note, tlog-checkpoint,
tlog-cosignature, tlog-policy).

    checkpoint = origin ⏎ size ⏎ base64(root) ⏎ ⏎, then lines  — name base64(key id ‖ signature)
    key id     = SHA-256(name ‖ ⏎ ‖ algorithm ‖ public key)[:4]      key as text = name+hex(key id)+base64(algorithm ‖ public key)

Algorithm 1 signs the text before the empty line (Ed25519, the log). Algorithm 4 signs "cosignature/v1 ⏎ time N ⏎" and that
text, with N in the first 8 bytes of the signature. Lines of unknown keys are ignored; a line of a known key that does not
verify rejects the whole note. Sizes are capped before anything is parsed, and every value has one encoding.

A policy has lines `log KEY [until:N]`, `witness NAME KEY`, `group NAME all|any|K MEMBER…`, `quorum NAME|none`. After a
rotation the old key has `until:N` (in the place of C2SP's optional URL): it is believed up to N entries. C2SP's witnesses
are called cosigners here. Called by verifier/ and storage/, which signs.
"""

import base64
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.errors import VerificationError
from verifier.log import EMPTY_ROOT, HASH_BYTES, require, verify_consistency

LOG_KEY, COSIGNER_KEY = 1, 4  # C2SP's algorithm bytes
MAX_NOTE = 1 << 17
NO_LIMIT = 2**63 - 1
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)")
_KEY = re.compile(r"([^\s+]+)\+[0-9a-f]{8}\+([A-Za-z0-9+/=]+)")
Signature = tuple[str, bytes]  # name, key id ‖ signature


@dataclass(frozen=True)
class VerifierKey:
    """A public key under its name; `kind` is its algorithm byte."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """What a signature line names the key by, beside its name."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"


@dataclass(frozen=True)
class Checkpoint:
    """A tree head: which log, how many entries, their root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> bytes:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


@dataclass(frozen=True)
class Policy:
    """Whom to believe: log keys with the size up to which each may sign, cosigners and groups by name, the quorum."""

    logs: tuple[tuple[VerifierKey, int], ...]
    cosigners: Mapping[str, VerifierKey]
    groups: Mapping[str, tuple[int, tuple[str, ...]]]
    quorum: str

    def reached(self, name: str, cosigned: Collection[str]) -> bool:
        """Whether cosigner or group `name` stands behind a checkpoint that these cosigners signed."""
        threshold, members = self.groups.get(name, (1, ()))
        return name in cosigned or name == "none" or sum(self.reached(m, cosigned) for m in members) >= threshold


def parse_key(text: str, kind: int, where: str = "key") -> VerifierKey:
    """A key of one algorithm from its text, whose id must be the key's."""
    match = _KEY.fullmatch(text)
    key = VerifierKey(match[1], kind, parse_base64(match[2], where)[1:]) if match else None
    if key is None or len(key.public) != 32 or str(key) != text:
        raise VerificationError("key-format", where, f"NAME+ID+KEY with algorithm {kind}", text[:100])
    return key


def parse_policy(data: bytes) -> Policy:
    """The policy in a file's bytes; VerificationError names the line that is wrong."""
    logs: list[tuple[VerifierKey, int]] = []
    cosigners: dict[str, VerifierKey] = {}
    groups: dict[str, tuple[int, tuple[str, ...]]] = {}
    quorum: list[str] = []
    free: set[str] = set()  # names that may still become members of a group
    for number, line in enumerate(_text(data, "policy", "\n\t").split("\n"), 1):
        where, known = f"line {number} of the policy", {"none", *cosigners, *groups}
        words = re.sub("[ \t]+", " ", line).strip(" ").split(" ")
        valid = words[0] == "" or words[0].startswith("#")
        match words:
            case ["log", text, *rest] if len(rest) < 2:
                until = parse_number(rest[0][6:], where) if rest and rest[0].startswith("until:") else NO_LIMIT
                logs.append((parse_key(text, LOG_KEY, where), until))
                known_end = not rest or until < NO_LIMIT or "://" in rest[0]  # else a misspelt until
                valid = known_end and len({key.public for key, _ in logs}) == len(logs)
            case ["witness", name, text, *rest] if len(rest) < 2 and name not in known:
                cosigners[name] = parse_key(text, COSIGNER_KEY, where)
                free.add(name)
                valid = len({key.public for key in cosigners.values()}) == len(cosigners)
            case ["group", name, count, *members] if members and name not in known:
                threshold = {"any": 1, "all": len(members)}.get(count) or parse_number(count, where)
                valid = len({*members} & free) == len(members) and 1 <= threshold <= len(members)
                groups[name], free = (threshold, tuple(members)), free - {*members} | {name}
            case ["quorum", name]:
                quorum.append(name)
                valid = len(quorum) == 1 and name in known
        require(valid, "policy", where, "a log, witness, group or quorum line that agrees with those above", line[:200])
    require(quorum, "policy", "policy", "a quorum line (`quorum none` asks for no cosigner)", "none")
    return Policy(tuple(logs), cosigners, groups, quorum[0])


def split_note(note: bytes) -> tuple[Checkpoint, list[Signature]]:
    """What a checkpoint's bytes say, and the signature lines; nothing is believed yet."""
    body, _, lines = _text(note[:MAX_NOTE + 1], "checkpoint", "\n").rpartition("\n\n")
    head, rows = body.split("\n"), [_SIGNATURE.fullmatch(line) for line in lines.split("\n")]
    if len(note) > MAX_NOTE or len(head) != 3 or not head[0] or rows.pop() or lines[-1:] != "\n" or not all(rows):
        raise VerificationError("checkpoint-format", "checkpoint", "origin, size, root, an empty line, signature lines", body[:200])
    checkpoint = Checkpoint(head[0], parse_number(head[1], "size"), parse_base64(head[2], "root"))
    sound = len(checkpoint.root) == HASH_BYTES and (checkpoint.size == 0) == (checkpoint.root == EMPTY_ROOT)
    require(sound, "checkpoint-format", "root", f"a SHA-256 root of {checkpoint.size} entries", head[2][:100])
    return checkpoint, [(row[1], parse_base64(row[2], row[1])) for row in rows if row]


def parse_checkpoint(note: bytes, policy: Policy) -> Checkpoint:
    """The checkpoint in a note that the policy accepts; VerificationError says which condition it does not meet."""
    checkpoint, signatures = split_note(note)
    keys = [(key, until) for key, until in policy.logs if key.name == checkpoint.origin]
    require(keys, "checkpoint-origin", "checkpoint", " or ".join(key.name for key, _ in policy.logs), checkpoint.origin)
    until = max((until for key, until in keys if signed_by(key, checkpoint, signatures)), default=-1)
    require(until >= 0, "checkpoint-signature", "checkpoint", f"one of {' or '.join(str(key) for key, _ in keys)}", "none")
    require(checkpoint.size <= until, "stale-key", "checkpoint", f"at most {until} entries", str(checkpoint.size))
    cosigned = {name for name, key in policy.cosigners.items() if signed_by(key, checkpoint, signatures)}
    require(policy.reached(policy.quorum, cosigned), "quorum", "checkpoint", policy.quorum, ", ".join(sorted(cosigned)) or "none")
    return checkpoint


def signed_by(key: VerifierKey, checkpoint: Checkpoint, signatures: Sequence[Signature]) -> bool:
    """Whether the key signed; VerificationError if there is a line of its name and id that does not verify."""
    found = [value[4:] for name, value in signatures if (name, value[:4]) == (key.name, key.id)]
    if not found:
        return False
    message, signature = checkpoint.body(), found[0]
    if key.kind == COSIGNER_KEY:
        message, signature = cosigned_message(checkpoint, int.from_bytes(signature[:8], "big")), signature[8:]
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        found.clear()
    reason = "cosignature" if key.kind == COSIGNER_KEY else "checkpoint-signature"
    require(len(found) == 1, reason, key.name, f"one line of {key}, which verifies", "another signature, or several")
    return True


def cosigned_message(checkpoint: Checkpoint, time: int) -> bytes:
    """What a cosigner signs: that at this time (POSIX seconds) the checkpoint was the largest it had seen of a log."""
    return f"cosignature/v1\ntime {time}\n".encode() + checkpoint.body()


def check_growth(seen: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> None:
    """`new` is the same log as `seen`, grown or unchanged: no rollback and no fork."""
    require(new.origin == seen.origin, "checkpoint-origin", "checkpoint", seen.origin, new.origin)
    require(new.size >= seen.size, "rollback", "checkpoint", f"at least the {seen.size} entries seen before", str(new.size))
    grown = new.size > seen.size or new.root == seen.root
    require(grown, "fork", f"log of {new.size} entries", f"root {seen.root.hex()}, seen before", new.root.hex())
    verify_consistency(seen.size, seen.root, new.size, new.root, path)


def parse_number(text: str, where: str) -> int:
    """A decimal number below 2^63 as it is written."""
    value = int(text) if re.fullmatch("0|[1-9][0-9]{0,18}", text) else NO_LIMIT + 1
    require(value <= NO_LIMIT, "number", where, "a decimal number below 2^63", text[:100])
    return value


def parse_base64(text: str, where: str) -> bytes:
    """Standard base64 with its padding: exactly one text for each value."""
    data = base64.b64decode(text) if _BASE64.fullmatch(text) else b""
    require(data and base64.b64encode(data).decode() == text, "base64", where, "canonical base64", text[:100])
    return data


def _text(data: bytes, where: str, controls: str) -> str:
    """UTF-8 without control characters, but for those named."""
    text = data.decode(errors="replace")
    plain = text.encode() == data and all(c >= " " and c != "\x7f" or c in controls for c in text)
    require(plain, f"{where}-format", where, "UTF-8 without control characters", text[:100])
    return text
