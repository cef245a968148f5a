"""The log's signing key with its rotations, and signature lines on checkpoints (formats: verifier/note.py).

    private store, log/key  = canonical JSON {"origin", "seed", "retired": [[key, until], …]}: one file, so a rotation is atomic
                   log/seen = canonical JSON {"size", "root"}: how far the ledger was when it was last relied on

A ledger that does not begin with the entries seen was restored from an older copy: openings would be spent twice (storage/log.py).

The key is made on first use; the origin stays when keys change. Of a retired key only the public half is kept, with the number of
entries up to which it is believed. Called by storage/log.py, storage/cosigner.py and cli/log.py.
"""

import base64
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.encoding import canonical_json, parse_canonical
from protocol.errors import VerificationError
from storage.disk import explain_os_errors, make_folder
from storage.errors import IntegrityError, MissingObject, StoreUnavailable
from storage.private import PrivateStore
from verifier.log import EMPTY_ROOT
from verifier.note import COSIGNER_KEY, LOG_KEY, NO_LIMIT, Checkpoint, Policy, VerifierKey, cosigned_message, parse_key

KEY_NAME, SEEN_NAME = "log/key", "log/seen"
WAIT_SECONDS = 60.0  # for a lock file, as for the database's lock (docs/decisions/0017-one-appender-at-a-time.md)


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key under its name."""

    name: str
    seed: bytes = field(repr=False)
    kind: int = LOG_KEY

    @property
    def public(self) -> VerifierKey:
        """What others verify with."""
        return VerifierKey(self.name, self.kind, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def line(self, checkpoint: Checkpoint, time: int = 0) -> str:
        """The signature line on a checkpoint; a cosigner's carries the time, in POSIX seconds."""
        key, stamp, message = Ed25519PrivateKey.from_private_bytes(self.seed), b"", checkpoint.body()
        if self.kind == COSIGNER_KEY:
            stamp, message = time.to_bytes(8, "big"), cosigned_message(checkpoint, time)
        return f"— {self.name} {base64.b64encode(self.public.id + stamp + key.sign(message)).decode()}\n"


@dataclass(frozen=True)
class LogKeys:
    """The key that signs, and those that did, each with the number of entries up to which it is believed."""

    current: SigningKey
    retired: tuple[tuple[VerifierKey, int], ...] = ()

    @property
    def policy(self) -> Policy:
        """The log's own signatures alone."""
        return Policy(((self.current.public, NO_LIMIT), *self.retired), {}, {}, "none")

    def policy_text(self) -> str:
        """The same as the file that an auditor needs, to be handed over by a way that the auditor trusts."""
        logs = [f"log {self.current.public}\n", *(f"log {key} until:{until}\n" for key, until in self.retired)]
        return "".join(["# whom to believe about this log (C2SP tlog-policy); add witness lines for cosigners\n", *logs, "quorum none\n"])

    def sign(self, checkpoint: Checkpoint) -> bytes:
        """A note with the log's signature."""
        return checkpoint.body() + b"\n" + self.current.line(checkpoint).encode()

    def stored(self) -> bytes:
        """What the private store holds."""
        retired = [[str(key), until] for key, until in self.retired]
        return canonical_json({"origin": self.current.name, "retired": retired, "seed": self.current.seed.hex()})

    def save(self, private: PrivateStore) -> None:
        """Replace what the private store holds, atomically."""
        private.put(KEY_NAME, self.stored())

    def rotated(self, size: int) -> "LogKeys":
        """A fresh key; the present one is believed up to `size` entries."""
        return LogKeys(replace(self.current, seed=secrets.token_bytes(32)), (*self.retired, (self.current.public, size)))


def load_keys(private: PrivateStore) -> LogKeys | None:
    """The log's keys, None if there are none yet."""
    try:
        stored = parse_canonical(private.get(KEY_NAME), KEY_NAME)
        retired = tuple((parse_key(key, LOG_KEY), int(until)) for key, until in stored["retired"])
        return LogKeys(SigningKey(stored["origin"], bytes.fromhex(stored["seed"])), retired)
    except MissingObject:
        return None
    except (VerificationError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{KEY_NAME} in the private store is damaged: restore it from your copy of the private store") from error


@dataclass(frozen=True)
class Seen:
    """The log's first `size` entries and their root."""

    size: int
    root: bytes

    def save(self, private: PrivateStore) -> None:
        """Replace what the private store holds, atomically; the caller has the publishers' lock."""
        private.put(SEEN_NAME, canonical_json({"root": self.root.hex(), "size": self.size}))


def load_seen(private: PrivateStore) -> Seen:
    """How far the private store has seen the ledger; no entry in a store that never relied on one."""
    try:
        stored = parse_canonical(private.get(SEEN_NAME), SEEN_NAME)
        return Seen(int(stored["size"]), bytes.fromhex(stored["root"]))
    except MissingObject:
        return Seen(0, EMPTY_ROOT)
    except (VerificationError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{SEEN_NAME} in the private store is damaged: restore it from your copy of the private store") from error


def create_keys(private: PrivateStore, origin: str = "") -> LogKeys:
    """Make the log's key, under a name of its own unless `origin` gives one; an existing key stays."""
    check_name(origin or "verilora")
    keys = load_keys(private)
    if keys is None:
        made = LogKeys(SigningKey(origin or f"verilora/{secrets.token_hex(8)}", secrets.token_bytes(32)))
        private.create(KEY_NAME, made.stored())
        keys = load_keys(private)  # another machine may have been faster: the key that is there counts
        if keys is None:
            raise MissingObject(f"{KEY_NAME} is gone from the private store {private.where} right after it was written")
    if origin not in ("", keys.current.name):
        raise ValueError(f"the log's origin is {keys.current.name!r} and cannot change: its checkpoints name it")
    return keys


def check_name(name: str) -> str:
    """`name` if it can name a key in a note."""
    if not name or len(name) > 200 or any(c.isspace() or not c.isprintable() or c == "+" for c in name):
        raise ValueError(f"{name!r} cannot name a key: use a name such as example.com/verilora, without spaces or '+'")
    return name


def with_lines(note: bytes, lines: Iterable[str]) -> bytes:
    """A checkpoint with more signature lines; a line of the same key is exchanged."""
    new = {_who(line): line for line in lines}
    body, _, old = note.decode().rpartition("\n\n")
    kept = [line for line in old.splitlines(keepends=True) if _who(line) not in new]
    return "".join([body, "\n\n", *kept, *new.values()]).encode()


def lines_of(note: bytes, key: VerifierKey) -> list[str]:
    """The signature lines on a checkpoint that name this key."""
    lines = note.decode().rpartition("\n\n")[2].splitlines(keepends=True)
    return [line for line in lines if _who(line) == (key.name, key.id)]


def _who(line: str) -> tuple[str, bytes]:
    _, name, value = line.split(" ")
    return name, base64.b64decode(value)[:4]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock; it dies with the process. StoreUnavailable if somebody else holds it for WAIT_SECONDS, which takes no work so
    long."""
    make_folder(path.parent, 0o700)
    with explain_os_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with explain_os_errors(path):
            _wait_for(handle, path)
        yield
    finally:
        os.close(handle)


def _wait_for(handle: int, path: Path) -> None:
    end, pause = time.monotonic() + WAIT_SECONDS, 0.001
    while True:
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.monotonic() > end:
            raise StoreUnavailable(
                f"{path} has been locked for {WAIT_SECONDS:g} s by another process, which is stopped or hangs (`fuser {path}` names it): "
                "end it. Nothing is lost, and what waited goes on when it is started again"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
