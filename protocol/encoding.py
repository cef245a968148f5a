"""Canonical JSON and tagged SHA-256: the one way a structure becomes bytes and an identity.

Sorted keys, no whitespace, UTF-8, integers, strings, booleans, lists and objects only: floats are refused,
because their text differs between versions. Called by every room.
"""

import hashlib
import json
from typing import Any

from protocol.errors import VerificationError


def _check(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
            _check(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check(item, f"{where}[{i}]")
    elif not isinstance(value, str | int):
        raise TypeError(f"{where}: {type(value).__name__} has no canonical encoding")


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of `value`; TypeError names the place of anything that has none."""
    _check(value, "$")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse_canonical(data: bytes, where: str) -> Any:
    """The value of canonical JSON; any other encoding of the same value is rejected."""
    try:
        value = json.loads(data.decode())
        again = canonical_json(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise VerificationError("malformed", where, "canonical JSON", str(error)[:200]) from error
    if again != data:
        raise VerificationError("non-canonical", where, "canonical JSON", "another encoding of the same value")
    return value


def tagged_digest(tag: str, *parts: bytes) -> bytes:
    """SHA-256(tag, then every part with its length): no two part lists share an input."""
    h = hashlib.sha256(b"verilora/" + tag.encode() + b"\x00")
    for part in parts:
        h.update(len(part).to_bytes(8, "big") + part)
    return h.digest()
