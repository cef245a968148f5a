"""Compare a run with what the customer ordered: any difference is a rejection that names the key.

An order is a nested mapping with the manifest's keys, any subset of them: optimizer.learning_rate, lora.r, seed,
steps, profile, commitments.dataset, … Values are compared as text, because an order is written by people.
"""

import json
from collections.abc import Mapping
from typing import Any

from protocol.errors import VerificationError
from protocol.manifest import RunManifest


def compare_order(manifest: RunManifest, order: Mapping[str, Any]) -> list[str]:
    """The keys that were compared: with the manifest they say what the order was. VerificationError("order", key, …) for the
    first value that differs."""
    return _compare(json.loads(manifest.to_json()), order, "")


def _compare(actual: Any, wanted: Any, where: str) -> list[str]:
    if isinstance(wanted, Mapping):
        if not wanted:  # nothing was compared, and would be called equal
            raise VerificationError("order", where.rstrip(".") or "order", "at least one key", "none")
        if not isinstance(actual, dict):
            raise VerificationError("order", where, "a section", str(actual))
        keys = []
        for key, value in wanted.items():
            if key not in actual:
                raise VerificationError("order", f"{where}{key}", f"one of {sorted(actual)}", "no such key in a manifest")
            keys += _compare(actual[key], value, f"{where}{key}.")
        return keys
    if _text(actual) != _text(wanted):
        raise VerificationError("order", where.rstrip("."), _text(wanted), _text(actual))
    return [where.rstrip(".")]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)
