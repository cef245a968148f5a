"""Compare a run with what the customer ordered: any difference is a rejection that names the key.

An order is a nested mapping with the manifest's keys, any subset of them: optimizer.learning_rate, lora.r, seed,
steps, profile, commitments.dataset, … Values are compared as text, because an order is written by people.
"""

import json
from collections.abc import Mapping
from typing import Any

from protocol.errors import VerificationError
from protocol.manifest import RunManifest


def compare_order(manifest: RunManifest, order: Mapping[str, Any]) -> int:
    """Number of values compared; VerificationError("order", key, …) for the first that differs."""
    if not order:
        raise VerificationError("order", "order", "at least one key", "none")
    return _compare(json.loads(manifest.to_json()), order, "")


def _compare(actual: Any, wanted: Any, where: str) -> int:
    if isinstance(wanted, Mapping):
        if not isinstance(actual, dict):
            raise VerificationError("order", where, "a section", str(actual))
        count = 0
        for key, value in wanted.items():
            if key not in actual:
                raise VerificationError("order", f"{where}{key}", f"one of {sorted(actual)}", "no such key in a manifest")
            count += _compare(actual[key], value, f"{where}{key}.")
        return count
    if _text(actual) != _text(wanted):
        raise VerificationError("order", where.rstrip("."), _text(wanted), _text(actual))
    return 1


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)
