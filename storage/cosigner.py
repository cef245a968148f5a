"""A cosigner: signs a log's checkpoints as long as they never contradict what it signed before.

    key file    canonical JSON {"name", "seed"}, mode 600, made on first use
    state file  canonical JSON {origin: [size, root]} of the last checkpoint signed of each log

The state is written before a signature is handed out, and a cosigner without its state refuses: so whatever happens, no two
contradicting checkpoints carry its line. It runs with somebody who does not trust the log, on files of its own, and needs the
log's public key, its checkpoint and its tiles. Called by cli/log.py.
"""

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from protocol.encoding import canonical_json, parse_canonical
from protocol.errors import VerificationError
from storage.checkpoint import SigningKey, check_name, locked, with_lines
from storage.disk import complete_temporary, explain_os_errors, make_folder, sync_folder
from storage.errors import StorageError
from verifier.log import EMPTY_ROOT
from verifier.note import COSIGNER_KEY, Checkpoint, Policy, check_growth, parse_checkpoint

ConsistencyPath = Callable[[int, int], Sequence[bytes]]  # from the first size to the second


class Cosigner:
    """One cosigner's key and memory."""

    def __init__(self, key_file: Path, state_file: Path, name: str = "") -> None:
        self.state_file = state_file
        if not key_file.exists():
            _make(key_file, state_file, name)
        stored = _read(key_file)
        try:
            self.key = SigningKey(stored["name"], bytes.fromhex(stored["seed"]), COSIGNER_KEY)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{key_file} holds no cosigner's key: restore it, or name a new file for a new key") from error
        if name not in ("", self.key.name):
            raise ValueError(f"{key_file} is the key of {self.key.name!r}, not of {name!r}")

    def seen(self) -> dict[str, Checkpoint]:
        """The last checkpoint that was cosigned, by origin."""
        if not self.state_file.exists():
            raise StorageError(
                f"the state file {self.state_file} of cosigner {self.key.name} is gone: restore it. A cosigner that forgot what it "
                "saw must not sign again under the same key; with a new key file it starts anew"
            )
        try:
            return {origin: Checkpoint(origin, size, bytes.fromhex(root)) for origin, (size, root) in _read(self.state_file).items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise StorageError(f"{self.state_file} is no cosigner's state: restore it from your copy") from error

    def cosign(self, note: bytes, policy: Policy, consistency: ConsistencyPath, time: int) -> bytes:
        """The note with this cosigner's line; VerificationError for a fork, rollback, wrong origin or signature.

        policy: the log's keys; its quorum is not asked for. time: POSIX seconds, becomes part of the signature.
        """
        new = parse_checkpoint(note, replace(policy, quorum="none"))
        with locked(self.state_file.with_name(f".{self.state_file.name}.lock")):
            seen = self.seen()
            last = seen.get(new.origin, Checkpoint(new.origin, 0, EMPTY_ROOT))
            check_growth(last, new, consistency(last.size, new.size) if last.size < new.size else [])
            seen[new.origin] = new
            _write(self.state_file, {origin: [item.size, item.root.hex()] for origin, item in seen.items()})
        return with_lines(note, [self.key.line(new, time)])


def _make(key_file: Path, state_file: Path, name: str) -> None:
    if not name:
        raise ValueError(f"there is no cosigner's key at {key_file}: give --name NAME to make one, for example auditor.example/cosigner")
    if state_file.exists() and _read(state_file):
        raise StorageError(f"{state_file} belongs to a key that is not at {key_file}: restore the key, or name a new state file")
    _write(state_file, {})
    _write(key_file, {"name": check_name(name), "seed": secrets.token_hex(32)})


def _read(path: Path) -> Any:
    with explain_os_errors(path):
        data = path.read_bytes()
    try:
        return parse_canonical(data, str(path))
    except VerificationError as error:
        raise StorageError(f"{path} is damaged: restore it from your copy") from error


def _write(path: Path, value: Any) -> None:
    make_folder(path.parent, 0o755)
    with complete_temporary(path.parent, canonical_json(value), 0o600) as temporary, explain_os_errors(path):
        os.replace(temporary, path)
        sync_folder(path.parent)
